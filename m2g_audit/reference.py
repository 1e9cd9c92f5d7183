"""The set S that generations are compared with: pictures as training saw them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from m2g_audit.caches import cache_folder
from m2g_audit.errors import OutputError, ReferenceFolderError
from m2g_audit.picture_captions import find_captions
from m2g_audit.runs import digest, read_picture, to_picture, write_atomically
from m2g_audit.similarity import Metric, nearest

if TYPE_CHECKING:
    from m2g_audit.pipelines import TextToImage
    from m2g_audit.pocket.reference import TrainingPictures

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_CHUNK_BYTES = 64 * 2**20
_KEPT_BYTES = 2**30
_NAMED = 10

Progress = Callable[[int, int], None]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Identity(Protocol):
    """The part of a model's identity under which round trips are kept."""

    @property
    def sha256(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def configuration(self) -> Mapping[str, Any]: ...

    @property
    def configuration_sha256(self) -> str: ...


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


class Reference(Protocol):
    """S, however it is kept: what an audit asks of it."""

    @property
    def source(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def complete(self) -> bool: ...

    @property
    def flipped(self) -> bool: ...

    @property
    def names(self) -> Sequence[str]: ...

    def picture(self, number: int) -> Tensor:
        """Return one picture as training saw it, uint8 [3, h, w]."""

    def nearest(
        self, metric: Metric, images: Tensor, on_progress: Progress | None = None
    ) -> tuple[list[float], list[int]]:
        """Return distance and number of the picture of S nearest to each image [n, 3, h, w]."""


@dataclass(frozen=True)
class ReferenceSet:
    """S as training saw it: names and pictures in one order.

    images: uint8 [n, 3, h, w], already through the VAE and back; names: one per picture; complete:
    whether S is the whole training set, without which no sample is called spurious; source: the
    folder; sha256: of the names and contents; flipped: mirrored copies are among them; captions:
    those that lie beside the pictures, one for each entry or none at all.
    """

    images: Pictures
    names: Sequence[str]
    complete: bool = False
    source: str = ""
    sha256: str = ""
    flipped: bool = False
    captions: Sequence[str | None] = ()
    _embedded: dict[tuple[str, int], Tensor] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def picture(self, number: int) -> Tensor:
        """Return one picture, uint8 [3, h, w]."""
        return self.images[number : number + 1][0]

    @property
    def copies(self) -> int:
        """How many entries each picture has: 2 with its mirror, which follows it, else 1."""
        return 2 if self.flipped else 1

    def nearest(
        self, metric: Metric, images: Tensor, on_progress: Progress | None = None
    ) -> tuple[list[float], list[int]]:
        """Return distance and number of the entry nearest to each image [n, 3, h, w] in [0, 1]."""
        distances, numbers = self.neighbours(metric, metric.embed(images), 1, on_progress)
        return distances[:, 0].tolist(), numbers[:, 0].tolist()

    def neighbours(
        self, metric: Metric, queries: Tensor, k: int, on_progress: Progress | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Return distances and numbers [n, k] of the k entries nearest to each embedding.

        queries: [n, parts, d]. Nearest first; at most as many as S has. S is embedded in chunks, so
        that all pairs are never held at once. Embeddings are kept for the next call as far as
        _KEPT_BYTES hold them, and between runs where one takes less room than its picture.
        """
        best = np.empty((len(queries), 0))
        numbers = np.empty((len(queries), 0), dtype=np.int64)
        rows = self._rows_of_chunk
        for start in range(0, len(self.names), rows):
            chunk = self._embeddings(metric, start, rows)
            found, indices = nearest(metric, queries, chunk, min(k, len(chunk)))
            best = np.concatenate([best, found], axis=1)
            numbers = np.concatenate([numbers, indices + start], axis=1)
            # Stable, so that of equal distances the lower number comes first.
            order = np.argsort(best, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(best, order, axis=1)
            numbers = np.take_along_axis(numbers, order, axis=1)
            if on_progress is not None:
                on_progress(start + len(chunk), len(self.names))
        return best, numbers

    def embedded(self, metric: Metric, numbers: Sequence[int] | IntArray) -> Tensor:
        """Return the embeddings [n, parts, d] of the entries with these numbers."""
        rows, chosen = self._rows_of_chunk, torch.as_tensor(np.asarray(numbers))
        starts = chosen // rows * rows
        first = self._embeddings(metric, 0, rows)
        found = torch.empty(len(chosen), *first.shape[1:])
        for start in starts.unique().tolist():
            here = starts == start
            found[here] = self._embeddings(metric, start, rows)[chosen[here] - start]
        return found

    @property
    def _rows_of_chunk(self) -> int:
        return max(1, min(1024, _CHUNK_BYTES // (4 * self.images[0:1][0].numel())))

    def _embeddings(self, metric: Metric, start: int, rows: int) -> Tensor:
        key = (_metric_key(metric), start)
        if key in self._embedded:
            return self._embedded[key]
        chunk = embed_stored(metric, self.images[start : start + rows])
        if sum(kept.nbytes for kept in self._embedded.values()) + chunk.nbytes <= _KEPT_BYTES:
            self._embedded[key] = chunk
        return chunk


@dataclass(frozen=True)
class _StoredPictures:
    """Pictures in files, read when they are asked for: a folder may exceed memory."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice) -> Tensor:
        pictures = [(read_picture(path) * 255).round() for path in self.paths[rows]]
        return torch.stack(pictures).to(torch.uint8)


@dataclass(frozen=True)
class _Entry:
    """One picture of the set, as it is, or mirrored if training flipped."""

    file: Path
    name: str
    mirrored: bool
    sha256: str


@dataclass(frozen=True)
class FolderContents:
    """What lies in a reference folder; `sha256` is of the names and contents."""

    folder: Path
    entries: tuple[_Entry, ...]
    flipped: bool

    @property
    def sha256(self) -> str:
        """Return the hash of all names and contents, mirrored copies included."""
        return _digest(*(f"{entry.name} {entry.sha256}" for entry in self.entries))

    def pending(self, pipeline: RoundTrip) -> list[_Entry]:
        """Return the pictures whose round trip through this VAE is not at hand yet."""
        return [entry for entry in self.entries if not _stored(entry, pipeline).exists()]


def scan(folder: Path, *, flipped: bool = False) -> FolderContents:
    """Return what lies in `folder` and below it, by name; needs no model and decodes nothing.

    Raises ReferenceFolderError where the folder is missing, is a file or holds no pictures, and for
    files that are no pictures, which it names.
    """
    files = _find_pictures(folder)
    entries: list[_Entry] = []
    broken: list[str] = []
    for file in files:
        name = _printable(file.relative_to(folder))
        try:
            content = file.read_bytes()
            with Pillow.open(io.BytesIO(content)):
                sha256 = hashlib.sha256(content).hexdigest()
        except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
            broken.append(f"{name} ({_reason(error)})")
            continue
        entries.append(_Entry(file, name, False, sha256))
        if flipped:
            entries.append(_Entry(file, f"{name} (mirrored)", True, sha256))
    _refuse_broken(broken, len(files), folder)
    return FolderContents(folder, tuple(entries), flipped)


def _find_pictures(folder: Path) -> list[Path]:
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


def _refuse_broken(broken: Sequence[str], total: int, folder: Path) -> None:
    if not broken:
        return
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    raise ReferenceFolderError(
        f"{len(broken)} of {total} pictures in {folder} can't be read: "
        f"{'; '.join(broken[:_NAMED])}{more}. Repair them or move them out of the folder: "
        "a reference with holes would call copies of them new."
    )


def load_folder(
    contents: FolderContents,
    pipeline: RoundTrip,
    *,
    complete: bool = False,
    batch_size: int = 16,
    on_progress: Progress | None = None,
) -> ReferenceSet:
    """Return the pictures of a folder as training saw them.

    Each is brought to the model's size by its shorter side, centre-cropped, and taken through the
    VAE and back, mirrored as well if training flipped (DEFINITIONS: Thresholds). Round trips are
    kept by content of the picture and of the model, so that a second audit, or one after an
    interruption, does not repeat them. Raises ReferenceFolderError for pictures that can't be
    decoded, and names them.
    """
    pending = contents.pending(pipeline)
    done = len(contents.entries) - len(pending)
    report = on_progress or (lambda done, total: None)
    report(done, len(contents.entries))
    broken: dict[str, str] = {}
    for start in range(0, len(pending), batch_size):
        readable: list[tuple[_Entry, Tensor]] = []
        for entry in pending[start : start + batch_size]:
            try:
                readable.append((entry, _prepared(entry, pipeline.image_size)))
            except (OSError, ValueError) as error:
                name = _printable(entry.file.relative_to(contents.folder))
                broken[name] = f"{name} ({_reason(error)})"
        # What can be read is kept even so: after the repair it is not done again.
        if readable:
            images = pipeline.round_trip(torch.stack([image for _, image in readable]))
            for (entry, _), image in zip(readable, images, strict=True):
                _keep(_stored(entry, pipeline), to_picture(image))
        done += len(readable)
        report(done, len(contents.entries))
    _refuse_broken(list(broken.values()), len({e.file for e in contents.entries}), contents.folder)
    return ReferenceSet(
        images=_StoredPictures(tuple(_stored(entry, pipeline) for entry in contents.entries)),
        names=[entry.name for entry in contents.entries],
        complete=complete,
        source=_printable(contents.folder),
        sha256=contents.sha256,
        flipped=contents.flipped,
        captions=_captions(contents),
    )


def _captions(contents: FolderContents) -> list[str | None]:
    captions = find_captions(contents.folder, [entry.file for entry in contents.entries])
    return [captions.get(entry.file) for entry in contents.entries]


def open_picture(file: Path | BinaryIO) -> Image:
    """Return a file's picture, decoded, upright, in RGB; OSError or ValueError if broken."""
    try:
        with Pillow.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
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
    # Of the configuration only the VAE's has a say: a corrected scheduler costs no round trip.
    vae = digest({k: v for k, v in model.configuration.items() if k.startswith("vae/")})
    way = f"{model.sha256} {vae} {model.dtype} {pipeline.image_size} {entry.mirrored}"
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
    return f"{metric.name} {metric.weights_sha256}"


@dataclass(frozen=True)
class PocketReference:
    """The whole training set of pocket, drawn again where it is needed."""

    pictures: TrainingPictures
    index: np.ndarray
    sha256: str
    source: str = "the pocket world"
    complete: bool = True
    flipped: bool = False

    @property
    def names(self) -> Sequence[str]:
        """Return the caption and number of each picture."""
        return self.pictures.names

    def picture(self, number: int) -> Tensor:
        """Return one picture as the model can show it, uint8 [3, h, w]."""
        return self.pictures.take([number])[0]

    def nearest(
        self, metric: Metric, images: Tensor, on_progress: Progress | None = None
    ) -> tuple[list[float], list[int]]:
        """Return distance and number of the nearest training picture of each image."""
        from m2g_audit.pocket.reference import BOUNDED_METRICS, nearest_training

        if metric.name in BOUNDED_METRICS:
            return nearest_training(metric, images, self.pictures, self.index)
        everything = ReferenceSet(self.pictures, self.pictures.names)
        return everything.nearest(metric, images, on_progress)


def load_pocket(pipeline: TextToImage) -> PocketReference:
    """Return the training set of pocket; ModelError where the shipped index is missing."""
    from m2g_audit.model_folder import POCKET_FOLDER
    from m2g_audit.pocket.reference import TrainingPictures, load_index, world_hash

    return PocketReference(TrainingPictures(pipeline), load_index(POCKET_FOLDER), world_hash())
