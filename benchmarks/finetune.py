"""Does `m2g-audit finetune` find the training pictures that come back? Stranger A, audited twice.

    M2G_DATA=... python benchmarks/stranger_models.py A --out runs/strangers    # its pictures
    python benchmarks/finetune.py --work runs/strangers

The audit takes 16 seeds of each caption, recombined prompts and the base, as its user would. Truth
takes 64 other seeds of each caption, by the same thresholds. A picture is extractable where a share
of its own caption's seeds gives it in truth; one that the audit confirms from captions and that
truth never shows counts as false. Writes results/finetune.md and .json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from resumable import in_words, machine
from stranger_models import STRANGERS

from m2g_audit.review.finetune import FinetuneSummary, read_finetune
from m2g_audit.verdict.intervals import clopper_pearson

RESULTS = Path(__file__).parent / "results"
COMMAND = "from m2g_audit.cli import main; main()"
SHARES = (0.0, 0.05, 0.2, 0.5)
TRUTH_SEEDS, TRUTH_SEED = 64, 256_000


def main() -> None:
    """Writes results/finetune.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/strangers"))
    folder = parser.parse_args().work / "A"
    audit = run(folder, "finetune-audit", "--base", str(folder / "base"))
    truth = run(
        folder,
        "finetune-truth",
        *("--seed", str(TRUTH_SEED), "--seeds", str(TRUTH_SEEDS), "--recombined", "0"),
    )
    text, found = report(audit, truth)
    (RESULTS / "finetune.md").write_text(text)
    (RESULTS / "finetune.json").write_text(json.dumps(found, indent=1) + "\n")
    print(text)


def run(folder: Path, name: str, *options: str) -> FinetuneSummary:
    """What a run of the command came to; one that is there is taken up."""
    stranger, out = STRANGERS["A"], folder / name
    usual = ("--steps", str(stranger.steps), "--guidance", str(stranger.guidance), "--yes")
    data = ("--data", str(folder / "reference"), "--out", str(out))
    words = ["finetune", str(folder / "tuned"), *data, *usual, *options]
    subprocess.run([sys.executable, "-c", COMMAND, *words], check=True, stdout=subprocess.DEVNULL)
    found = read_finetune(out)
    assert found is not None
    return found


def report(audit: FinetuneSummary, truth: FinetuneSummary) -> tuple[str, dict]:
    """The table of what was found, and its numbers."""
    shares = {picture.name: picture.own.estimate for picture in truth.returned if picture.own}
    seen = {picture.name for picture in truth.returned}
    confirmed = {picture.name for picture in audit.returned if picture.confirmed}
    rows, numbers = [], {}
    for least in SHARES:
        real = {name for name, share in shares.items() if share > 0 and share >= least}
        got = len(real & confirmed)
        numbers[str(least)] = [got, len(real)]
        said = f"{least:.0%} or more" if least else "any"
        rows.append(f"| {said} | {len(real)} | {got} | {percent(got, len(real))} |")
    own = {p.name for p in audit.returned if p.confirmed and p.kinds.get("caption")}
    never, chance = len(own - seen), [p for p in audit.returned if not p.confirmed]
    by_chance = sum(picture.name not in seen for picture in chance)
    kinds = [
        f"| {kind} | {count.prompts} | {count.generations} | {count.copies} | {count.pictures} |"
        for kind, count in audit.kinds.items()
        if count.prompts
    ]
    lines = [
        "# Training pictures that a fine-tune gives back",
        "",
        "`python benchmarks/finetune.py`. The fine-tune of stranger A, "
        f"{audit.pictures:,} photographs under 44 captions, audited by `m2g-audit finetune` with "
        f"{audit.seeds} seeds and its base; truth is {TRUTH_SEEDS} other seeds of each caption.",
        "",
        "| share of its caption's seeds in truth | pictures | confirmed by the audit | share |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"Of {len(own)} pictures that the audit confirmed from captions, {never} never came in "
        f"truth ({percent(never, len(own))}); of {len(chance)} that came back and were not "
        f"confirmed, {by_chance}.",
        "",
        f"The audit's sentence: {audit.summary}",
        "",
        "| prompts | how many | generations | copies | of training pictures |",
        "| --- | --- | --- | --- | --- |",
        *kinds,
        "",
        "The base, asked for the seeds that gave a confirmed picture, gave that picture in "
        f"{sum(p.base_seeds or 0 for p in audit.returned if p.confirmed)} of "
        f"{sum(p.seeds for p in audit.returned if p.confirmed)}.",
        "",
        f"{in_words(machine())}.",
    ]
    found = {"by share": numbers, "confirmed": len(own), "never in truth": never}
    return "\n".join(lines) + "\n", found


def percent(count: int, n: int) -> str:
    """A share with its 95% interval."""
    if not n:
        return "none"
    share = clopper_pearson(count, n)
    return f"{share.estimate:.0%}, {share.low:.0%} to {share.high:.0%}"


if __name__ == "__main__":
    main()
