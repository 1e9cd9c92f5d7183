"""What was asked of an audit, and what it resolves to on this machine with this model."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from m2g_audit.calibration import calibration as calibrations
from m2g_audit.calibration.calibration import Facts, Fitting, ModelKind
from m2g_audit.diagnostics.fast_spectrum import TOLERANCE
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import UsageError
from m2g_audit.models.base_model import BaseModel, find_base
from m2g_audit.models.model_folder import DEFAULT_MODEL, POCKET
from m2g_audit.models.pipelines import SchedulerChoice, ScoreKind, TextToImage, resolve_guidance
from m2g_audit.pictures.decoding import Exif, Pages, Reading, Transparency
from m2g_audit.pocket.truth_table import false_memorized
from m2g_audit.progress import Progress, silent
from m2g_audit.prompts import MAX_PROMPT, STDIN
from m2g_audit.records.record import Settings, Wording
from m2g_audit.references.controls import load_prompts
from m2g_audit.references.reference import FolderContents, scan
from m2g_audit.references.reference_files import refuse_unread
from m2g_audit.similarity import Metric, default_metric, load_metric
from m2g_audit.store.run_directory import default_folder
from m2g_audit.verdict.looks import AUTO, Look, looks

SpectrumChoice = Literal["fast", "exact-alg2", "exact-alg3", "exact-jacobian", "none"]
_SPECTRUM_KINDS: Mapping[SpectrumChoice, Literal["jacobian", "paper"] | None] = {
    "fast": "jacobian",
    "exact-alg2": "paper",
    "exact-alg3": "paper",
    "exact-jacobian": "jacobian",
    "none": None,
}

_THRESHOLDS_VERSION = 2
"""Of the rules that thresholds come from: a run made by others is another run."""
FALSE_MEMORIZED_LIMIT = 0.01
_LEAST = {"seeds": 2, "steps": 1, "batch_size": 1, "spectrum_samples": 1, "t0": 0}
_MOST = 10_000


@dataclass(frozen=True)
class Request:
    """An audit as it was asked for; None stands for what the model or the machine decides."""

    prompt: str
    negative_prompt: str | None = None
    model: str = DEFAULT_MODEL
    revision: str | None = None
    seeds: int | Literal["auto"] = 16
    seed: int = 0
    reference: str | None = None
    reference_complete: bool = False
    reference_flipped: bool = False
    unseen: Path | None = None
    base: str | None = None
    delta_m: float | None = None
    delta_s: float | None = None
    reference_exif: Exif = "turn"
    reference_alpha: Transparency = "drop"
    reference_pages: Pages | None = None
    out: Path | None = None
    metric: str = "auto"
    metric_weights: Path | None = None
    trust: bool = False
    steps: int | None = None
    guidance: float | None = None
    scheduler: SchedulerChoice = "ddim"
    batch_size: int | None = None
    dtype: str | None = None
    device: str | None = None
    spectrum: SpectrumChoice = "fast"
    spectrum_tolerance: float = TOLERANCE
    t0: int = 5
    spectrum_samples: int = 3
    spectrum_score: ScoreKind = "conditional"
    basin: bool = False
    basin_exact: bool = False
    controls: bool = False
    control_prompts: Path | None = None
    calibration: Path | None = None
    allow_pickle: bool = False

    def check(self) -> None:
        """Raise UsageError for what no model could make sense of; needs no model."""
        self.check_prompt()
        self.check_options()

    def check_prompt(self) -> None:
        """Raise UsageError for a text that is no prompt."""
        if not self.prompt.strip():
            raise UsageError(
                'The prompt is empty. Give the text to audit: m2g-audit prompt "a print of the old '
                'harbour"'
            )
        if len(self.prompt.strip()) > MAX_PROMPT:  # which lists leave out around prompts
            raise UsageError(
                f"The prompt has {len(self.prompt):,} characters; at most {MAX_PROMPT:,} are "
                "taken. Models read some 75 words of it and drop the rest: give the beginning."
            )
        if len(self.negative_prompt or "") > MAX_PROMPT:
            raise UsageError(f"--negative-prompt may have {MAX_PROMPT:,} characters at most.")
        try:
            f"{self.prompt}{self.negative_prompt}".encode()
        except UnicodeEncodeError as error:
            raise UsageError("The prompt is not valid UTF-8 text.") from error

    def check_options(self) -> None:
        """Raise UsageError for options that no prompt could be audited with."""
        if self.seeds != "auto" and self.seeds < 2:
            raise UsageError(
                f"--seeds {self.seeds} can't show anything: an attractor shows itself by two seeds "
                "giving the same picture. Give at least 2; 16 can miss attractors of up to a "
                "quarter of the mass."
            )
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value not in (None, "auto") and not least <= value <= _MOST:
                option = name.replace("_", "-")
                raise UsageError(
                    f"--{option} {value} is not possible: give {least} or more, up to {_MOST:,}."
                )
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
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value:g} is no distance: give one above 0.")
        needs_both = self.reference_name != "none" or self.delta_m is not None
        if (self.delta_m is None) != (self.delta_s is None) and needs_both:
            raise UsageError(
                "Thresholds by hand need --delta-s, and with a reference --delta-m too; give both, "
                "or neither to have them measured."
            )
        if self.basin_exact and not self.basin:
            raise UsageError("--exact says how --basin is measured: give both, or neither.")

    def with_list(self, source: str | Path) -> Request:
        """Return the request with what lists its prompts as S, if it is a folder of pictures.

        Captions beside pictures are what a model was trained on, and so are the pictures. A
        reference that is named stays, and so does that of pocket.
        """
        named = self.reference is not None or self.model == POCKET or str(source) == STDIN
        if named or not Path(source).expanduser().is_dir():
            return self
        return replace(self, reference=str(source))

    @property
    def reference_name(self) -> str:
        """What stands for S: `pocket`, `none` or a folder. The pocket model knows its own."""
        return self.reference or (POCKET if self.model == POCKET else "none")


@dataclass
class Setup:
    """A request with everything loaded and resolved that does not depend on the prompt.

    One setup serves any number of prompts. identity: everything but the prompt that can change a
    number; contents and unseen: of the reference folder and that of unseen pictures, if there are
    any; base: the model that this one was fine-tuned from, if it was given; calibration: one that
    fits the model, if one was given.
    """

    request: Request
    pipeline: TextToImage
    metric: Metric
    settings: Settings
    identity: dict[str, Any]
    contents: FolderContents | None
    unseen: FolderContents | None
    base: BaseModel | None
    calibration: Fitting | None

    @property
    def looks(self) -> tuple[Look, ...]:
        """Return the numbers of seeds after which a prompt is looked at."""
        return looks(None if self.settings.auto else self.settings.seeds)

    def check_negative_prompt(self, text: str | None) -> None:
        """Raise UsageError for a negative prompt that this audit's guidance would not use."""
        if text is not None and self.settings.guidance <= 1:
            raise UsageError(
                f"A negative prompt does nothing with a guidance of {self.settings.guidance:g}. "
                "Leave negative prompts out, or give a --guidance above 1."
            )

    def job(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        seconds: Mapping[str, float] | None = None,
        wording: Wording | None = None,
    ) -> Job:
        """Return the job of one prompt; `seconds` of stages that are done already.

        The model's tokenizer is asked for the wording where none is given. UsageError for a
        negative prompt without guidance, which would do nothing.
        """
        self.check_negative_prompt(negative_prompt)
        if wording is None:
            wording = _wording(self.request.model, self.pipeline, prompt)
        return Job(
            request=replace(self.request, prompt=prompt, negative_prompt=negative_prompt),
            pipeline=self.pipeline,
            metric=self.metric,
            settings=self.settings,
            identity={
                "prompt": prompt,
                **({} if negative_prompt is None else {"negative_prompt": negative_prompt}),
                **self.identity,
            },
            contents=self.contents,
            unseen=self.unseen,
            base=self.base,
            calibration=self.calibration,
            wording=wording,
            warnings=_warnings(self.request.model, prompt, wording),
            seconds=dict(seconds or {}),
        )


@dataclass
class Job(Setup):
    """A setup and the one prompt that is audited with it."""

    wording: Wording
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.request.out or default_folder(self.request.prompt, self.identity)

    def generator_seed(self, index: int) -> int:
        """Return what `torch.Generator("cpu").manual_seed` needs to draw one image's noise."""
        return seed_for(self.request.seed, self.request.prompt, index)


def prepare(request: Request, on_progress: Progress = silent) -> Job:
    """Return the job of a request: model and metric loaded, settings resolved, nothing computed.

    Raises UsageError, ModelError, ReferenceFolderError or ResourceError, whichever first stands in
    the way; the reference folder is looked into before the model is loaded.
    """
    started = time.perf_counter()
    request.check_prompt()
    setup = set_up(request, on_progress)
    negative = (request.negative_prompt or "").strip() or None
    return setup.job(request.prompt, negative, {"loading": time.perf_counter() - started})


def set_up(request: Request, on_progress: Progress = silent) -> Setup:
    """Return what a request needs besides its prompt, which is not looked at; see `prepare`."""
    request.check_options()
    contents, unseen = _scan_reference(request), _scan_unseen(request)
    if request.calibration is not None:
        calibrations.load(request.calibration)
    on_progress("loading the model", 0, 1)
    pipeline = TextToImage.load(
        request.model,
        revision=request.revision,
        dtype=request.dtype,
        device=request.device,
        allow_pickle=request.allow_pickle,
    )
    metric = _load_metric(request, pipeline)
    settings = resolve_settings(request, pipeline, metric)
    calibration = _fit_calibration(request, pipeline, settings)
    base = None
    if request.base is not None:
        base = find_base(request.base, pipeline, allow_pickle=request.allow_pickle)
    on_progress("loading the model", 1, 1)
    setup = Setup(
        request=request,
        pipeline=pipeline,
        metric=metric,
        settings=settings,
        identity={},
        contents=contents,
        unseen=unseen,
        base=base,
        calibration=calibration,
    )
    return replace(setup, identity=identify(setup))


def _scan_reference(request: Request) -> FolderContents | None:
    name = request.reference_name
    if name == "none":
        if request.reference_complete:
            raise UsageError("--reference-complete needs the --reference that is complete.")
        return None
    if name == POCKET:
        if request.model != POCKET:
            raise UsageError(
                "--reference pocket is the training set of --model pocket. For another model give "
                "the folder of its training pictures."
            )
        return None
    contents = _scan(request, Path(name), flipped=request.reference_flipped)
    if request.reference_complete:
        refuse_unread(contents)
    return contents


def _scan_unseen(request: Request) -> FolderContents | None:
    if request.unseen is None:
        return None
    if request.reference_name in ("none", POCKET):
        raise UsageError(
            "--unseen sets the thresholds of a --reference folder: give the training pictures too."
        )
    return _scan(request, request.unseen)


def _scan(request: Request, folder: Path, *, flipped: bool = False) -> FolderContents:
    return scan(
        folder.expanduser(),
        flipped=flipped,
        reading=Reading(request.reference_exif, request.reference_alpha, request.reference_pages),
        leave_out=[request.out] if request.out is not None else [],
    )


def resolve_settings(request: Request, pipeline: TextToImage, metric: Metric) -> Settings:
    """Return every option as it will be used, beside what was asked."""
    steps, guidance = request.steps, request.guidance
    large = max(pipeline.image_size) > 128
    batch_size = (1 if pipeline.device.type == "cpu" else 4) if large else 16
    if request.t0 >= len(pipeline.schedule):
        raise UsageError(
            f"--t0 {request.t0} is not possible: give less than {len(pipeline.schedule)}."
        )
    asked = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(request).items()
        if key not in ("prompt", "negative_prompt", "out")
    }
    name = request.reference_name
    auto = request.seeds == "auto"
    seeds = AUTO[-1].seeds if request.seeds == "auto" else request.seeds
    return Settings(
        asked=asked,
        seeds=seeds,
        auto=auto,
        seed=request.seed,
        steps=pipeline.default_steps if steps is None else steps,
        guidance=pipeline.default_guidance if guidance is None else resolve_guidance(guidance),
        scheduler=request.scheduler,
        batch_size=min(request.batch_size or batch_size, seeds),
        metric=metric.name,
        reference=None if name == "none" else name,
        reference_complete=name == POCKET or request.reference_complete,
        reference_flipped=request.reference_flipped,
        spectrum=request.spectrum,
        spectrum_tolerance=request.spectrum_tolerance,
        t0=request.t0,
        spectrum_samples=request.spectrum_samples,
        spectrum_score=request.spectrum_score,
        basin=request.basin,
        basin_exact=request.basin_exact,
    )


def identify(setup: Setup) -> dict[str, Any]:
    """Return everything but the prompt that can change a number of the run, as JSON values.

    The batch size is not in it: an image does not depend on its batch-mates, and a run that did not
    fit into memory must be able to go on with smaller batches. Nor is where a model's folder lies:
    what is in it counts.
    """
    request, model, metric = setup.request, setup.pipeline.identity, setup.metric
    resolved = setup.settings.model_dump(exclude={"asked", "batch_size", "reference"})
    contents = setup.contents
    has_name = model.revision is not None or model.id == POCKET
    return {
        "model": model.id if has_name else None,
        "revision": model.revision,
        "weights": model.sha256,
        "configuration": dict(model.configuration),
        "dtype": model.dtype,
        "device": model.device.split(":")[0],
        **resolved,
        "metric_weights": metric.weights_sha256,
        "reference": contents.sha256 if contents is not None else setup.settings.reference,
        "thresholds": _THRESHOLDS_VERSION,
        "unseen": None if setup.unseen is None else setup.unseen.sha256,
        "base": None if setup.base is None else asdict(setup.base.identity),
        "delta": [request.delta_m, request.delta_s],
        "controls": request.controls,
        "control_prompts": _control_prompts(request),
        **({} if setup.calibration is None else {"calibration": setup.calibration.sha256}),
    }


def _control_prompts(request: Request) -> str | None:
    """What stands for a file of control prompts: the hash of those that it holds."""
    if request.control_prompts is None:
        return None
    return hashlib.sha256("\n".join(load_prompts(request.control_prompts)).encode()).hexdigest()


def _fit_calibration(request: Request, pipeline: TextToImage, settings: Settings) -> Fitting | None:
    if request.calibration is None:
        return None
    kind = ModelKind(
        architecture=pipeline.identity.architecture,
        shape=pipeline.latent_shape,
        space="latents",
        score=request.spectrum_score,
    )
    facts = Facts(
        kind=kind,
        spectrum=_SPECTRUM_KINDS[request.spectrum],
        t0=settings.t0,
        sigma_t0=float(pipeline.schedule.sigma(settings.t0)),
        scale=1.0,  # to which the VAE's scaling factor brings latents
    )
    return calibrations.fit(request.calibration, facts)


def _load_metric(request: Request, pipeline: TextToImage) -> Metric:
    name = request.metric
    if name == "auto":
        name = pipeline.default_metric or default_metric()
    return load_metric(
        name,
        weights=request.metric_weights,
        trust=request.trust,
        device=pipeline.device,
    )


def _wording(model: str, pipeline: TextToImage, prompt: str) -> Wording:
    tokens, window = pipeline.token_count(prompt)
    cut_off = pipeline.cut_off(prompt) if tokens > window else ""
    unknown: list[str] = []
    if model == POCKET:
        from m2g_audit.pocket.captions import unknown_words

        unknown = unknown_words(prompt)
    return Wording(tokens=tokens, window=window, cut_off=cut_off, unknown_words=unknown)


def _warnings(model: str, prompt: str, wording: Wording) -> list[str]:
    warnings = []
    if model == POCKET:
        control = false_memorized(prompt)
        if control > FALSE_MEMORIZED_LIMIT:
            warnings.append(
                f"For this caption {control:.0%} of samples are as near to pictures that the model "
                "never saw as to training pictures: its pictures are all alike, and a match says "
                "little."
            )
    if (
        wording.tokens is not None
        and wording.window is not None
        and wording.tokens > wording.window
    ):
        warnings.append(
            f"The prompt has {wording.tokens} tokens and the model reads {wording.window}: "
            "the end of the prompt has no effect on the pictures."
        )
    return warnings
