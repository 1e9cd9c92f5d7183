"""Is a batch that was killed again and again the batch that nobody disturbed?

200 prompts (all captions of pocket, and new ones of its words) are audited twice by
`m2g-audit batch`, without a reference: once to the end, and once in a process that is killed
(SIGKILL) ten times, at moments drawn over the time that the first took, and then left to end.
Compared are all records but their timings, and all pictures.

    python benchmarks/batch_killed.py              # some ten minutes on two cores
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from audit_seconds import RESULTS, program
from PIL import Image
from resumable import Result, in_words, machine

from m2g_audit.files import write_atomically
from m2g_audit.models.names import POCKET
from m2g_audit.pocket.captions import MEDIA, MOODS, PLACES, all_captions, compose
from m2g_audit.store.batch_directory import RECORDS_FILE, BatchDirectory

NAME = "batch_killed"


def main() -> None:
    """Writes results/batch_killed.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--spectrum", default="none", help="as of m2g-audit batch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), **vars(arguments))
    content = {**vars(arguments), **found, "machine": machine()}
    write_atomically(RESULTS / f"{NAME}.json", f"{json.dumps(content, indent=1)}\n".encode())
    text = report(content)
    write_atomically(RESULTS / f"{NAME}.md", text.encode())
    print(text)


def measure(room: Path, prompts: int, seeds: int, kills: int, spectrum: str) -> Result:
    """Both runs, and by how much they differ."""
    texts = [caption.text for caption in all_captions()]
    texts += [
        text for words in product(MEDIA, MOODS, PLACES) if (text := compose(*words)) not in texts
    ]
    (room / "prompts.txt").write_text("\n".join(texts[:prompts]) + "\n")
    fixed = ("--model", POCKET, "--reference", "none", "--yes")
    options = (*fixed, "--seeds", str(seeds), "--spectrum", spectrum)

    def command(out: Path) -> list[str]:
        return program("batch", str(room / "prompts.txt"), *options, "--out", str(out))

    start = time.perf_counter()
    subprocess.run(command(room / "whole"), check=True, capture_output=True)
    whole = time.perf_counter() - start
    chance = random.Random(0)
    killed_at = []
    for _ in range(kills):
        process = subprocess.Popen(
            command(room / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Starting takes a part of it, in which nothing is at stake.
        time.sleep(chance.uniform(0, 2 * whole / kills))
        process.kill()
        process.wait()
        killed_at.append(lines(room / "killed"))
        print(f"killed with {killed_at[-1]} records", flush=True)
    subprocess.run(command(room / "killed"), check=True, capture_output=True)
    return {
        "seconds": whole,
        "records at each kill": killed_at,
        **compare(room / "whole", room / "killed"),
    }


def lines(out: Path) -> int:
    """Whole lines of the records' file."""
    path = out / RECORDS_FILE
    return path.read_bytes().count(b"\n") if path.exists() else 0


def compare(whole: Path, killed: Path) -> Result:
    """In how many prompts verdicts, counts or any number differ, and pictures at most, of 255."""
    pairs = list(zip(records(whole), records(killed), strict=True))
    pictures = [
        levels(whole / one["folder"] / seed["image"], killed / one["folder"] / seed["image"])
        for one, _ in pairs
        for seed in one["seeds"]
    ]
    return {
        "records": len(pairs),
        "lines": lines(killed),
        "decisions or counts differ": sum(decisions(one) != decisions(two) for one, two in pairs),
        "anything differs": sum(one != two for one, two in pairs),
        "pictures": len(pictures),
        "largest difference": max(pictures),
        "verdicts": {
            word: sum(one["verdict"]["state"] == word for one, _ in pairs)
            for word in sorted({one["verdict"]["state"] for one, _ in pairs})
        },
    }


def records(out: Path) -> list[dict[str, Any]]:
    """The records of a batch without their timings."""
    return [
        json.loads(record.model_dump_json(exclude={"timings"}))
        for record in BatchDirectory.read(out).records()
    ]


def decisions(record: dict[str, Any]) -> tuple[object, ...]:
    """A record's verdict, the states of its seeds and who belongs to which attractor."""
    seeds = [(seed["generator_seed"], seed["state"], seed["attractor"]) for seed in record["seeds"]]
    return record["prompt"], record["verdict"]["state"], seeds, record["evaluations"]


def levels(one: Path, two: Path) -> int:
    """The largest difference of two pictures, in levels of 255."""
    values = [np.asarray(Image.open(path), dtype=np.int16) for path in (one, two)]
    return int(np.abs(values[0] - values[1]).max())


def report(found: Result) -> str:
    """The results as Markdown."""
    verdicts = ", ".join(f"{count} {word}" for word, count in found["verdicts"].items())
    of = f"of {found['records']} prompts"
    rows = {
        "verdicts, states of seeds, attractors": f"{found['decisions or counts differ']} {of}",
        "anything but timings, to the last digit": f"{found['anything differs']} {of}",
        f"pixels of {found['pictures']:,} pictures": f"by {found['largest difference']} of 255",
    }
    return f"""# A batch killed {found["kills"]} times

`python benchmarks/batch_killed.py`: {found["records"]} prompts, {found["seeds"]} seeds, spectrum
{found["spectrum"]}; verdicts: {verdicts}. Undisturbed the batch took {found["seconds"]:.0f} s. The
other one was killed (SIGKILL) with {", ".join(map(str, found["records at each kill"]))} records on
the disk, and then went on to its end, with {found["lines"]} lines in records.jsonl.

| compared | differ |
| --- | ---: |
{chr(10).join(f"| {what} | {differ} |" for what, differ in rows.items())}

{in_words(found["machine"])}.
"""


if __name__ == "__main__":
    main()
