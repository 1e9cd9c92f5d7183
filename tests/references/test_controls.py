"""Control prompts: what is measured of their pictures, what is kept; with a pipeline of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import NumericsError, OutputError, UsageError
from m2g_audit.references.controls import Controls, ControlSettings, all_among, load_prompts
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.screening import ControlResult

L2 = load_metric("l2")
SETTINGS = ControlSettings(seeds_per_prompt=3, steps=5, guidance=2.0)
PROMPTS = [f"prompt number {i}" for i in range(9)]


@dataclass
class FakePipeline:
    """Gives a noise picture for each (prompt, seed), and counts what it was asked for."""

    sha256: str = "0" * 64
    configuration_sha256: str = "0" * 64
    black: Sequence[str] = ()
    overflows: bool = False
    fail_after: int | None = None
    asked: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    @property
    def identity(self) -> Any:
        return SimpleNamespace(
            sha256=self.sha256, configuration_sha256=self.configuration_sha256, dtype="float32"
        )

    def generate(self, prompt: Sequence[str], seeds: Sequence[int], **settings: Any) -> Any:
        assert set(settings) == {"steps", "guidance", "batch_size", "scheduler"}
        if self.fail_after is not None and len(set(self.asked)) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += dict.fromkeys(prompt)
        self.batches.append(len(seeds))
        if self.overflows and set(prompt) <= set(self.black):
            raise NumericsError("None of the pictures is finite.")
        pairs = zip(prompt, seeds, strict=True)
        return SimpleNamespace(images=torch.stack([self.picture(p, s) for p, s in pairs]))

    def picture(self, prompt: str, seed: int) -> Tensor:
        if prompt in self.black:
            return torch.zeros(3, 8, 8)
        return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))


def controls(
    pipeline: FakePipeline, folder: Path, changes: dict[str, Any] | None = None, **others: Any
) -> Controls:
    arguments = {
        "pipeline": pipeline,
        "metric": L2,
        "settings": SETTINGS,
        "prompts": PROMPTS,
        "reference": None,
        "cache_dir": folder,
    }
    return Controls(**{**arguments, **others, **(changes or {})})


def run(pipeline: FakePipeline, folder: Path, **changes: Any) -> list[ControlResult]:
    return controls(pipeline, folder, **changes).run(batch_size=2)


def pictures_of(prompt: str) -> Tensor:
    seeds = [seed_for(0, prompt, i) for i in range(3)]
    return torch.stack([FakePipeline().picture(prompt, seed) for seed in seeds])


def test_each_picture_has_its_distance_to_the_nearest_other_of_its_prompt(tmp_path: Path) -> None:
    for prompt, result in zip(PROMPTS, run(FakePipeline(), tmp_path), strict=True):
        embedded = L2.embed(pictures_of(prompt))
        pairs = distances(L2, embedded, embedded)
        pairs[range(3), range(3)] = 9
        assert result.among == pytest.approx(pairs.min(axis=1).tolist())
        assert result.to_reference is None


def test_each_picture_has_its_distance_to_the_reference(tmp_path: Path) -> None:
    known = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    reference = ReferenceSet(known, [str(i) for i in range(20)], sha256="a")
    for prompt, result in zip(
        PROMPTS, run(FakePipeline(), tmp_path, reference=reference), strict=True
    ):
        expected = distances(L2, L2.embed(pictures_of(prompt)), L2.embed(known)).min(axis=1)
        assert result.to_reference == pytest.approx(expected.tolist())


def test_several_prompts_share_a_batch_and_batches_change_nothing(tmp_path: Path) -> None:
    one, many = FakePipeline(), FakePipeline()
    alone = controls(one, tmp_path / "one").run(batch_size=1)
    together = controls(many, tmp_path / "many").run(batch_size=12)
    assert (one.batches, many.batches) == ([3] * 9, [12, 12, 3])
    assert alone == together


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(FakePipeline(fail_after=5), tmp_path)
    rest = FakePipeline()
    assert controls(rest, tmp_path).images_needed == 3 * (9 - 5)
    resumed = run(rest, tmp_path)
    assert rest.asked == PROMPTS[5:]
    assert resumed == run(FakePipeline(), tmp_path / "elsewhere")


def test_prompts_that_were_run_before_are_not_run_again(tmp_path: Path) -> None:
    run(FakePipeline(), tmp_path, prompts=PROMPTS[:4])
    rest = FakePipeline()
    run(rest, tmp_path)
    assert rest.asked == PROMPTS[4:]


@pytest.mark.parametrize(
    "change",
    [
        {"settings": replace(SETTINGS, guidance=3.0)},
        {"settings": replace(SETTINGS, seeds_per_prompt=4)},
        {"pipeline": FakePipeline(sha256="1" * 64)},
        {"pipeline": FakePipeline(configuration_sha256="1" * 64)},
        {"settings": replace(SETTINGS, scheduler="keep")},
        {"metric": load_metric("tiled_l2")},
        {"reference": ReferenceSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"], sha256="b")},
    ],
    ids=[
        "guidance",
        "seeds",
        "weights",
        "configuration",
        "scheduler",
        "metric",
        "reference",
    ],
)
def test_what_can_change_a_result_is_not_taken_from_the_cache(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    run(FakePipeline(), tmp_path)
    settings = change.get("settings", SETTINGS)
    changed = controls(FakePipeline(), tmp_path, changes=change)
    assert changed.images_needed == 9 * settings.seeds_per_prompt
    assert controls(FakePipeline(sha256="1" * 64), tmp_path).images_needed == 27
    assert controls(FakePipeline(), tmp_path).images_needed == 0


def test_a_broken_cache_is_made_again(tmp_path: Path) -> None:
    expected = run(FakePipeline(), tmp_path)
    (cache,) = tmp_path.iterdir()
    for broken in ('{"prompt number 1": {"among"', '{"prompt number 1": {"within": [1]}}', "[]"):
        cache.write_text(broken)
        assert run(FakePipeline(), tmp_path) == expected


def test_progress_counts_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    controls(FakePipeline(), tmp_path).run(2, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 27)
    assert seen[-1] == (27, 27)
    assert seen == sorted(seen)


def test_black_pictures_are_no_duplicates(tmp_path: Path) -> None:
    *_, result = run(FakePipeline(black=["black"]), tmp_path, prompts=[*PROMPTS, "black"])
    assert result == ControlResult([], None)
    known = ReferenceSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"], sha256="b")
    black = {"prompts": ["black"], "reference": known}
    assert run(FakePipeline(black=["black"]), tmp_path, **black) == [ControlResult([], [])]


@pytest.mark.parametrize("batch_size", [1, 30])
def test_a_prompt_that_overflows_does_not_stop_the_others(tmp_path: Path, batch_size: int) -> None:
    """In half precision a model may overflow for a prompt or two of those that every audit runs."""
    overflowing = FakePipeline(black=PROMPTS[2:3], overflows=True)
    results = controls(overflowing, tmp_path / "some").run(batch_size)
    expected = run(FakePipeline(), tmp_path / "fine")
    expected[2] = ControlResult([], None)
    assert results == expected


def test_distances_of_all_prompts_are_put_together() -> None:
    results = [ControlResult([1.0, 2.0], None), ControlResult([], None), ControlResult([3.0], [1])]
    assert all_among(results).tolist() == [1, 2, 3]


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
    with pytest.raises(UsageError, match="Control prompts: There are no prompts"):
        load_prompts(file)
    with pytest.raises(UsageError, match="Can't read"):
        load_prompts(tmp_path / "absent.txt")


def test_control_prompts_are_a_list_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "controls.json"
    file.write_text('{"1.png": {"caption": "a hill"}, "2.png": {"caption": "a sea"}}')
    assert load_prompts(file) == ["a hill", "a sea"]
    file.write_text("a hill --n fog\n")
    with pytest.raises(UsageError, match="give a txt file with a prompt a line"):
        load_prompts(file)
    file.write_text('[{"prompt": "a hill", "negative_prompt": "fog"}]')
    with pytest.raises(UsageError, match="without negative prompts"):
        load_prompts(file)
