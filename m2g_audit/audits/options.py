"""The options of an audit: each declared once, for flags, config files and Python alike.

Light on purpose: the command's help is made from this.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from m2g_audit.errors import UsageError
from m2g_audit.models.names import DEFAULT_MODEL, Which
from m2g_audit.records.distances import AUTOMATIC, DISTANCES
from m2g_audit.records.vocabulary import (
    Exif,
    Pages,
    Precision,
    SchedulerChoice,
    ScoreKind,
    SpectrumChoice,
    SpectrumOf,
    Transparency,
)

MODEL = "Model"
REFERENCE = "Reference and thresholds"
SAMPLING = "Sampling"
MEASURES = "Measures"

MOST = 10_000
"""No number of seeds, steps or pictures may be larger."""
# Many choices as a type would leave no room for the options' names in 80 columns.
_NAME = "<name>"
_DISTANCE_HELP = (
    f"The image distance: {', '.join(DISTANCES)}. auto: the model's own, else sscd if its file is "
    "available, else tiled_l2."
)


OF_A_LIST: Mapping[str, Any] = {"spectrum_of": "unnamed"}
"""The defaults of a list of prompts that are others than those of one prompt."""


@dataclass(frozen=True)
class Flag:
    """What the command shows of an option beside its name, type and default.

    panel: the heading that it is listed under; metavar: what stands for its value; names: of the
    flag, where they are not the option's own; least: the smallest number that it may be.
    """

    help: str
    panel: str | None = None
    metavar: str | None = None
    names: tuple[str, ...] = ()
    least: int | None = None


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How prompts are audited, as it was asked for.

    None stands for what the model or the machine decides. Prompts are no part of it.
    """

    seeds: Annotated[
        int | Literal["auto"],
        Flag(
            "How many pictures to make, each from its own seed: 2 or more, or auto, which takes "
            "8, 16, 32, 64 until the verdict is settled.",
            metavar="<n|auto>",
            least=2,
        ),
    ] = 16
    model: Annotated[
        str,
        Flag(
            "A hub id, a diffusers folder, a single file or a training's checkpoint, or pocket, "
            "which ships with the program.",
            MODEL,
        ),
    ] = DEFAULT_MODEL
    revision: Annotated[str | None, Flag("The hub's revision of the model.", MODEL)] = None
    subfolder: Annotated[
        str | None, Flag("Where in its repository or folder the model lies.", MODEL)
    ] = None
    config_from: Annotated[
        str | None,
        Flag(
            "The model that a single file or a checkpoint of a training belongs to: a hub id or a "
            "folder, from which come settings and the parts that it lacks.",
            MODEL,
        ),
    ] = None
    variant: Annotated[str | None, Flag("The variant of the weights, such as fp16.", MODEL)] = None
    ema: Annotated[
        bool, Flag("Of a checkpoint with both, the averaged weights, not the last.", MODEL)
    ] = False
    dtype: Annotated[
        Precision | None,
        Flag(
            "Precision of sampling: float32, float16 or bfloat16. Without it float32 on a CPU, "
            "else float16. Curvature is float32.",
            MODEL,
            _NAME,
        ),
    ] = None
    device: Annotated[
        str | None, Flag("cpu, cuda or mps. Without it the fastest available.", MODEL)
    ] = None
    allow_pickle: Annotated[
        bool, Flag("Load weights from pickle files, which can run any code.", MODEL)
    ] = False
    lora: Annotated[
        tuple[str, ...],
        Flag(
            "A LoRA on top of the model: a safetensors file, or the folder that a trainer wrote. "
            "Several in order. The model without them is the base.",
            MODEL,
            "<path>",
        ),
    ] = ()
    lora_scale: Annotated[
        tuple[float, ...],
        Flag("How much of the LoRA is added: one for all, or one for each; 1.", MODEL, "<float>"),
    ] = ()
    textual_inversion: Annotated[
        tuple[str, ...],
        Flag(
            "A word that the model was taught: a safetensors file of textual inversion. Several in "
            "order.",
            MODEL,
            "<path>",
        ),
    ] = ()
    height: Annotated[
        int | None,
        Flag("Pixels of the pictures, with --width; the model's own.", MODEL, least=8),
    ] = None
    width: Annotated[int | None, Flag("Pixels of the pictures, with --height.", MODEL, least=8)] = (
        None
    )
    reference: Annotated[
        str | None,
        Flag(
            "The training pictures: a folder, a parquet file, a tar archive or a list of paths; "
            "or none. The pocket model knows its own.",
            REFERENCE,
        ),
    ] = None
    reference_complete: Annotated[
        bool,
        Flag(
            "The reference is all that the model saw: repeats outside of it are spurious.",
            REFERENCE,
        ),
    ] = False
    reference_flipped: Annotated[
        bool,
        Flag(
            "Training mirrored pictures at random: compare with mirrored ones as well.", REFERENCE
        ),
    ] = False
    unseen: Annotated[
        Path | None,
        Flag(
            "Pictures of the reference's kind, kept in one of the same ways, that training did not "
            "see; they set the thresholds.",
            REFERENCE,
        ),
    ] = None
    base: Annotated[
        str | None,
        Flag(
            "The model that this one was fine-tuned from: what its pictures are apart sets the "
            "thresholds where no pictures do.",
            REFERENCE,
        ),
    ] = None
    reference_exif: Annotated[
        Exif,
        Flag(
            "Whether training turned pictures as their EXIF says (datasets does) or kept them as "
            "they lie in the file.",
            REFERENCE,
        ),
    ] = "turn"
    reference_alpha: Annotated[
        Transparency,
        Flag(
            "What training made of transparency: drop, as convert('RGB') does, or pictures laid "
            "over white or black.",
            REFERENCE,
            _NAME,
        ),
    ] = "drop"
    reference_pages: Annotated[
        Pages | None,
        Flag(
            "What training saw of files with several pages or frames. Without it the first is "
            "read, and the others count as not read.",
            REFERENCE,
        ),
    ] = None
    metric: Annotated[str, Flag(_DISTANCE_HELP, REFERENCE, _NAME)] = AUTOMATIC
    metric_weights: Annotated[Path | None, Flag("The metric's weights file.", REFERENCE)] = None
    trust: Annotated[
        bool,
        Flag(
            "Load a TorchScript metric file whose SHA-256 is not known; it can run any code.",
            REFERENCE,
        ),
    ] = False
    controls: Annotated[
        bool,
        Flag(
            "Run all control prompts: without a reference or base they set the thresholds, unless "
            "the model repeats for them too. Else a few show whether it does.",
            REFERENCE,
        ),
    ] = False
    control_prompts: Annotated[
        Path | None,
        Flag("A list of ordinary prompts for this model, instead of the program's own.", REFERENCE),
    ] = None
    delta_m: Annotated[
        float | None,
        Flag("The distance to the reference up to which a picture is a copy, by hand.", REFERENCE),
    ] = None
    delta_s: Annotated[
        float | None,
        Flag("The distance up to which two pictures repeat each other, by hand.", REFERENCE),
    ] = None
    negative_prompt: Annotated[
        str | None, Flag("What pictures are sampled away from.", SAMPLING)
    ] = None
    steps: Annotated[
        int | None, Flag("Sampling steps; the model's own, else 50.", SAMPLING, least=1)
    ] = None
    guidance: Annotated[
        float | None, Flag("Guidance scale; the model's own, else 7.5. 0 or 1: none.", SAMPLING)
    ] = None
    scheduler: Annotated[
        SchedulerChoice, Flag("DDIM with eta 0, or the model's own.", SAMPLING)
    ] = "ddim"
    seed: Annotated[int, Flag("The run's seed, from which all others follow.", SAMPLING)] = 0
    batch_size: Annotated[
        int | None, Flag("Pictures made at once; changes time and memory only.", SAMPLING, least=1)
    ] = None
    spectrum: Annotated[
        SpectrumChoice,
        Flag(
            "The curvature spectrum. fast: estimated with a stated error; exact-alg2, exact-alg3: "
            "by the paper's Alg. 2 or 3 (8N and 4N network evaluations); exact-jacobian: of the "
            "Jacobian itself; or none.",
            MEASURES,
            _NAME,
            ("--spectrum", "--curvature"),
        ),
    ] = "fast"
    spectrum_tolerance: Annotated[
        float, Flag("The relative error at which a fast spectrum stops.", MEASURES)
    ] = 0.03
    t0: Annotated[
        int,
        Flag(
            "Where curvature is taken: at the noise of this step of Stable Diffusion's schedule.",
            MEASURES,
            least=0,
        ),
    ] = 5
    spectrum_samples: Annotated[
        int, Flag("How many pictures get a spectrum.", MEASURES, least=1)
    ] = 3
    spectrum_of: Annotated[
        SpectrumOf,
        Flag(
            "Which pictures: all, or of unnamed attractors only, which may be copies or not. "
            "A list's own default is unnamed.",
            MEASURES,
            "<all|unnamed>",
        ),
    ] = "all"
    spectrum_score: Annotated[
        ScoreKind,
        Flag("Which of the model's scores: conditional, guided or unconditional.", MEASURES, _NAME),
    ] = "conditional"
    calibration: Annotated[
        Path | None,
        Flag(
            "A calibration.json whose read-out of spectra may tell memorized from spurious "
            "attractors. Refused where it does not fit the model.",
            MEASURES,
        ),
    ] = None
    basin: Annotated[
        bool,
        Flag(
            "Measure from how much noise the model falls back into each attractor: its critical "
            "time, by bisection.",
            MEASURES,
        ),
    ] = False
    basin_exact: Annotated[
        bool,
        Flag(
            "With --basin: the paper's Alg. 1 as printed, with fresh noise at every check; it ends "
            "sooner, and takes several times as long.",
            MEASURES,
            names=("--exact",),
        ),
    ] = False

    @classmethod
    def of(cls, **values: Any) -> AuditOptions:
        """Return options from values of Python, a config file or the command, checked.

        Raises:
            UsageError: A name is unknown (the nearest is named), or a value is not possible.
        """
        from pydantic import TypeAdapter, ValidationError

        for name in values:
            if name not in _FIELDS:
                raise UsageError(f"There is no option {name!r}{nearest(name, _FIELDS)}")
        try:
            options = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            raise UsageError(
                f"{flag_of(name)} {first['input']} is not possible: {_wanted(name)}."
            ) from error
        options.check()
        return options

    @property
    def away_from(self) -> str | None:
        """The negative prompt, None for a blank one."""
        return (self.negative_prompt or "").strip() or None

    def named(self) -> dict[str, Any]:
        """Return the options by name as JSON values, paths as text."""
        return {name: _as_json(value) for name, value in asdict(self).items()}

    @property
    def which(self) -> Which:
        """Which model of that name is meant, and which of its weights."""
        return {
            "revision": self.revision,
            "subfolder": self.subfolder,
            "allow_pickle": self.allow_pickle,
            "variant": self.variant,
            "ema": self.ema,
            "config_from": self.config_from,
        }

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures, None for the model's own."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    def check(self) -> None:
        """Raise UsageError for what no prompt could be audited with; needs no model."""
        if self.seeds != "auto" and self.seeds < 2:
            raise UsageError(
                f"--seeds {self.seeds} can't show anything: an attractor shows itself by two seeds "
                "giving the same picture. Give at least 2; 16 can miss attractors of up to a "
                "quarter of the mass."
            )
        for name, flag in FLAGS.items():
            value = getattr(self, name)
            if flag.least is None or not isinstance(value, int):
                continue
            if not flag.least <= value <= MOST:
                raise UsageError(
                    f"{flag_of(name)} {value} is not possible: give {flag.least} or more, up to "
                    f"{MOST:,}."
                )
        if self.metric != AUTOMATIC and self.metric not in DISTANCES:
            known = ", ".join(DISTANCES)
            raise UsageError(f"--metric {self.metric} is not possible: give {known} or auto.")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise UsageError(f"--guidance {self.guidance} is not possible: give a number.")
        if not 0 < self.spectrum_tolerance < 1:
            raise UsageError(
                f"--spectrum-tolerance {self.spectrum_tolerance:g} is not possible: give a share "
                "between 0 and 1, such as 0.03."
            )
        for name in ("delta_m", "delta_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{flag_of(name)} {value:g} is no distance: give one above 0.")
        if (self.height is None) != (self.width is None):
            raise UsageError("--height and --width belong together: give both, or neither.")
        if self.lora_scale and not self.lora:
            raise UsageError("--lora-scale says how much of a --lora is added: give one.")
        if self.basin_exact and not self.basin:
            raise UsageError("--exact says how --basin is measured: give both, or neither.")


_FIELDS = tuple(field.name for field in fields(AuditOptions))
FLAGS: dict[str, Flag] = {
    name: next(part for part in hint.__metadata__ if isinstance(part, Flag))
    for name, hint in get_type_hints(AuditOptions, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
"""What the command shows of each option, in their order."""


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def flag_of(name: str) -> str:
    """Return how the command calls an option, which is what messages say."""
    own = FLAGS[name].names if name in FLAGS else ()
    return own[0] if own else f"--{name.replace('_', '-')}"


def nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """Return the end of a sentence: a question for the known name that may be meant, if any."""
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    return f": did you mean {close[0]!r}?" if close else "."


def _wanted(name: str) -> str:
    """What an option takes, in words."""
    from typing import get_args

    def words(kind: Any) -> list[str]:
        if kind in (type(None), ...):
            return []
        if kind in (int, float, bool, str, Path):
            named = {int: "a whole number", float: "a number", bool: "true or false"}
            return [named.get(kind, "a text")]
        if get_args(kind) and not all(isinstance(part, str) for part in get_args(kind)):
            return [word for part in get_args(kind) for word in words(part)]
        return [str(part) for part in get_args(kind)]

    possible = words(get_type_hints(AuditOptions)[name])
    *first, last = possible
    return f"give {', '.join(first)} or {last}" if first else f"give {last}"
