"""The pictures of a sweep: named sets, folders, parquet tables; nested subsets and fresh ones.

A source reads the rows that are asked for and no others, as a small sweep needs few of many.
"""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from m2g_audit.errors import ReferenceFolderError, ResourceError, UsageError
from m2g_audit.foreign_files import read_file, within
from m2g_audit.pictures.decoding import crop, open_picture
from m2g_audit.pictures.folder import PictureFolder, find_pictures, listed, refuse_broken
from m2g_audit.progress import OnProgress
from small_scale.models.copies import first_of_each
from small_scale.settings import PUBLISHED, SUBSET_SEED, Settings

if TYPE_CHECKING:
    from datasets import Dataset

FOLDER_VARIABLE = "M2G_DATA"
_HELD_OUT, _FEWEST_FRESH = 0.2, 100
"""The share held out, and how many at least: a 1% quantile needs 99 values."""
_AT_LEAST = 256
"""How many pictures are read at once to fill up for copies."""
_NAMED = 5
_CONTROLS = 16

_Reader = Callable[[NDArray[np.int64], int], Tensor]


class Source(ABC):
    """Pictures in a fixed order: `train` of them to train on, and `fresh` ones held out."""

    name: str
    train: int
    fresh: int
    channels: int
    remarks: Sequence[str] = ()
    """What is to be told of it in sentences."""

    @abstractmethod
    def picture(self, row: int, *, fresh: bool) -> Image:
        """One picture, decoded; OSError or ValueError if it is broken."""

    @abstractmethod
    def label(self, row: int, *, fresh: bool) -> str:
        """What to call a picture in a message."""


class Table(Source):
    """Tables in the hub's layout: one column of encoded pictures, a train and a test split.

    Without a test split a fifth at random is held out, but at least 100.
    """

    def __init__(self, name: str, train: Dataset, test: Dataset | None, column: str | None):
        self.name = name
        self._folder = Path(name) if Path(name).is_dir() else Path(name).parent
        named = column is not None and column in train.column_names
        self._column: str = str(column) if named else _picture_column(train, name)
        if test is None:
            self.remarks = _many_held_out(len(train))
            order = np.random.default_rng(SUBSET_SEED).permutation(len(train))
            split = len(train) - _held_out(len(train))
            train, test = train.select(np.sort(order[:split])), train.select(np.sort(order[split:]))
        self._splits = {
            False: _undecoded(train, self._column),
            True: _undecoded(test, self._column),
        }
        self.train, self.fresh = len(train), len(test)
        self.channels = _channels(self)

    def picture(self, row: int, *, fresh: bool) -> Image:
        """Return a picture of the training or the fresh part."""
        stored = self._splits[fresh][row][self._column]
        content = stored["bytes"]
        if content is None:  # it names a file beside the table
            content = read_file(within(self._folder, str(stored["path"])))
        return open_picture(io.BytesIO(content))

    def label(self, row: int, *, fresh: bool) -> str:
        """Return what to call a picture in messages."""
        return f"row {row} of the {'test' if fresh else 'train'} split"


class Folder(Source):
    """Pictures below a folder or in a file; a fifth at random is held out, but at least 100."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        try:
            found = find_pictures(folder)
        except ReferenceFolderError as error:
            raise ReferenceFolderError(
                f"{error} Or give a parquet file, or one of {', '.join(PUBLISHED)}."
            ) from error
        refuse_broken(found.broken, len(found.files) + len(found.broken), folder)
        files = found.files
        self.remarks = [*_remarks(found), *_many_held_out(len(files))]
        order = np.random.default_rng(SUBSET_SEED).permutation(len(files))
        split = len(files) - _held_out(len(files))
        parts = {False: order[:split], True: order[split:]}
        self._files = {fresh: [files[i] for i in np.sort(rows)] for fresh, rows in parts.items()}
        self.train, self.fresh = split, len(files) - split
        self.channels = _channels(self)

    def picture(self, row: int, *, fresh: bool) -> Image:
        """Return a picture of the training or the fresh part."""
        with self._files[fresh][row].open() as content:
            return open_picture(content)

    def label(self, row: int, *, fresh: bool) -> str:
        """Return what to call a picture in messages."""
        return self._files[fresh][row].name


@contextmanager
def _quiet() -> Iterator[None]:
    """A block without the bars of datasets."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def open_source(data: str) -> Source:
    """The pictures of a named set, a folder or a parquet file.

    A named set comes from the hub, or from a folder of that name with parquet files below M2G_DATA;
    a folder of one's own with such a name is given as ./NAME. Raises UsageError for what is none of
    these, ReferenceFolderError for one without pictures.
    """
    if data in PUBLISHED:
        return _named(data)
    path = Path(data)
    if path.is_dir():
        tables = _splits_in(path)
        return _tables(data, tables, None) if tables else Folder(path)
    if path.suffix == ".parquet" and path.is_file():
        return _tables(data, {"train": [path]}, None)
    if path.is_file():
        return Folder(path)
    raise UsageError(
        f"There is no data set {data!r}: give one of {', '.join(PUBLISHED)}, a folder of pictures, "
        "a parquet file in the hub's layout, a tar archive, a list of paths, or the folder of a "
        "sweep to continue."
    )


@dataclass(frozen=True)
class Pictures:
    """The pictures of a sweep, uint8 [n, c, side, side]; `sha256` is of all of them in order.

    `ordered`: subsets to train on are its first K; `fresh`: never trained on by any model.
    `remarks`: what is to be told of them in sentences.
    """

    ordered: Tensor
    fresh: Tensor
    sha256: str
    remarks: Sequence[str] = ()

    def training(self, K: int) -> Tensor:
        """S_K, uint8 [K, c, h, w]."""
        return self.ordered[:K]

    def unseen(self, K: int, most: int) -> Tensor:
        """At most so many pictures that the model of S_K never saw, held-out ones first."""
        return torch.cat([self.fresh, self.ordered[K:]])[:most]

    def controls(self, K: int) -> list[Tensor]:
        """Disjoint sets of K pictures that the model of S_K never saw, at most 16.

        One smaller set where there are not K of them.
        """
        unseen = torch.cat([self.ordered[K:], self.fresh])
        return list(unseen.split(K)[: max(1, min(_CONTROLS, len(unseen) // K))])


def load_pictures(
    source: Source, settings: Settings, on_progress: OnProgress | None = None
) -> Pictures:
    """The pictures that a sweep needs: twice its largest K if there are, and some held out.

    Subsets are nested: a random order by seed 3407, of which each K takes the first; what follows
    is the control that its model never saw. Every picture is scaled to cover side x side and
    centre-cropped; none is mirrored. Of copies the first is taken, so that no picture is on two
    sides of a split. Raises ReferenceFolderError for broken pictures, which it names, and
    UsageError where too few of them differ.
    """
    _check_enough(source, settings, source.train, source.fresh)
    order = np.random.default_rng(SUBSET_SEED).permutation(source.train)
    held_out = np.random.default_rng(SUBSET_SEED).permutation(source.fresh)
    wanted = min(2 * settings.sizes[-1], source.train), min(settings.fresh, source.fresh)
    report = on_progress or (lambda *_: None)

    def reader(fresh: bool, before: int) -> _Reader:
        def tell(done: int) -> None:
            report(min(before + done, sum(wanted)), sum(wanted))

        return lambda rows, done: _read(source, rows, fresh, settings, lambda n: tell(done + n))

    nothing = torch.empty(0, settings.channels, settings.side, settings.side, dtype=torch.uint8)
    ordered, twice = _distinct(order, wanted[0], nothing, reader(False, 0))
    fresh, again = _distinct(held_out, wanted[1], ordered, reader(True, len(ordered)))
    remarks = _counted(twice + again, _constant(ordered) + _constant(fresh))
    ordered, fresh = _enough_fresh(ordered, fresh, settings.sizes[-1])
    _check_enough(source, settings, len(ordered), len(fresh), remarks)
    digest = hashlib.sha256(ordered.numpy().tobytes() + fresh.numpy().tobytes()).hexdigest()
    return Pictures(ordered, fresh, digest, [*source.remarks, *remarks])


def _check_enough(
    source: Source, settings: Settings, train: int, fresh: int, remarks: Sequence[str] = ()
) -> None:
    most = settings.sizes[-1]
    if train < most or fresh < _FEWEST_FRESH:
        raise UsageError(
            f"{source.name} has {train:,} pictures to train on and {fresh:,} to hold out; needed "
            f"are {most:,} and {_FEWEST_FRESH:,}. {' '.join([*remarks, ''])}Give more pictures or "
            "smaller --sizes."
        )


def _enough_fresh(ordered: Tensor, fresh: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Both, where copies were held out with what follows the largest K, which no model sees."""
    spare = min(max(0, _FEWEST_FRESH - len(fresh)), max(0, len(ordered) - most))
    kept, moved = ordered.split([len(ordered) - spare, spare])
    return kept, torch.cat([fresh, moved])


def _constant(levels: Tensor) -> int:
    """How many pictures have one colour only."""
    return int((levels == levels[:, :, :1, :1]).flatten(1).all(1).sum())


def _distinct(
    rows: NDArray[np.int64],
    wanted: int,
    others: Tensor,
    read: _Reader,
) -> tuple[Tensor, int]:
    """At most `wanted` pictures of these rows that are no copies of others; and how many were.

    `read` is given rows, and how many pictures were taken before.
    """
    known, copies, at = others, 0, 0
    while (lacking := len(others) + wanted - len(known)) > 0 and at < len(rows):
        part = rows[at : at + max(lacking, _AT_LEAST if at else 0)]
        levels = torch.cat([known, read(part, len(known) - len(others))])
        first = first_of_each(levels, len(known))
        copies += int((~first).sum())
        known, at = levels[first], at + len(part)
    return known[len(others) : len(others) + wanted], copies


def _remarks(found: PictureFolder) -> list[str]:
    said = []
    if found.unread:
        said.append(f"Not read in {found.folder}: {listed(found.unread)}.")
    if found.own:
        said.append(f"Left out, as results of this program: {listed(found.own)}.")
    return said


def _many_held_out(total: int) -> list[str]:
    held_out = _held_out(total)
    if held_out <= _HELD_OUT * total:
        return []
    return [
        f"Held out are {held_out:,} of {total:,} pictures, more than a fifth, since thresholds "
        f"need {_FEWEST_FRESH:,}. With more pictures more are trained on."
    ]


def _counted(copies: int, constant: int) -> list[str]:
    said = []
    if copies:
        said.append(
            f"Left out are copies of others, exact or nearly so, so that none is on two sides of a "
            f"split: {copies:,}."
        )
    if constant:
        said.append(f"Pictures of one colour only: {constant:,}.")
    return said


def as_input(levels: Tensor) -> Tensor:
    """Pictures of levels 0 .. 255 as the network sees them: float32 in [-1, 1]."""
    return levels.float().div(127.5).sub(1)


def to_levels(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] as levels, uint8."""
    return images.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)


def in_colour(images: Tensor) -> Tensor:
    """Pictures with three channels, as metrics take them; one channel is repeated."""
    return images.expand(-1, 3, -1, -1)


def _held_out(total: int) -> int:
    return min(total, max(_FEWEST_FRESH, int(total * _HELD_OUT)))


def _read(
    source: Source,
    rows: NDArray[np.int64],
    fresh: bool,
    settings: Settings,
    report: Callable[[int], None],
) -> Tensor:
    side, mode = settings.side, "L" if settings.channels == 1 else "RGB"
    levels = np.empty((len(rows), settings.channels, side, side), np.uint8)
    broken = []
    for i, row in enumerate(rows):
        try:
            picture = crop(source.picture(int(row), fresh=fresh), (side, side)).convert(mode)
        except (OSError, ValueError) as error:
            broken.append(f"{source.label(int(row), fresh=fresh)} ({error})")
            continue
        except MemoryError as error:
            raise ResourceError(
                f"There is not enough memory to read {source.label(int(row), fresh=fresh)}. Make "
                "that picture smaller, or close other programs; the same command then continues."
            ) from error
        levels[i] = np.asarray(picture).reshape(side, side, -1).transpose(2, 0, 1)
        if i % 256 == 255 or i + 1 == len(rows):
            report(i + 1)
    if broken:
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ReferenceFolderError(
            f"{len(broken)} of {len(rows)} pictures of {source.name} can't be read: "
            f"{'; '.join(broken[:_NAMED])}{more}. Repair them or take them out."
        )
    return torch.from_numpy(levels)


def _named(name: str) -> Source:
    published = PUBLISHED[name]
    at_hand = os.environ.get(FOLDER_VARIABLE)
    if at_hand and (tables := _splits_in(Path(at_hand) / name)):
        return _tables(name, tables, published.column)
    from datasets import load_dataset

    try:
        splits: Any = load_dataset(published.hub)
    except Exception as error:  # the hub's client has many, none of them a user's to tell apart
        raise ReferenceFolderError(
            f"{name} ({published.hub}) could not be loaded from the hub ({type(error).__name__}: "
            f"{error}). Go online, or set {FOLDER_VARIABLE} to a folder with {name}/train.parquet "
            f"and {name}/test.parquet in the hub's layout, or give a folder of pictures."
        ) from error
    return Table(name, splits["train"], splits.get("test"), published.column)


def _splits_in(folder: Path) -> dict[str, list[Path]]:
    """Parquet files of a folder by split, as the hub names them: train.parquet, train-0000..."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        found.setdefault(path.name.split("-")[0].removesuffix(".parquet"), []).append(path)
    return found if "train" in found else {}


def _tables(name: str, files: dict[str, list[Path]], column: str | None) -> Source:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    def read(split: str) -> Dataset:
        try:
            with _quiet():
                return Dataset.from_parquet([str(path) for path in files[split]])
        except (OSError, ValueError, DatasetGenerationError) as error:
            raise ReferenceFolderError(
                f"{', '.join(map(str, files[split]))} can't be read ({error}): get it again."
            ) from error

    return Table(name, read("train"), read("test") if "test" in files else None, column)


def _picture_column(table: Dataset, name: str) -> str:
    from datasets import Image as Pictures

    for column, kind in table.features.items():
        if isinstance(kind, Pictures) or (
            isinstance(kind, dict) and {"bytes", "path"} <= set(kind)
        ):
            return str(column)
    raise ReferenceFolderError(
        f"{name} has no column of pictures (found {', '.join(table.column_names)}): it needs one "
        "with the encoded bytes of each, as data sets on the hub have."
    )


def _undecoded(table: Dataset, column: str) -> Dataset:
    from datasets import Image as Pictures

    return table.cast_column(column, Pictures(decode=False))


def _channels(source: Source) -> int:
    """1 where the first pictures are grey, else 3."""
    for row in range(min(8, source.train)):
        try:
            levels = np.asarray(source.picture(row, fresh=False))
        except (OSError, ValueError):
            continue  # broken pictures are told of when all are read
        if np.ptp(levels.reshape(-1, 3), axis=1).any():
            return 3
    return 1
