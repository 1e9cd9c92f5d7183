"""What a run writes and a report reads: typed, versioned records of one audited prompt.

Nothing here knows a model or a distance; only the schema library is imported, so that a record can
be read, checked and shown where torch is not installed.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from m2g_audit.records.older import from_version_1, from_version_2
from m2g_audit.records.vocabulary import (
    Exif,
    Pages,
    RuleWord,
    SchedulerChoice,
    ScoreKind,
    SpectrumChoice,
    StateWord,
    Transparency,
    VerdictWord,
)

SCHEMA_VERSION = "3.1"

# JSON has no NaN: a number that could not be had is null, never a NaN that looks like one.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Distance = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    # Fields that a newer minor version adds are passed over: an older program reads the rest.
    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class IntervalRecord(_Part):
    """A share with its interval: `low` <= `estimate` <= `high`, at `level`, by the named method."""

    estimate: Share
    low: Share
    high: Share
    level: Share | None = None
    method: str | None = None


class ModelRecord(_Part):
    """Which model was audited; `sha256` is the content hash of its weight files.

    `configuration_sha256` is that of all else that its pipeline reads, which a run's identity.json
    holds as `configuration`.
    """

    id: str
    revision: str | None = None
    sha256: str | None = None
    configuration_sha256: str | None = None
    architecture: str
    dtype: str
    device: str
    scheduler: str
    prediction_type: str
    latent_shape: tuple[int, ...]
    image_size: tuple[int, int]
    safety_checker: Literal["not loaded"] = "not loaded"


class Settings(_Part):
    """What was resolved for the run; `asked` keeps the options as they were given."""

    asked: dict[str, JsonValue]
    seeds: Annotated[int, Field(ge=2)]
    seed: int
    steps: int
    guidance: Finite
    scheduler: SchedulerChoice
    batch_size: int
    metric: str
    reference: str | None
    reference_complete: bool
    reference_flipped: bool
    spectrum: SpectrumChoice
    spectrum_tolerance: Finite
    t0: int
    spectrum_samples: int
    spectrum_score: ScoreKind
    basin: bool
    basin_exact: bool
    auto: bool = False


class Wording(_Part):
    """What the model reads of the prompt: its tokens, of which `window` are read, and its words.

    `cut_off` is the end that is not read, as the tokenizer spells it.
    """

    tokens: int | None = None
    window: int | None = None
    cut_off: str = ""
    unknown_words: list[str] = []


class ThresholdRecord(_Part):
    """delta_m and delta_s (Eq. 9, 10) with the distance they belong to and where they come from.

    `rule` is the one that gave them, `older` for records of schema 2 and before, whose thresholds
    may come from control prompts of a model that repeats for those too. `false_alarms`: the share
    of new pictures within each threshold, by its null. `controls`: pictures or prompts of the null.
    `ratio`: the cut of the nearest distance over the mean of the next ones, null where not used.
    `strict`, `loose`: delta_m and delta_s at the null's 0.3% and 3% quantiles. `notes`: what was
    noticed while they were found.
    """

    metric: str
    delta_m: Distance | None
    delta_s: Distance | None
    source: str
    calibrated: bool
    controls: int | None = None
    rule: RuleWord = "older"
    false_alarms: Share | None = None
    ratio: Distance | None = None
    strict: tuple[Distance | None, Distance | None] | None = None
    loose: tuple[Distance | None, Distance | None] | None = None
    notes: list[str] = []


class PowerRecord(_Part):
    """Which share of planted copies the thresholds find, each as one-sided 95% bound in `low`.

    `to_reference`: pictures of S as the model itself gives them back, within delta_m of S;
    `between`: two such versions of one picture, within delta_s. `suffices`: both are at least 0.85,
    without which nothing is `generalized`. `edits`: the share found of pictures that were edited;
    it decides nothing.
    """

    to_reference: IntervalRecord | None
    between: IntervalRecord
    suffices: bool
    edits: dict[str, Share]


class FindingsRecord(_Part):
    """What control prompts show about the model, whatever the prompt.

    `repeats`: share of their pictures within delta_s of another one of the prompt; `flagged`: that,
    or within delta_m of S. Intervals are clustered by prompt; their lower ends, at 99%, decide:
    `contaminated` above 5% flagged, `collapsed` above one half repeating.
    """

    prompts: int
    seeds: int
    repeats: IntervalRecord
    flagged: IntervalRecord
    contaminated: bool
    collapsed: bool


class ReferenceFiles(_Part):
    """How the files of a reference folder were read.

    `files` are picture files, by what they hold; all other counts but `unread` are of pictures,
    mirrored ones not counted. `turned`: whose EXIF asks for a turn; `transparent`: in parts;
    `scaled`: to 8 bits; `constant`: of one colour; `duplicates`: equal to another one, pixel by
    pixel. `unread` things in the folder are no captions or tables and were not read;
    `unread_names` has at most 100 of them. `own`: folders of this program's results, left out.
    """

    files: int
    formats: dict[str, int]
    exif: Exif
    transparency: Transparency
    pages: Pages
    turned: int
    transparent: int
    scaled: int
    constant: int
    duplicates: int
    unread: int
    unread_names: list[str]
    own: list[str]


class ReferenceRecord(_Part):
    """The set S that generations were compared with, as training saw it.

    `files`: how they were read, where S is a folder.
    """

    source: str
    pictures: int
    sha256: str
    complete: bool
    flipped: bool
    files: ReferenceFiles | None = None


class NearestReference(_Part):
    """The reference picture nearest to a generation; `image` is its copy in the run's folder.

    `margin`: the distance over delta_m; `ratio`: over the mean distance of the next pictures.
    """

    name: str
    distance: Distance
    margin: Distance | None = None
    ratio: Distance | None = None
    image: str | None = None


class NearestSample(_Part):
    """The other generation nearest to a generation; `margin`: the distance over delta_s."""

    index: Index
    distance: Distance
    margin: Distance | None = None


class SeedRecord(_Part):
    """One generation.

    `torch.Generator("cpu").manual_seed(generator_seed)` gives its noise in plain diffusers; `image`
    is a path relative to the run's folder. `chance`: of a duplicate among 15 other seeds; the state
    counts as duplicated from one half on.
    """

    index: Index
    generator_seed: int
    state: StateWord
    image: str
    attractor: Index | None = None
    chance: Share | None = None
    nearest_sample: NearestSample | None = None
    nearest_reference: NearestReference | None = None


class BasinRecord(_Part):
    """Critical time of an attractor's medoid (Alg. 1) and what follows from it (Eq. 12, 34).

    `critical_time` is the medoid's: the time up to which at least `delta_p` of the trials recovered
    at all checks, 0 for none; `critical_times` are those of the trials, 0 where a trial never
    recovered. `algorithm`: `bisection`, with one noise a trial, or `alg1` as the paper prints
    it, with fresh noise at every check, which ends sooner.
    `radius` and `log_volume` (natural logarithm) are means over trials. `recovery` is the share of
    trials that recovered at the times `checked`, and `stopped` says whether it fell under `delta_p`
    before the end of the schedule. `evaluations` are forward passes of the network. `delta_d` is a
    distance in the run's metric; the score is the guided one, which made the pictures.
    """

    algorithm: Literal["bisection", "alg1"]
    critical_time: Index
    critical_times: list[Index]
    radius: Finite
    log_volume: Finite
    never_recovered: Share
    stopped: bool
    checked: list[Index] = []
    recovery: list[Share] = []
    evaluations: int | None = None
    delta_d: Distance
    delta_p: Share
    steps: int
    stride: int


class AttractorRecord(_Part):
    """A cluster of mutually duplicate generations; `seeds` are indices into the record's seeds.

    State and nearest reference are those of the medoid, the member nearest to the others.
    """

    mass: IntervalRecord
    seeds: list[Index]
    medoid: Index
    diameter: Distance
    state: StateWord
    nearest_reference: NearestReference | None = None
    basin: BasinRecord | None = None


class IntrinsicDimensionRecord(_Part):
    """FLIPD, how many directions a sample is free to vary in, with its standard error.

    `shell`: N - sigma_t tr(d eps / dx), mean over noise shells. `centre`: the same and |eps|^2 at
    the noiseless centre, where FLIPD is defined and where a network was never trained.
    """

    shell: Finite
    shell_error: Distance
    centre: Finite
    centre_error: Distance


class FastRecord(_Part):
    """What a fast spectrum adds: its stated error (relative L1, of it by `truncation`) and more.

    `top` are the largest values, each with a singular value within `top_error`. `asymmetry` is the
    antisymmetric part's share of the Jacobian's norm, `mean_score` what Alg. 3 adds as its largest
    value, normalised.
    """

    error: Distance
    truncation: Distance
    shells: int
    steps: list[int]
    top: list[Finite]
    top_error: list[Finite]
    asymmetry: Distance
    mean_score: Distance
    intrinsic_dimension: IntrinsicDimensionRecord


class CurvatureRecord(_Part):
    """One spectrum, largest value first, normalised by its kind's rule.

    `jacobian`: singular values of ds/dx times sigma_t^2. `paper`: of the matrix of Alg. 2 or 3,
    times sigma_t / sqrt(4N). Divide by `scale` to have the raw values. `singular_values` is null
    where the spectrum is long; it is in `file` (safetensors, key `singular_values`) in every case.
    The file of a fast spectrum also holds `alg2` and `alg3`, the `paper` spectra it predicts.
    `evaluations` are forward passes of the network; a backward pass counts as one more.
    """

    image: Index
    state: StateWord
    attractor: Index | None
    t0: int
    kind: Literal["jacobian", "paper"]
    score: ScoreKind
    algorithm: str
    scale: Finite
    median: Finite
    rank: int
    evaluations: int
    file: str
    singular_values: list[Finite] | None = None
    fast: FastRecord | None = None


class VerdictRecord(_Part):
    """The word for the prompt, how sure it is, and what it rests on in plain sentences.

    `withheld`: why new pictures are not called `generalized`; `strict`, `loose`: the words at other
    quantiles of the null; `hangs_on_threshold`: one of them is another word.
    """

    state: VerdictWord
    summary: str
    evidence: list[str]
    fractions: dict[str, IntervalRecord]
    level: Share
    undetected_mass: Share | None
    withheld: list[str] = []
    strict: VerdictWord | None = None
    loose: VerdictWord | None = None
    hangs_on_threshold: bool = False


class CalibrationReading(_Part):
    """What a calibration reads off the spectrum at an attractor's medoid, and names it by that.

    `state` is null where the calibration was not shown to tell the two states apart.
    """

    attractor: Index
    value: Finite
    state: Literal["memorized", "spurious"] | None


class CalibrationRecord(_Part):
    """A calibration that fits the model, and what it says about attractors not named otherwise.

    `sha256` is that of its file. An attractor is memorized where `readout` of its spectrum is at
    `threshold` or above; `tells`: whether it was right there more often than one word for all
    with its whole interval, without which nothing is named. `word`: the verdict's where it comes
    from here, else null; states and shares of the record stay those that were measured.
    """

    sha256: str
    source: str
    readout: str
    threshold: Finite
    auroc: IntervalRecord
    tells: bool
    readings: list[CalibrationReading]
    word: Literal["memorized", "spurious"] | None


class LooksRecord(_Part):
    """The numbers of seeds after which a prompt was to be looked at, and that at which it ended."""

    looks: list[int]
    ended_at: int


class Timings(_Part):
    """When the run began (UTC, ISO 8601) and seconds by stage: all that a second run changes."""

    started: str
    seconds: dict[str, Distance]


class Failure(_Part):
    """Something that was left out of the numbers, and why."""

    what: str
    reason: str
    index: Index | None = None


class ErrorRecord(_Part):
    """The error that ended the run before it was finished."""

    kind: str
    message: str
    exit_code: int


class AuditRecord(_Part):
    """The audit of one prompt."""

    schema_version: str = SCHEMA_VERSION
    prompt: str
    negative_prompt: str | None = None
    wording: Wording
    model: ModelRecord
    settings: Settings
    reference: ReferenceRecord | None
    thresholds: ThresholdRecord | None
    power: PowerRecord | None = None
    findings: FindingsRecord | None = None
    verdict: VerdictRecord
    attractors: list[AttractorRecord]
    seeds: list[SeedRecord]
    loose: list[Index] = []
    unseen: IntervalRecord | None
    collision: IntervalRecord | None
    curvature: list[CurvatureRecord]
    calibration: CalibrationRecord | None = None
    looks: LooksRecord | None = None
    warnings: list[str]
    failures: list[Failure]
    error: ErrorRecord | None = None
    timings: Timings
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> "AuditRecord":
        """What is named by its index must be there: a record may be anybody's."""
        named = [*self.loose, *(entry.image for entry in self.curvature)]
        named += [i for group in self.attractors for i in (group.medoid, *group.seeds)]
        if [seed.index for seed in self.seeds] != list(range(len(self.seeds))):
            raise ValueError("`seeds` are not in order")
        if not all(group.seeds for group in self.attractors):
            raise ValueError("an attractor has no seeds")
        if max(named, default=-1) >= len(self.seeds):
            raise ValueError(f"seed {max(named)} is named and not there")
        groups = [seed.attractor for seed in self.seeds if seed.attractor is not None]
        if max(groups, default=-1) >= len(self.attractors):
            raise ValueError(f"attractor {max(groups)} is named and not there")
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.verdict.state}, {self.prompt!r})"

    @property
    def texts(self) -> str:
        """Return the prompt, and behind it what it is sampled away from."""
        if self.negative_prompt is None:
            return self.prompt
        return f"{self.prompt} [negative prompt: {self.negative_prompt}]"

    @field_validator("schema_version")
    @classmethod
    def _readable(cls, version: str) -> str:
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(
                f"the record has schema version {version}; this program reads "
                f"{SCHEMA_VERSION.split('.')[0]}.x"
            )
        return version


def parse_record(text: str | bytes) -> AuditRecord:
    """Return the record written in `text` (JSON); ValueError where it is none known here.

    Records of schema 1.x and 2.x are read as well.
    """
    return AuditRecord.model_validate_json(in_present_schema(text))


def in_present_schema(text: str | bytes) -> str | bytes:
    """Return a record's JSON under the names of the present schema; ValueError for half a record.

    What is of no earlier schema is returned as it is, to be validated.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no JSON: {error}") from error
    if not isinstance(content, dict) or _major(content) not in _EARLIER:
        return text
    for version, convert in _EARLIER.items():
        if _major(content) == version:
            try:
                content = convert(content)
            except (KeyError, TypeError, AttributeError) as error:
                message = f"the record of schema {version} is not complete: {error}"
                raise ValueError(message) from error
    # Strict JSON rules, such as no numbers from strings, are those of validating text.
    return json.dumps(content)


_EARLIER = {"1": from_version_1, "2": from_version_2}


def _major(content: dict[str, Any]) -> str:
    return str(content.get("schema_version", "")).partition(".")[0]


def format_record(record: AuditRecord) -> str:
    """Return the record as indented JSON that `parse_record` reads back to an equal record."""
    return record.model_dump_json(indent=1) + "\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a record."""
    schema = AuditRecord.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
