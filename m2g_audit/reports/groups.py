"""The generations of a prompt as people look at them: by what they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m2g_audit.records.record import (
    AttractorRecord,
    AuditRecord,
    IntervalRecord,
    NearestReference,
    SeedRecord,
)
from m2g_audit.records.vocabulary import StateWord


@dataclass(frozen=True)
class Group:
    """Generations shown together; `reference` stands once beside them all, else under each."""

    title: str
    state: StateWord | None
    seeds: Sequence[SeedRecord]
    reference: NearestReference | None = None
    references: bool = False


def grouped(record: AuditRecord) -> list[Group]:
    """Return the generations of a record in groups.

    Attractors come first, largest first, each with the reference picture nearest to its medoid;
    then generations that repeat another one without being part of an attractor, those that repeat
    none, and those that failed.
    """
    seeds, n = record.seeds, len(record.seeds)
    has_reference = record.reference is not None
    groups = [
        Group(
            _attractor_title(i, attractor, n),
            attractor.state,
            [seeds[j] for j in attractor.seeds],
            reference=attractor.nearest_reference,
        )
        for i, attractor in enumerate(record.attractors)
    ]
    loose = set(record.loose)
    rest = [s for s in seeds if s.attractor is None and s.state != "failed"]
    parts = (
        ("Repeat another picture, but form no attractor", [s for s in rest if s.index in loose]),
        ("Repeat no other picture", [s for s in rest if s.index not in loose]),
        ("Failed: blank or not finite, left out", [s for s in seeds if s.state == "failed"]),
    )
    for title, members in parts:
        if members:
            count = f"{title}  ·  {len(members)} of {n}"
            groups.append(Group(count, None, members, references=has_reference))
    return groups


def is_measured(share: IntervalRecord) -> bool:
    """Return whether a share was measured: others are [0, 1] or [0, 0] by definition."""
    return (share.low, share.high) not in ((0.0, 1.0), (0.0, 0.0))


def _attractor_title(number: int, attractor: AttractorRecord, n: int) -> str:
    mass = attractor.mass
    return (
        f"Attractor {number + 1}  ·  {attractor.state}  ·  {len(attractor.seeds)} of {n} seeds "
        f"(mass {mass.estimate:.0%}, {mass.low:.0%} to {mass.high:.0%})"
    )
