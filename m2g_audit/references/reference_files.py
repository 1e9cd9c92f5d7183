"""What is told of a reference folder: how its files were read, and what in it was not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from m2g_audit.errors import ReferenceFolderError
from m2g_audit.pictures.folder import listed
from m2g_audit.records.record import ReferenceFiles

if TYPE_CHECKING:
    from m2g_audit.models.protocol import TextToImage
    from m2g_audit.references.reference import FolderContents

_RECORDED = 100


def unread(contents: FolderContents) -> list[str]:
    """Return what lies in the folder and was not read, by name, each with the reason.

    Later pages and frames are among it, unless it was said that training saw the first alone.
    """
    names = list(contents.found.unread)
    if contents.reading.pages is None:
        for file in contents.found.files:
            if file.header.pages > 1:
                names.append(f"{file.name} (its later pages, {file.header.pages - 1:,})")
    return names


def refuse_unread(contents: FolderContents) -> None:
    """Raise ReferenceFolderError where a folder that is said to be complete was not read whole."""
    names = unread(contents)
    if names:
        raise ReferenceFolderError(
            f"--reference-complete says that {contents.folder} holds all that the model saw, but "
            f"not all in it is read ({len(names):,} left): {listed(names)}. Convert that to PNG, "
            "or move it out if the model never saw it; for files with several pages say "
            "--reference-pages first or all. Or leave --reference-complete away."
        )


def describe(contents: FolderContents, pipeline: TextToImage) -> ReferenceFiles:
    """Return how the files of a folder were read, once all pictures of it are available."""
    names, facts = unread(contents), contents.pixel_facts(pipeline)
    return ReferenceFiles(
        files=len(contents.found.files),
        formats=dict(Counter(file.header.format for file in contents.found.files)),
        exif=contents.reading.exif,
        transparency=contents.reading.transparency,
        pages=contents.reading.pages or "first",
        turned=sum(each.turned for each in facts),
        transparent=sum(each.transparent for each in facts),
        scaled=sum(each.scaled for each in facts),
        constant=sum(each.constant for each in facts),
        duplicates=len(facts) - len({each.pixels for each in facts}),
        unread=len(names),
        unread_names=names[:_RECORDED],
        own=list(contents.found.own)[:_RECORDED],
    )


def remarks(files: ReferenceFiles) -> list[str]:
    """Return in sentences what somebody who reads a verdict must know of the reference's files."""
    said = []
    if files.unread:
        said.append(
            f"Not all in the reference folder is read ({files.unread:,} left), and copies of the "
            f"rest are called new: {listed(files.unread_names, files.unread)}."
        )
    if files.own:
        said.append(
            "Left out of the reference, as results of this program or its --out: "
            f"{listed(files.own)}."
        )
    if files.duplicates:
        said.append(
            "Pictures of the reference that equal another one of it, pixel by pixel: "
            f"{files.duplicates:,}."
        )
    if files.constant:
        said.append(f"Pictures of the reference that have one colour only: {files.constant:,}.")
    return said + _done_to_pixels(files)


def _done_to_pixels(files: ReferenceFiles) -> list[str]:
    done = []
    if files.turned:
        how = "turned as their EXIF says" if files.exif == "turn" else "not turned, as asked"
        done.append(f"{files.turned:,} {how} (--reference-exif)")
    if files.transparent:
        ground = files.transparency
        how = "without their transparency" if ground == "drop" else f"laid over {ground}"
        done.append(f"{files.transparent:,} {how} (--reference-alpha)")
    if files.scaled:
        done.append(f"{files.scaled:,} scaled to 8 bits")
    return [f"Of the reference's pictures were read: {'; '.join(done)}."] if done else []
