"""Distances where nothing is copied, on points whose neighbours are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2g_audit.references import kept_nulls
from m2g_audit.references.nulls import (
    MOST,
    RATIO_LEAST,
    RATIO_NEIGHBOURS,
    among_all,
    among_captions,
    find_nulls,
    find_ratios,
    leave_one_out,
    nearest_and_ratios,
    of_unseen,
)
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import load_metric, nearest
from m2g_audit.verdict.states import S_PRIME
from m2g_audit.verdict.thresholds import low_quantile
from tests.support.line import Line, pictures, reference

LINE = Line()
CUT = 0.5


def ratios(s: ReferenceSet, point: float) -> np.ndarray:
    return nearest_and_ratios(s, LINE, LINE.embed(pictures([point])), CUT)[2]


def gaps(n: int) -> np.ndarray:
    """Return n points of which each is further from the one before it than those before it."""
    return np.cumsum(np.arange(1.0, n + 1))


# -- leave-one-out


def test_each_picture_is_as_far_as_its_nearest_neighbour() -> None:
    null = leave_one_out(reference(gaps(40)), LINE, CUT)
    # Points 1, 3, 6, 10, ...: the nearest is the one before, except for the first.
    assert null.to_reference == pytest.approx([2, *range(2, 41)])
    assert null.kept.tolist() == list(range(40))
    assert (null.dropped, null.sampled, null.overlap) == (0, 40, ())


def test_near_duplicates_count_as_one_picture_and_are_nobodys_neighbours() -> None:
    points = [0.0, 10.0, 10.2, 10.4, 100.0, 100.0, 115.0]
    null = leave_one_out(reference(points), LINE, CUT)
    assert null.kept.tolist() == [0, 1, 4, 6]
    assert null.to_reference == pytest.approx([10, 10, 15, 15])
    assert null.dropped == 3


def test_the_cut_is_closed() -> None:
    points = [0.0, 0.5, 10.0, 10.501]
    null = leave_one_out(reference(points), LINE, CUT)
    assert null.kept.tolist() == [0, 2, 3]
    assert null.to_reference == pytest.approx([10, 0.501, 0.501])


def test_a_picture_and_its_own_mirror_are_one() -> None:
    points, n = gaps(20), 20
    # Each is nearer to its own mirror than to anything else, be that within the cut or not.
    null = leave_one_out(reference(points, mirrors=points + 0.9), LINE, CUT)
    assert null.kept.tolist() == list(range(0, 2 * n, 2))
    # 1, 3, 6, ...: the mirror of the one before is 0.9 nearer.
    assert null.to_reference == pytest.approx([2, *(k - 0.9 for k in range(2, n + 1))])
    symmetric = leave_one_out(reference(points, mirrors=points), LINE, CUT)
    assert symmetric.to_reference == pytest.approx([2, *range(2, n + 1)])
    assert symmetric.dropped == 0


def test_a_near_duplicate_of_a_mirror_is_one_too() -> None:
    points = np.array([0.0, 30.0, 60.0, 100.0])
    mirrors = np.array([30.1, 0.1, 300.0, 400.0])  # the second picture is the first, mirrored
    null = leave_one_out(reference(points, mirrors=mirrors), LINE, CUT)
    assert null.kept.tolist() == [0, 4, 6]
    assert null.dropped == 1


@pytest.mark.parametrize("spread", [0.0, 0.003])
def test_any_number_of_copies_of_one_picture_count_as_one(spread: float) -> None:
    """More than are looked at as neighbours (96), equal ones and slightly different ones."""
    copies = 1000 + spread * np.arange(150)
    points = np.concatenate([copies, 2000 + gaps(30)])
    null = leave_one_out(reference(points), LINE, CUT)
    assert null.kept.tolist() == [0, *range(150, 180)]
    assert null.dropped == 149
    assert null.to_reference[0] == pytest.approx(1001)
    assert null.to_reference[1:] == pytest.approx([2, *range(2, 31)])


def test_near_duplicates_only_leave_nothing() -> None:
    null = leave_one_out(reference([5.0] * 120), LINE, CUT)
    assert len(null.to_reference) == 0
    assert null.dropped == 119


def test_of_a_large_set_a_seeded_sample_is_taken() -> None:
    points = 2.0 * np.arange(MOST + 500)
    s = reference(points)
    first, other = (leave_one_out(s, LINE, CUT, seed=seed) for seed in (0, 1))
    assert first.sampled == len(first.kept) == len(set(first.kept.tolist())) == MOST
    assert first.kept.tolist() != other.kept.tolist()
    assert first.to_reference == pytest.approx(np.full(MOST, 2.0))  # S is whole all the same


# -- unseen pictures


def test_unseen_pictures_are_as_far_as_the_nearest_of_the_reference() -> None:
    unseen = reference([14.0, 47.0, 3.0])
    null = of_unseen(unseen, reference([0.0, 10.0, 50.0]), LINE, CUT)
    assert null.to_reference == pytest.approx([4, 3, 3])
    assert null.overlap == ()


def test_unseen_pictures_that_training_saw_are_named_and_left_out() -> None:
    seen = reference([0.0, 10.0, 50.0])
    null = of_unseen(reference([9.8, 20.0, 50.0, 30.0]), seen, LINE, CUT)
    assert null.overlap == ("0", "2")
    assert null.kept.tolist() == [1, 3]
    assert null.to_reference == pytest.approx([10, 20])
    assert (null.dropped, null.sampled) == (0, 4)


@pytest.mark.parametrize("spread", [0.0, 0.003])
def test_any_number_of_unseen_near_duplicates_count_once(spread: float) -> None:
    points = np.concatenate([1000 + spread * np.arange(150), [90.0, 20.0]])
    null = of_unseen(reference(points), reference([0.0]), LINE, CUT)
    assert null.kept.tolist() == [0, 150, 151]
    assert null.dropped == 149


def test_unseen_near_duplicates_count_once() -> None:
    null = of_unseen(reference([20.0, 20.1, 90.0, 20.3]), reference([0.0]), LINE, CUT)
    assert null.kept.tolist() == [0, 2]
    assert null.dropped == 2


def test_a_mirrored_reference_is_seen_by_unseen_pictures() -> None:
    seen = reference([0.0, 100.0], mirrors=[40.0, 140.0])
    null = of_unseen(reference([39.8, 60.0]), seen, LINE, CUT)
    assert null.overlap == ("0",)
    assert null.to_reference == pytest.approx([20])


# -- the rate of false alarms


def rates(n_unseen: int | None, worlds: int = 40, of_s: int = 150) -> list[float]:
    """Return the share of new pictures within delta_m of S in many worlds of random points."""
    found = []
    for world in range(worlds):
        rng = np.random.default_rng(world)

        def points(n: int, rng: np.random.Generator = rng) -> np.ndarray:
            return 8000 + 500 * rng.standard_normal((n, 4))

        s = reference(points(of_s))
        if n_unseen is None:
            null = leave_one_out(s, LINE, 0.0)
        else:
            null = of_unseen(reference(points(n_unseen)), s, LINE, 0.0)
        delta_m = low_quantile(null.to_reference)
        fresh = LINE.embed(pictures(points(500)))
        found.append(float((s.neighbours(LINE, fresh, 1)[0] <= delta_m).mean()))
    return found


@pytest.mark.parametrize("n_unseen", [None, 99, 200])
def test_new_pictures_are_taken_for_copies_in_1_percent(n_unseen: int | None) -> None:
    found = rates(n_unseen)
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) <= 0.01 + 3 * error
    assert np.mean(found) >= 0.005
    assert error < 0.0025


# -- the ratio


def test_the_ratio_is_to_the_mean_of_the_next_fifty() -> None:
    points = np.arange(0.0, 70.0)
    found = ratios(reference(points), 200.0)
    further = 200 - points[::-1][1 : 1 + RATIO_NEIGHBOURS]
    assert found == pytest.approx([131 / further.mean()])


def test_with_few_pictures_the_ratio_is_to_what_there_is() -> None:
    for n, there in ((RATIO_LEAST + 1, True), (RATIO_LEAST, False)):
        points = 10 + np.arange(float(n))
        [found] = ratios(reference(points), 0.0)
        if there:
            assert found == pytest.approx(10 / points[1:].mean())
        else:
            assert np.isnan(found)


def test_near_duplicates_of_the_nearest_are_not_among_the_next() -> None:
    others = 100 + np.arange(30.0)
    points = np.concatenate([[10.0, 10.0, 10.4], others])
    [found] = ratios(reference(points), 9.0)
    assert found == pytest.approx(1 / (others - 9).mean())
    few = np.concatenate([[10.0] * 5, others[: RATIO_LEAST - 1]])
    assert np.isnan(ratios(reference(few), 9.0)).all()


def test_the_nearest_ones_own_mirror_is_not_among_the_next() -> None:
    points = np.concatenate([[10.0], 100 + 2 * np.arange(25.0)])
    mirrors = points + 1
    [found] = nearest_and_ratios(
        reference(points, mirrors=mirrors), LINE, LINE.embed(pictures([9.0])), CUT
    )[2]
    rest = np.sort(np.concatenate([points[1:], mirrors[1:]]))[:RATIO_NEIGHBOURS]
    assert found == pytest.approx(1 / (rest - 9).mean())


def test_infinite_distances_are_left_out_of_ratios() -> None:
    s = reference(np.arange(0.0, 60.0))
    found, neighbours = s.neighbours(LINE, LINE.embed(pictures([100.0])), 60)
    found[:, 0] = np.inf  # the nearest, at 59, is the picture itself, say
    expected = 42 / np.arange(43.0, 93.0).mean()  # those at 58, and at 57 to 8
    assert find_ratios(s, LINE, found, neighbours, CUT) == pytest.approx([expected])


def test_left_out_pictures_have_ratios_without_themselves() -> None:
    points = gaps(60)
    null = leave_one_out(reference(points), LINE, CUT)
    i = 30
    apart = np.sort(np.abs(points - points[i]))[1:]
    expected = apart[0] / apart[1 : 1 + RATIO_NEIGHBOURS].mean()
    assert null.ratios[i] == pytest.approx(expected)


# -- pictures among each other


def within(points: np.ndarray) -> np.ndarray:
    apart = np.abs(points[:, None] - points).astype(float)
    np.fill_diagonal(apart, np.inf)
    return apart.min(axis=1)


@pytest.mark.parametrize("n", [16, 32, 40, 47])
def test_pictures_are_compared_within_groups_of_16(n: int) -> None:
    points = gaps(n)
    found = among_all(reference(points), LINE, np.arange(n), seed=3)
    order = np.random.default_rng(3).permutation(n)
    expected = [within(points[order[k : k + S_PRIME]]) for k in range(0, n - n % S_PRIME, S_PRIME)]
    if n % S_PRIME:  # the last of them among 16 as well, of which the first were counted already
        expected.append(within(points[order[-S_PRIME:]])[-(n % S_PRIME) :])
    assert found == pytest.approx(np.concatenate(expected))
    assert len(found) == n


def test_fewer_than_16_are_one_group_and_one_alone_has_no_neighbour() -> None:
    assert among_all(reference([0.0, 3.0, 7.0]), LINE, np.arange(3)) == pytest.approx(
        np.array([3, 3, 4])[np.random.default_rng(0).permutation(3)]
    )
    assert len(among_all(reference([0.0]), LINE, np.arange(1))) == 0


def captioned(sizes: dict[str, int], step: float = 1.0) -> tuple[np.ndarray, list[str | None]]:
    """Return points of captions that lie far from each other, in an order that mixes them."""
    points, captions = [], []
    for number, (caption, size) in enumerate(sizes.items()):
        points += (1000 * number + step * np.arange(size)).tolist()
        captions += [caption] * size
    order = np.random.default_rng(5).permutation(len(points))
    return np.array(points)[order], [captions[i] for i in order]


def test_groups_of_one_caption_come_from_captions_with_16_pictures() -> None:
    points, captions = captioned({"hill": 80, "sea": 24, "kite": 15})
    found = among_captions(reference(points, captions=captions), LINE, CUT)
    assert found is not None
    assert len(found) == 80 + 24
    assert found.max() < 100  # no group holds two captions
    assert (found >= 1).all()


def test_captions_must_hold_99_pictures_in_all() -> None:
    for hill, enough in ((83, True), (82, False)):
        points, captions = captioned({"hill": hill, "sea": 16, "kite": 15})
        found = among_captions(reference(points, captions=captions), LINE, CUT)
        assert (found is not None) == enough


def test_near_duplicates_do_not_make_a_caption_large() -> None:
    points, captions = captioned({"hill": 120, "sea": 30})
    points[np.array(captions) == "sea"] = 5000.0
    found = among_captions(reference(points, captions=captions), LINE, CUT)
    assert found is not None
    assert len(found) == 120
    assert (found > CUT).all()


def test_without_captions_there_are_no_groups_of_them() -> None:
    assert among_captions(reference(gaps(200)), LINE, CUT) is None
    none: list[str | None] = [None] * 200
    assert among_captions(reference(gaps(200), captions=none), LINE, CUT) is None


def test_mirrors_do_not_count_as_pictures_of_a_caption() -> None:
    points, captions = captioned({"hill": 98})
    mirrored = reference(points, captions=captions, mirrors=points + 0.9)
    assert among_captions(mirrored, LINE, CUT) is None


def test_groups_of_captions_are_drawn_at_random_up_to_a_limit() -> None:
    points, captions = captioned({f"caption {i}": 16 for i in range(3)} | {"hill": MOST + 100})
    found = among_captions(reference(points, captions=captions), LINE, CUT)
    assert found is not None
    assert len(found) < MOST + 3 * 16 + 1
    # As thresholds need it: near those of 16 pictures out of one caption.
    rng = np.random.default_rng(0)
    hills = points[np.array(captions) == "hill"]
    drawn = [np.median(within(rng.choice(hills, 16, replace=False))) for _ in range(99)]
    assert np.median(found) == pytest.approx(np.median(drawn), rel=0.25)


def test_a_distance_on_the_line_is_what_it_says() -> None:
    embedded = LINE.embed(pictures([0.0, 12345.678, 3.0]))
    found, _ = nearest(LINE, embedded, embedded, exclude_self=True)
    assert found[:, 0] == pytest.approx([3.0, 12342.678, 3.0], rel=1e-6)


# -- all of them


@pytest.mark.parametrize("metric", ["line", "l2"])
def test_memory_for_a_few_pictures_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    """Neither of an embedding that is cut into chunks nor of pixels that are read one by one."""
    rng = np.random.default_rng(0)
    points = 16_000 * rng.random((80, 3))
    points[40:44] = points[3]
    captions = [str(i % 2) for i in range(80)]
    s, unseen = reference(points, captions=captions), reference(16_000 * rng.random((30, 3)))
    by = LINE if metric == "line" else load_metric("l2")
    whole = find_nulls(s, unseen, by, 0.05)
    monkeypatch.setattr("m2g_audit.references.reference._KEPT_BYTES", 7 * 4 * 9)
    monkeypatch.setattr("m2g_audit.references.reference._CHUNK_BYTES", 5 * 4 * 9)
    parts = find_nulls(replace(s), replace(unseen), by, 0.05)
    assert whole.within is None
    assert len(whole.among) == len(whole.used.kept)
    assert whole.left_out.dropped == 4
    for one, other in [
        (whole.left_out, parts.left_out),
        (whole.used, parts.used),
    ]:
        np.testing.assert_array_equal(one.kept, other.kept)
        np.testing.assert_array_equal(one.to_reference, other.to_reference)
        np.testing.assert_allclose(one.ratios, other.ratios, rtol=1e-12)
    np.testing.assert_array_equal(whole.among, parts.among)


@pytest.mark.parametrize("with_unseen", [False, True])
def test_nulls_are_the_same_when_they_were_kept(tmp_path: Path, with_unseen: bool) -> None:
    s = reference(gaps(60), captions=["one"] * 60)
    unseen = reference([0.5, 7000.0, 7000.1, 9000.0]) if with_unseen else None
    nulls = find_nulls(s, unseen, LINE, CUT)
    path = kept_nulls.cache_file(tmp_path, {"cut": CUT})
    kept_nulls.save(path, nulls)
    again = kept_nulls.load(path)
    assert again is not None
    assert (again.of_unseen is not None) == with_unseen
    assert again.used.overlap == nulls.used.overlap == (("0",) if with_unseen else ())
    for one, other in [(nulls.left_out, again.left_out), (nulls.used, again.used)]:
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(other, name), value)
    np.testing.assert_array_equal(again.among, nulls.among)
    path.write_bytes(path.read_bytes()[:100])
    assert kept_nulls.load(path) is None
