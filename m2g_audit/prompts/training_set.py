"""The training set of a fine-tune: pictures with their captions, and the prompts that try them.

Captions lie where trainers look for them: beside the pictures, in imagefolder's metadata, in the
same table or archive, or, of kohya's folders `10_name`, in the folder's own name.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from m2g_audit.errors import UsageError
from m2g_audit.prompts.entries import Entry, PromptList, Row, collect, prompt_id
from m2g_audit.prompts.sidecars import captioned
from m2g_audit.records.vocabulary import PromptKind
from m2g_audit.text import quoted

_KOHYA = re.compile(r"\d+_(.+)")
_JOINTS = frozenset(
    {"on", "in", "at", "by", "with", "under", "near", "over", "beside", "behind", "after", "before"}
    | {"during", "from", "while", "wearing", "holding", "and", "against", "between", "through"}
)
"""Words that the second part of a caption begins with."""
_PLAIN = frozenset(
    {"a", "an", "the", "of", "is", "to", "for", "as", "this", "one", "some", "style", "photo"}
    | {"photograph", "picture", "image", "painting", "drawing", "illustration", "portrait", "print"}
    | _JOINTS
)
"""Words that no fine-tune is taught, though all of its captions may have them."""
_TRIES = 50


@dataclass(frozen=True)
class TrainingSet:
    """What a fine-tune was trained on.

    source: where it lies; captions: of every picture by name, None for one that has none; trigger:
    the word that was taught, if there is one; notices: what was found, a sentence each.
    """

    source: Path
    captions: dict[str, str | None]
    trigger: str | None
    notices: tuple[str, ...]


def read_training_set(
    source: Path,
    *,
    leave_out: Iterable[Path] = (),
    encoding: str | None = None,
    trigger: str | None = None,
) -> TrainingSet:
    """Return the pictures of a training set with their captions; no picture is decoded.

    Args:
        source: A folder, a parquet file, a tar archive of webdataset or a list of paths.
        leave_out: Folders whose pictures are no part of it.
        encoding: Of captions that are not UTF-8.
        trigger: The word that was taught, by default one that all captions share. Pictures without
            a caption have it for one, as DreamBooth's have.

    Raises:
        ReferenceFolderError: There are no pictures, or metadata can't be read.
        UsageError: Captions are not of that encoding, or none of the pictures has one.
    """
    trigger = (trigger or "").strip() or None
    captions: dict[str, str | None] = {}
    bare = named_by_folder = 0
    for file, caption in captioned(source, encoding, leave_out):
        if caption is None and file.place is None and (name := _KOHYA.fullmatch(_above(file.path))):
            caption, named_by_folder = name[1], named_by_folder + 1
        bare += caption is None
        captions[file.name] = caption or trigger
    said = list(_of_captions(len(captions), bare, named_by_folder, trigger))
    texts = sorted({caption for caption in captions.values() if caption})
    if not texts:
        raise UsageError(
            f"None of the {len(captions):,} pictures in {source} has a caption (NAME.txt, "
            "NAME.caption, metadata.jsonl, metadata.csv, a folder 10_name, or a column text, "
            "caption or prompt). Give with --trigger the prompt that all of them were trained with."
        )
    if trigger is None:
        trigger = shared_words(texts)
        said.append(
            "No words but plain ones are in all captions: --trigger names the word that was taught."
            if trigger is None
            else f"“{trigger}” is in all captions, and audited as the word that was taught "
            "(else --trigger)."
        )
    return TrainingSet(source, captions, trigger, tuple(said))


def prompts_of(found: TrainingSet, *, recombined: int) -> PromptList:
    """Return the prompts that try a training set; the label of each is its PromptKind.

    All captions, each with its pictures beside it; at most `recombined` that join the beginning of
    one caption and the end of another, and are none themselves; the trigger word; and the empty
    prompt. UsageError where a caption is longer than any prompt.
    """
    numbered = enumerate(found.captions.items(), start=1)
    rows = [Row(n, text, _beside("caption", picture)) for n, (picture, text) in numbered if text]
    texts = list(dict.fromkeys(text for text in found.captions.values() if text))
    made = recombine(texts, recombined)
    others: list[tuple[PromptKind, str]] = [("recombined", text) for text in made]
    if found.trigger is not None and _key(found.trigger) not in {_key(text) for text in texts}:
        others.append(("trigger", found.trigger))
    start = len(found.captions) + 1
    rows += [Row(start + i, text, _beside(kind)) for i, (kind, text) in enumerate(others)]
    said = list(found.notices)
    if len(made) < recombined:
        said.append(f"Captions could be put together in {len(made):,} new ways only.")
    listed = collect(rows, "kind", str(found.source), said)
    nothing = Entry(index=len(listed), id=prompt_id(""), rows=[], label="empty", prompt="")
    return PromptList((*listed.entries, nothing), listed.notices)


def shared_words(captions: Sequence[str]) -> str | None:
    """Return what all captions share that may have been taught, None where there is no such thing.

    Of tags the first that all have, else the longest run of words, without plain words at its ends.

    >>> shared_words(["a photo of zkw dog on a beach", "zkw dog in a park"])
    'zkw dog'
    """
    if _are_tags(captions):
        lists = [_tags(caption) for caption in captions]
        counts = Counter(key for tags in lists for key in {_key(tag) for tag in tags})
        common = (tag for tag in lists[0] if counts[_key(tag)] == len(lists))
        return next((tag for tag in common if _key(tag) not in _PLAIN), None)
    shortest = min(captions, key=lambda caption: len(caption.split())).split()
    others = [f" {_key(caption)} " for caption in captions]
    for length in range(len(shortest), 0, -1):
        for start in range(len(shortest) - length + 1):
            run = shortest[start : start + length]
            if all(f" {_key(' '.join(run))} " in other for other in others):
                return _without_plain_ends(run)
    return None


def recombine(captions: Sequence[str], most: int) -> list[str]:
    """Return at most `most` texts that begin as one caption and end as another, and are none.

    Where beginnings and ends give too few, as where all begin alike, whole captions are beginnings
    too. The same captions give the same texts.

    >>> recombine(["a dog on a beach", "a cat in a park"], 2)
    ['a cat on a beach', 'a dog in a park']
    """
    generator = random.Random(0)
    split = _halves_of_tags if _are_tags(captions) else _halves_of_words
    halves = [both for caption in captions if (both := split(caption)) is not None]
    known: set[str] = {_key(caption) for caption in captions}
    made: list[str] = []
    for whole in (False, True):
        for _ in range(_TRIES * most if len(halves) > 1 else 0):
            if len(made) == most:
                return made
            one, other = generator.sample(halves, 2)
            text = ("".join(one) if whole else one[0]) + other[1]
            if one[1] != other[1] and _key(text) not in known:
                known.add(_key(text))
                made.append(text)
    return made


def _of_captions(pictures: int, bare: int, by_folder: int, trigger: str | None) -> Iterator[str]:
    if by_folder:
        yield f"{by_folder:,} of {pictures:,} pictures have their folder's name for a caption."
    if bare and trigger is not None:
        yield f"{bare:,} of {pictures:,} pictures have no caption, and {quoted([trigger])} for one."
    elif bare:
        yield f"{bare:,} of {pictures:,} pictures have no caption: no prompt was made of them."


def _beside(kind: PromptKind, picture: str | None = None) -> dict[str, JsonValue]:
    return {"kind": kind, "picture": picture}


def _above(path: Path) -> str:
    return path.absolute().parent.name


def _key(text: str) -> str:
    """A text as captions are told apart: small letters, without commas and further white space."""
    return " ".join(text.replace(",", " ").split()).casefold()


def _are_tags(captions: Sequence[str]) -> bool:
    return 2 * sum(caption.count(",") >= 2 for caption in captions) > len(captions)


def _tags(caption: str) -> list[str]:
    return [tag.strip() for tag in caption.split(",") if tag.strip()]


def _without_plain_ends(words: Sequence[str]) -> str | None:
    places = [i for i, word in enumerate(words) if word.strip(",.").casefold() not in _PLAIN]
    return " ".join(words[places[0] : places[-1] + 1]).strip(",. ") if places else None


def _halves_of_tags(caption: str) -> tuple[str, str] | None:
    tags = _tags(caption)
    middle = (len(tags) + 1) // 2
    return (
        (", ".join(tags[:middle]), "".join(f", {tag}" for tag in tags[middle:])) if tags else None
    )


def _halves_of_words(caption: str) -> tuple[str, str] | None:
    """The halves, the second one from its joint on; in the middle where there is none."""
    words = caption.split()
    if len(words) < 2:
        return None
    joints = [i for i, word in enumerate(words) if i and word.casefold() in _JOINTS]
    place = joints[-1] if joints else (len(words) + 1) // 2
    return " ".join(words[:place]), " " + " ".join(words[place:])
