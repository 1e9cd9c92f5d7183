"""Tensors in a run's folder: generations with their latents, spectra, distances."""

from __future__ import annotations

from dataclasses import fields

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from m2g_audit.diagnostics.trajectory import Trajectory
from m2g_audit.pictures.tensors import read_picture, to_picture
from m2g_audit.store.run_directory import RunDirectory


def write_tensors(
    run: RunDirectory, name: str, tensors: dict[str, Tensor], **metadata: str
) -> None:
    """Write tensors as safetensors to `name`, whole or not at all."""
    run.write(name, save({k: v.contiguous() for k, v in tensors.items()}, metadata=metadata))


def read_tensors(run: RunDirectory, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the tensors and metadata of `name`, or None where it is missing or broken."""
    try:
        with safe_open(run.path / name, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def save_generation(
    run: RunDirectory,
    index: int,
    image: Tensor,
    latents: Tensor,
    trajectory: Trajectory | None = None,
) -> None:
    """Keep one generation: `image` [3, h, w] in [0, 1] at uint8 levels, and its final latents.

    What was read on the way is kept with the latents. They go first: a picture that is there stands
    for a generation that is complete.
    """
    followed = {} if trajectory is None else vars(trajectory)
    if trajectory is not None:
        followed = {**followed, "clean": trajectory.clean.half()}
    write_tensors(run, run.latents_name(index), {"latents": latents, **followed})
    run.write_png(run.image_name(index), to_picture(image))


def load_generation(run: RunDirectory, index: int) -> tuple[Tensor, Tensor] | None:
    """Return a finished generation, (image [3, h, w] in [0, 1], latents), or None."""
    try:
        image = read_picture(run.path / run.image_name(index))
    except (OSError, ValueError):
        return None
    stored = read_tensors(run, run.latents_name(index))
    if stored is None or "latents" not in stored[0]:
        return None
    return image, stored[0]["latents"]


def load_trajectory(run: RunDirectory, index: int) -> Trajectory | None:
    """Return what was read while a generation was made, None where nothing was."""
    stored = read_tensors(run, run.latents_name(index))
    names = [field.name for field in fields(Trajectory)]
    if stored is None or not all(name in stored[0] for name in names):
        return None
    return Trajectory(**{name: stored[0][name].float() for name in names})
