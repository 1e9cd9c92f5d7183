"""Control prompts: thresholds, what is kept, what is refused; with a pipeline made of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from m2g_audit.controls import ControlSettings, images_needed, load_prompts, run_controls
from m2g_audit.errors import NumericsError, OutputError, UsageError
from m2g_audit.reference import ReferenceSet
from m2g_audit.similarity import distances, load_metric

L2 = load_metric("l2")
SETTINGS = ControlSettings(seeds_per_prompt=3, steps=5, guidance=2.0, alpha=0.05)
PROMPTS = [f"prompt number {i}" for i in range(19)]


@dataclass
class FakePipeline:
    """Gives a noise picture for each (prompt, seed), and counts what it was asked for."""

    sha256: str = "0" * 64
    configuration_sha256: str = "0" * 64
    black: Sequence[str] = ()
    stuck: bool = False
    fail_after: int | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def identity(self) -> Any:
        return SimpleNamespace(
            sha256=self.sha256, configuration_sha256=self.configuration_sha256, dtype="float32"
        )

    def generate(self, prompt: str, seeds: Sequence[int], **settings: Any) -> Any:
        assert set(settings) == {"steps", "guidance", "batch_size", "scheduler"}
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.append(prompt)
        images = torch.stack([self.picture(prompt, seed) for seed in seeds])
        return SimpleNamespace(images=images)

    def picture(self, prompt: str, seed: int) -> Tensor:
        if prompt in self.black:
            return torch.zeros(3, 8, 8)
        generator = torch.Generator().manual_seed(0 if self.stuck else seed)
        return torch.rand(3, 8, 8, generator=generator)


def run(pipeline: FakePipeline, folder: Path, **changes: Any) -> Any:
    settings = changes.pop("settings", SETTINGS)
    arguments = {"prompts": PROMPTS, "cache_dir": folder, "batch_size": 2, **changes}
    return run_controls(pipeline, L2, settings, **arguments)


def smallest_distances(reference: Tensor | None = None) -> list[float]:
    from m2g_audit.numerics import seed_for

    result = []
    for prompt in PROMPTS:
        seeds = [seed_for(0, prompt, i) for i in range(3)]
        e = L2.embed(torch.stack([FakePipeline().picture(prompt, s) for s in seeds]))
        if reference is None:
            pairs = distances(L2, e, e)
            result.append(min(pairs[0, 1], pairs[0, 2], pairs[1, 2]))
        else:
            result.append(distances(L2, e, L2.embed(reference)).min())
    return result


def test_delta_s_is_the_quantile_of_the_smallest_distance_within_a_prompt(tmp_path: Path) -> None:
    thresholds = run(FakePipeline(), tmp_path)
    assert thresholds.delta_s == pytest.approx(min(smallest_distances()))
    assert thresholds.delta_m is None
    assert (thresholds.metric, thresholds.calibrated) == ("l2", True)
    assert thresholds.n_controls == 19
    assert "19 control prompts of 3 seeds" in thresholds.source


def test_delta_m_is_the_quantile_of_the_distance_to_the_reference(tmp_path: Path) -> None:
    pictures = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    reference = ReferenceSet(pictures, [str(i) for i in range(20)], sha256="a")
    thresholds = run(FakePipeline(), tmp_path, reference=reference)
    assert thresholds.delta_m == pytest.approx(min(smallest_distances(pictures)))
    assert thresholds.delta_s == pytest.approx(min(smallest_distances()))


def test_a_larger_rate_gives_a_larger_threshold_from_the_same_results(tmp_path: Path) -> None:
    run(FakePipeline(), tmp_path)
    again = FakePipeline()
    thresholds = run(again, tmp_path, settings=replace(SETTINGS, alpha=0.25))
    assert again.asked == []
    assert thresholds.delta_s == pytest.approx(np.sort(smallest_distances())[4])


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(FakePipeline(fail_after=8), tmp_path)
    assert images_needed(FakePipeline(), L2, SETTINGS, prompts=PROMPTS, cache_dir=tmp_path) == 3 * (
        19 - 8
    )
    rest = FakePipeline()
    resumed = run(rest, tmp_path)
    assert rest.asked == PROMPTS[8:]
    assert resumed == run(FakePipeline(), tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "change",
    [
        {"settings": replace(SETTINGS, guidance=3.0)},
        {"settings": replace(SETTINGS, seeds_per_prompt=4)},
        {"pipeline": FakePipeline(sha256="1" * 64)},
        {"pipeline": FakePipeline(configuration_sha256="1" * 64)},
        {"metric": load_metric("tiled_l2")},
    ],
    ids=["guidance", "seeds", "weights", "configuration", "metric"],
)
def test_what_can_change_a_result_is_not_taken_from_the_cache(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    run(FakePipeline(), tmp_path)
    settings = change.get("settings", SETTINGS)
    needed = images_needed(
        change.get("pipeline", FakePipeline()),
        change.get("metric", L2),
        settings,
        prompts=PROMPTS,
        cache_dir=tmp_path,
    )
    assert needed == 19 * settings.seeds_per_prompt


def test_a_broken_cache_is_made_again(tmp_path: Path) -> None:
    expected = run(FakePipeline(), tmp_path)
    (cache,) = tmp_path.iterdir()
    cache.write_text('{"prompt number 1": {"within"')
    assert run(FakePipeline(), tmp_path) == expected


def test_progress_counts_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run(FakePipeline(), tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 57)
    assert seen[-1] == (57, 57)
    assert seen == sorted(seen)


def test_black_pictures_are_no_duplicates(tmp_path: Path) -> None:
    prompts = [*PROMPTS, "black"]
    thresholds = run(FakePipeline(black=["black"]), tmp_path, prompts=prompts)
    assert thresholds.n_controls == 19
    assert thresholds.delta_s == pytest.approx(min(smallest_distances()))


def test_too_many_failures_are_said(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="Only 18 of 19"):
        run(FakePipeline(black=PROMPTS[:1]), tmp_path)


def test_a_model_that_ignores_its_noise_is_said(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="same picture twice"):
        run(FakePipeline(stuck=True), tmp_path)


def test_too_few_prompts_or_seeds_are_refused_before_anything_is_generated(tmp_path: Path) -> None:
    pipeline = FakePipeline()
    with pytest.raises(UsageError, match="at least 19"):
        run(pipeline, tmp_path, prompts=PROMPTS[:18])
    with pytest.raises(UsageError, match="2 seeds"):
        run(pipeline, tmp_path, settings=replace(SETTINGS, seeds_per_prompt=1))
    assert pipeline.asked == []


def test_a_cache_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="control prompts"):
        run(FakePipeline(), tmp_path / "file")


def test_the_shipped_prompts_are_enough_and_of_all_lengths() -> None:
    prompts = load_prompts()
    lengths = [len(prompt.split()) for prompt in prompts]
    assert len(prompts) >= 120
    assert len(set(prompts)) == len(prompts)
    assert min(lengths) == 1
    assert max(lengths) >= 15
    assert not any(prompt.startswith("#") for prompt in prompts)


def test_prompt_files_may_have_comments_and_must_have_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# mine\n\n a hill \na hill\na sea\n")
    assert load_prompts(file) == ["a hill", "a sea"]
    file.write_text("# nothing\n")
    with pytest.raises(UsageError, match="no control prompts"):
        load_prompts(file)
    with pytest.raises(UsageError, match="Can't read"):
        load_prompts(tmp_path / "absent.txt")
