"""A run's results as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from m2g_audit.words import duration
from small_scale.circle.recipe import BETA_EXACT, T_PICTURE


def text(found: dict[str, Any]) -> str:
    """Return all tables of results.json."""
    parts = [
        "# The circle in numbers",
        f"Clusters of {found['recipe']['samples']} samples, complete-link at a diameter of "
        f"{found['cluster_diameter']:.3f}; a cluster counts as an attractor where its share is "
        f"above {found['chance_mass']:.1%}, the 99% quantile of the largest share among as many "
        "points uniform on the circle. An attractor holds the training points within half a "
        "diameter of its centre.",
        _table(
            ("K", "samples of", "clusters", "attractors", "hold one", "several", "none"),
            _cluster_rows(found),
        ),
        "The attractors of each network (energy of Eq. 25 at t = 0.15, above the panel's least):",
        _table(
            ("K", "centre", "share of samples", "energy", "training points"),
            _attractor_rows(found),
        ),
        "Minima of the network's energy and of the exact one for the same training points, as "
        "one + several + none: how many hold one, several or no training point in their mean-shift "
        "basin. A star: starts that came to no end. Distance: Hausdorff, between the exact minima "
        "and the attractors among the network's samples.",
        _table(("K", "beta", "network", "exact", "distance"), _minimum_rows(found)),
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
            if cluster["mass"] > found["chance_mass"]:
                x, y = cluster["centre"]
                held = ", ".join(map(str, cluster["held"])) or "none"
                yield (
                    size,
                    f"({x:.2f}, {y:.2f})",
                    f"{cluster['mass']:.1%}",
                    f"{cluster['energy']:.2f}",
                    held,
                )


def _minimum_rows(found: dict[str, Any]) -> Iterable[Sequence[str]]:
    for size, network in found["networks"].items():
        for row in network["minima"]:
            distance = "" if row["distance"] is None else f"{row['distance']:.2f}"
            yield size, f"{row['beta']:.3g}", _sum(row["learned"]), _sum(row["exact"]), distance


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
