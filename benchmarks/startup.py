"""How long until a command says its first word, and how long does one take that computes nothing?

Whole processes of the present commit and of an earlier one, both unpacked by `git archive`, in
turns: each repeat runs every command of both, the order swapped from one repeat to the next, and
ratios are of two processes of one repeat, of one thread each. Compiled files of both lie in a
folder of their own, and a first run, which is not counted, fills it and the system's cache.

    python benchmarks/startup.py --before COMMIT        # five repeats; needs an idle machine
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from resumable import in_words, machine

HERE = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
RUN_COMMAND = "from m2g_audit.cli import main; main()"
AUDIT = ("prompt", "a print of the old harbour", "--seeds", "8", "--model", "pocket")
COMMANDS = {
    "`prompt`, an audit": (*AUDIT, "--spectrum", "none", "--out", "{fresh}"),
    "`prompt` again, finished": (*AUDIT, "--spectrum", "none", "--out", "{done}"),
    "`show RUN`": ("show", "{done}"),
    "`show RUN --format json`": ("show", "{done}", "--format", "json"),
    "`report RUN`": ("report", "{done}"),
    "`pocket prompts`": ("pocket", "prompts"),
    "`--help`": ("--help",),
}
LIBRARIES = ("torch", "diffusers", "scipy.stats", "scipy", "numpy", "matplotlib", "pydantic")


@dataclass(frozen=True)
class Taken:
    """Of one process: seconds until its first word and its end, of CPU, and what it imported."""

    first: float
    whole: float
    cpu: float
    libraries: list[str]


def main() -> None:
    """Writes results/startup.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, help="a commit")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        now = ["git", "rev-parse", "--short", "HEAD"]
        head = subprocess.run(now, cwd=HERE, capture_output=True, text=True, check=True).stdout
        commits = {"before": asked.before, "now": head.strip()}
        sides = {side: unpacked(commit, room / side) for side, commit in commits.items()}
        found = measure(room, sides, asked.repeats)
    (RESULTS / "startup.md").write_text(report(found, commits, asked.repeats, load))
    kept = {
        command: {side: [asdict(one) for one in taken] for side, taken in both.items()}
        for command, both in found.items()
    }
    content = {"taken": kept, "commits": commits, "load": load, "machine": machine()}
    (RESULTS / "startup.json").write_text(json.dumps(content, indent=1) + "\n")
    print((RESULTS / "startup.md").read_text())


def unpacked(commit: str, folder: Path) -> Path:
    """The packages of a commit, in a folder."""
    folder.mkdir()
    wanted = ["m2g_audit", "small_scale", "prompts"]
    packed = subprocess.run(
        ["git", "archive", commit, *wanted], cwd=HERE, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder


def measure(room: Path, sides: dict[str, Path], repeats: int) -> dict[str, dict[str, list[Taken]]]:
    """What every command took, by side; the first round is thrown away."""
    found: dict[str, dict[str, list[Taken]]] = {c: {s: [] for s in sides} for c in COMMANDS}
    for repeat in range(-1, repeats):
        for command, words in COMMANDS.items():
            for side in sorted(sides, reverse=repeat % 2 == 0):
                places = {"fresh": room / f"{side} {repeat}", "done": room / f"{side} -1"}
                taken = process(room, sides[side], [word.format(**places) for word in words])
                if repeat >= 0:
                    found[command][side].append(taken)
        print(f"{repeat + 1} of {repeats}", flush=True)
    return found


def process(room: Path, checkout: Path, words: Sequence[str]) -> Taken:
    """Run a command of a checkout, both of its outputs read as they come."""
    modules = room / "modules.txt"
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: open({str(modules)!r}, 'w').write(' '.join(sys.modules)))\n"
        f"{RUN_COMMAND}"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "PYTHONPATH": str(checkout),
        "PYTHONPYCACHEPREFIX": str(room / "compiled"),
        "M2G_CACHE": str(room / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=environment,
        cwd=room,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        assert running.stdout is not None
        said = os.read(running.stdout.fileno(), 1)
        first = time.perf_counter() - start
        said += running.stdout.read()
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    whole = time.perf_counter() - start
    if running.returncode != 0:
        sys.exit(f"{' '.join(words)} failed:\n{said.decode()}")
    loaded = set(modules.read_text().split())
    libraries = [name for name in LIBRARIES if name in loaded]
    return Taken(first, whole, used.ru_utime + used.ru_stime, libraries)


# --- report ----------------------------------------------------------------------------------


def report(
    found: dict[str, dict[str, list[Taken]]], commits: dict[str, str], repeats: int, load: float
) -> str:
    lines = [
        "# Seconds until the first word, and of what computes nothing",
        "",
        f"`python benchmarks/startup.py --before {commits['before']} --repeats {repeats}`. Whole "
        f"processes, {commits['now']} beside that commit in each repeat; medians and, in brackets, "
        f"smallest to largest of {repeats}. An audit is of 8 seeds of pocket without spectra, "
        "output into a pipe.",
        "",
        "| command | first word, before | now | whole, before | now | CPU, before | now | "
        "CPU, now / before |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(row(command, both) for command, both in found.items()),
        "",
        "Of the libraries that take longest, what was imported until the end:",
        "",
        *(
            f"- {command}: {', '.join(both['before'][0].libraries) or 'none'}; now "
            f"{', '.join(both['now'][0].libraries) or 'none'}"
            for command, both in found.items()
        ),
        "",
        *NOT_DONE,
        "",
        f"{in_words(machine())}; load {load:.1f} before the first repeat.",
    ]
    return "\n".join(lines) + "\n"


NOT_DONE = (
    "An audit takes as long as before, but says so at once. Its start is importing diffusers and "
    "transformers, as a script of three lines with `StableDiffusionPipeline` does: this project's "
    "own modules are 0.4 s of it (`python -X importtime`). Most of the rest can't be left out: "
    "both import `torch._dynamo` (1.3 s) and scan their own folders for what they could load. "
    "Hiding `peft` from them would save 0.7 to 2.0 CPU seconds in three trials, and was not "
    "done: where they don't find it, an adapter in a model's folder is passed over in "
    "silence, and another model would be audited than was asked for.",
)


def row(command: str, both: dict[str, list[Taken]]) -> str:
    cells = [
        spread([getattr(one, what) for one in both[side]])
        for what in ("first", "whole", "cpu")
        for side in ("before", "now")
    ]
    pairs = zip(both["now"], both["before"], strict=True)
    ratio = spread([now.cpu / before.cpu for now, before in pairs])
    return f"| {command} | {' | '.join(cells)} | {ratio} |"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
