"""Figures show the stored numbers and need nothing else; half a sweep gives what it can."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from m2g_audit.verdict.states import State
from small_scale.lab import Lab
from small_scale.lab_folder import Cell, LabFolder
from small_scale.report.figures import contact, over_sizes, spectra, transition
from small_scale.report.figures.mixture import mixture_figure
from small_scale.report.figures.style import COLOURS, FEW, Page, apart, band, drawable, new_page
from small_scale.report.summaries import Spread, name_of, names_apart, spurious_range, values
from small_scale.report.whole_report import FIGURES, write_report
from small_scale.settings import PUBLISHED
from small_scale.sizes import dense_sizes
from tests.support.fake_lab import SIZES, fake_settings, measured_lab

PEAK = Cell(64, 0)


def changed(lab: Lab, **settings: Any) -> Lab:
    """Return the sweep with other settings."""
    return Lab(replace(lab.folder, settings=replace(lab.settings, **settings)))


def at(lab: Lab, path: Path) -> Lab:
    """Return the sweep as if it lay elsewhere."""
    return Lab(replace(lab.folder, path=path))


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    """The pages that are drawn meanwhile."""
    drawn: list[Page] = []

    def keep(width: float, height: float, title: str, about: str) -> Page:
        drawn.append(new_page(width, height, title, about))
        return drawn[-1]

    for module in (transition, over_sizes, spectra):
        monkeypatch.setattr(module, "new_page", keep)
    return drawn


def lines(axes: Axes, group: str) -> list[np.ndarray]:
    """The curves in a group's colour that have a point for each size, [2, n]."""
    found = [line for line in axes.get_lines() if line.get_color() == COLOURS[group]]
    return [np.array(line.get_data()) for line in found if len(line.get_xdata()) > 1]


@pytest.mark.slow
def test_a_report_is_all_tables_and_figures(finished: Lab) -> None:
    written = write_report(finished)
    assert {path.stem for path in written if path.suffix == ".png"} == set(FIGURES)
    assert {path.stem for path in written if path.suffix == ".csv"} == {
        "transition", "samples", "sensitivity", "thresholds", "threshold-ranges", "geometry",
        "differences",
    }  # fmt: skip
    again = Lab.open(finished.path)
    for name in ("spectra", "thresholds"):
        stored = (finished.path / "figures" / f"{name}.png").read_bytes()
        assert FIGURES[name](again) == stored


def test_half_a_sweep_gives_what_it_can(tmp_path: Path) -> None:
    lab = measured_lab(tmp_path / "sweep", (PEAK,))
    names = {path.stem for path in write_report(lab) if path.suffix == ".png"}
    assert names == {"transition", "histograms", "histograms-all"}


def test_a_sweep_without_distances_has_no_report(tmp_path: Path) -> None:
    assert write_report(measured_lab(tmp_path / "sweep", ())) == []


def test_the_transition_shows_the_shares(finished: Lab, pages: list[Page]) -> None:
    transition.transition_figure(finished)
    top, bottom = pages[0].body.axes
    classified = finished.classified["per-K"]
    for axes, state in ((top, State.MEMORIZED), (bottom, State.SPURIOUS)):
        shares = [classified[Cell(K, 0)].shares[state].estimate for K in SIZES]
        np.testing.assert_array_equal(lines(axes, state.value)[0], [SIZES, shares])
    words = " ".join(text.get_text() for text in bottom.texts)
    low, high = spurious_range(finished, 64)
    assert "peak at K = 64" in words
    assert f"{low:.0%} to {high:.0%}" in words
    assert "range over 2 trainings" in words


def test_curves_over_sizes_are_means(finished: Lab, pages: list[Page]) -> None:
    over_sizes.log_volume_figure(finished)
    top = pages[0].body.axes[0]
    for group, sizes in (("training", SIZES), ("spurious", SIZES[1:])):
        means = []
        for K in sizes:
            found = values(finished, Cell(K, 0), group, "log_volume")
            assert found is not None
            means.append(Spread.of(found).mean)
        np.testing.assert_array_equal(lines(top, group)[0], [sizes, means])


def test_spectra_are_those_at_the_peak(finished: Lab, pages: list[Page]) -> None:
    spectra.spectra_figure(finished)
    top = pages[0].body.axes[0]
    stored = finished.geometry(PEAK, "spectra") or {}
    for group in ("memorized", "spurious", "generalized"):
        shown = lines(top, group)[0]
        np.testing.assert_array_equal(shown[1], stored[f"{group}/values"].mean(axis=0))
    assert "64" in top.get_title(loc="left")


def test_samples_are_framed_in_their_colour(finished: Lab) -> None:
    content = contact.neighbours_sheet(finished)
    assert content is not None
    sheet = np.asarray(Image.open(io.BytesIO(content)))
    side = 2 * 56 + 4  # eight pixels, seven times, twice, and the gap between
    for state in ("memorized", "spurious", "generalized"):
        colour = tuple(bytes.fromhex(COLOURS[state][1:]))
        framed = int((sheet == colour).all(-1).sum())
        assert framed >= 6 * ((side + 6) ** 2 - side**2)


@pytest.mark.parametrize("name", ["a$b_c$", "数字", r"back\slash", "x" * 200])
def test_any_folder_can_be_drawn(finished: Lab, name: str) -> None:
    lab = changed(finished, data=f"/somewhere/{name}")
    assert mixture_figure(lab)
    assert contact.thresholds_sheet(lab)


def test_names() -> None:
    assert drawable("Größe 数") == "Größe ?"
    own = replace(fake_settings(), data="/data/my pictures/")
    assert name_of(Lab(LabFolder(Path("x"), own))) == "my pictures"
    assert name_of(Lab(LabFolder(Path("x"), fake_settings()))) == "MNIST"


def test_labels_of_the_papers_sizes_have_room() -> None:
    published = PUBLISHED["cifar10"]
    sizes = dense_sizes(published.A, published.B, published.total)
    shown = apart(sizes)
    assert shown[-1] == sizes[-1]
    assert 5 <= len(shown) <= 12
    assert min(np.diff(np.log(shown))) > np.log(sizes[-1] / sizes[0]) / 20


def test_sweeps_are_compared_by_what_sets_them_apart(finished: Lab, pages: list[Page]) -> None:
    network = replace(finished.settings.network, width=64)
    wide = changed(finished, network=network)
    assert names_apart([finished, wide]) == ["width 8", "width 64"]
    by_hand = replace(finished, given=(0.05, None))
    assert names_apart([finished, by_hand]) == ["own thresholds", "thresholds by hand"]
    transition.compared_figure([finished, wide])
    memorized, spurious, _ = pages[0].body.axes
    assert [line.get_label() for line in memorized.get_lines()] == ["width 8", "width 64"]
    share = finished.classified["per-K"][PEAK].shares[State.SPURIOUS].estimate
    for line, name in zip(spurious.get_lines(), ("width 8", "width 64"), strict=True):
        assert line.get_label() == f"{name}\npeak at K = 64: {share:.0%}"


def test_equal_sweeps_are_named_by_their_folders(finished: Lab) -> None:
    other = at(finished, finished.path.parent / "another")
    assert names_apart([finished, other]) == [finished.path.name, "another"]
    same = at(finished, finished.path / finished.path.name)
    assert names_apart([finished, same]) == [str(finished.path), str(same.path)]


def test_means_of_few_samples_are_marked(finished: Lab, pages: list[Page]) -> None:
    top = new_page(4, 3, "", "").body.subplots()
    band(top, [2, 16, 64], *np.zeros((3, 3)), "spurious", [FEW - 1, FEW, 30])
    many, few = (each.get_offsets()[:, 0].tolist() for each in top.collections[-2:])  # type: ignore[index]
    assert (many, few) == ([16, 64], [2])
    spectra.all_spectra_figure(finished)
    widths = {line.get_linewidth() for line in pages[0].body.axes[0].get_lines()}
    assert min(widths) < 1 < max(widths)
