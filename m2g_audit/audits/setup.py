"""What an audit's options resolve to, on this machine and with this model.

Loaded once, for any number of prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from m2g_audit.audits.options import AuditOptions
from m2g_audit.calibration import calibration_record, fitting
from m2g_audit.calibration.calibration_record import ModelKind
from m2g_audit.calibration.fitting import Facts, Fitting
from m2g_audit.errors import UsageError
from m2g_audit.models.adapters import find_loras
from m2g_audit.models.base_model import BaseModel, find_base
from m2g_audit.models.embeddings import find_embeddings
from m2g_audit.models.levels import stable_diffusion_ratios
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.decoding import PictureReading
from m2g_audit.pocket.provenance import Provenance, find_provenance
from m2g_audit.progress import Progress, silent
from m2g_audit.prompts import STDIN
from m2g_audit.records.distances import AUTOMATIC
from m2g_audit.records.record import Settings
from m2g_audit.records.vocabulary import SpectrumChoice
from m2g_audit.references.controls import load_prompts
from m2g_audit.references.reference import FolderContents, scan
from m2g_audit.references.reference_files import refuse_unread
from m2g_audit.similarity import Metric, default_metric, load_metric
from m2g_audit.verdict.looks import AUTO, Look, looks

NO_REFERENCE = "none"

_SPECTRUM_KINDS: Mapping[SpectrumChoice, Literal["jacobian", "paper"] | None] = {
    "fast": "jacobian",
    "exact-alg2": "paper",
    "exact-alg3": "paper",
    "exact-jacobian": "jacobian",
    "none": None,
}
_THRESHOLDS_VERSION = 2
"""Of the rules that thresholds come from: a run made by others is another run."""
_UNIDENTIFIED = frozenset({"asked", "batch_size", "reference"})


@dataclass(frozen=True)
class Setup:
    """Everything loaded and resolved that does not depend on a prompt.

    identity: all of it that can change a number; contents and unseen: of the reference folder and
    that of unseen pictures, if there are any; base: the model that this one was fine-tuned from, if
    it was given; calibration: one that fits the model, if one was given; provenance: what the model
    brings along; given: delta_m and delta_s by hand; control_prompts: ordinary prompts, which are
    `all_controls` run where that was asked for; batch_size: the one that was asked for.
    """

    pipeline: TextToImage
    metric: Metric
    settings: Settings
    identity: Mapping[str, Any]
    contents: FolderContents | None
    unseen: FolderContents | None
    base: BaseModel | None
    calibration: Fitting | None
    provenance: Provenance | None
    given: tuple[float | None, float | None] | None
    control_prompts: Sequence[str]
    all_controls: bool
    batch_size: int | None

    @property
    def looks(self) -> tuple[Look, ...]:
        """Return the numbers of seeds after which a prompt is looked at."""
        return looks(None if self.settings.auto else self.settings.seeds)

    def check_negative_prompt(self, text: str | None) -> None:
        """Raise UsageError for a negative prompt that this audit's guidance would not use."""
        if text is not None and not self.pipeline.is_guided(self.settings.guidance):
            raise UsageError(
                f"A negative prompt does nothing with a guidance of {self.settings.guidance:g}. "
                "Leave negative prompts out, or give a --guidance above 1."
            )


def set_up(
    options: AuditOptions,
    *,
    out: Path | None = None,
    load: Callable[..., TextToImage] | None = None,
    on_progress: Progress = silent,
) -> Setup:
    """Return what options resolve to; nothing of a prompt is computed.

    Args:
        options: As they were asked for.
        out: Where results will lie: no picture in it is a reference.
        load: Loads the model, by default `models.loading.load_model`.
        on_progress: Is told of the loading.

    Raises:
        UsageError, ModelError, ReferenceFolderError or ResourceError, whichever first stands in the
        way; the reference folder is looked into before the model is loaded.
    """
    options.check()
    provenance = find_provenance(options.model)
    name = reference_name(options, provenance)
    _check_given(options, name)
    contents = _scan_reference(options, name, provenance, out)
    unseen = _scan_unseen(options, name, provenance, out)
    if options.calibration is not None:
        calibration_record.load(options.calibration)
    on_progress("loading the model", 0, 1)
    pipeline = (load or load_model)(
        options.model,
        dtype=options.dtype,
        device=options.device,
        loras=find_loras(options.lora, options.lora_scale),
        embeddings=find_embeddings(options.textual_inversion),
        size=options.size,
        **options.which,
    )
    metric = _load_metric(options, pipeline)
    settings = _resolve_settings(options, name, pipeline, metric, complete=contents is None)
    base = None
    if options.base is not None:
        base = find_base(options.base, pipeline, allow_pickle=options.allow_pickle)
    elif options.lora:
        base = find_base(options.model, pipeline, **options.which)
    setup = Setup(
        pipeline=pipeline,
        metric=metric,
        settings=settings,
        identity={},
        contents=contents,
        unseen=unseen,
        base=base,
        calibration=_fit_calibration(options, pipeline, settings),
        provenance=provenance,
        given=_given(options),
        control_prompts=load_prompts(options.control_prompts),
        all_controls=options.controls or options.control_prompts is not None,
        batch_size=options.batch_size,
    )
    on_progress("loading the model", 1, 1)
    return replace(setup, identity=_identify(setup, options))


def with_list(options: AuditOptions, source: str | Path) -> AuditOptions:
    """Return the options with what lists the prompts as S, if it is a folder of pictures.

    Captions beside pictures are what a model was trained on, and so are the pictures. A reference
    that is named stays, and so does that of a model that brings its own.
    """
    named = options.reference is not None or find_provenance(options.model) is not None
    if named or str(source) == STDIN or not Path(source).expanduser().is_dir():
        return options
    return replace(options, reference=str(source))


def reference_name(options: AuditOptions, provenance: Provenance | None) -> str:
    """Return what stands for S: `none`, a folder, or the name of the model's own training set."""
    return options.reference or (NO_REFERENCE if provenance is None else provenance.name)


def _given(options: AuditOptions) -> tuple[float | None, float | None] | None:
    given = options.delta_m, options.delta_s
    return None if given == (None, None) else given


def _check_given(options: AuditOptions, reference: str) -> None:
    needs_both = reference != NO_REFERENCE or options.delta_m is not None
    if (options.delta_m is None) != (options.delta_s is None) and needs_both:
        raise UsageError(
            "Thresholds by hand need --delta-s, and with a reference --delta-m too; give both, "
            "or neither to have them measured."
        )


# -- the pictures that generations are compared with


def _scan_reference(
    options: AuditOptions, name: str, provenance: Provenance | None, out: Path | None
) -> FolderContents | None:
    if name == NO_REFERENCE:
        if options.reference_complete:
            raise UsageError("--reference-complete needs the --reference that is complete.")
        return None
    if _is_own(name, provenance):
        return None
    contents = _scan(options, Path(name), out, flipped=options.reference_flipped)
    if options.reference_complete:
        refuse_unread(contents)
    return contents


def _is_own(name: str, provenance: Provenance | None) -> bool:
    """Whether a reference is the training set that the model brings along."""
    if provenance is not None:
        return name == provenance.name
    if name == Provenance.name and not Path(name).exists():
        raise UsageError(
            f"--reference {name} is the training set of --model {name}. For another model give "
            "the folder of its training pictures."
        )
    return False


def _scan_unseen(
    options: AuditOptions, reference: str, provenance: Provenance | None, out: Path | None
) -> FolderContents | None:
    if options.unseen is None:
        return None
    if reference == NO_REFERENCE or _is_own(reference, provenance):
        raise UsageError(
            "--unseen sets the thresholds of a --reference folder: give the training pictures too."
        )
    return _scan(options, options.unseen, out)


def _scan(
    options: AuditOptions, folder: Path, out: Path | None, *, flipped: bool = False
) -> FolderContents:
    return scan(
        folder.expanduser(),
        flipped=flipped,
        reading=PictureReading(
            options.reference_exif, options.reference_alpha, options.reference_pages
        ),
        leave_out=[out] if out is not None else [],
    )


# -- the model's part


def _resolve_settings(
    options: AuditOptions, reference: str, pipeline: TextToImage, metric: Metric, *, complete: bool
) -> Settings:
    """Every option as it will be used, beside what was asked; complete: the model's own set is."""
    steps, guidance = options.steps, options.guidance
    large = max(pipeline.image_size) > 128
    batch_size = (1 if pipeline.device.type == "cpu" else 4) if large else 16
    ratios = stable_diffusion_ratios()
    if options.t0 >= len(ratios):
        raise UsageError(f"--t0 {options.t0} is not possible: give less than {len(ratios)}.")
    asked = {key: value for key, value in options.named().items() if key != "negative_prompt"}
    has_reference = reference != NO_REFERENCE
    seeds = AUTO[-1].seeds if options.seeds == "auto" else options.seeds
    return Settings(
        asked=asked,
        seeds=seeds,
        auto=options.seeds == "auto",
        seed=options.seed,
        steps=pipeline.default_steps if steps is None else steps,
        guidance=(
            pipeline.default_guidance if guidance is None else pipeline.resolve_guidance(guidance)
        ),
        scheduler=options.scheduler,
        batch_size=min(options.batch_size or batch_size, seeds),
        metric=metric.name,
        reference=reference if has_reference else None,
        reference_complete=has_reference and (complete or options.reference_complete),
        reference_flipped=options.reference_flipped,
        spectrum=options.spectrum,
        spectrum_tolerance=options.spectrum_tolerance,
        t0=pipeline.schedule.nearest(float(ratios[options.t0])),
        spectrum_samples=options.spectrum_samples,
        spectrum_of=options.spectrum_of,
        spectrum_score=options.spectrum_score,
        basin=options.basin,
        basin_exact=options.basin_exact,
    )


def _load_metric(options: AuditOptions, pipeline: TextToImage) -> Metric:
    name = options.metric
    if name == AUTOMATIC:
        name = pipeline.default_metric or default_metric()
    return load_metric(
        name,
        weights=options.metric_weights,
        trust=options.trust,
        device=pipeline.device,
    )


def _fit_calibration(
    options: AuditOptions, pipeline: TextToImage, settings: Settings
) -> Fitting | None:
    if options.calibration is None:
        return None
    kind = ModelKind(
        architecture=pipeline.identity.architecture,
        shape=pipeline.latent_shape,
        space="latents",
        score=settings.spectrum_score,
    )
    facts = Facts(
        kind=kind,
        spectrum=_SPECTRUM_KINDS[settings.spectrum],
        t0=settings.t0,
        sigma_t0=float(pipeline.schedule.sigma(settings.t0)),
        scale=1.0,  # to which the VAE's scaling factor brings latents
    )
    return fitting.fit(options.calibration, facts)


def _identify(setup: Setup, options: AuditOptions) -> dict[str, Any]:
    """Return everything but the prompt that can change a number of the run, as JSON values.

    The batch size is not in it: an image does not depend on its batch-mates, and a run that did not
    fit into memory must be able to continue with smaller batches. Nor is where a model's folder
    lies: what is in it counts.
    """
    model, metric, contents = setup.pipeline.identity, setup.metric, setup.contents
    own_prompts = None
    if options.control_prompts is not None:
        own_prompts = hashlib.sha256("\n".join(setup.control_prompts).encode()).hexdigest()
    return {
        "model": model.id if model.revision is not None else None,
        "revision": model.revision,
        "weights": model.sha256,
        "configuration": dict(model.configuration),
        "dtype": model.dtype,
        "device": model.device.split(":")[0],
        **setup.settings.model_dump(exclude=set(_UNIDENTIFIED)),
        "metric_weights": metric.weights_sha256,
        "reference": contents.sha256 if contents is not None else setup.settings.reference,
        "thresholds": _THRESHOLDS_VERSION,
        "unseen": None if setup.unseen is None else setup.unseen.sha256,
        "base": None if setup.base is None else asdict(setup.base.identity),
        "delta": [options.delta_m, options.delta_s],
        "controls": options.controls,
        "control_prompts": own_prompts,
        **({} if setup.calibration is None else {"calibration": setup.calibration.sha256}),
    }
