"""Tensors in a run's folder: generations with their latents, spectra, distances."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from m2g_audit.diagnostics.trajectory import Trajectory
from m2g_audit.files import read_kept
from m2g_audit.pictures.tensors import read_picture, to_picture
from m2g_audit.store.run_directory import RunDirectory


def write_tensors(
    run: RunDirectory, name: str, tensors: dict[str, Tensor], **metadata: str
) -> None:
    """Write tensors as safetensors to `name`, whole or not at all."""
    run.write(name, save({k: v.contiguous() for k, v in tensors.items()}, metadata=metadata))


def read_tensors(run: RunDirectory, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the tensors and metadata of `name`, or None where it is missing, or damaged.

    What is damaged is set aside (`files.read_kept`).
    """
    return read_kept(run.path / name, _read_tensors)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


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


def load_generation(
    run: RunDirectory, index: int, image_size: tuple[int, int], latent_shape: tuple[int, ...]
) -> tuple[Tensor, Tensor] | None:
    """Return a finished generation, (image [3, h, w] in [0, 1], latents), or None.

    Files that are damaged, or of another size or shape, are set aside.
    """

    def picture(path: Path) -> Tensor:
        return _of_shape(read_picture(path), (3, *image_size))

    def latents(path: Path) -> Tensor:
        return _of_shape(_read_tensors(path)[0]["latents"], latent_shape)

    image = read_kept(run.path / run.image_name(index), picture)
    stored = None if image is None else read_kept(run.path / run.latents_name(index), latents)
    return None if image is None or stored is None else (image, stored)


def _of_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"it has the shape {tuple(tensor.shape)} instead of {shape}")
    return tensor


def load_trajectory(run: RunDirectory, index: int) -> Trajectory | None:
    """Return what was read while a generation was made, None where nothing was."""
    stored = read_tensors(run, run.latents_name(index))
    names = [field.name for field in fields(Trajectory)]
    if stored is None or not all(name in stored[0] for name in names):
        return None
    return Trajectory(**{name: stored[0][name].float() for name in names})
