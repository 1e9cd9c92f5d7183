"""Finding a diffusers model on disk or on the hub, and checking it before anything heavy is loaded.

Knows files, not networks: torch and diffusers are not imported here.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m2g_audit.caches import cache_folder
from m2g_audit.errors import ModelError, OutputError
from m2g_audit.model_settings import check_settings
from m2g_audit.no_model import FUSE, is_adapter, why_no_model
from m2g_audit.printable import printable
from m2g_audit.runs import write_atomically

DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"
POCKET = "pocket"
POCKET_FOLDER = Path(__file__).parent / "pocket" / "weights"

_SHA256 = re.compile(r"[0-9a-f]{64}")
# A file changed twice within a tick of its clock shows one time; 2 s is the longest tick (FAT).
_TICK_NS = 2 * 10**9
# Of these the identity keeps what they say, of other files only the hash.
_SETTINGS = frozenset(
    {
        "config.json",
        "m2g.json",
        "model_index.json",
        "scheduler_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    }
)
_SETTINGS_BYTES = 2**15
_HEADER_BYTES = 10**8  # safetensors' own limit
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOCAL_COPY = (
    "To use a copy on this machine, give its folder: --model ./folder, made elsewhere with "
    "`StableDiffusionPipeline.from_pretrained({model!r}).save_pretrained('folder')`. "
    "`--model pocket` needs no download."
)


@dataclass(frozen=True)
class Family:
    """A kind of pipeline: its diffusers classes, the parts with weights, the other parts."""

    name: str
    classes: frozenset[str]
    weighted: tuple[str, ...]
    plain: tuple[str, ...]


TEXT_TO_IMAGE = Family(
    "text-to-image",
    frozenset({"StableDiffusionPipeline"}),
    ("unet", "vae", "text_encoder"),
    ("tokenizer", "scheduler"),
)
UNCONDITIONAL = Family(
    "unconditional", frozenset({"DDPMPipeline", "DDIMPipeline"}), ("unet",), ("scheduler",)
)


class OwnSettings(BaseModel):
    """How a model made for this program is meant to be sampled, as its m2g.json says."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    steps: Annotated[int, Field(ge=1)] | None = None
    guidance: Annotated[float, Field(ge=1)] | None = None
    metric: str | None = None


@dataclass(frozen=True)
class ModelFolder:
    """A complete model folder: `id` as the user named it, `revision` the hub's commit (or None)."""

    path: Path
    id: str
    revision: str | None
    family: Family
    class_name: str
    weights: tuple[Path, ...]

    @property
    def pickled(self) -> bool:
        """Whether any part's weights are a pickle."""
        return any(file.suffix == ".bin" for file in self.weights)

    def config(self, component: str) -> dict[str, Any]:
        """The configuration of one part as a dict."""
        return _json(self.location(component) / _settings_name(component))

    def own_settings(self) -> OwnSettings:
        """What m2g.json says, all None where there is none; ModelError where it can't be read."""
        file = self.path / "m2g.json"
        try:
            return OwnSettings.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return OwnSettings()
        except (OSError, ValidationError) as error:
            raise ModelError(
                f"{file} is not what this program reads ({first_line(error)}): mend it, or leave "
                "it out and say --steps and --guidance."
            ) from error

    def location(self, component: str) -> Path:
        """The folder of one part."""
        return _location(self.path, component)

    def class_of(self, component: str) -> tuple[str, str]:
        """Library and name of the class of one part, as model_index.json has them."""
        library, name = _json(self.path / "model_index.json")[component]
        return library, name

    def shapes(self, component: str) -> dict[str, list[int]]:
        """The shape of each weight of one part, by its key; of pickles none is known."""
        shapes: dict[str, list[int]] = {}
        for file in self.weights_of(component):
            if file.suffix == ".safetensors":
                shapes |= _check_safetensors(file, self.path, self.id)
        return shapes

    def weights_of(self, component: str) -> list[Path]:
        """The files that hold the weights of one part."""
        folder = self.location(component)
        return [file for file in self.weights if file.parent == folder]

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """All that the pipeline reads beside weights, by relative name.

        Of a file of settings its content as JSON, without the path that it was once saved from; of
        any other file, such as a tokenizer's vocabulary, the SHA-256.
        """
        files = sorted(set(self._configuring()))
        return {file.relative_to(self.path).as_posix(): _content(file) for file in files}

    def _configuring(self) -> Iterator[Path]:
        yield self.path / "model_index.json"
        if (own := self.path / "m2g.json").is_file():
            yield own
        for component in self.family.weighted:
            yield self.location(component) / "config.json"
        yield self.location("scheduler") / "scheduler_config.json"
        if "tokenizer" in self.family.plain:
            inside = self.location("tokenizer").iterdir()
            yield from (f for f in inside if f.is_file() and not f.name.startswith("."))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over (relative name, length, content) of the weights' files.

        Kept between runs, because reading gigabytes takes seconds; files of another size, or
        written since, are read again.
        """
        stamps = self._stamps()
        key = hashlib.sha256(json.dumps([str(self.path.resolve()), stamps]).encode())
        kept = cache_folder("hashes") / f"{key.hexdigest()}.txt"
        with suppress(OSError, ValueError):
            if _SHA256.fullmatch(known := kept.read_text(encoding="ascii")):
                return known
        settled = all(time.time_ns() - max(times) > _TICK_NS for _, _, *times in stamps)
        found = self._hash()
        if settled:
            # Where it can't be kept the next run is slower, and that is all.
            with suppress(OutputError):
                write_atomically(kept, found.encode())
        return found

    def _stamps(self) -> list[tuple[str, int, int, int]]:
        """Name, size and times of change of each file.

        The inode's time tells apart files of one size that were unpacked with one date.
        """
        stats = [(file.relative_to(self.path), file.stat()) for file in sorted(self.weights)]
        return [(f.as_posix(), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f, s in stats]

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self.weights):
            name = file.relative_to(self.path).as_posix()
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()


def resolve(
    model: str | Path,
    family: Family,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> ModelFolder:
    """The checked folder of `model`: "pocket", a folder, or a hub id (from the cache or the net).

    Raises ModelError if there is no such model, if it is of another family, if files are missing or
    cut short, or if weights come only as pickles and `allow_pickle` is not set.
    """
    name = str(model)
    if name == POCKET:
        path = POCKET_FOLDER
        if not path.is_dir():
            raise ModelError(
                f"The weights of --model pocket are missing from this installation ({path}). "
                "Install the program again, or train them with `m2g-audit pocket train`."
            )
    elif Path(name).expanduser().exists():
        path = Path(name).expanduser()
    elif _HUB_ID.fullmatch(name):
        path = _download(name, revision, family, allow_pickle)
        return _checked(path, name, path.name, family, allow_pickle)
    else:
        raise ModelError(
            f"There is no model {name!r}: it is neither a folder on this machine nor a hub id "
            "of the form owner/name. Check the spelling, or use --model pocket, which ships with "
            "this program."
        )
    if revision is not None:
        raise ModelError(
            f"--revision {revision} was given with the local model {name!r}, which has no "
            "revisions. Leave it out, or give the hub id."
        )
    return _checked(path, name, None, family, allow_pickle)


def _download(repo: str, revision: str | None, family: Family, allow_pickle: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = repo if revision is None else f"{repo} at revision {revision}"

    def fetch(pickled: Collection[str]) -> Path:
        patterns = list(download_patterns(family, pickled))
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))

    try:
        path = fetch(())
        without = [part for part in family.weighted if not _has_safetensors(path, part)]
        # A pickle beside safetensors would be a second copy of gigabytes that is never read.
        return fetch(without) if allow_pickle and without else path
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{repo} has no revision {revision!r} on the hub. Check it on the model's page, or "
            "leave --revision out."
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"{repo} is gated on the hub: accept its licence on the model's page and log in "
            "with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub knows no public model {repo}. Check the spelling; for a private one log in "
            "with `hf auth login`. `--model pocket` needs no download."
        ) from error
    except Exception as error:  # hub clients raise many kinds for "no network"; all mean the same
        raise ModelError(
            f"{named} is not on this machine and could not be fetched from the hub "
            f"({type(error).__name__}). Is there a network connection? "
            + _LOCAL_COPY.format(model=repo)
        ) from error


def _has_safetensors(path: Path, component: str) -> bool:
    return any(_location(path, component).glob(f"{_stem(component)}*.safetensors"))


def download_patterns(family: Family, pickled: Collection[str] = ()) -> Iterator[str]:
    """The files of a hub repository that a model needs, as patterns, and none of the others.

    pickled: the parts whose weights come as pickles.
    """
    # The safety checker and fp16 or non-EMA variants would double the download.
    yield "model_index.json"
    for component in family.plain:
        yield f"{component}/*"
    for component in family.weighted:
        stem = _stem(component)
        for prefix in (f"{component}/", "") if family is UNCONDITIONAL else (f"{component}/",):
            yield f"{prefix}*.json"
            yield f"{prefix}{stem}.safetensors"
            yield f"{prefix}{stem}-*-of-*.safetensors"
            if component in pickled:
                yield f"{prefix}{_pickle_stem(component)}.bin"


def _checked(
    path: Path, name: str, revision: str | None, family: Family, allow_pickle: bool
) -> ModelFolder:
    class_name = _class_name(path, name)
    if class_name not in family.classes:
        raise ModelError(_wrong_kind(name, printable(class_name, 80), family))
    _refuse_foreign_code(path, name, family)
    _refuse_adapters(path, name, family)
    for component in family.plain:
        marker = "scheduler_config.json" if component == "scheduler" else "tokenizer_config.json"
        _require(_location(path, component) / marker, path, name)
    weights: list[Path] = []
    for component in family.weighted:
        _require(_location(path, component) / "config.json", path, name)
        weights += _weights(path, name, component, allow_pickle)
    for component in (*family.weighted, "scheduler"):
        file = _location(path, component) / _settings_name(component)
        check_settings(_json(file), component, str(file))
    return ModelFolder(path, name, revision, family, class_name, tuple(weights))


def _class_name(path: Path, name: str) -> str:
    index = path / "model_index.json"
    if index.is_file():
        found = _json(index).get("_class_name")
        # Custom pipelines name a file beside the class; nothing of theirs is executed here.
        if not isinstance(found, str):
            raise ModelError(
                f"{name} is a custom pipeline ({printable(str(found), 80)}), which would run its "
                "own code. Only diffusers' own pipelines are loaded."
            )
        return found
    raise ModelError(why_no_model(path, name))


def _refuse_foreign_code(path: Path, name: str, family: Family) -> None:
    index = _json(path / "model_index.json")
    for component in (*family.weighted, *family.plain):
        match index.get(component):
            case [str(library), str(class_name)]:
                pass
            case _:
                raise ModelError(
                    f"model_index.json of {name} does not say what its {component} is. Give a "
                    "complete Stable Diffusion model, as save_pretrained writes it."
                )
        if library not in ("diffusers", "transformers"):
            part = printable(f"{class_name} of {library}", 80)
            raise ModelError(
                f"The {component} of {name} is {part}; only parts from diffusers and transformers "
                "are loaded, because others would run their own code."
            )


def _refuse_adapters(path: Path, name: str, family: Family) -> None:
    places = {path, *(_location(path, component) for component in family.weighted)}
    adapters = [file for place in sorted(places) for file in place.glob("*") if is_adapter(file)]
    if adapters:
        raise ModelError(
            f"{adapters[0].relative_to(path)} lies in {name}: a LoRA or another adapter, which is "
            "not loaded with the model, so that the base alone would be audited. To audit both, "
            f"{FUSE}; to audit the base, move that file elsewhere."
        )


def _wrong_kind(name: str, class_name: str, family: Family) -> str:
    if family is TEXT_TO_IMAGE and class_name in UNCONDITIONAL.classes:
        return (
            f"{name} is not text-to-image: it is a {class_name}, which makes pictures without a "
            "prompt. Give a Stable Diffusion 1.x or 2.x model, or --model pocket."
        )
    wanted = " or ".join(sorted(family.classes))
    return (
        f"{name} is a {class_name}; this program audits models of the kind {wanted} "
        f"({'Stable Diffusion 1.x and 2.x' if family is TEXT_TO_IMAGE else family.name}). "
        "XL, SD 3, Flux, inpainting and other families have another latent space or another "
        "conditioning and are not supported."
    )


def _weights(path: Path, name: str, component: str, allow_pickle: bool) -> list[Path]:
    folder = _location(path, component)
    single, index = folder / f"{_stem(component)}.safetensors", folder / _index_name(component)
    # Where there are both, transformers loads the single file and diffusers what the index names.
    order = (single, index) if component == "text_encoder" else (index, single)
    chosen = next((file for file in order if file.is_file()), None)
    if chosen == index:
        return _shards(index, path, name)
    if chosen == single:
        _check_safetensors(single, path, name)
        return [single]
    pickles = sorted(folder.glob(f"{_pickle_stem(component)}.bin"))
    if not pickles:
        _refuse_other_formats(folder, path, name)
        _require(single, path, name)
    if not allow_pickle:
        raise ModelError(
            f"The weights of {name} ({pickles[0].relative_to(path)}) come only as a pickle, which "
            "can run any code when loaded. Convert them with save_pretrained('folder'), or insist "
            "with --allow-pickle if you trust where they come from."
        )
    for file in pickles:
        _require(file, path, name)
    return pickles


def _refuse_other_formats(folder: Path, path: Path, name: str) -> None:
    """Raise ModelError where weights are there, but in files that are not loaded."""
    for kind, said, way_out in (
        ("*.fp16.*", "only in half precision", "load it with variant='fp16'"),
        ("*.bin.index.json", "only as shards of a pickle", "load it, if you trust it,"),
    ):
        if (found := next(folder.glob(kind), None)) is not None:
            raise ModelError(
                f"The weights of {name} lie here {said} ({found.relative_to(path)}), which is not "
                f"read: {way_out} in diffusers, save_pretrained('folder'), and give that folder."
            )


def _shards(index: Path, path: Path, name: str) -> list[Path]:
    """The files that an index names; ModelError unless they hold what it says."""
    listed = _listed(index, name)
    shards = sorted({index.parent / shard for shard in listed.values()})
    held: dict[str, str] = {}
    for shard in shards:
        held |= dict.fromkeys(_check_safetensors(shard, path, name), shard.name)
    if wrong := {key for key, _ in held.items() ^ listed.items()}:
        raise ModelError(
            f"{index.relative_to(path)} of {name} does not fit the files beside it: "
            f"{count_and_names(wrong)} of the weights lie elsewhere or are not there. "
            "Get the model again, or save it anew with save_pretrained."
        )
    return shards


def _listed(index: Path, name: str) -> dict[str, str]:
    """The file that holds each weight, beside the index; ModelError where it does not say that."""
    listed = _json(index).get("weight_map")
    if isinstance(listed, dict) and listed and all(map(_is_plain_name, listed.values())):
        return listed
    raise ModelError(
        f"{index} of {name} does not say which of the files beside it holds which weights. "
        "Get the model again, or save it anew with save_pretrained."
    )


def _is_plain_name(shard: Any) -> bool:
    return isinstance(shard, str) and Path(shard).name == shard


def _check_safetensors(file: Path, path: Path, name: str) -> dict[str, list[int]]:
    """The shape of each tensor; ModelError unless the file is as long as its header says."""
    _require(file, path, name)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= size - 8:
            raise ModelError(_incomplete(file, path, name, f"has only {size:,} bytes"))
        if length > _HEADER_BYTES:
            raise ModelError(_incomplete(file, path, name, "has a broken header"))
        try:
            header = json.loads(stream.read(length))
            entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
            shapes = {key: list(entry["shape"]) for key, entry in entries.items()}
            expected = (
                8
                + length
                + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(_incomplete(file, path, name, "has a broken header")) from error
    if size < expected:
        raise ModelError(_incomplete(file, path, name, f"has {size:,} of {expected:,} bytes"))
    return shapes


def count_and_names(keys: Collection[str], shown: int = 3) -> str:
    """How many keys of weights there are and the first of them, such as "12 (a, b, c, ...)"."""
    first = ", ".join(printable(key, 80) for key in sorted(keys)[:shown])
    return f"{len(keys):,} ({first}{', ...' if len(keys) > shown else ''})"


def _require(file: Path, path: Path, name: str) -> None:
    if not file.is_file():
        raise ModelError(_incomplete(file, path, name, "is missing"))
    if file.stat().st_size == 0:
        raise ModelError(_incomplete(file, path, name, "is empty"))


def _incomplete(file: Path, path: Path, name: str, what: str) -> str:
    return (
        f"The model {name} is not complete: {file.relative_to(path)} {what}. The download or copy "
        "was interrupted, or the file was left out. Get it again (`hf download "
        f"{_target(path)}` goes on where it stopped), or use --model pocket."
    )


def _target(path: Path) -> str:
    """What `hf download` is told: the hub id of a folder in its cache, or where to put it."""
    cached = path.parents[1].name if path.parent.name == "snapshots" else ""
    if cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/", 1)
    return f"OWNER/NAME --local-dir {path}"


def _location(path: Path, component: str) -> Path:
    # Early unconditional models keep everything in one folder.
    own = path / component
    return own if own.is_dir() or not (path / "scheduler_config.json").is_file() else path


def _settings_name(component: str) -> str:
    return "scheduler_config.json" if component == "scheduler" else "config.json"


def _stem(component: str) -> str:
    return "model" if component == "text_encoder" else "diffusion_pytorch_model"


def first_line(error: Exception) -> str:
    """What an error says, as one line that steers no terminal."""
    return printable(" ".join(str(error).split()), 200)


def _index_name(component: str) -> str:
    return f"{_stem(component)}.safetensors.index.json"


def _pickle_stem(component: str) -> str:
    return "pytorch_model" if component == "text_encoder" else "diffusion_pytorch_model"


def _content(file: Path) -> Any:
    raw = file.read_bytes()
    if file.name in _SETTINGS and len(raw) <= _SETTINGS_BYTES:
        # What identity.json can't hold, such as NaN, is told apart by its hash.
        with suppress(ValueError, RecursionError):
            content = json.loads(raw)
            json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
            if isinstance(content, dict):
                return {key: value for key, value in content.items() if key != "_name_or_path"}
    return hashlib.sha256(raw).hexdigest()


def _json(file: Path) -> dict[str, Any]:
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
