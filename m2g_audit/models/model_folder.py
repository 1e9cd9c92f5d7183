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
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Unpack

from m2g_audit.errors import ModelError, OutputError, UsageError
from m2g_audit.files import cache_folder, write_atomically
from m2g_audit.models.model_settings import check_settings
from m2g_audit.models.names import POCKET, Which
from m2g_audit.models.no_model import (
    is_adapter,
    is_checkpoint,
    lies_in_model,
    why_incomplete,
    why_no_model,
    why_none_on_hub,
)
from m2g_audit.models.own_parts import (
    DENOISERS,
    OwnParts,
    class_in,
    find_own_parts,
    named_base,
)
from m2g_audit.models.own_settings import OWN_SETTINGS_FILE, OwnSettings, read_own_settings
from m2g_audit.models.weight_files import (
    Place,
    is_variant,
    passed_over,
    pickle_name,
    read_object,
    shapes_in,
    stem,
    stored_as,
    weight_patterns,
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
_VARIANT = re.compile(r"\w[\w-]*")
_OWN_BASE = "Give with --config-from the model that it was trained from."
# What a network is handed by the other parts of its pipeline.
_CONDITIONING = (
    "in_channels",
    "cross_attention_dim",
    "joint_attention_dim",
    "caption_channels",
    "cap_feat_dim",
    "addition_embed_type",
)
_SINGLE_FILE = "the single file"
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

    networks: its parts with weights; others: tokenizers and the scheduler; variant: of the weights,
    where parts have it; own: parts that a checkpoint holds elsewhere; completed_from: the model at
    `path` then, as it was named.
    """

    path: Path
    id: str
    revision: str | None
    family: Family
    class_name: str
    networks: tuple[str, ...]
    others: tuple[str, ...]
    weights: tuple[Path, ...]
    variant: str | None = None
    own: OwnParts = field(default_factory=OwnParts)
    completed_from: str | None = None

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
        """The folder of one part, of which a single file may hold the weights."""
        return self.own.folders.get(component) or _location(self.path, component)

    def in_file(self, component: str) -> bool:
        """Whether a single file holds the weights of one part."""
        return component in self.own.held

    @cached_property
    def stored(self) -> str:
        """The precisions that the denoiser's weights are stored in, such as "F16"."""
        network = next(part for part in self.networks if part in DENOISERS)
        files = [self.own.file] if self.own.file is not None else self.weights_of(network)
        return ", ".join(stored_as(f for f in files if f.suffix == ".safetensors")) or "a pickle"

    def variant_of(self, component: str) -> str | None:
        """The variant that one part's weights are of, None where they are the plain ones."""
        found = any(is_variant(file, self.variant) for file in self.weights_of(component))
        return self.variant if found else None

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
        files = {self._named(file): file for file in self._configuring()}
        found = {name: _content(file) for name, file in sorted(files.items())}
        return found | ({"ema": True} if self.own.ema else {})

    def _named(self, file: Path) -> str:
        """A file's name below the model's folder, or where it would lie there."""
        if file == self.own.file:
            return _SINGLE_FILE
        for part, folder in self.own.folders.items():
            if file.parent == folder:
                return f"{part}/{file.name}"
        return file.relative_to(self.path).as_posix()

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
        stats = [(str(file), file.stat()) for _, file in self._hashed()]
        return [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]

    def _hashed(self) -> list[tuple[str, Path]]:
        """The files of weights with their names, in the order of these."""
        return sorted((self._named(file), file) for file in self.weights)

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name, file in self._hashed():
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()


def resolve(model: str | Path, family: Family, **which: Unpack[Which]) -> ModelFolder:
    """The checked folder of `model`: "pocket", a folder, a checkpoint, or a hub id.

    A hub id is taken from the cache or the net. A checkpoint is a single file or what a training
    left: its other parts come from `config_from`, else from the model that it names itself, where
    that is at hand.

    Raises ModelError if there is no such model, if it is of another family, if files are missing or
    cut short, or if weights come only as pickles and `allow_pickle` is not set; UsageError for what
    `which` can't mean with it.
    """
    asked = _checked(which)
    name = str(model)
    path = _on_disk(name, asked)
    if path is None:
        place = _download(name, family, asked)
        _refuse_completion(name, asked)
        return check(place, family, asked, revision=_commit(place.path))
    if (path / "model_index.json").is_file():
        _refuse_completion(name, asked)
        return check(Place(path, name), family, asked)
    return _completed(Place(path, name), family, asked)


def _checked(which: Which) -> Which:
    variant = which.get("variant")
    if variant is not None and not _VARIANT.fullmatch(variant):
        raise UsageError(f"--variant {printable(variant, 40)} is not possible: give one as fp16.")
    inner = Path(which.get("subfolder") or "")
    if inner.is_absolute() or ".." in inner.parts:
        raise UsageError(f"--subfolder {inner} lies outside of the model's folder.")
    return which


def _refuse_completion(name: str, which: Which) -> None:
    for option, given in (
        ("--config-from", which.get("config_from")),
        ("--ema", which.get("ema")),
    ):
        if given:
            raise UsageError(
                f"{option} is for single files and folders of trainings, and {name} is a whole "
                "model: leave it out."
            )


def _on_disk(name: str, which: Which) -> Path | None:
    """Where a model lies on this machine, None for the hub's."""
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
        return None
    elif page := _HUB_PAGE.fullmatch(name):
        raise ModelError(f"{name} is a page of the hub: give the model's id, --model {page[1]}.")
    else:
        raise ModelError(
            f"There is no model {name!r}: it is neither a folder on this machine nor a hub id "
            "of the form owner/name. Check the spelling, or use --model pocket, which ships with "
            "this program."
        )
    if (revision := which.get("revision")) is not None:
        raise ModelError(
            f"--revision {revision} was given with the local model {name!r}, which has no "
            "revisions. Leave it out, or give the hub id."
        )
    inner = path / (which.get("subfolder") or "")
    if not inner.exists():
        raise ModelError(f"There is no {which.get('subfolder')} in {path}.")
    return inner


def _completed(place: Place, family: Family, which: Which) -> ModelFolder:
    """A checkpoint with the parts that it lacks; ModelError for anything else."""
    said = which.get("config_from")
    own = None
    if is_checkpoint(place.path) and (said or not lies_in_model(place.path)):
        own = find_own_parts(place.path, family.networks, ema=bool(which.get("ema")))
    if own is None:
        raise ModelError(f"{place.name} {why_no_model(place.path)}")
    base = said or _base_at_hand(own, place)
    lacking = replace(family, networks=tuple(n for n in family.networks if n not in own.parts))
    rest: Which = {
        "allow_pickle": bool(which.get("allow_pickle")),
        "variant": which.get("variant"),
    }
    if (path := _on_disk(base, rest)) is None:
        beside = _download(base, lacking, rest)
    else:
        beside = Place(path, base)
    found = check(beside, family, rest, own=own)
    return replace(found, id=place.name, completed_from=base)


def _base_at_hand(own: OwnParts, place: Place) -> str:
    """The model that a checkpoint names as its base; ModelError where that is not on this machine.

    Nothing is fetched because a file that somebody made names it.
    """
    if "vae" in own.folders:  # of a whole model, whose index is missing
        raise ModelError(f"{place.name} {why_no_model(place.path)}")
    named = named_base(own, place.path)
    if named is not None and is_at_hand(named):
        return named
    raise ModelError(f"{place.name} {why_incomplete(own, named)}")


def is_at_hand(model: str) -> bool:
    """Whether a model's folder is on this machine, or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if (Path(model).expanduser() / "model_index.json").is_file():
        return True
    cached = _HUB_ID.fullmatch(model) and try_to_load_from_cache(model, "model_index.json")
    return isinstance(cached, str)


def _commit(path: Path) -> str:
    """The commit of a snapshot in the hub's cache, in a subfolder of which a model may lie."""
    return next((p for p in (path, *path.parents) if p.parent.name == "snapshots"), path).name


def _download(repo: str, family: Family, which: Which) -> Place:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    revision = which.get("revision")
    named = repo if revision is None else f"{repo} at revision {revision}"
    try:
        wanted = list(download_patterns(family, which))
        names = [file.filename for file in listed(repo, revision, wanted)]
        twice = list(surplus(family, names, which))
        path = Path(
            snapshot_download(repo, revision=revision, allow_patterns=wanted, ignore_patterns=twice)
        )
        commit = path.name
        hub = cache(lambda: _names_on_hub(repo, commit, _start(which)))
        place = Place(path / _start(which), repo, hub)
        lacking = list(pickles(family, _names_below(path), which))
        if which.get("allow_pickle") and lacking:
            snapshot_download(repo, revision=commit, allow_patterns=lacking)
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


def _names_on_hub(repo: str, commit: str, start: str) -> frozenset[str]:
    """The files of a model on the hub below its subfolder, none where they can't be asked for."""
    from huggingface_hub import HfApi

    with suppress(Exception):  # of many kinds, and all mean that it is not known
        names = HfApi().list_repo_files(repo, revision=commit)
        return frozenset(name.removeprefix(start) for name in names if name.startswith(start))
    return frozenset()


def _names_below(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def download_patterns(family: Family, which: Which) -> Iterator[str]:
    """The files of a hub repository that a model needs, as patterns, and none of the others."""
    # The safety checker and other variants would double the download.
    start = _start(which)
    yield f"{start}model_index.json"
    for component in family.others:
        yield f"{start}{component}/*"
    for component in TEXT_TO_IMAGE.networks:
        yield f"{start}{component}/*.json"
    variant = which.get("variant")
    for component in family.networks:
        for prefix in _prefixes(component, family):
            yield f"{start}{prefix}*.json"
            for kind in dict.fromkeys([variant, None]):
                yield from (f"{start}{prefix}{name}" for name in weight_patterns(component, kind))


def pickles(family: Family, names: Collection[str], which: Which) -> Iterator[str]:
    """The pickles of the parts whose weights are not among `names` in the safer format."""
    for component in family.networks:
        for prefix in _prefixes(component, family):
            begin = f"{_start(which)}{prefix}"
            start = f"{begin}{stem(component)}"
            if not any(n.startswith(start) and n.endswith(".safetensors") for n in names):
                yield f"{begin}{pickle_name(component)}"


def _start(which: Which) -> str:
    """What the names of a model's files begin with in its repository."""
    inner = which.get("subfolder")
    return f"{Path(inner).as_posix()}/" if inner else ""


def surplus(family: Family, names: Collection[str], which: Which) -> Iterator[str]:
    """Those of `names` that hold weights again which are loaded from others of them."""
    for component in family.networks:
        for prefix in _prefixes(component, family):
            begin = f"{_start(which)}{prefix}"
            own = {name.removeprefix(begin) for name in names if name.startswith(begin)}
            again = passed_over(component, own, which.get("variant"))
            yield from (f"{begin}{name}" for name in sorted(again))


def _prefixes(component: str, family: Family) -> tuple[str, ...]:
    # Early unconditional models keep everything in one folder.
    return (f"{component}/", "") if family is UNCONDITIONAL else (f"{component}/",)


def check(
    place: Place,
    family: Family,
    which: Which | None = None,
    *,
    revision: str | None = None,
    own: OwnParts | None = None,
) -> ModelFolder:
    """The folder of a model, complete and of `family`; ModelError as `resolve` raises it.

    own: parts that lie elsewhere, in place of those of the folder.
    """
    own, which = own or OwnParts(), which or {}
    path, name, variant = place.path, place.name, which.get("variant")
    class_name = _class_name(place)
    _refuse_other_kinds(name, class_name, family)
    networks, others = _parts(path, name, family)
    _refuse_other_architecture(own, path, name, networks)
    _refuse_adapters(path, networks, own)
    for component in others:
        marker = "scheduler_config.json" if component == "scheduler" else "tokenizer_config.json"
        place.require(_location(path, component) / marker)
    files = [] if own.file is None else [own.file]
    for component in networks:
        folder = own.folders.get(component) or _location(path, component)
        where = Place(folder.parent, str(folder)) if component in own.folders else place
        where.require(folder / "config.json")
        if component not in own.held:
            files += weights(where, folder, component, bool(which.get("allow_pickle")), variant)
    for component in (*networks, "scheduler"):
        folder = own.folders.get(component) or _location(path, component)
        file = folder / _settings_name(component)
        check_settings(read_object(file), component, str(file))
    if variant is not None and not any(is_variant(file, variant) for file in files):
        raise ModelError(
            f"No part of {name} has weights of the variant {variant!r}: leave --variant out, or "
            "give one that lies there."
        )
    return ModelFolder(
        path, name, revision, family, class_name, networks, others, tuple(files), variant, own
    )


def _refuse_other_architecture(
    own: OwnParts, path: Path, name: str, networks: Collection[str]
) -> None:
    """Raise ModelError where a checkpoint's parts are none of the model that completes it."""
    index = read_object(path / "model_index.json")
    for part, folder in own.folders.items():
        kind = class_in(folder)
        wanted = index[part][1] if part in networks else None
        if kind != wanted:
            there = f"no {part}" if wanted is None else f"a {printable(wanted, 80)}"
            raise ModelError(
                f"{folder} is a {printable(str(kind), 80)}, and {name} has {there} in its place. "
                f"{_OWN_BASE}"
            )
        ours = read_object(folder / "config.json")
        theirs = read_object(_location(path, part) / "config.json")
        for key in _CONDITIONING:
            if ours.get(key) != theirs.get(key):
                raise ModelError(
                    f"{folder} has {key} {printable(str(ours.get(key)), 40)}, the {part} of {name} "
                    f"{printable(str(theirs.get(key)), 40)}. {_OWN_BASE}"
                )


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


def _refuse_adapters(path: Path, networks: Collection[str], own: OwnParts) -> None:
    places = {path, *(_location(path, component) for component in networks), *own.folders.values()}
    adapters = [file for place in sorted(places) for file in place.glob("*") if is_adapter(file)]
    if adapters:
        first = adapters[0]
        above = path if first.is_relative_to(path) else first.parent
        raise ModelError(
            f"{first.relative_to(above)} lies in {above}: a LoRA or another adapter, which is "
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
