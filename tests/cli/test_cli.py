"""The command line: help everywhere, data on stdout, a way out of errors, documented exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
import torch
import typer

from m2g_audit import cli, doctor
from m2g_audit.audits import audit, estimates
from m2g_audit.calibration.calibration_record import Calibration
from m2g_audit.cli import app, main
from m2g_audit.cli.asking import ASK_ABOVE_SECONDS
from m2g_audit.errors import AuditError, NumericsError, OutputError, UsageError
from m2g_audit.models import downloads
from m2g_audit.models.names import POCKET
from m2g_audit.records.record import AuditRecord
from m2g_audit.records.schemas import schema_of
from m2g_audit.review.compare import Comparison
from m2g_audit.review.summary import Summary, results_schema
from m2g_audit.store.batch_directory import BatchRecord
from tests.support import original_layout, tiny
from tests.support.fakes import FakePipeline
from tests.support.fresh_process import THE_COMMAND, run_code

PROMPT = "a print of the old harbour"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("M2G_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; return exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["m2g-audit", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return (0 if code is None else int(code)), *capfd.readouterr()

    return call


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline(PROMPT, [1, 1, 1, 1, 2, 3])
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", lambda *_, **__: fake)
    monkeypatch.setattr(downloads, "pending_bytes", lambda *_, **__: 0)
    return fake


def commands(group: typer.main.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = list(commands(typer.main.get_command(app)))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_and_option_has_help(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_into_80_columns(
    run: Run, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(*path, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out, "a name or a default is cut off"


def test_the_contract_has_its_verbs() -> None:
    assert {("prompt",), ("doctor",), ("schema",)} <= set(ALL)


@pytest.mark.parametrize("arguments", [["--help"], ["prompt", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from m2g_audit.cli import main\n"
        f"sys.argv = ['m2g-audit', *{arguments}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('heavy:', *sorted({'torch', 'diffusers', 'transformers', 'numpy', 'matplotlib'} "
        "& set(sys.modules)))"
    )
    out = run_code(code).stdout
    assert "Usage" in out
    assert out.splitlines()[-1].strip() == "heavy:"


def test_no_command_shows_help(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert "Usage: m2g-audit" in out + err


# -- prompt


def test_an_audit_reads_a_verdict(run: Run, pipeline: FakePipeline) -> None:
    code, out, err = run("prompt", PROMPT, "--model", "fake", "--seeds", "6")
    assert code == 0
    assert "What it rests on" in out
    paths = [Path(match) for match in re.findall(r"^.*?(runs/\S+)$", out, re.MULTILINE)]
    assert {path.name for path in paths} == {"record.json", "contact-sheet.png", "spectrum.png"}
    assert all(path.is_file() for path in paths)
    assert "about" in err


def test_json_is_the_record_alone(run: Run, pipeline: FakePipeline, tmp_path: Path) -> None:
    arguments = ("prompt", PROMPT, "--model", "fake", "--seeds", "6", "--format", "json")
    code, out, _ = run(*arguments, "--out", str(tmp_path / "run"))
    assert code == 0
    assert out == (tmp_path / "run" / "record.json").read_text()
    jsonschema.validate(json.loads(out), schema_of(AuditRecord))


def test_the_same_command_shows_what_is_there(run: Run, pipeline: FakePipeline) -> None:
    arguments = ("prompt", PROMPT, "--model", "fake", "--seeds", "6", "--format", "json")
    _, first, _ = run(*arguments)
    made = len(pipeline.made)
    code, second, err = run(*arguments)
    assert (code, second) == (0, first)
    assert "Already done" in err
    assert len(pipeline.made) == made


def test_another_option_is_another_run(run: Run, pipeline: FakePipeline, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "run"), "--model", "fake", "--seeds", "6")
    assert run("prompt", PROMPT, *out)[0] == 0
    code, _, err = run("prompt", PROMPT, *out, "--guidance", "4")
    assert code == 7
    assert "guidance: 3.0 there, 4.0 now" in err
    assert run("prompt", PROMPT, "--model", "fake", "--seeds", "6", "--guidance", "4")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["", "--model", "fake"], 2, "prompt is empty"),
        ([" \n", "--model", "fake"], 2, "prompt is empty"),
        (["x" * 100_000, "--model", "fake"], 2, "100,000 characters; at most 10,000"),
        (["x", "--model", "fake", "--seeds", "0"], 2, "Give at least 2"),
        (["x", "--model", "fake", "--seeds", "1"], 2, "Give at least 2"),
        (["x", "--model", "fake", "--batch-size", "0"], 2, "--batch-size 0 is not possible"),
        (["x", "--model", "fake", "--t0", "1000"], 2, "--t0 1000 is not possible"),
        (["x", "--model", "fake", "--seeds", f"1{'0' * 30}"], 2, "give 2 or more, up to 10,000"),
        (["x", "--model", "fake", "--steps", f"1{'0' * 30}"], 2, "give 1 or more, up to 10,000"),
        (["x", "--model", "fake", "--batch-size", f"1{'0' * 30}"], 2, "is not possible"),
        (["x", "--model", "fake", "--guidance", "nan"], 2, "--guidance nan is not possible"),
        (["x", "--model", "fake", "--reference-complete"], 2, "needs the --reference"),
        (["x", "--model", "fake", "--reference", "pocket"], 2, "training set of --model pocket"),
        (["x", "--model", "fake", "--reference", "nowhere"], 4, "There is no folder nowhere"),
        (["x", "--model", "fake", "--calibration", "nowhere"], 2, "can be read at nowhere"),
        (["x", "--model", "fake", "--metric", "sscd"], 3, "sscd"),
        (["x", "--model", "fake", "--metric", "best"], 2, "best"),
        (["x", "--model", "fake", "--out", "/dev/null/run"], 7, "--out"),
        (["x", "--model", "fake", "--seeds", "many"], 2, "--seeds many is not possible"),
        (["x", "--model", "fake", "--seeds", "1.5"], 2, "give a whole number or auto"),
        (["x", "--model", "fake", "--delta-m", "-1"], 2, "--delta-m -1 is no distance"),
        (["x", "--model", "fake", "--delta-s", "inf"], 2, "--delta-s inf is no distance"),
        (["x", "--model", "fake", "--delta-s", "nan"], 2, "--delta-s nan is no distance"),
        (["x", "--model", "fake", "--unseen", "."], 2, "give the training pictures too"),
        (["x", "--model", "fake", "--base", "./nowhere"], 3, "nowhere"),
        (["x", "--model", "fake", "--control-prompts", "no"], 2, "Control prompts: Can't read"),
        (["x", "--model", "fake", "--nonsense"], 2, "nonsense"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_has_a_message_and_a_code(
    run: Run,
    pipeline: FakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    got, out, err = run("prompt", *arguments)
    assert got == code
    assert said in " ".join(err.split())
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_missing_model_names_pocket(run: Run) -> None:
    code, _, err = run("prompt", "x", "--model", "./nowhere")
    assert code == 3
    assert POCKET in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NumericsError("NaN: use --dtype float32."), 5, "float32"),
        (MemoryError(), 6, "--batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory."), 6, "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 6, "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 7, "No space left"),
        (ZeroDivisionError("division by zero"), 1, "M2G_DEBUG=1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_in_the_middle_end_with_their_code(
    run: Run,
    pipeline: FakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(audit, "execute", fail)
    got, out, err = run("prompt", PROMPT, "--model", "fake", "--seeds", "6")
    assert (got, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_debugging_shows_where_an_error_is(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2G_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["m2g-audit", "prompt", ""])
    with pytest.raises(UsageError):
        main()


def test_ctrl_c_says_how_to_go_on_and_loses_nothing(run: Run, pipeline: FakePipeline) -> None:
    arguments = ("prompt", PROMPT, "--model", "fake", "--seeds", "6", "--batch-size", "2")
    run_dir = ("--out", "run")
    estimated = 3 * 2  # images made to measure the time of a step
    pipeline.stop_after = estimated + 4
    code, out, err = run(*arguments, *run_dir)
    assert (code, out) == (130, "")
    assert "run" in err
    assert "same command continues" in err
    assert len(list(Path("run/images").glob("*.png"))) == 4
    pipeline.stop_after = None
    assert run(*arguments, *run_dir)[0] == 0


def test_a_long_audit_needs_yes(
    run: Run, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = estimates.Estimate({"images": ASK_ABOVE_SECONDS * 12.0}, 0, 10)
    monkeypatch.setattr(estimates, "estimate", lambda *_: long)
    arguments = ("prompt", PROMPT, "--model", "fake", "--seeds", "6")
    code, _, err = run(*arguments)
    assert code == 2
    assert "2.0 h" in err
    assert "--yes" in err
    assert not Path("runs").exists()
    assert run(*arguments, "--yes")[0] == 0


def test_too_little_memory_is_said_before_anything_starts(
    run: Run, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "free_bytes", lambda _: 100)
    code, _, err = run("prompt", PROMPT, "--model", "fake", "--seeds", "6")
    assert code == 6
    assert "--spectrum none" in err


def test_a_long_download_needs_yes(
    run: Run, pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "pending_bytes", lambda *_, **__: 10**10)
    arguments = ("prompt", PROMPT, "--model", "fake", "--seeds", "6")
    code, _, err = run(*arguments)
    assert code == 2
    assert "10.0 GB" in err
    assert run(*arguments, "--yes")[0] == 0


def test_local_models_need_no_download(tmp_path: Path) -> None:
    assert downloads.pending_bytes(POCKET, allow_pickle=False) == 0
    assert downloads.pending_bytes(str(tmp_path), allow_pickle=False) == 0


# -- other verbs


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        ([], schema_of(AuditRecord)),
        (["record"], schema_of(AuditRecord)),
        (["batch"], schema_of(BatchRecord)),
        (["summary"], schema_of(Summary)),
        (["results"], results_schema()),
        (["comparison"], schema_of(Comparison)),
        (["calibration"], schema_of(Calibration)),
    ],
)
def test_schema_prints_the_schema(run: Run, arguments: list[str], schema: dict) -> None:
    code, out, _ = run("schema", *arguments)
    assert code == 0
    assert json.loads(out) == schema


@pytest.mark.slow
def test_a_console_in_ascii_shows_the_result(tmp_path: Path) -> None:
    command = ("prompt", "a möwe", "--model", POCKET, "--spectrum", "none", "--seeds", "2", "--yes")
    done = subprocess.run(
        [sys.executable, "-c", "from m2g_audit.cli import main; main()", *command],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "M2G_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert b"a m?we" in done.stdout


def test_doctor_says_what_is_missing_and_how_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    code, out, _ = run("doctor")
    assert code == 0
    for word in ("device", "memory", "versions", "pocket", "tiled_l2", "sscd", "get it: curl"):
        assert word in out
    code, out, _ = run("doctor", "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert {"device", "memory_free_bytes", "versions", "models", "metrics"} <= found.keys()
    missing = [item for item in found["metrics"] if not item["at_hand"]]
    assert all(item["command"] for item in missing)


def test_doctor_ticks_no_model_that_could_not_be_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = tiny.save(tiny.text_to_image(), tmp_path / "whole")
    half = shutil.copytree(whole, tmp_path / "half")
    next((half / "vae").glob("*.safetensors")).unlink()
    cached = [("a/half", (half, 10)), ("a/whole", (whole, 10))]
    monkeypatch.setattr(doctor, "_cached_models", lambda: iter(cached))
    found = {item.name: item for item in doctor.diagnose().models}
    assert (found["a/whole"].at_hand, found["a/half"].at_hand) == (True, False)
    assert "vae/diffusion_pytorch_model.safetensors is missing" in found["a/half"].detail


def test_every_error_class_has_a_documented_code() -> None:
    kinds = AuditError.__subclasses__()
    assert OutputError in kinds
    for kind in kinds:
        assert re.search(rf"\b{kind.exit_code}\b", cli._EPILOG), kind


# -- text of others

STEERING = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\u202e"


def hostile_model() -> list[str]:
    Path("model").mkdir()
    Path("model/model_index.json").write_text(json.dumps({"_class_name": STEERING}))
    return ["prompt", "a", "--model", "model"]


def hostile_calibration() -> list[str]:
    Path("calibration.json").write_text(json.dumps({"schema_version": STEERING}))
    return ["prompt", "a", "--model", "pocket", "--calibration", "calibration.json"]


def hostile_columns() -> list[str]:
    Path("list.csv").write_text(f"a{STEERING},b\n1,2\n")
    return ["batch", "list.csv", "--model", "pocket"]


def hostile_record() -> list[str]:
    Path("run").mkdir()
    Path("run/record.json").write_text(json.dumps({"schema_version": f"1.{STEERING}"}))
    return ["report", "run"]


def hostile_list_of_a_run() -> list[str]:
    Path("run").mkdir()
    Path("run/identity.json").write_text('{"kind": "batch"}')
    Path("run/prompts.jsonl").write_text(json.dumps({"index": STEERING}))
    return ["report", "run"]


@pytest.mark.parametrize(
    "prepared",
    [hostile_model, hostile_calibration, hostile_columns, hostile_record, hostile_list_of_a_run],
)
def test_errors_about_files_of_others_steer_no_terminal(
    run: Run, prepared: Callable[[], list[str]]
) -> None:
    code, out, err = run(*prepared())
    assert code in (2, 3, 7)
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err


def test_what_is_done_is_shown_without_loading_a_model(tmp_path: Path) -> None:
    command = ("prompt", PROMPT, "--model", POCKET, "--spectrum", "none", "--seeds", "2", "--yes")
    outputs = []
    for loaded in ("True", "False"):
        done = run_code(THE_COMMAND, *command, "--out", str(tmp_path / "run"))
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == loaded
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]


def test_a_single_file_is_audited_with_what_completes_it(run: Run, tmp_path: Path) -> None:
    pipe = tiny.text_to_image()
    tiny.save(pipe, tmp_path / "base")
    original_layout.save(pipe, tmp_path / "merged.safetensors")
    which = ("--model", "merged.safetensors", "--config-from", "base")
    few = (
        "--seeds",
        "2",
        "--steps",
        "2",
        "--spectrum",
        "none",
        "--metric",
        "l2",
        "--device",
        "cpu",
    )
    code, out, err = run("prompt", PROMPT, *which, *few, "--format", "json")
    assert code == 0, err
    said = json.loads(out)["model"]
    assert (said["completed_from"], said["stored"]) == ("base", "F32")
    code, out, err = run("doctor", *which[1:])
    assert code == 0, err
    assert "pictures are those of plain diffusers" in out
