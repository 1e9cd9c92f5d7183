"""The set S that generations are compared with: pictures as training saw them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from m2g_audit.errors import OutputError, ResourceError
from m2g_audit.files import cache_folder, digest, read_kept, write_atomically
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.caption_files import find_captions
from m2g_audit.pictures.containers import PictureFile, as_text
from m2g_audit.pictures.decoding import AS_MOST_TRAINERS, PictureReading, crop, decode
from m2g_audit.pictures.folder import PictureFolder, find_pictures, reason, refuse_broken
from m2g_audit.pictures.tensors import to_levels
from m2g_audit.progress import OnProgress
from m2g_audit.similarity import Metric, Search, Vectors

_CHUNK_BYTES = 64 * 2**20
_KEPT_BYTES = 2**30
_MOST_PAGES = 100_000
_PIXELS = 3
"""Counts the ways in which files were turned into pixels: what was kept of an earlier one is not
taken up."""
_LEVELS, _FACTS = "levels", "facts"
"""What a kept picture holds: its pixels, and what was seen when its file was decoded."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class PictureArray(Protocol):
    """Pictures of one size: a uint8 tensor [n, 3, h, w], or something that reads slices of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


class Reference(Protocol):
    """S, however it is kept: what an audit asks of it."""

    @property
    def source(self) -> str:
        """Where it lies, or its name."""
        ...

    @property
    def sha256(self) -> str:
        """The hash of its content."""
        ...

    @property
    def complete(self) -> bool:
        """Whether it is all that the model saw."""
        ...

    @property
    def flipped(self) -> bool:
        """Whether mirrored pictures are part of it."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The name of each picture."""
        ...

    def picture(self, number: int) -> Tensor:
        """Return one picture as training saw it, uint8 [3, h, w]."""

    def nearest(
        self, metric: Metric, images: Tensor, on_progress: OnProgress | None = None
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

    images: PictureArray
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
        self, metric: Metric, images: Tensor, on_progress: OnProgress | None = None
    ) -> tuple[list[float], list[int]]:
        """Return distance and number of the entry nearest to each image [n, 3, h, w] in [0, 1]."""
        distances, numbers = self.neighbours(metric, metric.embed(images), 1, on_progress)
        return distances[:, 0].tolist(), numbers[:, 0].tolist()

    def neighbours(
        self, metric: Metric, queries: Tensor, k: int, on_progress: OnProgress | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Return distances and numbers [n, k] of the k entries nearest to each embedding.

        queries: [n, parts, d]. Nearest first; at most as many as S has. S is embedded in chunks, so
        that all pairs are never held at once. Embeddings are kept for the next call as far as
        _KEPT_BYTES hold them, and between runs where one takes less room than its picture.
        """
        search = Search(metric, Vectors.of(queries), min(k, len(self.names)))
        rows = self._rows_of_chunk
        for start in range(0, len(self.names), rows):
            chunk = self._chunk(metric, start)
            search.look(Vectors.of(chunk), start)
            if on_progress is not None:
                on_progress(start + len(chunk), len(self.names))
        wanted = search.wanted
        for start in range(0, len(wanted), rows):
            numbers = wanted[start : start + rows]
            search.settle(self.embedded(metric, numbers), numbers)
        return search.found()

    def embedded(self, metric: Metric, numbers: Sequence[int] | IntArray) -> Tensor:
        """Return the embeddings [n, parts, d] of the entries with these numbers."""
        chosen, rows = np.asarray(numbers), self._rows_of_chunk
        starts = chosen // rows * rows
        whole: Tensor | None = None
        for start in np.unique(starts).tolist():
            here = np.flatnonzero(starts == start)
            part = self._of_chunk(metric, start, chosen[here] - start)
            if whole is None:
                whole = torch.empty(len(chosen), *part.shape[1:])
            whole[here.tolist()] = part
        assert whole is not None, "no numbers"
        return whole

    def blocks(
        self, metric: Metric, numbers: Sequence[int] | IntArray
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield embeddings of the entries with these numbers, as many at once as memory may hold.

        With each block comes which of the numbers it is of.
        """
        if not len(numbers):
            return
        rows = max(1, _KEPT_BYTES // self.embedded(metric, numbers[:1]).nbytes)
        for start in range(0, len(numbers), rows):
            block = slice(start, min(start + rows, len(numbers)))
            yield block, self.embedded(metric, numbers[block])

    @cached_property
    def _rows_of_chunk(self) -> int:
        return max(1, min(1024, _CHUNK_BYTES // (4 * self.images[0:1][0].numel())))

    def _of_chunk(self, metric: Metric, start: int, offsets: IntArray) -> Tensor:
        if metric.of_pixels and (_metric_key(metric), start) not in self._embedded:
            each = [self.images[start + i : start + i + 1] for i in offsets.tolist()]
            return metric.embed(torch.cat(each))
        return self._chunk(metric, start)[offsets.tolist()]

    def _chunk(self, metric: Metric, start: int) -> Tensor:
        key = (_metric_key(metric), start)
        if key in self._embedded:
            return self._embedded[key]
        images = self.images[start : start + self._rows_of_chunk]
        chunk = metric.embed(images) if metric.of_pixels else embed_stored(metric, images)
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
        return torch.stack([_read(path) for path in self.paths[rows]])


@dataclass(frozen=True)
class _Entry:
    """One picture of the set, a page of a file, as it is, or mirrored if training flipped."""

    file: PictureFile
    name: str
    page: int
    mirrored: bool
    sha256: str


@dataclass(frozen=True)
class PixelFacts:
    """What decoding a picture has shown; pixels: their hash, the same for the same picture."""

    turned: bool
    transparent: bool
    scaled: bool
    constant: bool
    pixels: str


@dataclass(frozen=True)
class FolderContents:
    """What of a reference folder is read, and how; `sha256` is of the names and contents."""

    found: PictureFolder
    entries: tuple[_Entry, ...]
    flipped: bool
    reading: PictureReading
    _facts: dict[Path, PixelFacts] = field(default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Return the folder."""
        return self.found.folder

    @property
    def sha256(self) -> str:
        """Return the hash of all names and contents, and of how they are read if not as usual."""
        way = [self.reading.pixels] if self.reading.pixels else []
        return _digest(*(f"{entry.name} {entry.sha256}" for entry in self.entries), *way)

    def pending(self, pipeline: TextToImage) -> list[_Entry]:
        """Return the pictures whose round trip through this VAE is not available yet."""
        return [e for e in self.entries if self._kept_facts(self._stored(e, pipeline)) is None]

    def _kept_facts(self, path: Path) -> PixelFacts | None:
        """What is kept beside a picture, read once; None where there is none, or it is damaged."""
        if path not in self._facts and (found := read_kept(path, _read_facts)) is not None:
            self._facts[path] = found
        return self._facts.get(path)

    def stored(self, pipeline: TextToImage) -> tuple[Path, ...]:
        """Return where the round trip of each picture is kept."""
        return tuple(self._stored(entry, pipeline) for entry in self.entries)

    def pixel_facts(self, pipeline: TextToImage) -> list[PixelFacts]:
        """Return what was seen of each picture, mirrored ones apart, once all are available."""
        unturned = (entry for entry in self.entries if not entry.mirrored)
        found = [self._kept_facts(self._stored(entry, pipeline)) for entry in unturned]
        return [facts for facts in found if facts is not None]

    def _stored(self, entry: _Entry, pipeline: TextToImage) -> Path:
        model, how = pipeline.identity, self.reading.pixels
        # Of the configuration only the VAE's has a say: a corrected scheduler costs no round trip.
        vae = digest({k: v for k, v in model.configuration.items() if k.startswith("vae/")})
        run = f"{model.sha256} {vae} {model.dtype} {pipeline.image_size}"
        way = f"{_PIXELS} {run} {entry.mirrored} {how}"
        name = entry.sha256 if entry.page == 0 else f"{entry.sha256}-{entry.page}"
        return cache_folder("reference") / _digest(way)[:16] / f"{name}.safetensors"


def scan(
    folder: Path,
    *,
    flipped: bool = False,
    reading: PictureReading = AS_MOST_TRAINERS,
    leave_out: Iterable[Path] = (),
) -> FolderContents:
    """Return what lies in `folder` and below it, by name; needs no model and decodes nothing.

    leave_out: folders that are no part of it, beside those of this program's runs. Raises
    ReferenceFolderError where the folder is missing, is a file or holds no pictures, and for files
    that are no pictures although their names say so, which it names.
    """
    found = find_pictures(folder, [*leave_out, cache_folder("reference").parent])
    entries: list[_Entry] = []
    broken = list(found.broken)
    for file in found.files:
        try:
            sha256 = file.sha256 or _hash_of(file)
        except OSError as error:
            broken.append(f"{file.name} ({reason(error)})")
            continue
        pages = file.header.pages if reading.pages == "all" else 1
        if pages > _MOST_PAGES:
            broken.append(f"{file.name} (it says that it has {pages:,} pages)")
            continue
        for page in range(pages):
            name = file.name if page == 0 else f"{file.name} (page {page + 1})"
            entries.append(_Entry(file, name, page, False, sha256))
            if flipped:
                entries.append(_Entry(file, f"{name} (mirrored)", page, True, sha256))
    refuse_broken(broken, len(found.files) + len(found.broken), folder)
    return FolderContents(found, tuple(entries), flipped, reading)


def load_folder(
    contents: FolderContents,
    pipeline: TextToImage,
    *,
    complete: bool = False,
    batch_size: int = 16,
    on_progress: OnProgress | None = None,
) -> ReferenceSet:
    """Return the pictures of a folder as training saw them.

    Each is brought to the model's size by its shorter side, centre-cropped, and taken through the
    VAE and back, mirrored as well if training flipped (DEFINITIONS: Thresholds). Round trips are
    kept by content of the picture and of the model, so that a second audit, or one after an
    interruption, does not repeat them. Raises ReferenceFolderError for pictures that can't be
    decoded, and names them, and ResourceError for one that memory is too small for.
    """
    pending = contents.pending(pipeline)
    done = len(contents.entries) - len(pending)
    report = on_progress or (lambda done, total: None)
    report(done, len(contents.entries))
    broken: dict[str, str] = {}
    for start in range(0, len(pending), batch_size):
        readable: list[tuple[_Entry, Tensor, PixelFacts]] = []
        for entry in pending[start : start + batch_size]:
            try:
                readable.append((entry, *_prepared(entry, contents.reading, pipeline.image_size)))
            except (OSError, ValueError) as error:
                broken[entry.file.name] = f"{entry.file.name} ({reason(error)})"
        # What can be read is kept even so: after the repair it is not done again.
        if readable:
            images = pipeline.round_trip(torch.stack([image for _, image, _ in readable]))
            for (entry, _, facts), image in zip(readable, images, strict=True):
                _keep(contents._stored(entry, pipeline), image, facts)
        done += len(readable)
        report(done, len(contents.entries))
    refuse_broken(list(broken.values()), len(contents.found.files), contents.folder)
    return ReferenceSet(
        images=_StoredPictures(contents.stored(pipeline)),
        names=[entry.name for entry in contents.entries],
        complete=complete,
        source=as_text(contents.folder),
        sha256=contents.sha256,
        flipped=contents.flipped,
        captions=_captions(contents),
    )


def _captions(contents: FolderContents) -> list[str | None]:
    files = contents.found.files
    beside = find_captions(contents.found.root, [file.path for file in files if file.place is None])
    return [
        entry.file.caption or (beside.get(entry.file.path) if entry.file.place is None else None)
        for entry in contents.entries
    ]


def _hash_of(file: PictureFile) -> str:
    with file.path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _prepared(
    entry: _Entry, reading: PictureReading, size: tuple[int, int]
) -> tuple[Tensor, PixelFacts]:
    try:
        with entry.file.open() as content:
            decoded = decode(content, reading, entry.page)
        levels = torch.from_numpy(np.array(crop(decoded.picture, size)))
    except MemoryError as error:
        raise ResourceError(
            f"There is not enough memory to read {entry.file.name}. Make that picture smaller, or "
            "close other programs; the same command then continues."
        ) from error
    facts = PixelFacts(
        decoded.turned, decoded.transparent, decoded.scaled, decoded.constant, decoded.sha256
    )
    image = levels.permute(2, 0, 1).float() / 255
    return image.flip(-1) if entry.mirrored else image, facts


def _keep(path: Path, image: Tensor, facts: PixelFacts) -> None:
    # As levels, not as PNG: to decode that again for every prompt costs more than the comparison.
    levels = to_levels(image).cpu().contiguous()
    content = save({_LEVELS: levels}, {_FACTS: json.dumps(asdict(facts))})
    try:
        write_atomically(path, content)
    except OutputError as error:
        raise OutputError(
            f"Can't keep a reference picture at {path} ({error.__cause__}). "
            "Choose another folder for what is kept between runs: M2G_CACHE=DIR m2g-audit ..."
        ) from error


def _read(path: Path) -> Tensor:
    """Return a kept picture, uint8 [3, h, w]; OutputError where it is damaged since."""
    try:
        with safe_open(path, framework="pt") as content:
            return content.get_tensor(_LEVELS)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"The reference picture kept at {path} was damaged meanwhile ({error}): the same "
            "command makes it again."
        ) from error


def _read_facts(path: Path) -> PixelFacts:
    with safe_open(path, framework="pt") as content:
        if content.get_slice(_LEVELS).get_dtype() != "U8":
            raise ValueError("it holds no levels")
        return PixelFacts(**json.loads(content.metadata()[_FACTS]))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def embed_stored(metric: Metric, images: Tensor) -> Tensor:
    """Return the embeddings of uint8 images [n, 3, h, w], as an earlier run kept them if it did."""
    content = hashlib.sha256(f"{_metric_key(metric)} {tuple(images.shape)} ".encode())
    content.update(images.contiguous().numpy().tobytes())
    path = cache_folder("embeddings") / f"{content.hexdigest()}.safetensors"
    kept = read_kept(path, partial(_read_embeddings, count=len(images)))
    if kept is not None:
        return kept
    embeddings = metric.embed(images)
    if embeddings[0].numel() * 4 < images[0].numel():
        write_atomically(path, save({"embeddings": embeddings.contiguous()}))
    return embeddings


def _read_embeddings(path: Path, count: int) -> Tensor:
    embeddings = load_file(path)["embeddings"]
    if len(embeddings) != count:
        raise ValueError(f"it has {len(embeddings)} embeddings for {count} pictures")
    return embeddings


def _metric_key(metric: Metric) -> str:
    return f"{metric.name} {metric.weights_sha256}"
