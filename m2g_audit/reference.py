"""The set S that generations are compared with: pictures as training saw them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from m2g_audit.caches import cache_folder
from m2g_audit.errors import OutputError, ReferenceFolderError
from m2g_audit.runs import read_picture, to_picture, write_atomically
from m2g_audit.similarity import Metric, nearest

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_CHUNK_BYTES = 64 * 2**20
_NAMED = 10

Progress = Callable[[int, int], None]


class Identity(Protocol):
    """The part of a model's identity under which round trips are kept."""

    @property
    def sha256(self) -> str: ...

    @property
    def dtype(self) -> str: ...


class RoundTrip(Protocol):
    """The part of a pipeline that this module needs: its VAE."""

    @property
    def identity(self) -> Identity: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    def round_trip(self, images: Tensor) -> Tensor: ...


class Pictures(Protocol):
    """Pictures of one size: a uint8 tensor [n, 3, h, w], or something that reads slices of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class ReferenceSet:
    """S as training saw it: names and pictures in one order.

    images: uint8 [n, 3, h, w], already through the VAE and back; names: one per picture; complete:
    whether S is the whole training set, without which no sample is called spurious; source: the
    folder, or `pocket`; sha256: of the names and contents; flipped: mirrored copies are among them.
    """

    images: Pictures
    names: Sequence[str]
    complete: bool = False
    source: str = ""
    sha256: str = ""
    flipped: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def chunks(self, rows: int) -> Iterator[Tensor]:
        """Yield the pictures, uint8 [<= rows, 3, h, w], in order."""
        for start in range(0, len(self), rows):
            yield self.images[start : start + rows]


@dataclass(frozen=True)
class _StoredPictures:
    """Pictures in files, read when they are asked for: a folder may exceed memory."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice) -> Tensor:
        pictures = [(read_picture(path) * 255).round() for path in self.paths[rows]]
        return torch.stack(pictures).to(torch.uint8)


@dataclass
class _Entry:
    """One picture of the set, as it is and mirrored if training flipped."""

    file: Path
    name: str
    mirrored: bool
    sha256: str
    stored: Path = field(init=False)


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files in `folder` and below it, by name.

    Raises ReferenceFolderError where the folder is missing, is a file, or holds no pictures.
    """
    if not folder.exists():
        raise ReferenceFolderError(
            f"There is no folder {folder}. Give the folder of the training pictures with "
            "--reference PATH, or leave --reference away to audit without one."
        )
    if not folder.is_dir():
        raise ReferenceFolderError(
            f"{folder} is a file. --reference takes the folder that the training pictures lie in."
        )
    try:
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise ReferenceFolderError(f"Can't read {folder}: {error.strerror}.") from error
    if not found:
        raise ReferenceFolderError(
            f"There are no pictures in {folder} (looked for {', '.join(sorted(SUFFIXES))}, "
            "folders inside it too). Give the folder of the training pictures."
        )
    return found


def load_folder(
    folder: Path,
    pipeline: RoundTrip,
    *,
    complete: bool = False,
    flipped: bool = False,
    batch_size: int = 16,
    on_progress: Progress | None = None,
) -> ReferenceSet:
    """Return the pictures of `folder` as training saw them.

    Each is brought to the model's size by its shorter side, centre-cropped, and taken through the
    VAE and back, with `flipped` also mirrored (DEFINITIONS: Thresholds). Round trips are kept by
    content of the picture and of the VAE, so that a second audit, or one after an interruption,
    does not repeat them. Raises ReferenceFolderError for a folder that is missing, empty or has
    pictures that can't be read, and names these.
    """
    entries, pending = _inspect(find_pictures(folder), folder, pipeline, flipped)
    done = len(entries) - len(pending)
    report = on_progress or (lambda done, total: None)
    report(done, len(entries))
    for start in range(0, len(pending), batch_size):
        batch = pending[start : start + batch_size]
        images = torch.stack([_prepared(entry, pipeline.image_size) for entry in batch])
        for entry, image in zip(batch, pipeline.round_trip(images), strict=True):
            _keep(entry.stored, to_picture(image))
        done += len(batch)
        report(done, len(entries))
    names = [entry.name + (" (mirrored)" if entry.mirrored else "") for entry in entries]
    return ReferenceSet(
        images=_StoredPictures(tuple(entry.stored for entry in entries)),
        names=names,
        complete=complete,
        source=_printable(folder),
        sha256=_digest(*(f"{n} {e.sha256}" for n, e in zip(names, entries, strict=True))),
        flipped=flipped,
    )


def _inspect(
    files: Sequence[Path], folder: Path, pipeline: RoundTrip, flipped: bool
) -> tuple[list[_Entry], list[_Entry]]:
    """All entries, and those whose round trip is not at hand; every file that is new is decoded."""
    entries, pending, broken = [], [], []
    for file in files:
        try:
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            found = [
                _Entry(file, _printable(file.relative_to(folder)), mirrored, sha256)
                for mirrored in ((False, True) if flipped else (False,))
            ]
            for entry in found:
                entry.stored = _stored(entry, pipeline)
            new = [entry for entry in found if not entry.stored.exists()]
            if new:
                open_picture(file)
        except (OSError, ValueError) as error:
            broken.append(f"{_printable(file.relative_to(folder))} ({_reason(error)})")
            continue
        entries += found
        pending += new
    if broken:
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ReferenceFolderError(
            f"{len(broken)} of {len(files)} pictures in {folder} can't be read: "
            f"{'; '.join(broken[:_NAMED])}{more}. Repair them or move them out of the folder: "
            "a reference with holes would call copies of them new."
        )
    return entries, pending


def open_picture(file: Path) -> Image:
    """Return a file's picture, decoded, upright, in RGB; OSError or ValueError if broken."""
    try:
        with Pillow.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever the broken bytes lead them to
        raise ValueError(str(error) or type(error).__name__) from error


def crop(picture: Image, size: tuple[int, int]) -> Image:
    """Return the picture as training sees it: scaled (bilinear) to cover `size`, centre-cropped.

    size: (height, width). Where both are equal, the same pixels as torchvision's Resize and
    CenterCrop, which diffusers' training scripts use.
    """
    height, width = size
    if picture.width * height <= picture.height * width:
        scaled = (width, max(height, int(width * picture.height / picture.width)))
    else:
        scaled = (max(width, int(height * picture.width / picture.height)), height)
    picture = picture.resize(scaled, Pillow.Resampling.BILINEAR)
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def _prepared(entry: _Entry, size: tuple[int, int]) -> Tensor:
    levels = torch.from_numpy(np.array(crop(open_picture(entry.file), size)))
    image = levels.permute(2, 0, 1).float() / 255
    return image.flip(-1) if entry.mirrored else image


def _stored(entry: _Entry, pipeline: RoundTrip) -> Path:
    model = pipeline.identity
    way = f"{model.sha256} {model.dtype} {pipeline.image_size} {entry.mirrored}"
    return cache_folder("reference") / _digest(way)[:16] / f"{entry.sha256}.png"


def _keep(path: Path, picture: Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    try:
        write_atomically(path, buffer.getvalue())
    except OutputError as error:
        raise OutputError(
            f"Can't keep a reference picture at {path} ({error.__cause__}). "
            "Choose another folder for what is kept between runs: M2G_CACHE=DIR m2g-audit ..."
        ) from error


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _printable(path: Path) -> str:
    """The path as text that fits into a record, whatever bytes the file system holds."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return str(getattr(error, "strerror", None) or error)


def nearest_pictures(
    metric: Metric,
    queries: Tensor,
    reference: ReferenceSet,
    *,
    on_progress: Progress | None = None,
) -> tuple[list[float], list[int]]:
    """Return, for each query embedding [n, parts, d], the distance and index of the nearest of S.

    S is embedded in chunks, so that neither its embeddings nor all pairs are ever held at once.
    Where an embedding takes less room than its picture it is kept between runs.
    """
    height, width = reference.images[0:1].shape[-2:]
    rows = max(1, min(1024, _CHUNK_BYTES // (12 * height * width)))
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    where = torch.zeros(len(queries), dtype=torch.int64)
    first = 0
    for chunk in reference.chunks(rows):
        distances, indices = nearest(metric, queries, embed_stored(metric, chunk))
        found = torch.from_numpy(distances[:, 0])
        nearer = found < best
        best[nearer] = found[nearer]
        where[nearer] = torch.from_numpy(indices[:, 0])[nearer] + first
        first += len(chunk)
        if on_progress is not None:
            on_progress(first, len(reference))
    return best.tolist(), where.tolist()


def embed_stored(metric: Metric, images: Tensor) -> Tensor:
    """Return the embeddings of uint8 images [n, 3, h, w], as an earlier run kept them if it did."""
    content = hashlib.sha256(f"{_metric_key(metric)} {tuple(images.shape)} ".encode())
    content.update(images.contiguous().numpy().tobytes())
    path = cache_folder("embeddings") / f"{content.hexdigest()}.safetensors"
    try:
        return load_file(path)["embeddings"]
    except (OSError, SafetensorError, KeyError):
        embeddings = metric.embed(images)
    if embeddings[0].numel() * 4 < images[0].numel():
        write_atomically(path, save({"embeddings": embeddings.contiguous()}))
    return embeddings


def _metric_key(metric: Metric) -> str:
    return f"{metric.name} {getattr(metric, 'weights_sha256', '')}"
