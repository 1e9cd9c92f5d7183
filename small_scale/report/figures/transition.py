"""The transition from memorization to generalization over K (Fig. 4A), and of several sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from m2g_audit.verdict.states import State
from small_scale.classification import STATES, RuleName
from small_scale.lab import Lab
from small_scale.report.figures.style import (
    COLOURS,
    FAINT,
    INK,
    about,
    band,
    drawable,
    new_page,
    plain,
    points,
    size_axis,
)
from small_scale.report.summaries import (
    first_seed,
    name_of,
    names_apart,
    other_seeds,
    possible_peaks,
    spurious_range,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]

_MAIN = (State.MEMORIZED, State.GENERALIZED)


def transition_figure(lab: Lab) -> bytes | None:
    """Fig. 4A as PNG; None before any state is known.

    Above, memorized and generalized samples, below spurious ones, with simultaneous intervals;
    dashed by one pair of thresholds for all K. Points are other seeds.
    """
    if not first_seed(lab):
        return None
    page = new_page(9.2, 5.6, "From memorization to generalization", about(lab))
    top, bottom = page.body.subplots(2, 1, sharex=True, height_ratios=(1.25, 1))
    for state in _MAIN:
        _share(top, lab, state)
    _control(top, lab)
    _share(bottom, lab, State.SPURIOUS)
    for axes in (top, bottom):
        plain(axes)
        axes.set_ylabel("share of S'", color=INK)
    top.set_ylim(-0.03, 1.03)
    bottom.set_ylim(bottom=0)
    _mark_peak(bottom, lab)
    size_axis(bottom, [cell.K for cell in first_seed(lab)])
    _legend(top, lab)
    return page.png()


def shares_below(axes: Axes, lab: Lab) -> None:
    """All three shares in one panel, as the paper draws them below other curves over K."""
    cells = first_seed(lab)
    for state in STATES:
        shares = [lab.classified["per-K"][cell].shares[state].estimate for cell in cells]
        axes.plot(
            [cell.K for cell in cells], shares, color=COLOURS[state], lw=1.7, marker="o", ms=3
        )
    plain(axes)
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel("share of S'", color=INK)
    size_axis(axes, [cell.K for cell in cells])


def compared_figure(labs: Sequence[Lab]) -> bytes:
    """The transitions of several sweeps in one figure, such as Fig. 7 to 9, as PNG.

    One panel a state and one shade a sweep, which is named by what sets it apart; of the first seed
    each, by the thresholds of each K. All must have states.
    """
    names = [drawable(name) for name in names_apart(labs)]
    common = drawable(" and ".join(dict.fromkeys(name_of(lab) for lab in labs)))
    page = new_page(9.2, 7.4, "Transitions beside each other", common)
    panels = page.body.subplots(len(STATES), 1, sharex=True)
    for axes, state in zip(panels, STATES, strict=True):
        shades = _shades(COLOURS[state], len(labs))
        for lab, name, colour in zip(labs, names, shades, strict=True):
            x, middle, low, high = _curve(lab, state, "per-K")
            axes.fill_between(x, low, high, color=colour, alpha=0.14, lw=0)
            shown = f"{name}\n{_peak(lab)}" if state is State.SPURIOUS else name
            axes.plot(x, middle, color=colour, lw=1.9, marker="o", ms=3.5, label=shown)
        plain(axes)
        if state in _MAIN:
            axes.set_ylim(-0.03, 1.03)
        else:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(state.value, color=COLOURS[state], weight="bold")
        _named_beside(axes)
    sizes = sorted({cell.K for lab in labs for cell in first_seed(lab)})
    size_axis(panels[-1], sizes)
    return page.png()


# -- parts


def _curve(
    lab: Lab, state: State, rule: RuleName
) -> tuple[list[int], FloatArray, FloatArray, FloatArray]:
    """K, the share of a state, and its interval, of the first seed."""
    cells = first_seed(lab)
    shares = [lab.classified[rule][cell].shares[state] for cell in cells]
    table = np.array([(each.estimate, each.low, each.high) for each in shares])
    return [cell.K for cell in cells], table[:, 0], table[:, 1], table[:, 2]


def _share(axes: Axes, lab: Lab, state: State) -> None:
    x, middle, low, high = _curve(lab, state, "per-K")
    band(axes, x, middle, low, high, state.value)
    x, middle, *_ = _curve(lab, state, "fixed")
    axes.plot(x, middle, color=COLOURS[state], lw=1.2, ls=(0, (4, 2.5)), alpha=0.85)
    others = other_seeds(lab)
    seen = [lab.classified["per-K"][cell].shares[state].estimate for cell in others]
    points(axes, [cell.K for cell in others], seen, state.value)


def _control(axes: Axes, lab: Lab) -> None:
    cells = first_seed(lab)
    shares = [lab.classified["per-K"][cell].false_memorized for cell in cells]
    axes.plot([cell.K for cell in cells], shares, color=FAINT, lw=1.2, ls=":")


def _mark_peak(axes: Axes, lab: Lab) -> None:
    """Marks the largest spurious share with its range, and the sizes that it may belong to."""
    peak, possible = lab.peak(), possible_peaks(lab)
    if peak is None or not possible:
        axes.text(
            0.5, 0.5, "no spurious samples", ha="center", color=FAINT, transform=axes.transAxes
        )
        return
    share = lab.classified["per-K"][peak].shares[State.SPURIOUS]
    colour, (low, high) = COLOURS["spurious"], spurious_range(lab, peak.K)
    error = [[share.estimate - low], [high - share.estimate]]
    axes.errorbar(peak.K, share.estimate, yerr=error, color=colour, capsize=4, lw=1.5, zorder=4)
    axes.axvspan(possible[0].K, possible[-1].K, color=colour, alpha=0.07, lw=0)
    words = [
        f"peak at K = {peak.K:,}",
        f"{_percent(share.estimate)} ({_percent(low)} to {_percent(high)})",
    ]
    trainings = sum(cell.K == peak.K for cell in lab.measured)
    if trainings > 1:
        words.append(f"range over {trainings} trainings")
    if len(possible) > 1:
        words.append(f"possibly from {possible[0].K:,} to {possible[-1].K:,}")
    fixed = lab.peak("fixed")
    if fixed is not None and possible_peaks(lab, "fixed"):
        by_fixed = lab.classified["fixed"][fixed].shares[State.SPURIOUS].estimate
        words += ["", "by one pair of thresholds", f"at K = {fixed.K:,}: {_percent(by_fixed)}"]
    axes.text(
        1.03, 0.97, "\n".join(words), ha="left", va="top", fontsize=9, color=INK,
        transform=axes.transAxes, parse_math=False, linespacing=1.5,
    )  # fmt: skip


def _legend(axes: Axes, lab: Lab) -> None:
    from matplotlib.lines import Line2D

    def line(colour: str, text: str, **more: object) -> Line2D:
        return Line2D([], [], color=colour, label=text, **more)  # type: ignore[arg-type]

    entries = [line(COLOURS[state], state.value, lw=1.9, marker="o", ms=4) for state in STATES]
    entries.append(line(FAINT, "one pair of thresholds for all K", lw=1.2, ls=(0, (4, 2.5))))
    entries.append(line(FAINT, r"within $\delta_m$ of unseen pictures", lw=1.2, ls=":"))
    if other_seeds(lab):
        entries.append(
            line(FAINT, "other training seeds", lw=0, marker="o", ms=5, markerfacecolor="white")
        )
    axes.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.03),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


def _peak(lab: Lab) -> str:
    peak = lab.peak()
    if peak is None or not possible_peaks(lab):
        return "no spurious samples"
    share = lab.classified["per-K"][peak].shares[State.SPURIOUS].estimate
    return f"peak at K = {peak.K:,}: {_percent(share)}"


def _named_beside(axes: Axes) -> None:
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.03),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _shades(colour: str, count: int) -> list[tuple[float, float, float]]:
    """Shades of a colour, from light to dark."""
    from matplotlib.colors import to_rgb

    base = np.array(to_rgb(colour))
    mixed = np.linspace(0.45, -0.5, count) if count > 1 else np.zeros(1)
    return [
        tuple(base + (1 - base) * share if share > 0 else base * (1 + share))  # type: ignore[misc]
        for share in mixed
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{share:.0%}"
