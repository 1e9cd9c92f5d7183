"""Commands in a process of their own, where what is imported is seen."""

import os
import subprocess
import sys

THE_COMMAND = (
    "import sys\nfrom m2g_audit.cli import main\n"
    "try: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
)
"""Runs its arguments as m2g-audit would, and says last on stderr whether torch was loaded."""


def run_code(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with this process's import path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
