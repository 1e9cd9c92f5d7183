"""The files that hold a part's weights: chosen as the loaders choose, and whole or refused."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from m2g_audit.errors import ModelError
from m2g_audit.foreign_files import open_file
from m2g_audit.text import printable

_SAVE_ANEW = "Get the model again, or save it anew with save_pretrained."
_VARIANT = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)\.(\w+)(-\d+-of-\d+)?\.(safetensors|bin)"
)
_OTHER_PROGRAMS = {".msgpack": "Flax", ".onnx": "ONNX", ".h5": "TensorFlow", ".gguf": "llama.cpp"}
_STAND_INS = (
    (b"version https://git-lfs", "a pointer of Git LFS", "run `git lfs pull` in that folder"),
    (b"<", "a page of the web", "log in where it was got from, and get it again"),
)


@dataclass(frozen=True)
class Place:
    """A model's folder, as the user named it; `on_hub` gives what files the hub has of it."""

    path: Path
    name: str
    on_hub: Callable[[], Collection[str]] = tuple

    def relative(self, file: Path) -> str:
        """A file's name below the model's folder."""
        return file.relative_to(self.path).as_posix()

    def require(self, file: Path) -> None:
        """Raise ModelError unless the file is there and holds something."""
        if not file.is_file():
            raise self.incomplete(file, "is missing")
        if file.stat().st_size == 0:
            raise self.incomplete(file, "is empty")

    def incomplete(self, file: Path, what: str) -> ModelError:
        """The error of a file that is missing or broken, with the way to the whole model."""
        name = self.relative(file)
        return ModelError(
            f"The model {self.name} is not complete: {name} {what}. {self._cure(name)}"
        )

    def _cure(self, name: str) -> str:
        repo = cached_repo(self.path)
        if repo is None:
            return (
                "The download or copy was interrupted, or the file was left out. Get it again "
                f"(`hf download OWNER/NAME --local-dir {self.path}` goes on where it stopped), or "
                "use --model pocket."
            )
        if (known := self.on_hub()) and name not in known:
            return "The hub's own copy has no such file: give another --revision, or another model."
        return (
            f"Only a part of {repo} is in the hub's cache: with a network connection --model "
            f"{repo} fetches the rest. `--model pocket` needs no download."
        )

    def names_in(self, folder: Path) -> set[str]:
        """Names of the files of one part, here or, where the model is the hub's, there."""
        here = {self.relative(file) for file in folder.glob("*")}
        prefix = "" if folder == self.path else f"{self.relative(folder)}/"
        there = {name for name in self.on_hub() if name.startswith(prefix)}
        return {name.removeprefix(prefix) for name in here | there}


def cached_repo(path: Path) -> str | None:
    """The hub id of a snapshot in the hub's cache, None for any other folder."""
    for snapshot in (path, *path.parents):  # a model may lie in a subfolder
        kind, _, repo = snapshot.parent.parent.name.partition("--")
        if (snapshot.parent.name, kind) == ("snapshots", "models"):
            return repo.replace("--", "/", 1)
    return None


def of_transformers(component: str) -> bool:
    """Whether a part is a network of transformers, by its name, and not of diffusers."""
    return component.startswith("text_encoder")


def stem(component: str) -> str:
    """How the weights' files of a part are named, without their ends."""
    return "model" if of_transformers(component) else "diffusion_pytorch_model"


def pickle_name(component: str) -> str:
    """The file of a part's weights where they are a pickle."""
    return "pytorch_model.bin" if of_transformers(component) else f"{stem(component)}.bin"


def _single(component: str, variant: str | None = None) -> str:
    return f"{stem(component)}{'' if variant is None else f'.{variant}'}.safetensors"


def _index(component: str, variant: str | None = None) -> str:
    return f"{_single(component)}.index{'' if variant is None else f'.{variant}'}.json"


def weight_patterns(component: str, variant: str | None = None) -> tuple[str, ...]:
    """The names that the safetensors files of a part's weights may have."""
    shards = _shards_of(component, variant)
    # Shards of variants have been named in two ways.
    earlier = () if variant is None else (f"{stem(component)}-*-of-*.{variant}.safetensors",)
    return _single(component, variant), shards, *earlier


def _shards_of(component: str, variant: str | None) -> str:
    return _single(component, variant).replace(".safetensors", "-*-of-*.safetensors")


def _order(component: str, variant: str | None = None) -> tuple[str, ...]:
    """The file of all weights and the index of shards: first the one that is loaded of both.

    transformers loads the single file then, and diffusers what the index names. A part without the
    variant is loaded without it.
    """
    both = _single(component, variant), _index(component, variant)
    plain = () if variant is None else _order(component)
    return (*(both if of_transformers(component) else reversed(both)), *plain)


def passed_over(component: str, names: Collection[str], variant: str | None = None) -> set[str]:
    """Those of the files of one part that hold its weights again, and that `weights` leaves out."""
    chosen = next((name for name in _order(component, variant) if name in names), None)
    if chosen is None:
        return set()
    again: set[str] = set()
    for kind in {variant, None}:
        single, index = _single(component, kind), _index(component, kind)
        shards = fnmatch.filter(names, _shards_of(component, kind))
        again |= {single} - {chosen}
        again |= {index, *shards} if chosen != index else set()
    return again & set(names)


def is_variant(file: Path, variant: str | None) -> bool:
    """Whether a file of weights is one of this variant."""
    return variant is not None and file.name.split(".")[1].partition("-")[0] == variant


def weights(
    place: Place,
    folder: Path,
    component: str,
    allow_pickle: bool,
    variant: str | None = None,
) -> list[Path]:
    """The files of one part that will be loaded; ModelError unless they are whole."""
    single = folder / _single(component)
    order = _order(component, variant)
    chosen = next((folder / name for name in order if (folder / name).is_file()), None)
    if chosen is not None and chosen.suffix == ".json":
        return _shards(chosen, place)
    if chosen is not None:
        shapes_in(chosen, place)
        return [chosen]
    pickled = folder / pickle_name(component)
    names = place.names_in(folder)
    # A link without its file is a name too: that file was to be loaded, and is not there.
    if single.name in names or pickled.name not in names:
        if single.name not in names:
            _refuse_other_formats(place, folder, names)
        raise place.incomplete(single, "is missing")
    if not allow_pickle:
        raise ModelError(
            f"The weights of {place.name} ({place.relative(pickled)}) come only as a pickle, which "
            "can run any code when loaded. Convert them with save_pretrained('folder'), or insist "
            "with --allow-pickle if you trust where they come from."
        )
    place.require(pickled)
    _refuse_stand_in(pickled, place)
    return [pickled]


def shapes_in(file: Path, place: Place) -> dict[str, list[int]]:
    """The shape of each tensor; ModelError unless the file is as long as its header says."""
    place.require(file)
    _refuse_stand_in(file, place)
    try:
        return read_header(file)
    except ValueError as error:
        raise place.incomplete(file, str(error)) from error


def read_small_header(path: Path, named: str, kind: str, whose: str) -> dict[str, list[int]]:
    """The shape of each tensor of a file that goes on top of a model.

    named: as the user did; kind, whose: what it is in sentences, such as "a LoRA" and "The LoRA".

    Raises:
        ModelError: It is no safetensors file, or a damaged one.
    """
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{named} is no safetensors file: {kind} in a pickle can run any code when it is "
            "loaded. Save it anew as safetensors."
        )
    try:
        return read_header(path)
    except ValueError as error:
        raise ModelError(f"{whose} {named} {error}: get it again.") from error


def read_header(file: Path) -> dict[str, list[int]]:
    """The shape of each tensor; ValueError with what is wrong ("has ...") for a broken file."""
    open_file(file).close()  # which refuses what is no file
    try:
        with safe_open(file, framework="numpy") as stored:
            return {key: stored.get_slice(key).get_shape() for key in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = f"{file.stat().st_size:,}"
        raise ValueError(
            f"has {size} bytes that are no whole weights ({printable(str(error), 120)})"
        ) from error


def stored_as(files: Iterable[Path]) -> list[str]:
    """The precisions that the tensors of safetensors files are stored in, such as F16."""
    found: set[str] = set()
    for file in files:
        with safe_open(file, framework="numpy") as stored:
            found |= {stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118
    return sorted(found)


def count_and_names(keys: Collection[str], shown: int = 3) -> str:
    """How many keys of weights there are and the first of them, such as "12 (a, b, c, ...)"."""
    first = ", ".join(printable(key, 80) for key in sorted(keys)[:shown])
    return f"{len(keys):,} ({first}{', ...' if len(keys) > shown else ''})"


def read_object(file: Path) -> dict[str, Any]:
    """What a JSON file says; ModelError unless it can be read and is an object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} is not readable JSON. The download or copy was interrupted: get it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is JSON, but no object of names and values: get it again.")
    return content


def _refuse_stand_in(file: Path, place: Place) -> None:
    """Raise ModelError for what lies in the place of weights after some downloads."""
    with open_file(file) as stream:
        begins = stream.read(32).lstrip()
    for mark, what, cure in _STAND_INS:
        if begins.startswith(mark):
            raise ModelError(
                f"{place.relative(file)} of {place.name} is {what}, not the weights: {cure}."
            )


def _refuse_other_formats(place: Place, folder: Path, names: Iterable[str]) -> None:
    """Raise ModelError where weights are there, but in files that are not loaded."""
    for name in sorted(names):
        if (kind := _other_format(name)) is not None:
            said, how = kind
            raise ModelError(
                f"The weights of {place.name} lie here only {said} "
                f"({place.relative(folder / name)}), which is not read: {how}."
            )


def _other_format(name: str) -> tuple[str, str] | None:
    """How weights lie in a file that is not read, and the way out; None for any other file."""
    if found := _VARIANT.fullmatch(name):
        if found[4] == "safetensors":
            return f"as the variant {found[2]}", f"say --variant {found[2]}"
        return f"as the variant {found[2]}, a pickle", (
            f"load the model with variant={found[2]!r} in diffusers, save_pretrained('folder'), "
            "and give that folder"
        )
    if name.endswith(".bin.index.json"):
        return "as shards of a pickle", (
            "load that part, if you trust it, with from_pretrained(..., use_safetensors=False) in "
            "diffusers, and save_pretrained it to the same place"
        )
    if program := _OTHER_PROGRAMS.get(Path(name).suffix):
        return f"for {program}", "give a model with safetensors, such as another --revision of it"
    return None


def _shards(index: Path, place: Place) -> list[Path]:
    """The files that an index names; ModelError unless they hold what it says."""
    listed = _listed(index, place)
    shards = sorted({index.parent / shard for shard in listed.values()})
    held: dict[str, str] = {}
    for shard in shards:
        held |= dict.fromkeys(shapes_in(shard, place), shard.name)
    if wrong := {key for key, _ in held.items() ^ listed.items()}:
        raise ModelError(
            f"{place.relative(index)} of {place.name} does not fit the files beside it: "
            f"{count_and_names(wrong)} of the weights lie elsewhere or are not there. {_SAVE_ANEW}"
        )
    return shards


def _listed(index: Path, place: Place) -> dict[str, str]:
    """The file that holds each weight, beside the index; ModelError where it does not say that."""
    listed = read_object(index).get("weight_map")
    if isinstance(listed, dict) and listed and all(map(_is_plain_name, listed.values())):
        return listed
    raise ModelError(
        f"{index} of {place.name} does not say which of the files beside it holds which weights. "
        f"{_SAVE_ANEW}"
    )


def _is_plain_name(shard: Any) -> bool:
    return isinstance(shard, str) and Path(shard).name == shard
