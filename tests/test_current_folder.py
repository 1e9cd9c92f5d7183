"""What lies in the current folder, such as a run that a stranger sent, is neither run nor read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.made_run import RELEASE, make_run

_REPOSITORY = Path(__file__).parents[1]
_REPORT = """
from pathlib import Path
from m2g_audit.reports.html.page import write_report
from m2g_audit.store.stored_run import StoredRun

if __name__ == "__main__":
    write_report(StoredRun.read(Path(".")), processes=2)
"""
_SHEETS = """
from pathlib import Path
from m2g_audit.reports.spectrum_figure import spectrum_figure
from tests.support.samples import sample_record

spectrum_figure(sample_record(), Path("."))
"""
_LAB = """
from small_scale.report.figures.style import new_page

new_page(3, 3, "title", "about")
"""
_CIRCLE = """
from contextlib import suppress
from pathlib import Path
from m2g_audit.cli.toy import toy
from m2g_audit.errors import OutputError

with suppress(OutputError):
    toy(Path("main.txt"))
"""


def run_in(folder: Path, script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that lies elsewhere, as the installed command does, in the given folder."""
    file = tmp_path / "script" / "main.py"
    file.parent.mkdir()
    file.write_text(script)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, str(file)],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(_REPOSITORY)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("module", ["reprlib", "multiprocessing"])
def test_workers_import_nothing_from_the_run(tmp_path: Path, module: str) -> None:
    run = make_run(tmp_path / "run", RELEASE[:2])
    (run / f"{module}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    made = run_in(run, _REPORT, tmp_path)
    assert made.returncode == 0, made.stderr
    assert not (tmp_path / "owned").exists()
    assert (run / "report.html").exists()


@pytest.mark.parametrize("script", [_REPORT, _SHEETS, _LAB, _CIRCLE])
def test_no_settings_of_figures_come_from_the_current_folder(tmp_path: Path, script: str) -> None:
    run = make_run(tmp_path / "run", RELEASE[:2])
    (run / "matplotlibrc").write_bytes(b"\xff no settings")
    (run / "main.txt").touch()  # in the place of the circle's folder, so that it ends early
    made = run_in(run, script, tmp_path)
    assert made.returncode == 0, made.stderr
