"""Does the memory of a batch stay flat, whatever the number of prompts?

A stub stands in for the pipeline (the tests' own: pictures of 8 x 8 that follow from the prompt),
so that what is measured is the batch itself: the list, what is in work, the records, the table and
the summary at the end. Each size runs in a process of its own, whose peak of resident memory is
read when it ends.

    python benchmarks/batch_memory.py                    # 100, 1,000 and 10,000 prompts of 2 seeds
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resumable import in_words, machine

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
SEEDS = 2
SIZES = (100, 1_000, 10_000)


def main() -> None:
    """Writes results/batch_memory.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    if arguments.run is not None:
        print(json.dumps(run(arguments.run)))
        return
    found = [measure(size) for size in arguments.sizes]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "batch_memory.json").write_text(
        json.dumps({"runs": found, "machine": machine()}, indent=1) + "\n"
    )
    (RESULTS / "batch_memory.md").write_text(report(found))
    print((RESULTS / "batch_memory.md").read_text())


def measure(size: int) -> dict[str, float]:
    """What a process of its own says of a batch of `size` prompts."""
    command = [sys.executable, __file__, "--run", str(size)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    print(done.stdout, end="", flush=True)
    return json.loads(done.stdout)


def run(size: int) -> dict[str, float]:
    """Peak memory in MiB before and after a batch, and its seconds and size on the disk."""
    from m2g_audit.review.summary import finish
    from tests.support.batch_work import ManyPrompts, open_batch

    kinds = ("same", "new", "half", "torn")
    prompts = [f"{kinds[i % 4]} picture number {i} of many on a wall" for i in range(size)]
    with tempfile.TemporaryDirectory() as name:
        os.environ["M2G_CACHE"] = f"{name}/cache"
        out = Path(name) / "run"
        batch = open_batch(out, prompts, ManyPrompts(), seeds=SEEDS)
        before, start = peak(), time.perf_counter()
        records = sum(1 for _ in batch.run())
        assert records == size
        assert finish(batch.directory)
        seconds = time.perf_counter() - start
        log = (out / "records.jsonl").stat().st_size
    return {"prompts": size, "before": before, "peak": peak(), "seconds": seconds, "log": log}


def peak() -> float:
    """The most resident memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(found: list[dict[str, float]]) -> str:
    rows = [
        f"| {row['prompts']:,} | {row['before']:.0f} | {row['peak']:.0f} | "
        f"{row['peak'] - row['before']:.0f} | {row['prompts'] / row['seconds']:.1f} | "
        f"{row['log'] / row['prompts'] / 1e3:.1f} |"
        for row in found
    ]
    lines = [
        "# Peak memory of a batch",
        "",
        f"`python benchmarks/batch_memory.py`. A stub in place of the pipeline, {SEEDS} seeds a "
        "prompt; resident memory of a process of its own, before the batch and at its peak, with "
        "the table and the summary at the end.",
        "",
        "| prompts | MiB before | MiB at the peak | more | prompts a second | kB of records.jsonl "
        "a prompt |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        in_words(machine()) + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
