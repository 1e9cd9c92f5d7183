"""A run's results as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from m2g_audit.text import duration
from small_scale.circle.recipe import BETA_EXACT, T_PICTURE

_LISTED = 6


def text(found: dict[str, Any]) -> str:
    """Return all tables of results.json."""
    parts = [
        "# The circle in numbers",
        f"Clusters of {found['recipe']['samples']} samples: average link, up to a mean distance of "
        f"{found['cluster_threshold']:.3f} = sqrt(2 / beta) at beta = 20, below which two points "
        "share a minimum. A cluster counts as an attractor where its concentration (its share of "
        "the samples over the part of the circle that an arc of its width covers) is above "
        f"{found['chance_concentration']:.2f}, the 99% quantile of the largest among as many "
        "points uniform on the circle. It holds the training points within half of that distance "
        f"of its centre. The sampler's last step is at beta = {found['sampler_last_beta']:.0f}.",
        _table(
            ("K", "samples of", "clusters", "attractors", "hold one", "several", "none"),
            _cluster_rows(found),
        ),
        "Clusters of each network's samples with 1% of them or more (energy of Eq. 25 at t = 0.15, "
        "above the panel's least):",
        _table(
            ("K", "centre", "samples", "concentration", "energy", "training points"),
            _attractor_rows(found),
        ),
        "Minima of the network's energy and of the exact one for the same training points, as "
        "one + several + none: how many hold one, several or no training point in their mean-shift "
        "basin; a star marks starts that came to no end. Agreement: adjusted Rand index of the two "
        "partitions of the training points into basins.",
        _table(("K", "beta", "network", "exact", "agreement"), _minimum_rows(found)),
        "Training points that share a minimum of the network at its largest beta, and the largest "
        "beta at which they share one of the exact energy:",
        _table(("K", "training points", "exact until beta"), _group_rows(found)),
        f"Minima of the exact energy over {found['recipe']['draws']} draws of the training set "
        "(mean; minima.csv has every beta):",
        _table(
            ("K", "beta", "minima", "least to most", "hold one", "several", "none"),
            _curve_rows(found),
        ),
        "Root-mean-square error of the network's energy at t = 0.15 against Eq. 23, over the "
        "grid's points within 1.5 of the centre. The prior's part comes from N(0, sigma^2) "
        "in place of p_1; the picture and the energies above take p_1 and have only the last part.",
        _table(("K", "as in the paper", "of it the prior", "network and ODE"), _error_rows(found)),
        "Processor time by stage: "
        + ", ".join(f"{stage} {duration(s)}" for stage, s in found["seconds"].items() if s >= 1)
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def marked(rows: Sequence[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows at the paper's two inverse temperatures, 3.3 and 20."""
    paper = 1 / (2 * found["recipe"]["sigma"] ** 2 * T_PICTURE)
    return [row for row in rows if row["beta"] in (paper, BETA_EXACT)]


def _cluster_rows(found: dict[str, Any]) -> Iterable[Sequence[str]]:
    for size, network in found["networks"].items():
        for name, what in (("samples", "the network"), ("exact_score_samples", "the exact score")):
            counted = network[name]
            kinds = [
                f"{number} ({counted['masses'][kind]:.0%})"
                for kind, number in counted["kinds"].items()
            ]
            yield size, what, str(counted["clusters"]), str(counted["attractors"]), *kinds


def _attractor_rows(found: dict[str, Any]) -> Iterable[Sequence[str]]:
    for size, network in found["networks"].items():
        for cluster in network["clusters"]:
            if cluster["concentration"] > 0:
                x, y = cluster["centre"]
                star = (
                    "" if cluster["concentration"] > found["chance_concentration"] else " (chance)"
                )
                yield (
                    size,
                    f"({x:.2f}, {y:.2f})",
                    f"{cluster['mass']:.1%}",
                    f"{cluster['concentration']:.1f}{star}",
                    f"{cluster['energy']:z.2f}",
                    _points(cluster["held"]),
                )


def _points(indices: Sequence[int]) -> str:
    if len(indices) > _LISTED:
        return f"{len(indices)} of them"
    return ", ".join(map(str, indices)) or "none"


def _minimum_rows(found: dict[str, Any]) -> Iterable[Sequence[str]]:
    for size, network in found["networks"].items():
        for row in network["minima"]:
            sums = _sum(row["learned"]), _sum(row["exact"])
            yield size, f"{row['beta']:.3g}", *sums, f"{row['agreement']:.2f}"


def _group_rows(found: dict[str, Any]) -> Iterable[Sequence[str]]:
    for size, network in found["networks"].items():
        for group in network["groups"]:
            yield size, _points(group["points"]), f"{group['exact_until']:.3g}"


def _sum(counts: dict[str, int]) -> str:
    star = "*" if counts["lost"] else ""
    return f"{counts['one']} + {counts['several']} + {counts['none']}{star}"


def _curve_rows(found: dict[str, Any]) -> Iterable[Sequence[str]]:
    for size, rows in found["curves"].items():
        for row in marked(rows, found):
            yield (
                size,
                f"{row['beta']:.3g}",
                f"{row['minima']:.1f}",
                f"{row['least']} to {row['most']}",
                *(f"{row[kind]:.1f}" for kind in ("one", "several", "none")),
            )


def _error_rows(found: dict[str, Any]) -> Iterable[Sequence[str]]:
    for size, network in found["networks"].items():
        error = network["energy_error"]
        yield size, *(f"{error[part]:.3f}" for part in ("total", "prior", "network"))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
