"""`m2g-audit batch`: the list in, the folder out, exit codes, and what is shown meanwhile."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from m2g_audit.audits import estimates
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.batch.tally import Tally
from m2g_audit.cli import main
from m2g_audit.cli.batch_progress import line, panel, show, watching
from m2g_audit.errors import OutputError
from m2g_audit.models import downloads
from m2g_audit.review.gate import WORST_FIRST
from m2g_audit.review.summary import Summary, summarise
from m2g_audit.store.batch_directory import BatchDirectory
from m2g_audit.verdict.thresholds import Thresholds
from tests.support.batch_work import ManyPrompts
from tests.support.made_run import HANGING, RELEASE, findings, make_run

Run = Callable[..., tuple[int, str, str]]
LIST = "id;caption;label\n1;new dog;N\n2;same kite;VM\n3;half cat;\n4;same kite;VM\n"


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ManyPrompts:
    fake = ManyPrompts()
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("M2G_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", lambda *_, **__: fake)
    monkeypatch.setattr(downloads, "pending_bytes", lambda *_, **__: 0)
    Path("list.csv").write_text(LIST)
    return fake


@pytest.fixture
def run(
    pipeline: ManyPrompts, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Run `m2g-audit batch` in this process; return exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        fixed = ("--model", "fake", "--seeds", "7", "--spectrum", "none")
        monkeypatch.setattr(sys, "argv", ["m2g-audit", "batch", *arguments, *fixed])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return (0 if code is None else int(code)), *capfd.readouterr()

    return call


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds = Thresholds("l2", 0.1, 0.1, "measured here", 100, True)
    yardstick = Yardstick(None, thresholds)
    monkeypatch.setattr("m2g_audit.audits.audit.find_yardstick", lambda *_: yardstick)


def write(*prompts: str) -> str:
    Path("list.txt").write_text("\n".join(prompts))
    return "list.txt"


def test_a_list_becomes_a_folder(run: Run) -> None:
    code, out, err = run("list.csv", "--out", "run")
    assert code == 0
    assert "attractor" in out
    assert "Uncalibrated" in out
    assert "1 rows repeat a prompt" in err
    assert "about" in err
    for name in ("records.jsonl", "results.parquet", "summary.json"):
        assert Path("run", name).is_file()
        assert f"run/{name}" in out
    assert len(list(Path("run/prompts").iterdir())) == 3


def test_json_is_the_summary_alone(run: Run) -> None:
    code, out, _ = run("list.csv", "--out", "run", "--format", "json")
    assert code == 0
    summary = Summary.model_validate_json(out)
    assert (summary.done, summary.verdicts["attractor"]) == (3, 1)
    assert summary.labels == {"VM": {"attractor": 1}, "N": {"undecided": 1}}
    assert json.loads(out) == json.loads(Path("run/summary.json").read_text())


def test_records_match_their_schema(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("list.csv", "--out", "run")[0] == 0
    monkeypatch.setattr(sys, "argv", ["m2g-audit", "schema", "batch"])
    with pytest.raises(SystemExit):
        main()
    schema = json.loads(capfd.readouterr().out)
    for line_ in Path("run/records.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line_), schema)


def test_the_same_command_shows_what_is_there(run: Run, pipeline: ManyPrompts) -> None:
    first = run("list.csv")[1]
    made = len(pipeline.batches)
    code, out, err = run("list.csv")
    assert (code, out) == (0, first)
    assert "Already done" in err
    assert len(pipeline.batches) == made
    assert [path.name.split("-")[0] for path in Path("runs").iterdir()] == ["list"]


def test_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"new dog\nnew cat\n")))
    assert run("-", "--out", "run")[0] == 0
    assert len(Path("run/records.jsonl").read_text().splitlines()) == 2


def test_shares_together_are_the_whole(run: Run) -> None:
    code, out, _ = run("list.csv", "--out", "run", "--shard", "1/2")
    assert code == 0
    assert "no record yet" in out
    assert not Path("run/results.parquet").exists()
    assert run("list.csv", "--out", "run", "--shard", "2/2")[0] == 0
    assert Path("run/results.parquet").exists()


def test_a_limit_audits_the_first_prompts_only(run: Run) -> None:
    assert run("list.csv", "--out", "run", "--limit", "2")[0] == 0
    assert len(Path("run/records.jsonl").read_text().splitlines()) == 2
    assert run("list.csv", "--out", "run")[0] == 0
    assert len(Path("run/records.jsonl").read_text().splitlines()) == 3


def test_a_dry_run_says_what_there_is_to_do_and_leaves_nothing(run: Run) -> None:
    code, out, err = run("list.csv", "--out", "run", "--dry-run", "--fail-on", "memorized")
    assert (code, out) == (0, "")
    assert "3 prompts of 7 seeds are 21 pictures" in err
    assert "run: 0 of 3 prompts are done; the rest takes" in err
    assert not Path("run").exists()
    assert run("list.csv", "--out", "run", "--limit", "2")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert "run: 2 of 3 prompts are done" in run("list.csv", "--out", "run", "--dry-run")[2]
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


# -- the gate


@pytest.mark.parametrize("output", ["text", "json"])
def test_findings_are_annotated_and_the_gate_speaks_beside_json_too(run: Run, output: str) -> None:
    options = ("--fail-on", "memorized", "--annotate", "--format", output)
    code, out, err = run(write("same kite", "broken sail"), "--out", "run", *options)
    assert code == 1
    said = err if output == "json" else out
    lines = [line for line in said.splitlines() if line.startswith("::error")]
    assert [line.split("::")[2].split(":")[0] for line in lines] == ["same kite", "broken sail"]
    assert "Gate FAILED, exit code 1" in said
    assert "m2g-audit report run" in said
    if output == "json":
        assert json.loads(out)["failed"] == 1


@pytest.mark.parametrize(
    ("prompts", "fail_on", "code"),
    [
        (("new dog",), None, 0),
        (("same kite",), None, 0),
        (("same kite",), "memorized", 1),
        (("same kite", "broken sail"), "memorized", 1),
        (("broken sail",), None, 3),
        (("new dog", "broken sail"), "memorized", 1),  # seven seeds can miss too much
        (("broken sail",), "memorized", 3),
        (("new dog",), "spurious", 1),
        (("new dog",), "undecided", 1),
    ],
)
def test_exit_codes(
    run: Run, calibrated: None, prompts: tuple[str, ...], fail_on: str | None, code: int
) -> None:
    options = () if fail_on is None else ("--fail-on", fail_on)
    found, out, _ = run(write(*prompts), "--out", "run", *options)
    assert found == code
    word = f"{'passed' if code == 0 else 'FAILED'}, exit code {code}"
    assert (f"Gate {word}: " in out) == ("Gate" in out) == (fail_on is not None)
    assert run(write(*prompts), "--out", "run", *options)[0] == code, "the same when done already"


def test_uncalibrated_findings_fail_at_every_level(run: Run) -> None:
    assert run(write("half cat"), "--out", "run", "--fail-on", "memorized")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.csv",), "Can't read the prompts"),
        (("list.csv", "--column", "text"), "no column 'text'"),
        (("list.csv", "--shard", "5/4"), "--shard 5/4 is not possible"),
        (("list.csv", "--shard", "1/0"), "--shard 1/0 is not possible"),
        (("list.csv", "--shard", "4/4"), "none of the 3 prompts"),
        (("list.csv", "--fail-on", "generalized"), "fail-on"),
        (("list.csv", "--batch-size", "0"), "--batch-size 0 is not possible"),
        (("list.csv", "--reference-complete"), "needs the --reference"),
        (("list.csv", "--t0", "1000"), "--t0 1000 is not possible"),
        (("list.csv", "--delta-s", "0"), "--delta-s 0 is no distance"),
        (("list.csv", "--delta-m", "0.1"), "--delta-s, and with a reference --delta-m too"),
        (("list.csv", "--unseen", "."), "--unseen sets the thresholds of a --reference folder"),
        (("list.csv", "--control-prompts", "nowhere"), "Control prompts: Can't read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert not Path("runs").exists()


def test_a_list_that_breaks_its_reader_is_no_finding(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("m2g_audit.prompts.reading.read_json", breaks)
    Path("list.jsonl").write_text("{}")
    code, _, err = run("list.jsonl", "--out", "run")
    assert code == 2
    assert "list.jsonl can't be read as a list of prompts: RecursionError: too deep" in err


def test_no_memory_for_the_list_is_no_finding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("m2g_audit.prompts.reading.read_json", breaks)
    Path("list.jsonl").write_text("{}")
    assert run("list.jsonl", "--out", "run")[0] == 3


def test_an_empty_list_is_not_clean(run: Run) -> None:
    assert run(write("", " "))[0] == 2


def test_other_settings_are_refused_with_the_difference(run: Run) -> None:
    assert run("list.csv", "--out", "run")[0] == 0
    code, _, err = run("list.csv", "--out", "run", "--guidance", "9")
    assert code == 2
    assert "guidance: 3.0 there, 9.0 now" in err
    Path("list.csv").write_text(LIST + "5;new sail;\n")
    code, _, err = run("list.csv", "--out", "run")
    assert code == 2
    assert "“new sail”" in err


@pytest.mark.parametrize("found", [False, True])
@pytest.mark.parametrize(
    "error",
    [OutputError("No space left on device."), ZeroDivisionError("a fault"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_what_stops_a_run_leaves_the_gate_closed(
    run: Run, monkeypatch: pytest.MonkeyPatch, found: bool, error: BaseException
) -> None:
    prompts = write("same kite" if found else "torn cat", *(f"new {i}" for i in range(9)))

    def stop(*_: object, **__: object) -> None:
        raise error

    if found:
        assert run(prompts, "--out", "run", "--shard", "1/10", "--fail-on", "memorized")[0] == 1
    monkeypatch.setattr("m2g_audit.batch.batch.gather", stop)
    code, out, err = run(prompts, "--out", "run", "--fail-on", "memorized", "--junit", "gate.xml")
    assert (code, out) == (1 if found else 3, "")
    assert "Traceback" not in err
    suite = ElementTree.parse("gate.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("failures"), suite.get("errors")) == (("1", "9") if found else ("0", "10"))


def test_a_model_that_is_not_there_is_incomplete(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(
        sys, "argv", ["m2g-audit", "batch", str(Path(__file__)), "--model", "./no", "--read-as=txt"]
    )
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 3


def test_ctrl_c_says_how_to_go_on(run: Run, pipeline: ManyPrompts) -> None:
    def stop(prompts: list[str]) -> None:
        if "half cat" in prompts:
            raise KeyboardInterrupt

    pipeline.before = stop
    code, out, err = run("list.csv", "--out", "run", "--batch-size", "6")
    assert (code, out) == (130, "")
    assert "kept in run" in err
    assert "same command continues" in err
    pipeline.before = lambda _: None
    assert run("list.csv", "--out", "run", "--batch-size", "6")[0] == 0


def test_a_first_prompt_that_fails_does_not_hinder_the_estimate(run: Run) -> None:
    code, out, err = run(write("broken sail", "new dog"), "--out", "run")
    assert code == 3
    assert "failed" in out
    assert "is not known" in err


def test_damage_is_repaired_and_said(run: Run) -> None:
    assert run("list.csv", "--out", "run")[0] == 0
    with Path("run/records.jsonl").open("r+b") as file:
        file.truncate(Path("run/records.jsonl").stat().st_size - 5)
    code, _, err = run("list.csv", "--out", "run")
    assert code == 0
    assert "ended in the middle of a record" in err
    assert len(Path("run/records.jsonl").read_text().splitlines()) == 3


def test_a_line_that_is_no_record_is_done_again(run: Run) -> None:
    assert run("list.csv", "--out", "run")[0] == 0
    file = Path("run/records.jsonl")
    first, *others = file.read_text().splitlines()
    record = json.loads(first)
    file.write_text("\n".join([json.dumps({**record, "seeds": "none"}), *others]) + "\n")
    code, _, err = run("list.csv", "--out", "run")
    assert code == 0
    assert "1 lines of run/records.jsonl are no records" in err
    assert "2 of 3 prompts are done" in err
    assert sorted(file.read_text().splitlines()) == sorted([first, *others])


def test_a_folder_that_is_removed_meanwhile_is_no_clean_batch(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = estimates.estimate

    def estimate(*arguments: Any) -> estimates.Estimate:
        shutil.rmtree("run")
        return measured(*arguments)

    monkeypatch.setattr(estimates, "estimate", estimate)
    code, _, err = run("list.csv", "--out", "run")
    assert code == 3
    assert "run was removed while it was worked on" in err


def test_a_long_batch_needs_yes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    each = estimates.Estimate({"images": 300.0, "thresholds": 60.0}, 0, 10)
    monkeypatch.setattr(estimates, "estimate", lambda *_: each)
    code, _, err = run("list.csv", "--out", "run")
    assert code == 2
    assert "16 min" in err  # three times the images, the thresholds once
    assert "--yes" in err
    assert run("list.csv", "--out", "run", "--yes")[0] == 0


# -- what is shown meanwhile


def tally() -> Tally:
    one = Tally(200, before=10, done=37, failed=2, pictures=592)
    one.verdicts.update({"memorized": 12, "generalized": 15})
    one.worst = ((3.0,), "<b>\x1b[31m[red]kite", "memorized")
    one.began -= 60
    return one


def test_a_line_says_how_far_it_is_and_what_was_found() -> None:
    said = line(tally())
    assert said.startswith("39/200 prompts, 29.0/min, ")
    assert "6 min left" in said
    assert "12 memorized, 15 generalized, 2 failed" in said
    assert said.endswith("worst: memorized “<b>�[31m[red]kite”")


def test_every_verdict_has_its_style() -> None:
    one = tally()
    for word in WORST_FIRST:
        one.verdicts[word] = 1
        one.worst = ((3.0,), "kite", word)
        assert f"worst: {word}" in line(one)
        panel(one)


def test_the_summary_begins_with_what_verdicts_rest_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [HANGING, *RELEASE[:6]], findings=findings(0.8, 0.9), power=None)
    console = Console(file=io.StringIO(), width=200)
    show(summarise(BatchDirectory.read(run)), console)
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said[0].startswith("Thresholds from the reference's own pictures")
    assert said[0].endswith("Power: not measured.")
    assert said[1].startswith("About the model: seeds do little in it for any prompt: 80%")
    shown = "\n".join(said)
    assert "1 with new pictures not cleared: power was not measured." in shown
    assert "1 with a verdict that hangs on the threshold (±)." in shown
    assert "collapsed" in shown
    assert any(HANGING.prompt in row and " ± " in row for row in said)


def test_before_the_first_prompt_it_says_what_is_going_on() -> None:
    one = Tally(3)
    assert line(one) == "0/3 prompts"
    one.work_on("pictures", 5, 20)
    assert line(one) == "0/3 prompts, 0 pictures made, the next 25%"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from m2g_audit.cli import main\n"
        "sys.argv = ['m2g-audit', 'batch', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('heavy:', *sorted({'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--fail-on" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_a_terminal_shows_the_same() -> None:
    console = Console(width=100, record=True, file=io.StringIO(), force_terminal=True)
    console.print(panel(tally()))
    shown = console.export_text()
    for part in ("39/200 prompts", "12 memorized", "worst: memorized", "�[31m[red]kite"):
        assert part in shown
    console.print(panel(Tally(3)))


def test_without_a_terminal_there_are_plain_lines() -> None:
    file = io.StringIO()
    with watching(Console(file=file, width=300), tally()):
        pass
    assert file.getvalue().count("\n") == 1
    assert "39/200 prompts" in file.getvalue()


@pytest.mark.parametrize(("reference", "is_one"), [((), True), (("--reference", "none"), False)])
def test_pictures_with_captions_are_prompts_and_reference_at_once(
    run: Run, reference: tuple[str, ...], is_one: bool
) -> None:
    Path("photos").mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"photos/{i}.png")
        Path(f"photos/{i}.txt").write_text(f"new picture {i}\n")
    code, _, err = run("photos", "--out", "run", *reference)
    assert (code, "photos are the reference too" in err) == (0, is_one)
    records = [json.loads(each) for each in Path("run/records.jsonl").read_text().splitlines()]
    assert {record["prompt"] for record in records} == {f"new picture {i}" for i in range(8)}
    assert all((record["reference"] is not None) == is_one for record in records)
