"""Training sizes of App. B.1 against those that the paper prints."""

from typing import get_args

import pytest

from m2g_audit.errors import UsageError
from small_scale.settings import PUBLISHED, PresetName, settings_for
from small_scale.sizes import dense_sizes, parse_sizes, sparse_sizes, transition


@pytest.mark.parametrize(
    ("data", "printed"),
    [
        ("cifar10", (5862, 7310)),
        ("mnist", (21379, 11724)),
        ("fashion-mnist", (7724, 8965)),
        ("lsun-church", (4896,)),
    ],
)
def test_the_papers_sizes_come_out(data: str, printed: tuple[int, ...]) -> None:
    total = PUBLISHED[data].total
    sizes = settings_for("paper", data, total).sizes
    assert len(sizes) == 38
    assert sizes[0] == 2
    assert sizes[-1] == total
    assert set(printed) <= set(sizes)


@pytest.mark.parametrize(("data", "printed"), [("cifar10", 2568), ("lsun-church", 4862)])
def test_the_papers_sizes_of_width_64(data: str, printed: int) -> None:
    total = PUBLISHED[data].total
    assert printed in settings_for("paper", data, total, width=64).sizes


def test_a_set_of_another_length_has_the_transition_of_its_name() -> None:
    sizes = settings_for("paper", "lsun-church", 119_915).sizes
    assert (len(sizes), sizes[-1]) == (38, 119_915)
    assert 4896 in sizes
    # A folder has a transition of its own, which nobody knows yet.
    assert settings_for("paper", "pictures", 50_000).sizes == tuple(sparse_sizes(50_000))


@pytest.mark.parametrize("preset", get_args(PresetName))
@pytest.mark.parametrize("total", [-3, 0, 1])
def test_no_pictures_to_train_on_are_told_of(preset: PresetName, total: int) -> None:
    with pytest.raises(UsageError, match=f"{total} pictures to train on"):
        settings_for(preset, "pictures", total)


@pytest.mark.parametrize("preset", get_args(PresetName))
def test_every_preset_has_sizes_of_few_pictures(preset: PresetName) -> None:
    assert settings_for(preset, "pictures", 2).sizes == (2,)


def test_short_ranges_have_fewer_sizes() -> None:
    assert dense_sizes(2, 4, 6) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(("A", "B", "total"), [(1, 5, 9), (6, 5, 9), (2, 10, 9)])
def test_impossible_ranges_are_refused(A: int, B: int, total: int) -> None:
    with pytest.raises(ValueError, match="2 <= A"):
        dense_sizes(A, B, total)


def test_sparse_sizes_double_up_to_all() -> None:
    assert sparse_sizes(5000) == [500, 1000, 2000, 4000, 5000]
    assert sparse_sizes(4000) == [500, 1000, 2000, 4000]
    assert sparse_sizes(300) == [300]


def test_transition_is_read_off_the_memorized_shares() -> None:
    shares = {500: 1.0, 1000: 0.97, 2000: 0.92, 4000: 0.6, 8000: 0.2, 16000: 0.04, 50000: 0.0}
    assert transition(shares) == (2000, 16000)


def test_transition_of_one_phase_only() -> None:
    assert transition({2: 1.0, 4: 1.0}) == (4, 4)
    assert transition({2: 0.0, 4: 0.0}) == (2, 2)


def test_sizes_are_read_as_users_write_them() -> None:
    assert parse_sizes("128,2,16,16", 500) == (2, 16, 128)
    assert parse_sizes("sparse", 1200) == (500, 1000, 1200)
    assert parse_sizes("2000-16000", 50_000) == tuple(dense_sizes(2000, 16_000, 50_000))


@pytest.mark.parametrize("asked", ["", "two", "2;3", "16000-2000", "2-3-4", "2.5"])
def test_other_sizes_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="is not possible for 50,000"):
        parse_sizes(asked, 50_000)
