"""Calibrations: written and read, refused where they do not fit, and the word that they give."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import m2g_audit
from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.calibration import calibration as calibrations
from m2g_audit.calibration.calibration import (
    Calibration,
    CalibrationData,
    CalibrationModel,
    CriticalTimes,
    DistanceFacts,
    Facts,
    ModelKind,
    SpectrumQuantiles,
    StateFacts,
    Trained,
    Transfer,
    check_fit,
    load,
    read_out,
)
from m2g_audit.calibration.naming import name_attractors
from m2g_audit.errors import UsageError
from m2g_audit.records.record import AttractorRecord, AuditRecord, IntervalRecord, parse_record
from m2g_audit.records.schemas import schema_of
from m2g_audit.store.run_directory import RECORD_FILE
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import Verdict
from m2g_audit.verdict.states import State
from tests.audits.test_audit import PROMPT, REPEATING, training_folder
from tests.support.fakes import FakePipeline
from tests.support.samples import interval
from tests.support.setups import fake_job, run_job

SCHEMA_FILE = Path(m2g_audit.__file__).parent / "schema" / "calibration.schema.json"
DATE = datetime.date(2026, 11, 20)
SIGMA = float(FakePipeline.schedule.sigma(5))
KIND = ModelKind(
    architecture="Fake", shape=FakePipeline.latent_shape, space="latents", score="conditional"
)
FACTS = Facts(kind=KIND, spectrum="jacobian", t0=5, sigma_t0=SIGMA, scale=1.0)


def transfer(**changes: Any) -> Transfer:
    defaults: dict[str, Any] = {
        "name": "a small model",
        "to": KIND,
        "sha256": "ef" * 32,
        "readout": "quantile 0.1",
        "threshold": 0.5,
        "auroc": interval(0.86, 0.71, 0.95),
        "balanced_accuracy": interval(0.8, 0.7, 0.9),
        "base_rate": 0.6,
        "memorized": 40,
        "spurious": 30,
        "date": DATE,
    }
    return Transfer(**{**defaults, **changes})


def calibration(**changes: Any) -> Calibration:
    """Return a calibration that fits `FACTS`: two models, one state measured."""
    states = [
        StateFacts(
            state="memorized",
            count=900,
            spectrum=SpectrumQuantiles.of(np.linspace(0, 1, 20).reshape(2, 10)),
            critical_time=CriticalTimes.of([101, 201], "bisection"),
        ),
        StateFacts(state="spurious", count=90),
    ]
    distance = DistanceFacts(
        metric="l2",
        delta_m=0.05,
        delta_s=0.06,
        rule="1% quantiles over fresh pictures",
        fresh=4096,
        samples=1000,
        states=states,
    )
    trained = [Trained(K=K, seed=0, sha256="ab" * 32, distances=[distance]) for K in (2, 256)]
    defaults: dict[str, Any] = {
        "date": DATE,
        "data": CalibrationData(name="digits", images=60_000, shape=(1, 28, 28), scale=1.0),
        "model": CalibrationModel(kind=KIND, parameters=1000, configuration="cd" * 32),
        "t0": 5,
        "sigma_t0": SIGMA,
        "trained": trained,
        "peak_K": 256,
        "transfers": [transfer()],
        "versions": {"m2g-audit": "0.1.0"},
    }
    return Calibration(**{**defaults, **changes})


# -- the file


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    calibration().save(tmp_path / "calibration.json")
    assert load(tmp_path / "calibration.json") == calibration()


def test_schema_in_the_package_is_current() -> None:
    """Make it anew: `m2g-audit schema calibration > m2g_audit/schema/calibration.schema.json`."""
    assert json.loads(SCHEMA_FILE.read_text()) == schema_of(Calibration)
    jsonschema.Draft202012Validator.check_schema(schema_of(Calibration))
    jsonschema.validate(json.loads(calibration().model_dump_json()), schema_of(Calibration))


def write(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**json.loads(calibration().model_dump_json()), **changes}))
    return path


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    with pytest.raises(UsageError, match="No calibration can be read"):
        load(file)
    file.write_text("{")
    with pytest.raises(UsageError, match="Invalid JSON"):
        load(file)
    with pytest.raises(UsageError, match=r"data: Input should be an object"):
        load(write(file, data=None))
    with pytest.raises(UsageError, match=r"schema version 2\.0; this program reads 1\.x"):
        load(write(file, schema_version="2.0"))
    with pytest.raises(UsageError, match="date"):
        load(write(file, date="yesterday"))
    assert load(write(file, schema_version="1.7", a_field_of_1_7=3)).schema_version == "1.7"


def test_a_calibration_does_not_contradict_itself() -> None:
    with pytest.raises(ValidationError, match="nothing was trained at the peak, K = 7"):
        calibration(peak_K=7)
    with pytest.raises(ValidationError, match="K = 2 with seed 0 is there more than once"):
        calibration(trained=[calibration().trained[0]] * 2)
    quantiles = SpectrumQuantiles.of(np.ones((3, 4))).model_dump()
    with pytest.raises(ValidationError, match="equally long"):
        SpectrumQuantiles(**{**quantiles, "sd": [0.0]})
    with pytest.raises(ValidationError, match="as many medians"):
        SpectrumQuantiles(**{**quantiles, "samples": 2})
    times = CriticalTimes.of([1, 2], "alg1").model_dump()
    with pytest.raises(ValidationError, match="equally long"):
        CriticalTimes(**{**times, "at": []})


def test_spectra_are_summed_up_by_sample_and_then_over_samples() -> None:
    # Straight lines from 0: the quantile at q of the line up to c is q c.
    spectra = np.array([1.0, 3.0])[:, None] * np.linspace(0, 1, 101)
    found = SpectrumQuantiles.of(spectra[:, ::-1], at=(0.1, 0.5, 1.0))
    assert found.samples == 2
    assert found.mean == pytest.approx([0.2, 1.0, 2.0])
    assert found.sd == pytest.approx([0.1, 0.5, 1.0])
    assert found.medians == pytest.approx([0.5, 1.5])


def test_critical_times_are_summed_up() -> None:
    found = CriticalTimes.of(range(0, 101), "bisection", at=(0.25, 0.9))
    assert (found.samples, found.mean, found.quantiles) == (101, 50, [25, 90])
    assert found.sd == pytest.approx((100 * 102 / 12) ** 0.5)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30))
def test_what_is_read_off_a_spectrum(values: list[float]) -> None:
    assert read_out("mean", values) == pytest.approx(np.mean(values))
    for name, share in (("quantile 0.1", 0.1), ("median", 0.5), ("quantile 0.9", 0.9)):
        assert read_out(name, values[::-1]) == pytest.approx(np.quantile(values, share))  # type: ignore[arg-type]


# -- which models it fits


def test_a_calibration_fits_the_same_kind_of_model() -> None:
    assert check_fit(calibration(), FACTS) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": {"space": "pixels"}}, ["in latents, and this model works in pixels", "transfer"]),
        (
            {"kind": {"score": "guided"}},
            ["the conditional score, and this audit takes the guided", "transfer"],
        ),
        (
            {"kind": {"shape": (4, 64, 64)}},
            ["no transfer to this kind of model (Fake with 4x64x64"],
        ),
        ({"kind": {"architecture": "Other"}}, ["no transfer to this kind of model (Other"]),
        ({"spectrum": "paper"}, ["`jacobian` spectra, and this audit measures `paper`"]),
        ({"spectrum": None}, ["about spectra, and this audit measures none"]),
        ({"scale": 2.0}, ["sigma_t0 over the data's scale is"]),
    ],
)
def test_every_difference_has_its_reason(changes: dict, said: list[str]) -> None:
    kind = KIND.model_copy(update=changes.pop("kind", {}))
    facts = Facts(**{**vars(FACTS), "kind": kind, **changes})
    reasons = check_fit(calibration(), facts)
    assert len(reasons) == len(said)
    for reason, words in zip(reasons, said, strict=True):
        assert words in reason


@given(st.floats(0.5, 2), st.floats(0.1, 10))
def test_noise_over_the_datas_scale_may_be_a_fifth_apart(factor: float, scale: float) -> None:
    # Only the ratio counts: both may be measured in other units.
    facts = Facts(**{**vars(FACTS), "sigma_t0": factor * scale * SIGMA, "scale": scale})
    fits = check_fit(calibration(), facts) == []
    assert fits == (0.8 <= factor <= 1.2) or abs(abs(factor - 1) - 0.2) < 1e-9


def test_without_a_measured_transfer_there_is_no_fit() -> None:
    [reason] = check_fit(calibration(transfers=[]), FACTS)
    assert reason.endswith("was measured")
    other = transfer(to=KIND.model_copy(update={"shape": (4, 8, 8)}), name="another one")
    [reason] = check_fit(calibration(transfers=[other]), FACTS)
    assert "only to another one (Fake with 4x8x8" in reason


def test_of_two_transfers_to_one_kind_the_first_counts() -> None:
    weak, strong = transfer(auroc=interval(0.5, 0.3, 0.7)), transfer(readout="median")
    assert calibration(transfers=[weak, strong]).transfer_to(KIND) == weak


@pytest.mark.parametrize(
    ("low", "base_rate", "tells"),
    [(0.51, 0.5, True), (0.5, 0.5, False), (0.51, 0.6, False), (0.61, 0.6, True), (0.9, 1, False)],
)
def test_a_transfer_tells_where_its_threshold_is_surely_better_than_one_word_for_all(
    low: float, base_rate: float, tells: bool
) -> None:
    right = interval(0.95, low, 1.0)
    assert transfer(balanced_accuracy=right, base_rate=base_rate).tells is tells


def test_a_transfer_whose_threshold_was_not_judged_does_not_tell() -> None:
    assert not transfer(auroc=interval(0.99, 0.98, 1.0), balanced_accuracy=None).tells


# -- naming


def attractor(state: str, *seeds: int) -> AttractorRecord:
    return AttractorRecord(
        mass=interval(0.5, 0.2, 0.8),
        seeds=list(seeds),
        medoid=seeds[0],
        diameter=0.0,
        state=state,  # type: ignore[arg-type]
    )


def named(
    groups: list[tuple[str, int]], values: dict[int, float], n: int = 16, **changes: Any
) -> tuple[str | None, list[str | None]]:
    """Return the word and the attractors' states: groups of (state, size), read out as `values`."""
    states, attractors = [State.GENERALIZED] * n, []
    start = 0
    for state, size in groups:
        members = range(start, start + size)
        attractors.append(attractor(state, *members))
        for i in members:
            states[i] = State(state)
        start += size
    found = name_attractors(
        calibrations.Fitting(calibration(), b"a file", transfer(**changes)),
        Verdict.ATTRACTOR,
        states,
        [5] * n,
        attractors,
        {number: np.full(10, value) for number, value in values.items()},
        Look(n),
    )
    return found.word, [reading.state for reading in found.readings]


def test_the_prompt_gets_a_word_where_most_of_it_is_named() -> None:
    assert named([("attractor", 16)], {0: 0.5}) == ("memorized", ["memorized"])
    assert named([("attractor", 16)], {0: 0.49}) == ("spurious", ["spurious"])
    both = [("attractor", 8), ("attractor", 8)]
    assert named(both, {0: 0.9, 1: 0.8})[0] == "memorized"
    assert named(both, {0: 0.9, 1: 0.1}) == (None, ["memorized", "spurious"])
    # Half of the seeds are not known to be anything, or are new.
    assert named(both, {0: 0.9})[0] is None
    assert named([("attractor", 9)], {0: 0.9})[0] is None


def test_what_a_reference_names_is_not_named_again() -> None:
    groups = [("memorized", 6), ("attractor", 10)]
    assert named(groups, {0: 0.1, 1: 0.9}) == ("memorized", ["memorized"])
    assert named(groups, {0: 0.1, 1: 0.1}) == (None, ["spurious"])


def test_a_transfer_that_may_be_chance_names_nothing() -> None:
    chance = interval(0.6, 0.4, 0.8)
    assert named([("attractor", 16)], {0: 0.9}, balanced_accuracy=chance) == (None, [None])


# -- the audit


def audit(folder: Path, file: Calibration, **options: Any) -> AuditRecord:
    """Return the audit of a prompt that repeats itself; all its spectra are 1 throughout."""
    file.save(folder / "calibration.json")
    pipeline = FakePipeline(PROMPT, REPEATING)
    job = fake_job(pipeline, calibration=folder / "calibration.json", **options)
    return run_job(job, folder / "run")


@pytest.mark.parametrize(("threshold", "word"), [(0.9, "memorized"), (1.1, "spurious")])
def test_a_calibration_that_fits_names_a_prompt(
    tmp_path: Path, threshold: float, word: str
) -> None:
    record = audit(tmp_path, calibration(transfers=[transfer(threshold=threshold)]))
    assert record.verdict.state == word
    assert f"what repeats is {word} rather than" in record.verdict.summary
    assert "AUROC 0.86 (0.71 to 0.95)" in record.verdict.summary
    assert any("calibration of 2026-11-20 on digits" in said for said in record.verdict.evidence)
    used = record.calibration
    assert used is not None
    assert used.word == word
    assert [(r.attractor, r.state) for r in used.readings] == [(0, word), (1, word)]
    assert [r.value for r in used.readings] == pytest.approx([1, 1], abs=1e-4)
    # What was measured stays as it was.
    assert {seed.state for seed in record.seeds} == {"attractor", "generalized"}
    assert record.verdict.fractions["memorized"].high == 1
    assert parse_record((tmp_path / "run" / RECORD_FILE).read_bytes()) == record


def test_where_the_transfer_may_be_chance_the_word_stays(tmp_path: Path) -> None:
    chance = IntervalRecord(estimate=0.78, low=0.36, high=0.93)
    weak = calibration(transfers=[transfer(balanced_accuracy=chance)])
    record = audit(tmp_path, weak)
    assert record.verdict.state == "attractor"
    assert "--reference" in record.verdict.summary
    assert record.calibration is not None
    assert (record.calibration.tells, record.calibration.word) == (False, None)
    said = " ".join(record.verdict.evidence)
    assert "not shown to be right more often than one word for all" in said


def test_a_complete_reference_needs_no_calibration(tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "training", 1, 7)
    record = audit(
        tmp_path,
        calibration(transfers=[transfer(threshold=1.1)]),
        reference=str(folder),
        reference_complete=True,
    )
    assert record.verdict.state == "memorized"
    assert record.calibration is not None
    assert (record.calibration.readings, record.calibration.word) == ([], None)
    assert any("No attractor is left for it to name" in said for said in record.verdict.evidence)


def test_one_that_does_not_fit_is_refused_with_all_reasons(tmp_path: Path) -> None:
    pixels = KIND.model_copy(update={"space": "pixels", "score": "unconditional"})
    model = CalibrationModel(kind=pixels, parameters=1, configuration="")
    with pytest.raises(UsageError) as refused:
        audit(tmp_path, calibration(model=model, sigma_t0=0.5 * SIGMA, transfers=[]))
    for reason in ("in pixels", "unconditional score", "sigma_t0 over", "no transfer"):
        assert reason in str(refused.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="measures none"):
        audit(tmp_path, calibration(), spectrum="none")
    with pytest.raises(UsageError, match="measures `paper` ones"):
        audit(tmp_path, calibration(), spectrum="exact-alg2")


def test_a_missing_calibration_is_noticed_before_the_model_is_loaded(tmp_path: Path) -> None:
    options = AuditOptions(model="no-such-model", calibration=tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match=r"nowhere\.json"):
        set_up(options)


def test_the_content_of_a_calibration_makes_another_run(tmp_path: Path) -> None:
    pipeline, file = FakePipeline(PROMPT, [1, 2, 3]), tmp_path / "calibration.json"
    without = fake_job(pipeline).identity
    identities = []
    for threshold in (0.4, 0.5):
        calibration(transfers=[transfer(threshold=threshold)]).save(file)
        identities.append(fake_job(pipeline, calibration=file).identity)
    assert identities[0] != identities[1]
    assert "calibration" not in without
    assert {**without, "calibration": identities[0]["calibration"]} == identities[0]


def test_the_calibration_of_pocket_fits_pocket() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "pocket_calibration.json"
    setup = set_up(AuditOptions(model="pocket", reference="none", calibration=path))
    assert setup.calibration is not None
    # Its threshold did no better on another pocket than to say memorized of each.
    assert not setup.calibration.transfer.tells
    [trained] = setup.calibration.calibration.trained
    assert trained.sha256 == setup.pipeline.identity.sha256
    # What counts is what it showed on another model than its own.
    assert setup.calibration.transfer.sha256 != trained.sha256
    assert "(one model of 31,454 pictures)" in setup.calibration.source
