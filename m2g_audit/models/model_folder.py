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
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from m2g_audit.errors import ModelError, OutputError
from m2g_audit.files import cache_folder, write_atomically
from m2g_audit.models.model_settings import check_settings
from m2g_audit.models.names import POCKET
from m2g_audit.models.no_model import is_adapter, why_no_model, why_none_on_hub
from m2g_audit.models.own_settings import OWN_SETTINGS_FILE, OwnSettings, read_own_settings
from m2g_audit.models.weight_files import (
    Place,
    passed_over,
    pickle_name,
    read_object,
    shapes_in,
    stem,
    weights,
)
from m2g_audit.text import printable

POCKET_FOLDER = Path(__file__).parents[1] / "pocket" / "weights"

_SHA256 = re.compile(r"[0-9a-f]{64}")
# A file changed twice within a tick of its clock shows one time; 2 s is the longest tick (FAT).
_TICK_NS = 2 * 10**9
# Of these the identity keeps what they say, of other files only the hash.
_SETTINGS = frozenset(
    {
        "config.json",
        OWN_SETTINGS_FILE,
        "model_index.json",
        "scheduler_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    }
)
_SETTINGS_BYTES = 2**15
_HUB_PAGE = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/.*)?")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOCAL_COPY = (
    "To use a copy on this machine, give its folder: --model ./folder, made elsewhere with "
    "`StableDiffusionPipeline.from_pretrained({model!r}).save_pretrained('folder')`. "
    "`--model pocket` needs no download."
)


@dataclass(frozen=True)
class Family:
    """A kind of pipeline: the parts with weights and the others that it may have.

    classes: of diffusers, where there are few; required: the parts that none is without, of those
    in one group any of them.
    """

    name: str
    networks: tuple[str, ...]
    others: tuple[str, ...]
    required: tuple[tuple[str, ...], ...]
    classes: frozenset[str] | None = None


_TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TEXT_TO_IMAGE = Family(
    "text-to-image",
    ("unet", "transformer", "vae", "movq", *_TEXT_ENCODERS),
    ("tokenizer", "tokenizer_2", "tokenizer_3", "scheduler"),
    (("unet", "transformer"), _TEXT_ENCODERS, ("scheduler",)),
)
UNCONDITIONAL = Family(
    "unconditional",
    ("unet",),
    ("scheduler",),
    (("unet",), ("scheduler",)),
    frozenset({"DDPMPipeline", "DDIMPipeline"}),
)
NOT_ASKED = frozenset({"safety_checker", "feature_extractor", "image_encoder", "watermark"})
"""Parts that no picture of a prompt needs, and that are not loaded."""
_OTHER_TASKS = re.compile(
    r"Img2Img|Image2Image|Inpaint|ControlNet|Control(?=Pipeline)|Upscale|Depth|Edit|Kontext|Fill|"
    r"Redux|Video|Audio|Music|Shap|Prior|Adapter|Pix2Pix|Variation|Animate|Layered"
)


@dataclass(frozen=True)
class ModelFolder:
    """A complete model folder: `id` as the user named it, `revision` the hub's commit (or None).

    networks: its parts with weights; others: tokenizers and the scheduler.
    """

    path: Path
    id: str
    revision: str | None
    family: Family
    class_name: str
    networks: tuple[str, ...]
    others: tuple[str, ...]
    weights: tuple[Path, ...]

    @property
    def pickled(self) -> bool:
        """Whether any part's weights are a pickle."""
        return any(file.suffix == ".bin" for file in self.weights)

    def config(self, component: str) -> dict[str, Any]:
        """The configuration of one part as a dict."""
        return read_object(self.location(component) / _settings_name(component))

    def own_settings(self) -> OwnSettings:
        """What m2g.json says; ModelError where it can't be read."""
        return read_own_settings(self.path)

    def location(self, component: str) -> Path:
        """The folder of one part."""
        return _location(self.path, component)

    def class_of(self, component: str) -> tuple[str, str]:
        """Library and name of the class of one part, as model_index.json has them."""
        library, name = read_object(self.path / "model_index.json")[component]
        return library, name

    def shapes(self, component: str) -> dict[str, list[int]]:
        """The shape of each weight of one part, by its key; of pickles none is known."""
        shapes: dict[str, list[int]] = {}
        for file in self.weights_of(component):
            if file.suffix == ".safetensors":
                shapes |= shapes_in(file, Place(self.path, self.id))
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
        if (own := self.path / OWN_SETTINGS_FILE).is_file():
            yield own
        for component in self.networks:
            yield self.location(component) / "config.json"
        yield self.location("scheduler") / "scheduler_config.json"
        for component in self.others:
            if component != "scheduler":
                inside = self.location(component).iterdir()
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
        place = _download(name, revision, family, allow_pickle)
        return check(place, family, revision=place.path.name, allow_pickle=allow_pickle)
    elif page := _HUB_PAGE.fullmatch(name):
        raise ModelError(f"{name} is a page of the hub: give the model's id, --model {page[1]}.")
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
    return check(Place(path, name), family, allow_pickle=allow_pickle)


def _download(repo: str, revision: str | None, family: Family, allow_pickle: bool) -> Place:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = repo if revision is None else f"{repo} at revision {revision}"
    try:
        wanted = list(download_patterns(family))
        twice = list(surplus(family, [file.filename for file in listed(repo, revision, wanted)]))
        path = Path(
            snapshot_download(repo, revision=revision, allow_patterns=wanted, ignore_patterns=twice)
        )
        place = Place(path, repo, cache(lambda: _names_on_hub(repo, path.name)))
        lacking = [pickle for pickle in pickles(family, _names_below(path))]
        if allow_pickle and lacking:
            snapshot_download(repo, revision=path.name, allow_patterns=lacking)
        return place
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


def listed(repo: str, revision: str | None, patterns: Collection[str]) -> list[Any]:
    """The files of a model on the hub that fit a pattern, none where they can't be asked for.

    Each has `filename`, `file_size` in bytes, and `will_download` if it is not here.
    """
    from huggingface_hub import snapshot_download

    with suppress(Exception):  # of many kinds, and all mean that it is not known
        wanted = list(patterns)
        return snapshot_download(repo, revision=revision, allow_patterns=wanted, dry_run=True)
    return []


def _names_on_hub(repo: str, commit: str) -> frozenset[str]:
    """The files of a model on the hub, none where they can't be asked for."""
    from huggingface_hub import HfApi

    with suppress(Exception):  # of many kinds, and all mean that it is not known
        return frozenset(HfApi().list_repo_files(repo, revision=commit))
    return frozenset()


def _names_below(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def download_patterns(family: Family) -> Iterator[str]:
    """The files of a hub repository that a model needs, as patterns, and none of the others."""
    # The safety checker and fp16 or non-EMA variants would double the download.
    yield "model_index.json"
    for component in family.others:
        yield f"{component}/*"
    for component in family.networks:
        for prefix in _prefixes(component, family):
            yield f"{prefix}*.json"
            yield f"{prefix}{stem(component)}.safetensors"
            yield f"{prefix}{stem(component)}-*-of-*.safetensors"


def pickles(family: Family, names: Collection[str]) -> Iterator[str]:
    """The pickles of the parts whose weights are not among `names` in the safer format."""
    for component in family.networks:
        for prefix in _prefixes(component, family):
            begin = f"{prefix}{stem(component)}"
            if not any(n.startswith(begin) and n.endswith(".safetensors") for n in names):
                yield f"{prefix}{pickle_name(component)}"


def surplus(family: Family, names: Collection[str]) -> Iterator[str]:
    """Those of `names` that hold weights again which are loaded from others of them."""
    for component in family.networks:
        for prefix in _prefixes(component, family):
            own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            yield from (f"{prefix}{name}" for name in sorted(passed_over(component, own)))


def _prefixes(component: str, family: Family) -> tuple[str, ...]:
    # Early unconditional models keep everything in one folder.
    return (f"{component}/", "") if family is UNCONDITIONAL else (f"{component}/",)


def check(
    place: Place, family: Family, *, revision: str | None = None, allow_pickle: bool = False
) -> ModelFolder:
    """The folder of a model, complete and of `family`; ModelError as `resolve` raises it."""
    path, name = place.path, place.name
    class_name = _class_name(place)
    _refuse_other_kinds(name, class_name, family)
    networks, others = _parts(path, name, family)
    _refuse_adapters(path, networks)
    for component in others:
        marker = "scheduler_config.json" if component == "scheduler" else "tokenizer_config.json"
        place.require(_location(path, component) / marker)
    files: list[Path] = []
    for component in networks:
        folder = _location(path, component)
        place.require(folder / "config.json")
        files += weights(place, folder, component, allow_pickle)
    for component in (*networks, "scheduler"):
        file = _location(path, component) / _settings_name(component)
        check_settings(read_object(file), component, str(file))
    return ModelFolder(path, name, revision, family, class_name, networks, others, tuple(files))


def _class_name(place: Place) -> str:
    index, name = place.path / "model_index.json", place.name
    if not index.is_file():
        names = place.on_hub()
        raise ModelError(f"{name} {why_none_on_hub(names) if names else why_no_model(place.path)}")
    found = read_object(index).get("_class_name")
    # Custom pipelines name a file beside the class; nothing of theirs is executed here.
    if not isinstance(found, str):
        raise ModelError(
            f"{name} is a custom pipeline ({printable(str(found), 80)}), which would run its own "
            "code. Only diffusers' own pipelines are loaded."
        )
    return found


def _parts(path: Path, name: str, family: Family) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts with weights and the others that a pipeline has, by its index.

    Raises ModelError where one is not known, is missing, or would run its own code.
    """
    index = read_object(path / "model_index.json")
    known = (*family.networks, *family.others)
    held = [
        part
        for part, said in index.items()
        if _is_part(said) or (part in known and said not in (None, [None, None]))
    ]
    for group in family.required:
        if not any(part in held for part in group):
            raise ModelError(
                f"model_index.json of {name} does not say what its {group[0]} is. Give a complete "
                "model, as save_pretrained writes it."
            )
    for part in held:
        if part in known:
            _refuse_foreign_code(name, part, index[part])
        elif part not in NOT_ASKED and not part.startswith("_"):
            raise ModelError(
                f"{name} has a part {printable(part, 40)!r} that text-to-image models known here "
                "do not have: what its pictures would depend on is not known."
            )
    return (
        tuple(part for part in family.networks if part in held),
        tuple(part for part in family.others if part in held),
    )


def _is_part(said: Any) -> bool:
    """Whether an entry of an index names a class, and is no setting of the pipeline."""
    return isinstance(said, list) and len(said) == 2 and all(isinstance(x, str) for x in said)


def _refuse_foreign_code(name: str, component: str, said: Any) -> None:
    match said:
        case [str(library), str(class_name)]:
            pass
        case _:
            raise ModelError(
                f"model_index.json of {name} does not say what its {component} is. Give a "
                "complete model, as save_pretrained writes it."
            )
    if library not in ("diffusers", "transformers"):
        part = printable(f"{class_name} of {library}", 80)
        raise ModelError(
            f"The {component} of {name} is {part}; only parts from diffusers and transformers "
            "are loaded, because others would run their own code."
        )


def _refuse_adapters(path: Path, networks: Collection[str]) -> None:
    places = {path, *(_location(path, component) for component in networks)}
    adapters = [file for place in sorted(places) for file in place.glob("*") if is_adapter(file)]
    if adapters:
        raise ModelError(
            f"{adapters[0].relative_to(path)} lies in {path}: a LoRA or another adapter, which is "
            "not loaded with the model, so that the base alone would be audited. Move it "
            "elsewhere, and give it with --lora to audit both."
        )


def _refuse_other_kinds(name: str, class_name: str, family: Family) -> None:
    """Raise ModelError for pipelines that are, by their class, of another kind."""
    shown = printable(class_name, 80)
    if family.classes is not None:
        if class_name not in family.classes:
            wanted = " or ".join(sorted(family.classes))
            raise ModelError(f"{name} is a {shown}; an {family.name} model is a {wanted}.")
    elif class_name in (UNCONDITIONAL.classes or ()):
        raise ModelError(
            f"{name} is not text-to-image: it is a {shown}, which makes pictures without a "
            "prompt. Give a model that takes prompts, or --model pocket."
        )
    elif found := _OTHER_TASKS.search(class_name):
        raise ModelError(
            f"{name} is not text-to-image: it is a {shown}, whose task ({found[0]}) needs or makes "
            "something else than pictures of a prompt. Give the text-to-image model that it comes "
            "from."
        )


def _location(path: Path, component: str) -> Path:
    # Early unconditional models keep everything in one folder.
    own = path / component
    return own if own.is_dir() or not (path / "scheduler_config.json").is_file() else path


def _settings_name(component: str) -> str:
    return "scheduler_config.json" if component == "scheduler" else "config.json"


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
