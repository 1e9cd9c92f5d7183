"""Is a sweep that was killed again and again the sweep that nobody disturbed?

The smoke sweep on MNIST, with thresholds by hand so that every state has samples to measure, runs
twice: once to the end, and once in a process that is killed (SIGKILL) at moments drawn over the
time that the first took, and then left to end. Compared is every number of both folders: weights,
pictures, distances, geometry, tables and calibration.json.

    python benchmarks/sweep_killed.py       # some minutes; MNIST from M2G_DATA or the hub
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from audit_seconds import RESULTS, program
from resumable import Result, in_words, machine

from m2g_audit.files import write_atomically

NAME = "sweep_killed"
COMMAND = ("calibrate", "mnist", "--preset", "smoke", "--cpu", "--yes")
THRESHOLDS = ("--delta-m", "0.36", "--delta-s", "0.22")
KINDS = {".safetensors": "weights", ".npz": "arrays", ".csv": "tables", ".json": "JSON files"}


def main() -> None:
    """Writes results/sweep_killed.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as room:
        found = measure(Path(room), kills)
    content = {"kills": kills, **found, "machine": machine()}
    write_atomically(RESULTS / f"{NAME}.json", f"{json.dumps(content, indent=1)}\n".encode())
    text = report(content)
    write_atomically(RESULTS / f"{NAME}.md", text.encode())
    print(text)


def measure(room: Path, kills: int) -> Result:
    """Both sweeps, and what differs between them."""

    def command(out: str, *options: str) -> list[str]:
        return program(*COMMAND, *THRESHOLDS, *options, "--out", str(room / out))

    whole = seconds_of(command("whole"))
    # What a process takes to find that it has nothing to do; before that, nothing is at stake.
    start = seconds_of(command("whole", "--stage", "train"))
    chance = random.Random(0)
    files = []
    for _ in range(kills):
        process = subprocess.Popen(
            command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(start + chance.uniform(-0.2, 1.8) * (whole - start) / kills)
        process.kill()
        process.wait()
        files.append(len(contents(room / "killed")))
        print(f"killed with {files[-1]} files", flush=True)
    subprocess.run(command("killed"), check=True, capture_output=True)
    return {
        "seconds": whole,
        "files at each kill": files,
        "kinds": compare(room / "whole", room / "killed"),
    }


def seconds_of(command: list[str]) -> float:
    """How long a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def contents(sweep: Path) -> dict[str, Path]:
    """The files of a sweep that hold numbers, by their path in it."""
    return {
        str(path.relative_to(sweep)): path
        for path in sweep.rglob("*")
        if path.suffix in KINDS and not path.name.startswith(".")
    }


def compare(whole: Path, killed: Path) -> dict[str, Result]:
    """By kind: files of the whole sweep, and those that differ, are missing or too many."""
    ones, others = contents(whole), contents(killed)
    found = {kind: Result(files=0, differ=[]) for kind in KINDS.values()}
    for name in sorted(ones.keys() | others.keys()):
        counts = found[KINDS[Path(name).suffix]]
        counts["files"] += name in ones
        if name not in ones or name not in others or not same(ones[name], others[name]):
            counts["differ"].append(name)
    return found


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same numbers, bit by bit."""
    if one.suffix == ".npz":
        with np.load(one) as first, np.load(other) as second:
            return first.keys() == second.keys() and all(
                np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f")
                for name in first.files
            )
    return one.read_bytes() == other.read_bytes()


def report(found: Result) -> str:
    """The results as Markdown."""
    rows = [
        f"| {kind} | {counts['files']} | {len(counts['differ'])} |"
        for kind, counts in found["kinds"].items()
    ]
    return f"""# A sweep killed {found["kills"]} times

`python benchmarks/sweep_killed.py`: `m2g-audit {" ".join((*COMMAND, *THRESHOLDS))}`, in which every
state has samples. Undisturbed it took {found["seconds"]:.0f} s. The other one was killed (SIGKILL)
with {", ".join(map(str, found["files at each kill"]))} files of numbers on the disk, and then went
on to its end.

| compared, bit by bit | files | differ |
| --- | ---: | ---: |
{chr(10).join(rows)}

{in_words(found["machine"])}.
"""


if __name__ == "__main__":
    main()
