"""What a model turns out to be once it is loaded, and what of an audit it allows."""

from __future__ import annotations

from dataclasses import dataclass

from m2g_audit.errors import UsageError
from m2g_audit.models.denoiser import Unlike
from m2g_audit.models.pipeline import Pipeline


@dataclass(frozen=True)
class Examination:
    """A loaded model.

    noise: its schedule, vp or flow; guidance_kind: as `guidance.GuidanceKind`; steps, guidance: the
    model's usual ones, None where it was distilled and its card has to say them; no_score: why
    spectra and basins can't be had, None where they can; prediction, step, noise_of_a_seed: largest
    relative differences from the pipeline itself (`proof.Proof`), None where nothing was learned;
    picture: of a seed's picture in a batch from plain diffusers alone, of 255 levels.
    """

    model: str
    architecture: str
    dtype: str
    device: str
    noise: str
    prediction_type: str
    guidance_kind: str | None
    steps: int | None
    guidance: float | None
    latent_shape: tuple[int, ...]
    image_size: tuple[int, int]
    no_score: str | None
    prediction: float | None
    step: float | None
    noise_of_a_seed: float | None
    picture: float


def examine(model: Pipeline) -> Examination:
    """Return what a model is, and how far what is computed of it is its pipeline's own.

    Raises:
        ModelError: It can't make a picture.
    """
    identity = model.identity
    try:
        proof = model.proof
    except Unlike:
        proof = None
    return Examination(
        model=identity.id,
        architecture=identity.architecture,
        dtype=identity.dtype,
        device=identity.device,
        noise=model.schedule.kind,
        prediction_type=model.prediction_type,
        guidance_kind=model.guidance_kind,
        steps=None if model.distilled else model.default_steps,
        guidance=None if model.distilled else model.default_guidance,
        latent_shape=model.latent_shape,
        image_size=model.image_size,
        no_score=_no_score(model),
        prediction=None if proof is None else proof.prediction,
        step=None if proof is None else proof.step,
        noise_of_a_seed=None if proof is None else proof.noise,
        picture=model.picture_difference(),
    )


def _no_score(model: Pipeline) -> str | None:
    try:
        model.bind("a picture", guidance=model.resolve_guidance(0.0))
    except (Unlike, UsageError) as error:
        return str(error)
    return None
