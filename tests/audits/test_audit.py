"""One prompt end to end on a model whose pictures are chosen: states, verdict, resume, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from m2g_audit.audits import spectra
from m2g_audit.audits.audit import execute
from m2g_audit.audits.estimates import estimate
from m2g_audit.audits.spectra import choose_samples
from m2g_audit.diagnostics.oracles import Empirical
from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.pictures.tensors import to_picture
from m2g_audit.records.record import AttractorRecord, AuditRecord, SeedRecord, format_record
from m2g_audit.store.run_directory import DISTANCES_FILE, RunDirectory, read_record
from tests.support.calibrations import PROMPT, REPEATING, training_folder
from tests.support.fakes import FakePipeline, picture, to_latents
from tests.support.samples import interval
from tests.support.setups import fake_job, run_job


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))


def audit(pipeline: FakePipeline, out: Path, **options: object) -> AuditRecord:
    return run_job(fake_job(pipeline, out=out, **options), out)


def comparable(record: AuditRecord) -> dict[str, object]:
    return json.loads(format_record(record.model_copy(update={"timings": None})))


def test_training_pictures_that_come_back_are_memorized(tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "training", 1, 7, 8)
    record = audit(
        FakePipeline(PROMPT, REPEATING),
        tmp_path / "run",
        reference=str(folder),
        reference_complete=True,
    )
    assert record.verdict.state == "memorized"
    assert [seed.state for seed in record.seeds].count("memorized") == 17
    assert [record.seeds[i].state for i in (8, 9)] == ["spurious", "spurious"]
    assert record.seeds[12].state == "generalized"
    first, second = record.attractors
    assert first.seeds == [i for i in range(20) if i not in (8, 9, 12)]
    assert first.mass.estimate == 0.85
    assert first.nearest_reference is not None
    assert first.nearest_reference.name == "1.png"
    assert first.nearest_reference.distance == 0
    assert (second.state, second.seeds) == ("spurious", [8, 9])
    assert record.reference is not None
    assert (record.reference.pictures, record.reference.complete) == (3, True)
    assert not record.thresholds.calibrated  # type: ignore[union-attr]
    assert any("uncalibrated" in sentence for sentence in record.verdict.evidence)
    for seed in record.seeds:
        assert (tmp_path / "run" / seed.image).is_file()
        assert (tmp_path / "run" / seed.nearest_reference.image).is_file()  # type: ignore[union-attr,operator]


def test_pictures_of_a_first_audit_do_not_make_a_second_one_memorized(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = training_folder(tmp_path / "training", 7, 8)
    monkeypatch.chdir(folder)
    for out in (Path("runs/first"), Path("runs/second"), Path("third")):
        record = audit(FakePipeline(PROMPT, [1] * 8), out, reference=".")
        assert record.verdict.state == "attractor"
        assert record.reference is not None
        assert record.reference.files is not None
        assert record.reference.pictures == record.reference.files.files == 2
    assert record.reference.files.own == ["runs/first", "runs/second"]
    assert any("runs/first; runs/second" in warning for warning in record.warnings)


def test_what_of_the_reference_is_not_read_stands_in_the_record(tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "training", 7, 8)
    (folder / "9.psd").write_bytes(b"8BPS" + bytes(40))
    record = audit(FakePipeline(PROMPT, [1] * 8), tmp_path / "run", reference=str(folder))
    assert record.reference is not None
    assert record.reference.files is not None
    assert record.reference.files.unread_names == ["9.psd (a Photoshop file)"]
    assert any("9.psd" in warning for warning in record.warnings)
    assert read_record(tmp_path / "run") == record


def test_the_distances_of_all_pairs_are_kept(tmp_path: Path) -> None:
    audit(FakePipeline(PROMPT, [1, 2, 1]), tmp_path / "run", spectrum="none")
    stored = load_file(tmp_path / "run" / DISTANCES_FILE)["samples"]
    rms = float((picture(1) - picture(2)).double().square().mean().sqrt())
    expected = torch.tensor([[0, rms, 0], [rms, 0, rms], [0, rms, 0]], dtype=torch.float64)
    assert torch.allclose(stored, expected, atol=1e-6)


def test_without_a_reference_repeats_are_attractors(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, REPEATING), tmp_path / "run")
    assert record.verdict.state == "attractor"
    assert "--reference" in record.verdict.summary
    assert {seed.state for seed in record.seeds} == {"attractor", "generalized"}
    assert record.reference is None


def test_a_reference_that_may_have_holes_calls_nothing_spurious(tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "training", 7, 8)
    record = audit(FakePipeline(PROMPT, REPEATING), tmp_path / "run", reference=str(folder))
    assert {seed.state for seed in record.seeds} == {"attractor", "generalized"}
    assert "--reference-complete" in record.verdict.summary


def test_new_pictures_are_generalized(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, range(16)), tmp_path / "run")
    assert record.verdict.state == "generalized"
    assert record.attractors == []
    assert "26%" in record.verdict.summary


def test_each_attractor_is_read_over_its_members(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, REPEATING), tmp_path / "run")
    large, small = (attractor.read_outs for attractor in record.attractors)
    assert large is not None
    assert small is not None
    assert len(large.members) == 6
    assert set(large.members) < set(record.attractors[0].seeds)
    assert small.members == record.attractors[1].seeds
    for found in (large, small):
        assert found.evaluations == 14  # under the 16 that a name may cost
        assert found.spread < 1e-6  # the model predicts one picture, whatever the noise
        assert found.freedom is not None
        assert found.freedom < -15
        assert found.curvature_towards == pytest.approx(1, abs=1e-3)
        assert found.denoising_error > 0  # it is another picture
    again = audit(FakePipeline(PROMPT, REPEATING), tmp_path / "run")
    assert [a.read_outs for a in again.attractors] == [large, small]


def test_without_scores_and_without_others_nothing_is_read(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, REPEATING), tmp_path / "run", spectrum="none")
    assert all(attractor.read_outs is None for attractor in record.attractors)
    record = audit(FakePipeline(PROMPT, [1] * 8), tmp_path / "alone")
    (only,) = record.attractors
    assert only.read_outs is not None
    assert (only.read_outs.curvature_towards, only.read_outs.evaluations) == (None, 12)


def test_curvature_of_one_memory_is_one(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, REPEATING), tmp_path / "run")
    assert [entry.image for entry in record.curvature] == [0, 8, 12]
    assert [entry.attractor for entry in record.curvature] == [0, 1, None]
    for entry in record.curvature:
        assert (entry.kind, entry.algorithm, entry.score) == ("jacobian", "fast", "conditional")
        assert entry.singular_values == pytest.approx([1.0] * 64, abs=1e-4)
        assert entry.rank == 64
        assert (tmp_path / "run" / entry.file).is_file()
        with safe_open(tmp_path / "run" / entry.file, "pt") as file:
            kept = json.loads(file.metadata()["entry"])
        # A spectrum outlives thresholds, and with them what its sample is called.
        assert kept.keys().isdisjoint({"state", "attractor"})
        assert kept["evaluations"] == entry.evaluations


def test_curvature_can_be_left_out(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, [1, 2]), tmp_path / "run", spectrum="none")
    assert record.curvature == []


class Remembering(FakePipeline):
    """Its score is that of two pictures, 1 and 2: each comes back from some noise."""

    def bind(
        self,
        prompt: str,
        *,
        guidance: float = 3.0,
        kind: str = "conditional",
        negative_prompt: str | None = None,
    ) -> ScoreModel:
        if not prompt:
            return super().bind(prompt)
        latents = to_latents(torch.stack([picture(n) for n in (1, 2)]))
        return Empirical(latents, self.schedule)


@pytest.mark.parametrize("exact", [False, True])
def test_basins_of_attractors(tmp_path: Path, exact: bool) -> None:
    pipeline = Remembering(PROMPT, [1, 1, 4, 4, 2, 2])
    record = audit(pipeline, tmp_path, basin=True, basin_exact=exact, spectrum="none")
    found = {attractor.seeds[0]: attractor.basin for attractor in record.attractors}
    assert {seed: basin is None for seed, basin in found.items()} == {0: False, 2: False, 4: False}
    for seed, basin in found.items():
        assert basin is not None
        assert (basin.critical_time > 0) == (seed != 2)
        assert basin.algorithm == ("alg1" if exact else "bisection")
        assert basin.delta_d == record.thresholds.delta_m  # type: ignore[union-attr]
        assert len(basin.critical_times) == 20
        assert basin.checked == sorted(basin.checked)
        assert len(basin.recovery) == len(basin.checked)
        assert basin.evaluations
    assert found[0].radius > found[2].radius  # type: ignore[union-attr]


def test_no_attractor_has_no_basin(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, [1, 2, 3]), tmp_path, basin=True)
    assert record.attractors == []


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_interrupted_audit_goes_on(tmp_path: Path, batch_size: int) -> None:
    whole = audit(FakePipeline(PROMPT, [1, 1, 2, 3, 4]), tmp_path / "whole")
    stopped = FakePipeline(PROMPT, [1, 1, 2, 3, 4], stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        audit(stopped, tmp_path / "run", batch_size=batch_size)
    assert not (tmp_path / "run" / "record.json").exists()
    again = FakePipeline(PROMPT, [1, 1, 2, 3, 4])
    record = audit(again, tmp_path / "run")
    assert stopped.made + again.made == [0, 1, 2, 3, 4]
    differing = {
        key for key, value in comparable(record).items() if value != comparable(whole)[key]
    }
    assert differing == set()


def test_a_batch_of_another_size_is_the_same_run(tmp_path: Path) -> None:
    jobs = [
        fake_job(FakePipeline(PROMPT, [1, 2, 3]), out=tmp_path / "run", batch_size=size)
        for size in (1, 3)
    ]
    assert jobs[0].identity == jobs[1].identity


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"seeds": 2},
        {"steps": 9},
        {"guidance": 1.5},
        {"metric": "tiled_l2"},
        {"spectrum": "exact-alg2"},
        {"t0": 300},
        {"basin": True},
        {"scheduler": "keep"},
        {"seeds": "auto"},
        {"delta_s": 0.1},
        {"controls": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_a_number_makes_another_run(tmp_path: Path, change: dict[str, object]) -> None:
    pipeline = FakePipeline(PROMPT, [1, 2, 3])
    first = fake_job(pipeline, out=tmp_path)
    second = fake_job(pipeline, out=tmp_path, **change)
    assert first.identity != second.identity


def test_no_guidance_is_one_however_it_is_said(tmp_path: Path) -> None:
    pipeline = FakePipeline(PROMPT, [1, 2])
    jobs = [fake_job(pipeline, out=tmp_path, guidance=value) for value in (0.0, 1.0)]
    assert jobs[0].setup.settings.guidance == jobs[1].setup.settings.guidance == 1
    assert jobs[0].identity == jobs[1].identity
    with pytest.raises(UsageError, match=r"guidance of 0\.5"):
        fake_job(pipeline, out=tmp_path, guidance=0.5)


def test_a_spectrum_beyond_what_was_announced_still_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measure = spectra._measure_spectrum

    def long(*arguments):  # as where a spectrum is wide
        for done in range(0, 2000, 100):
            arguments[-1](done)
        return measure(*arguments)

    monkeypatch.setattr(spectra, "_measure_spectrum", long)
    told: list[tuple[int, int]] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == "curvature":
            told.append((done, total))

    job = fake_job(FakePipeline(PROMPT, [1, 2]), spectrum_samples=1)
    execute(job, RunDirectory.open(tmp_path, job.identity), on_progress)
    *before, (last, all_) = told
    assert max(done for done, _ in before) >= 1900
    assert all(done < total for done, total in before)
    assert last == all_


def test_spectra_of_what_may_be_copies_or_not_alone(tmp_path: Path) -> None:
    pipeline = FakePipeline(PROMPT, REPEATING)
    record = audit(pipeline, tmp_path / "unnamed", spectrum_of="unnamed")
    assert {each.state for each in record.attractors} == {"attractor"}
    assert [entry.image for entry in record.curvature] == [a.medoid for a in record.attractors]
    new = audit(FakePipeline(PROMPT, [1, 2, 3]), tmp_path / "new", spectrum_of="unnamed")
    assert new.curvature == []


def test_another_algorithm_for_basins_makes_another_run(tmp_path: Path) -> None:
    jobs = [
        fake_job(FakePipeline(PROMPT, [1, 2]), out=tmp_path, basin=True, basin_exact=exact)
        for exact in (False, True)
    ]
    assert jobs[0].identity != jobs[1].identity
    with pytest.raises(UsageError, match="give both, or neither"):
        fake_job(FakePipeline(PROMPT, [1, 2]), out=tmp_path, basin_exact=True)


def test_what_every_audit_finds_out_about_the_model_is_kept(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, [1, 1, 2]), tmp_path / "run")
    thresholds, findings, power = record.thresholds, record.findings, record.power
    assert thresholds is not None
    assert (thresholds.rule, thresholds.calibrated) == ("rule of thumb", False)
    assert findings is not None
    assert (findings.prompts, findings.seeds) == (16, 2)
    assert not findings.contaminated
    assert power is not None
    assert power.suffices
    again = FakePipeline(PROMPT, [1, 1, 2])
    audit(again, tmp_path / "again")
    assert again.made_of_others == []


def test_the_probe_and_the_plants_are_part_of_the_estimate(tmp_path: Path) -> None:
    job = fake_job(FakePipeline(PROMPT, [1, 1, 2]), out=tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run", job.identity)
    seconds = estimate(job, run).seconds
    # 16 prompts x 2 seeds, 16 pictures to plant, and 256 plants of a few steps each.
    assert seconds["thresholds"] == pytest.approx((32 + 16 + 16) / 3 * seconds["images"])
    execute(job, run)
    assert "thresholds" not in estimate(job, run).seconds


def test_unseen_pictures_set_thresholds_and_make_another_run(tmp_path: Path) -> None:
    pipeline = FakePipeline(PROMPT, [1] * 15 + [999])
    folders = {
        "reference": str(training_folder(tmp_path / "training", *range(110))),
        "unseen": training_folder(tmp_path / "held-out", *range(200, 320)),
    }
    record = audit(pipeline, tmp_path / "run", **folders)
    assert record.verdict.state == "memorized"
    thresholds = record.thresholds
    assert thresholds is not None
    assert (thresholds.rule, thresholds.calibrated, thresholds.controls) == (
        "unseen pictures",
        True,
        120,
    )
    assert "held-out" in record.verdict.evidence[0]
    assert record.seeds[0].nearest_reference.margin == 0  # type: ignore[union-attr]
    new = record.seeds[15].nearest_reference
    assert new is not None
    assert new.margin == pytest.approx(new.distance / thresholds.delta_m)  # type: ignore[operator]
    assert new.margin > 1
    assert new.ratio is not None
    before = fake_job(pipeline, out=tmp_path, **folders).identity
    to_picture(picture(400)).save(folders["unseen"] / "400.png")  # type: ignore[operator]
    assert fake_job(pipeline, out=tmp_path, **folders).identity != before


def test_in_a_collapsed_model_what_repeats_is_collapsed(tmp_path: Path) -> None:
    def repeating(prompt: str, seed: int) -> int:
        return 10**6 + len(prompt)

    same = FakePipeline(PROMPT, [1] * 16, others=repeating)
    record = audit(same, tmp_path / "same", spectrum="none")
    assert record.verdict.state == "collapsed"
    assert record.findings is not None
    assert record.findings.collapsed
    assert any("seeds do little in it for any prompt" in said for said in record.warnings)
    new = FakePipeline(PROMPT, range(16), others=repeating)
    assert audit(new, tmp_path / "new", spectrum="none").verdict.state == "generalized"
    folder = training_folder(tmp_path / "training", 1, 2)
    copies = audit(same, tmp_path / "copies", spectrum="none", reference=str(folder))
    assert copies.verdict.state == "memorized"


@pytest.mark.parametrize(
    ("numbers", "made", "state"),
    [
        ([1] * 64, 16, "attractor"),
        (range(64), 16, "generalized"),
        ([1, 2, 3, 1] * 16, 16, "attractor"),
    ],
)
def test_seeds_are_taken_until_the_verdict_is_settled(
    tmp_path: Path,
    numbers: list[int],
    made: int,
    state: str,
) -> None:
    pipeline = FakePipeline(PROMPT, numbers)
    record = audit(pipeline, tmp_path / "run", seeds="auto", spectrum="none")
    assert pipeline.made == list(range(made))
    assert record.verdict.state == state
    assert record.looks is not None
    assert (record.looks.looks, record.looks.ended_at) == ([8, 16, 32, 64], made)
    again = FakePipeline(PROMPT, numbers)
    audit(again, tmp_path / "run", seeds="auto", spectrum="none")
    assert again.made == []


def test_the_content_of_the_reference_makes_another_run(tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "training", 1)
    pipeline = FakePipeline(PROMPT, [1, 2, 3])
    first = fake_job(pipeline, out=tmp_path, reference=str(folder))
    to_picture(picture(2)).save(folder / "2.png")
    second = fake_job(pipeline, out=tmp_path, reference=str(folder))
    assert first.identity != second.identity


def test_generator_seeds_are_those_of_plain_diffusers(tmp_path: Path) -> None:
    record = audit(FakePipeline(PROMPT, [1, 2, 3]), tmp_path / "run")
    for seed in record.seeds:
        torch.Generator("cpu").manual_seed(seed.generator_seed)
    assert len({seed.generator_seed for seed in record.seeds}) == 3


def test_failed_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    pipeline = FakePipeline(PROMPT, [1, None, 1, None, 2, 3])
    record = audit(pipeline, tmp_path / "run", batch_size=1)
    assert [seed.state for seed in record.seeds].count("failed") == 2
    assert [failure.index for failure in record.failures] == [1, 3]
    assert record.seeds[1].nearest_sample is None
    assert record.attractors[0].mass.estimate == 0.5
    again = audit(FakePipeline(PROMPT, []), tmp_path / "run", seeds=6)
    assert comparable(again)["seeds"] == comparable(record)["seeds"]


def test_an_overflow_everywhere_is_an_error_and_a_record(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="float32"):
        audit(FakePipeline(PROMPT, [None, None, None]), tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.error is not None
    assert record.error.exit_code == 5
    audit(FakePipeline(PROMPT, [1, 2, 3]), tmp_path / "run")
    assert read_record(tmp_path / "run").error is None


def test_a_prompt_that_is_not_read_to_its_end_is_said(tmp_path: Path) -> None:
    prompt = "word " * 30
    record = audit(FakePipeline(prompt, [1, 2]), tmp_path / "run")
    assert record.wording.tokens == 32
    assert record.wording.cut_off == " ".join(["word"] * 12)
    assert any("32 tokens" in warning for warning in record.warnings)


def test_the_estimate_shrinks_with_what_is_done(tmp_path: Path) -> None:
    job = fake_job(FakePipeline(PROMPT, [1, 2]), out=tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run", job.identity)
    before = estimate(job, run)
    assert before.seconds["images"] > 0
    assert before.seconds["curvature"] > 0
    execute(job, run)
    assert estimate(job, run).seconds["images"] == 0
    assert "memory" in str(before)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 6))
def test_chosen_samples_cover_attractors_and_others(groups: list[int], count: int) -> None:
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    clusters = [m for m in members.values() if len(m) > 1]
    template = SeedRecord(index=0, generator_seed=0, state="generalized", image="x")
    home = {i: k for k, cluster in enumerate(clusters) for i in cluster}
    seeds = [
        template.model_copy(update={"index": i, "attractor": home.get(i)})
        for i in range(len(groups))
    ]
    attractors = [
        AttractorRecord(
            mass=interval(0.5, 0, 1), seeds=m, medoid=m[0], diameter=0.0, state="attractor"
        )
        for m in clusters
    ]
    chosen = choose_samples(seeds, attractors, count)
    assert len(chosen) == len(set(chosen)) <= count
    others = [i for i in range(len(groups)) if i not in home]
    assert len(chosen) == min(count, len(clusters) + len(others))
    if clusters:
        assert chosen[0] == clusters[0][0]
    if others and count > 1:
        assert set(chosen) & set(others)
