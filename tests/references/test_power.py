"""Planted copies: how they are made, which share is found, and that power gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from m2g_audit.diagnostics.score_model import NoiseSchedule
from m2g_audit.errors import OutputError
from m2g_audit.references import power
from m2g_audit.references.plants import Plants
from m2g_audit.references.power import (
    EDITS,
    PLANTS,
    Power,
    plant,
    plant_time,
    power_of,
    redraw,
)
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import load_metric
from m2g_audit.verdict.thresholds import Thresholds
from tests.support.fakes import LATENT, Faithful, FakePipeline, picture, to_latents

L2 = load_metric("l2")
PIPELINE = FakePipeline("a print", [])
FOUR = torch.stack([picture(n) for n in range(4)])


def planted(reference: ReferenceSet | None = None) -> Plants:
    def to_reference(images: Tensor) -> list[float]:
        assert reference is not None
        return reference.nearest(L2, images)[0]

    return plant(PIPELINE, L2, FOUR, to_reference if reference else None)


def at(alpha: float, sigma: float) -> NoiseSchedule:
    noisy = torch.tensor([0.01, sigma, 0.9], dtype=torch.float64)
    return NoiseSchedule(torch.tensor([1.0, alpha, 0.4], dtype=torch.float64), noisy, "vp")


# -- how plants are made


def test_plants_start_from_little_noise() -> None:
    schedule = PIPELINE.schedule
    t = plant_time(schedule)
    assert schedule.sigma(t) <= 0.2 * schedule.alpha(t)
    assert schedule.sigma(t + 1) > 0.2 * schedule.alpha(t + 1)
    assert plant_time(at(1.0, 0.2)) == 1  # closed
    assert plant_time(at(1.0, 0.21)) == 1  # never at index 0, which is no step


def test_a_plant_is_the_picture_with_the_noise_that_the_model_leaves() -> None:
    """This model sees no noise, so that what was added, sigma / alpha, stays."""
    plants = redraw(PIPELINE, FOUR, [1, 2, 3, 4])
    level = float(PIPELINE.schedule.sigma(1) / PIPELINE.schedule.alpha(1))
    apart = (plants - FOUR).square().flatten(1).mean(1).sqrt()
    assert apart.tolist() == pytest.approx([level] * 4, rel=0.2)
    again = redraw(PIPELINE, FOUR, [1, 2, 3, 4])
    assert torch.equal(plants, again)
    alone = redraw(PIPELINE, FOUR[2:3], [3])
    assert torch.equal(plants[2:3], alone)


class Attentive(Faithful):
    """Knows four pictures and goes to the nearest: no plant of them differs from its picture."""

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        known, clean = to_latents(FOUR), x / float(self.schedule.alpha(t))
        nearest = (clean[:, None] - known).flatten(2).square().sum(2).argmin(1)
        noise = x - float(self.schedule.alpha(t)) * known[nearest]
        return noise / float(self.schedule.sigma(t))


def test_a_model_that_knows_its_pictures_plants_them_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakePipeline, "bind", lambda *_, **__: Attentive("conditional"))
    assert torch.equal(redraw(PIPELINE, FOUR, [1, 2, 3, 4]), FOUR)


def test_each_plant_is_compared_with_s_and_with_another_of_its_picture() -> None:
    s = ReferenceSet((FOUR * 255).round().to(torch.uint8), list("abcd"))
    found = planted(s)
    assert found.to_reference is not None
    assert (len(found.to_reference), len(found.between)) == (PLANTS, PLANTS // 2)
    level = float(PIPELINE.schedule.sigma(1) / PIPELINE.schedule.alpha(1))
    # Half of the noise at the borders of [0, 1] is cut off.
    assert np.mean(found.to_reference) == pytest.approx(level, rel=0.15)
    assert np.mean(found.between) == pytest.approx(2**0.5 * level, rel=0.15)
    assert set(found.edits) == set(EDITS)
    assert {len(distances) for distances in found.edits.values()} == {100}


def test_without_a_reference_edits_are_compared_with_their_picture() -> None:
    found = planted()
    assert found.to_reference is None
    expected = [float((EDITS["mirrored"](x[None])[0] - x).square().mean().sqrt()) for x in FOUR]
    assert found.edits["mirrored"] == pytest.approx(expected * 25, abs=1e-6)


def test_edits_are_what_they_are_called() -> None:
    x = torch.linspace(0, 1, 50).expand(1, 3, 50, 50).clone()
    assert torch.equal(EDITS["mirrored"](x), x.flip(-1))
    shifted = EDITS["shifted by 4%"](x)
    assert torch.equal(shifted[..., 2:], x[..., :-2])
    assert torch.equal(shifted[..., :2], x[..., :1].expand(1, 3, 50, 2))
    cropped = EDITS["cropped to 90%"](x)
    assert cropped.shape == x.shape
    # Of 50 columns the 2nd to the 47th fill the picture.
    assert cropped[0, 0, 25, 0] == pytest.approx(2 / 49, abs=0.01)
    assert cropped[0, 0, 25, -1] == pytest.approx(47 / 49, abs=0.01)
    pressed = EDITS["JPEG at 75"](x)
    assert 0 < (pressed - x).abs().max() < 0.1


# -- the share that is found


def plants(found: int, of: int = 256, between: int = 128) -> Plants:
    """Return plants of which so many are at 0.1, the others at 1."""
    return Plants(
        np.array([0.1] * found + [1.0] * (of - found)),
        np.array([0.1] * between + [1.0] * (128 - between)),
        {"mirrored": np.array([0.1, 1.0, 1.0, 1.0])},
    )


def thresholds(delta_m: float | None, delta_s: float) -> Thresholds:
    return Thresholds("l2", delta_m, delta_s, "a test", 100, True)


def test_power_is_the_share_within_each_threshold() -> None:
    found = power_of(plants(250), thresholds(0.1, 0.05))
    assert found.to_reference is not None
    assert (found.to_reference.estimate, found.between.estimate) == (250 / 256, 0)
    assert found.edits == {"mirrored": 0.25}
    assert not found.suffices
    assert power_of(plants(250), thresholds(0.1, 0.1)).suffices


def test_power_suffices_from_a_lower_bound_of_85_percent_on() -> None:
    def suffices(found: int, between: int) -> bool:
        return power_of(plants(found, between=between), thresholds(0.1, 0.1)).suffices

    assert suffices(228, 128)  # 89% of 256, surely above 85%
    assert not suffices(226, 128)
    assert suffices(256, 116)
    assert not suffices(256, 115)


def test_without_delta_m_power_is_that_of_delta_s() -> None:
    found = power_of(plants(0), thresholds(None, 0.1))
    assert found.to_reference is None
    assert found.suffices
    assert found.edits == {"mirrored": 0.25}
    only = Plants(None, np.array([0.1] * 128), {"mirrored": np.array([0.1, 1.0])})
    assert power_of(only, thresholds(0.01, 0.1)) == Power(None, found.between, {"mirrored": 0.5})


def test_near_duplicates_are_nearer_than_9_of_10_plants() -> None:
    some = Plants(np.arange(1.0, 257.0), np.ones(1), {})
    assert power.high_quantile(some.to_reference) == 232  # the ceil(0.9 x 257)-th
    assert power.high_quantile(np.array([3.0])) == 3
    assert power.high_quantile(np.arange(1.0, 100.0)) == 90


# -- kept


def test_plants_are_kept_between_audits(tmp_path: Path) -> None:
    path = power.cache_file(tmp_path, {"model": "a"})
    assert path != power.cache_file(tmp_path, {"model": "b"})
    assert power.load(path) is None
    power.save(path, plants(200))
    kept = power.load(path)
    assert kept is not None
    assert kept.to_json() == plants(200).to_json()
    path.write_text('{"to_reference": [1')
    assert power.load(path) is None
    path.write_text('{"to_reference": null}')
    assert power.load(path) is None


def test_a_cache_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="M2G_CACHE"):
        power.save(tmp_path / "file" / "plants.json", plants(200))


def test_latents_of_made_up_pictures_are_all_there_is_to_them() -> None:
    assert PIPELINE.encode(FOUR).shape == (4, *LATENT)
    assert torch.equal(PIPELINE.round_trip(FOUR), FOUR)
