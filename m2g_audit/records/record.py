"""What a run writes and a report reads: typed, versioned records of one audited prompt.

Nothing here knows a model or a distance; only the schema library is imported, so that a record can
be read, checked and shown where torch is not installed.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from m2g_audit.records.older import from_version_1, from_version_2
from m2g_audit.records.part import Part
from m2g_audit.records.vocabulary import (
    Exif,
    Pages,
    RuleWord,
    SchedulerChoice,
    ScoreKind,
    SpectrumChoice,
    SpectrumOf,
    StateWord,
    Transparency,
    VerdictWord,
)

SCHEMA_VERSION = "3.3"

# JSON has no NaN: a number that could not be had is null, never a NaN that looks like one.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Distance = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0)]


class IntervalRecord(Part):
    """A share with its interval: `low` <= `estimate` <= `high`."""

    estimate: Share
    """The share that was seen."""
    low: Share
    """The lower end of the interval."""
    high: Share
    """The upper end of the interval."""
    level: Share | None = None
    """The level of the interval, as 0.95."""
    method: str | None = None
    """The name of the interval, as clopper-pearson."""


class LoraRecord(Part):
    """A LoRA on top of the model."""

    file: str
    """The file's name."""
    sha256: str
    """Its hash."""
    scale: Finite
    """How much of it is added."""


class EmbeddingRecord(Part):
    """A textual inversion: a word that the model was taught."""

    file: str
    """The file's name."""
    sha256: str
    """Its hash."""
    word: str
    """What stands in prompts for it."""
    vectors: Index
    """How many tokens it takes."""


class ModelRecord(Part):
    """Which model was audited."""

    id: str
    """As the user named it."""
    revision: str | None = None
    """The hub's commit, null for folders."""
    sha256: str | None = None
    """The content hash of its weights, of what is added to them too."""
    loras: list[LoraRecord] = []
    """What is added to the weights of the model, in order."""
    embeddings: list[EmbeddingRecord] = []
    """The words that it was taught, in order."""
    stored: str | None = None
    """The precisions that its weights lie in, as F16; null for a pipeline in memory."""
    completed_from: str | None = None
    """The model that gave what a single file or a checkpoint lacks, null for whole models."""
    configuration_sha256: str | None = None
    """The hash of all else that its pipeline reads, which a run's identity.json holds as
    `configuration`."""
    architecture: str
    """Pipeline and network classes."""
    dtype: str
    """The precision of sampling."""
    device: str
    """Where it ran."""
    scheduler: str
    """The class of its own scheduler."""
    prediction_type: str
    """What its network predicts: epsilon, v_prediction, sample or flow_prediction."""
    guidance_kind: str | None = None
    """How its pipeline guides: linear, u + g (c - u); offset, c + g (c - u); renormalised, linear
    and brought to the norm of c, which is the score of no distribution; distilled, told to the
    network, which has no unconditional branch; none. Null where that could not be made out."""
    latent_shape: tuple[int, ...]
    """The shape of a latent: channels, height and width, or as its pipeline packs it."""
    image_size: tuple[int, int]
    """Height and width of a picture in pixels."""
    safety_checker: Literal["not loaded"] = "not loaded"
    """Never loaded: it would blacken what is audited."""


class Settings(Part):
    """What was resolved for the run."""

    asked: dict[str, JsonValue]
    """The options as they were given."""
    seeds: Annotated[int, Field(ge=2)]
    """How many pictures a prompt gets at most."""
    seed: int
    """The run's seed, from which all others follow."""
    steps: int
    """Sampling steps."""
    guidance: Finite
    """The guidance scale; 1 is none."""
    scheduler: SchedulerChoice
    """ddim (eta 0), or keep for the pipeline's own."""
    batch_size: int
    """Pictures made at once, which changes no number."""
    metric: str
    """The image distance."""
    reference: str | None
    """What stands for S: a folder, or the name of the model's own training set; null without
    one."""
    reference_complete: bool
    """Whether S is all that the model saw."""
    reference_flipped: bool
    """Whether S was compared mirrored as well."""
    spectrum: SpectrumChoice
    """The algorithm of the spectra."""
    spectrum_tolerance: Finite
    """The relative error at which a fast spectrum stops."""
    t0: int
    """The noise level that curvature is taken at, an index into the model's schedule."""
    spectrum_samples: int
    """How many samples get a spectrum."""
    spectrum_of: SpectrumOf = "all"
    """Which: all, or medoids of attractors alone that may be copies or not."""
    spectrum_score: ScoreKind
    """Which of the model's scores has the spectrum."""
    basin: bool
    """Whether critical times were measured."""
    basin_exact: bool
    """Whether by Alg. 1 as printed."""
    auto: bool = False
    """Whether seeds were added until the verdict was settled."""


class Wording(Part):
    """What the model reads of the prompt."""

    tokens: int | None = None
    """How many tokens the prompt has, marks included."""
    window: int | None = None
    """How many tokens the text encoder reads."""
    cut_off: str = ""
    """The end that is not read, as the tokenizer spells it."""
    unknown_words: list[str] = []
    """Words that the model was never taught, where that is known."""


class ThresholdRecord(Part):
    """delta_m and delta_s (Eq. 9, 10), and where they come from."""

    metric: str
    """The distance that they belong to."""
    delta_m: Distance | None
    """Up to this distance from S a picture counts as memorized; null without S."""
    delta_s: Distance | None
    """Up to this distance two pictures count as duplicates."""
    source: str
    """What they rest on, in words."""
    calibrated: bool
    """Whether they were measured for this model and these pictures."""
    controls: int | None = None
    """Pictures or prompts of the null."""
    rule: RuleWord = "older"
    """What gave them; `older` for records of schema 2 and before, whose thresholds may come from
    control prompts of a model that repeats for those too."""
    false_alarms: Share | None = None
    """The share of new pictures within each threshold, by its null."""
    ratio: Distance | None = None
    """The cut of the nearest distance over the mean of the next ones, null where not used."""
    strict: tuple[Distance | None, Distance | None] | None = None
    """delta_m and delta_s at the null's 0.3% quantile."""
    loose: tuple[Distance | None, Distance | None] | None = None
    """delta_m and delta_s at the null's 3% quantile."""
    notes: list[str] = []
    """What was noticed while they were found, a sentence each."""


class PowerRecord(Part):
    """Which share of planted copies the thresholds find."""

    to_reference: IntervalRecord | None
    """Of pictures of S as the model itself gives them back, within delta_m of S; `low` is the
    one-sided 95% bound."""
    between: IntervalRecord
    """Of two such versions of one picture, within delta_s; `low` is the one-sided 95% bound."""
    suffices: bool
    """Whether both bounds are at least 0.85, without which nothing is `generalized`."""
    edits: dict[str, Share]
    """The share found of pictures that were edited, by edit; it decides nothing."""


class FindingsRecord(Part):
    """What control prompts show about the model, whatever the prompt."""

    prompts: int
    """How many control prompts."""
    seeds: int
    """Pictures per prompt."""
    repeats: IntervalRecord
    """Share of pictures within delta_s of another one of the prompt, clustered by prompt."""
    flagged: IntervalRecord
    """Share of those or of pictures within delta_m of S, clustered by prompt."""
    contaminated: bool
    """Whether the lower end of `flagged`, at 99%, is above 5%."""
    collapsed: bool
    """Whether the lower end of `repeats`, at 99%, is above one half."""


class ReferenceFiles(Part):
    """How the files of a reference folder were read.

    Counts are of pictures, mirrored ones not counted.
    """

    files: int
    """Picture files, by what they hold."""
    formats: dict[str, int]
    """Files by format."""
    exif: Exif
    """Whether pictures were turned as their EXIF says."""
    transparency: Transparency
    """What became of transparency."""
    pages: Pages
    """What was read of files with several pages."""
    turned: int
    """Pictures whose EXIF asks for a turn."""
    transparent: int
    """Pictures that are transparent in parts."""
    scaled: int
    """Pictures scaled to 8 bits."""
    constant: int
    """Pictures of one colour."""
    duplicates: int
    """Pictures equal to another one, pixel by pixel."""
    unread: int
    """Things in the folder that are no captions or tables and were not read."""
    unread_names: list[str]
    """Names of at most 100 of them."""
    own: list[str]
    """Folders of this program's results, left out."""


class ReferenceRecord(Part):
    """The set S that generations were compared with, as training saw it."""

    source: str
    """Where it lies, or its name."""
    pictures: int
    """How many pictures."""
    sha256: str
    """The hash of their content."""
    complete: bool
    """Whether it is all that the model saw."""
    flipped: bool
    """Whether mirrored pictures are part of it."""
    files: ReferenceFiles | None = None
    """How the files were read, where S is a folder."""


class NearestReference(Part):
    """The reference picture nearest to a generation."""

    name: str
    """Its name in the reference."""
    distance: Distance
    """The distance, in the run's metric."""
    margin: Distance | None = None
    """The distance over delta_m."""
    ratio: Distance | None = None
    """The distance over the mean distance of the next pictures."""
    image: str | None = None
    """A copy of it, relative to the run's folder."""


class NearestSample(Part):
    """The other generation nearest to a generation."""

    index: Index
    """Its index."""
    distance: Distance
    """The distance, in the run's metric."""
    margin: Distance | None = None
    """The distance over delta_s."""


class SeedRecord(Part):
    """One generation."""

    index: Index
    """Its place among the seeds, from 0."""
    generator_seed: int
    """`torch.Generator("cpu").manual_seed` of this gives its noise in plain diffusers."""
    state: StateWord
    """What it counts as (Eq. 9-11)."""
    image: str
    """The picture, relative to the run's folder."""
    attractor: Index | None = None
    """The attractor that it belongs to, if any."""
    chance: Share | None = None
    """Of a duplicate among 15 other seeds; the state counts as duplicated from one half on."""
    nearest_sample: NearestSample | None = None
    """The generation nearest to it."""
    nearest_reference: NearestReference | None = None
    """The picture of S nearest to it."""
    to_duplicates: Distance | None = None
    """The mean distance to its own duplicates, in the run's metric; null where it has none. Copies
    of a training picture tend to be nearer to each other than the model's own repeats."""
    noise_norm: Distance | None = None
    """|eps_c|^2 / N of the conditional prediction at the last step of sampling: an estimate of the
    mean of the normalised spectrum there from one noise, 1 where every direction is stiff."""
    first_difference: Distance | None = None
    """|eps_c - eps_u| at the first step of sampling (Wen et al. 2024)."""


class TrajectoryRecord(Part):
    """What sampling showed on its way: from predictions made anyway, in the sampling's precision.

    Of each evaluation, first to last: means over the seeds that did not fail. Each seed's own lie
    beside its latents, as `noise_norms`, `differences` and `clean`, a sketch of the clean sample.
    Null where a number could not be had, as at a level that is all noise.
    """

    levels: list[Distance | None]
    """The noise level, sigma / alpha."""
    noise_norm: list[Distance | None]
    """|eps_c|^2 / N of the conditional prediction, not of the guided one."""
    difference: list[Distance | None]
    """|eps_c - eps_u|; eps_u is that of the negative prompt if there is one. Null without
    guidance."""
    spread: list[Distance | None]
    """How far apart the seeds' predicted clean samples are: the root-mean-square difference of
    two of them per number, estimated from sketches; 0 where all agree."""
    evaluations: Index = 0
    """Forward passes of the network that this took beside those of sampling."""


class BasinRecord(Part):
    """The critical time of an attractor's medoid (Alg. 1) and what follows from it (Eq. 12, 34).

    By the guided score, which made the pictures.
    """

    algorithm: Literal["bisection", "alg1"]
    """`bisection`, with one noise per trial, or `alg1` as the paper prints it, with fresh noise
    at every check, which ends sooner."""
    critical_time: Index
    """The time up to which at least `delta_p` of the trials recovered at all checks, 0 for none."""
    noise_ratio: Finite | None = None
    """sigma / alpha at the critical time, by which levels of any two models compare."""
    critical_times: list[Index]
    """Those of the trials, 0 where a trial never recovered."""
    radius: Finite
    """Mean radius over trials."""
    log_volume: Finite
    """Mean natural logarithm of the volume over trials."""
    never_recovered: Share
    """Share of trials that never recovered."""
    stopped: bool
    """Whether recovery fell under `delta_p` before the end of the schedule."""
    checked: list[Index] = []
    """The times that were checked."""
    recovery: list[Share] = []
    """The share of trials that recovered at each of them."""
    evaluations: int | None = None
    """Forward passes of the network."""
    delta_d: Distance
    """Up to this distance a picture counts as recovered, in the run's metric."""
    delta_p: Share
    """The share of trials that has to recover."""
    steps: int
    """Sampling steps per trial."""
    stride: int
    """Steps of the schedule between checks."""


class ReadOutsRecord(Part):
    """How stiff an attractor is, by a few evaluations of the conditional score over its members.

    A copy of a training picture is stiff: around it the model sees nothing but noise. What its
    own repeats are is free in some directions. The read-outs decide no word.
    """

    members: list[Index]
    """The seeds that were asked."""
    spread_level: Distance
    """The noise level of `spread`, sigma / alpha."""
    spread: Distance
    """Standard deviation per number of the clean sample that is predicted under several noises; 0
    for a point mass."""
    error_level: Distance
    """The noise level of `denoising_error`, sigma / alpha."""
    denoising_error: Distance
    """|eps_c - noise|^2 / N of noised members; 0 for a point mass."""
    freedom: Finite | None
    """The logarithm of `spread` times `denoising_error`: the lower, the nearer to the training set
    it tends to be (docs/curvature.md says how far that was found to hold); null where one is 0."""
    curvature_towards: Finite | None
    """The normalised curvature along the line from the medoid to the nearest picture outside, 1 for
    a point mass; null where every seed is in the attractor."""
    evaluations: Index
    """Forward passes of the network, all together."""


class AttractorRecord(Part):
    """A cluster of mutually duplicate generations."""

    mass: IntervalRecord
    """Its share of the seeds."""
    seeds: list[Index]
    """Indices of its members."""
    medoid: Index
    """The member nearest to the others."""
    diameter: Distance
    """The largest distance between two members."""
    state: StateWord
    """The medoid's state."""
    nearest_reference: NearestReference | None = None
    """The picture of S nearest to the medoid."""
    basin: BasinRecord | None = None
    """How far from it the model still falls back, where measured."""
    read_outs: ReadOutsRecord | None = None
    """How stiff it is; null with --spectrum none."""


class IntrinsicDimensionRecord(Part):
    """FLIPD, how many directions a sample is free to vary in."""

    shell: Finite
    """N - sigma_t tr(d eps / dx), mean over noise shells."""
    shell_error: Distance
    """Its standard error."""
    centre: Finite
    """The same and |eps|^2 at the noiseless centre, where FLIPD is defined and where a network
    was never trained."""
    centre_error: Distance
    """Its standard error."""


class FastRecord(Part):
    """What a fast spectrum adds."""

    error: Distance
    """The stated error, relative L1."""
    truncation: Distance
    """Of it what stopping early makes."""
    shells: int
    """Noise shells that were measured."""
    steps: list[int]
    """Lanczos steps of each shell."""
    difference: list[Finite] | None = None
    """|h v|, over which products with the Jacobian are differences, on each shell; 0 for forward
    mode."""
    rows: int = 0
    """N where the curve is that of one shell's Jacobian, row by row, because that took fewer
    evaluations than the shells that were still wanted; else 0."""
    top: list[Finite]
    """The largest values."""
    top_error: list[Finite]
    """How far from each of them a singular value lies at most."""
    asymmetry: Distance
    """The antisymmetric part's share of the Jacobian's norm."""
    mean_score: Distance
    """What Alg. 3 adds as its largest value, normalised."""
    intrinsic_dimension: IntrinsicDimensionRecord
    """FLIPD, from the same evaluations."""


class CurvatureRecord(Part):
    """One spectrum, largest value first, normalised by its kind's rule."""

    image: Index
    """Of which generation."""
    state: StateWord
    """What that counts as."""
    attractor: Index | None
    """The attractor that it belongs to, if any."""
    t0: int
    """The noise level, an index into the schedule."""
    noise_ratio: Finite | None = None
    """sigma / alpha there, by which levels of any two models compare."""
    last_noise_ratio: Finite | None = None
    """sigma / alpha of the last level that sampling asked the network at."""
    kind: Literal["jacobian", "paper"]
    """`jacobian`: singular values of ds/dx times sigma_t^2; `paper`: of the matrix of Alg. 2 or
    3, times sigma_t / sqrt(4N)."""
    score: ScoreKind
    """Which of the model's scores."""
    algorithm: str
    """What computed it."""
    scale: Finite
    """Dividing by it gives the raw values."""
    median: Finite
    """The median value."""
    rank: int
    """The number of stiff directions: values above half of a point mass's least one."""
    evaluations: int
    """Forward passes of the network; a backward pass counts as one more."""
    file: str
    """The file (safetensors) that holds it as `singular_values`; that of a fast spectrum also
    has `alg2` and `alg3`, the `paper` spectra it predicts."""
    singular_values: list[Finite] | None = None
    """The values; null where there are many."""
    fast: FastRecord | None = None
    """What a fast spectrum adds."""


class VerdictRecord(Part):
    """The word for the prompt, how sure it is, and what it rests on."""

    state: VerdictWord
    """The word."""
    summary: str
    """The verdict in a sentence or two."""
    evidence: list[str]
    """What it rests on, a sentence each."""
    fractions: dict[str, IntervalRecord]
    """The share of seeds in each state."""
    level: Share
    """The level of the intervals."""
    undetected_mass: Share | None
    """An attractor of less mass may have been missed, at `level`."""
    withheld: list[str] = []
    """Why new pictures are not called `generalized`."""
    strict: VerdictWord | None = None
    """The word at the null's 0.3% quantile."""
    loose: VerdictWord | None = None
    """The word at the null's 3% quantile."""
    hangs_on_threshold: bool = False
    """Whether one of them is another word."""


class CalibrationReading(Part):
    """What a calibration reads off the spectrum at an attractor's medoid."""

    attractor: Index
    """The index of the attractor."""
    value: Finite
    """The read-out."""
    state: Literal["memorized", "spurious"] | None
    """What it names the attractor; null where the calibration was not shown to tell the two
    apart."""


class CalibrationRecord(Part):
    """A calibration that fits the model, and what it says about attractors not named otherwise."""

    sha256: str
    """The hash of its file."""
    source: str
    """What it was measured on, in words."""
    readout: str
    """What of a spectrum is read."""
    threshold: Finite
    """An attractor is memorized where the read-out is this or above."""
    auroc: IntervalRecord
    """How well the read-out told the states apart on another model."""
    tells: bool
    """Whether it was right there more often than one word for all with its whole interval,
    without which nothing is named."""
    readings: list[CalibrationReading]
    """What it reads of each attractor."""
    word: Literal["memorized", "spurious"] | None
    """The verdict's word where it comes from here, else null; states and shares of the record
    stay those that were measured."""


class LooksRecord(Part):
    """When a prompt of `--seeds auto` was looked at."""

    looks: list[int]
    """The numbers of seeds after which it was to be looked at."""
    ended_at: int
    """The number at which it ended."""


class Timings(Part):
    """All that a second run changes."""

    started: str
    """When the run began, UTC, ISO 8601."""
    seconds: dict[str, Distance]
    """Seconds by stage."""


class Failure(Part):
    """Something that was left out of the numbers."""

    what: str
    """What it is."""
    reason: str
    """Why."""
    index: Index | None = None
    """Its index."""


class ErrorRecord(Part):
    """The error that ended the run before it was finished."""

    kind: str
    """Its class."""
    message: str
    """What happened, why, and what to do."""
    exit_code: int
    """The command's."""


class AuditRecord(Part):
    """The audit of one prompt."""

    schema_version: str = SCHEMA_VERSION
    """Of this schema; a newer minor version adds fields."""
    prompt: str
    """The prompt as it was given."""
    negative_prompt: str | None = None
    """What was sampled away from."""
    wording: Wording
    """The prompt as the model reads it."""
    model: ModelRecord
    """Which model."""
    settings: Settings
    """What was resolved."""
    reference: ReferenceRecord | None
    """The set S; null without one."""
    thresholds: ThresholdRecord | None
    """delta_m and delta_s; null where an error came first."""
    power: PowerRecord | None = None
    """Whether planted copies are found; null where not measured."""
    findings: FindingsRecord | None = None
    """What control prompts show; null without them."""
    verdict: VerdictRecord
    """The word and what it rests on."""
    attractors: list[AttractorRecord]
    """Clusters of mutually duplicate generations, largest first."""
    seeds: list[SeedRecord]
    """The generations, in order."""
    loose: list[Index] = []
    """Duplicated seeds that belong to no attractor."""
    unseen: IntervalRecord | None
    """The share of samples whose picture was not seen yet."""
    collision: IntervalRecord | None
    """The chance that two seeds give the same picture."""
    trajectory: TrajectoryRecord | None = None
    """What sampling showed on its way; null where the model's predictions could not be read."""
    curvature: list[CurvatureRecord]
    """Spectra of a few generations."""
    calibration: CalibrationRecord | None = None
    """What a calibration says; null without one."""
    looks: LooksRecord | None = None
    """When the prompt was looked at; null for a fixed number of seeds."""
    warnings: list[str]
    """What to keep in mind, a sentence each."""
    failures: list[Failure]
    """What was left out of the numbers."""
    error: ErrorRecord | None = None
    """What ended the audit; null where it was finished."""
    timings: Timings
    """When, and how long."""
    versions: dict[str, str]
    """Of packages, and the commit."""

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
