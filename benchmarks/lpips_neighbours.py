"""Nearest neighbours in LPIPS: matrix products, beside the `lpips` package called on all pairs.

Every query gets its nearest picture of a base of as many. Ours embeds both sets and searches; its
seconds include both. The reference is the broadcast over pairs that the authors of the paper use:
the package, called on a query and a batch of the base, puts both pictures of every pair through
the network. It is timed on a few queries against the whole base and scaled to all queries. The two
take turns, each repeat has other queries for the reference, and ratios are within a repeat; on
those queries the neighbours and all distances are compared.

The backbones have random weights, the same in both, so no number here is LPIPS: cost and equality
do not need trained ones. Pictures are fresh ones of the pocket world, 32 x 32.

    OMP_NUM_THREADS=1 python benchmarks/lpips_neighbours.py     # five minutes on an idle core

Writes results/lpips_neighbours.{md,json}. Finished repeats stay in --work, and an interrupted run
continues from them.
"""

import argparse
import json
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import lpips
import numpy as np
import torch
from resumable import Pieces, Result, in_words, machine
from torch import Tensor, nn

from m2g_audit.pocket import world
from m2g_audit.pocket.captions import trained_captions
from m2g_audit.similarity import distances, nearest, search
from m2g_audit.similarity import lpips as embedding
from m2g_audit.similarity.lpips import Lpips, random_backbone_distance

BACKBONES = {"alex": "AlexNet", "vgg": "VGG-16"}
GOAL = 100
BATCH = 250
MEASURES = (search, embedding, world)
RESULTS = Path(__file__).parent / "results"

T = TypeVar("T")


def main() -> None:
    """Writes results/lpips_neighbours.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alex", type=int, default=4000, help="pictures on each side")
    parser.add_argument("--vgg", type=int, default=1000, help="pictures on each side")
    parser.add_argument("--queries", type=int, default=2, help="of the reference in a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/lpips_neighbours"))
    asked = parser.parse_args()
    settings = {"queries": asked.queries, "threads": torch.get_num_threads()}
    pieces = Pieces(asked.work, settings, MEASURES)
    found = {
        net: measure(pieces, net, getattr(asked, net), asked.queries, asked.repeats)
        for net in BACKBONES
    }
    result = {"backbones": found, "repeats": asked.repeats, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "lpips_neighbours.md").write_text(report(result))
    (RESULTS / "lpips_neighbours.json").write_text(json.dumps(result, indent=1) + "\n")
    print((RESULTS / "lpips_neighbours.md").read_text())


def measure(pieces: Pieces, net: str, n: int, queries: int, repeats: int) -> list[Result]:
    """All repeats with one backbone."""
    package, metric = same_backbone(net)
    sets = pictures(n, "fresh"), pictures(n, "control")
    rows = []
    for repeat in range(repeats):
        asked = slice(repeat * queries, (repeat + 1) * queries)
        rows.append(
            pieces.get(f"{net}-{n}-{repeat}", partial(compare, package, metric, *sets, asked))
        )
        print(f"{metric.name}, {repeat + 1} of {repeats}: {rows[-1]}", flush=True)
    return rows


def same_backbone(net: str) -> tuple[nn.Module, Lpips]:
    """The package with a random backbone, and ours with the very same."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in an outdated way
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    slices = [getattr(package.net, f"slice{i}") for i in range(1, 6)]
    backbone = nn.Sequential(*(layer for part in slices for layer in part))
    return package, random_backbone_distance(net, backbone)


def pictures(n: int, stream: world.Stream) -> Tensor:
    """As many pictures of every trained caption, uint8 [n, 3, 32, 32]."""
    captions = trained_captions()
    each = range(-(-n // len(captions)))
    drawn = np.concatenate([world.pictures(caption, stream, each) for caption in captions])
    # Spread over the captions, also where n is few.
    chosen = np.linspace(0, len(drawn) - 1, n).round().astype(int)
    return torch.from_numpy(drawn[chosen]).permute(0, 3, 1, 2).contiguous()


def compare(
    package: nn.Module, metric: Lpips, queries: Tensor, base: Tensor, asked: slice
) -> Result:
    """One repeat: ours on everything, the reference on the queries asked for."""
    load = os.getloadavg()[0]
    (x, y), embedding = timed(lambda: (metric.embed(queries), metric.embed(base)))
    (values, indices), searching = timed(lambda: nearest(metric, x, y))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    expected, pairs = timed(lambda: broadcast(package, queries[asked], base))
    scale = len(queries) / len(expected)
    by_package = expected.argmin(axis=1)
    return {
        "pictures": len(queries),
        "numbers": x[0].numel(),
        "gibibytes": round(2 * x.numel() * 4 / 2**30, 3),
        "peak gibibytes": round(memory / 2**20, 2),
        "load": load,
        "embedding": embedding,
        "searching": searching,
        "reference": {clock: scale * seconds for clock, seconds in pairs.items()},
        "reference pairs": expected.size,
        "same neighbours": int((by_package == indices[asked, 0]).sum()),
        "largest difference": float(np.abs(distances(metric, x[asked], y) - expected).max()),
        "median distance": float(np.median(values)),
    }


@torch.no_grad()
def broadcast(package: nn.Module, queries: Tensor, base: Tensor) -> np.ndarray:
    """Distances of all pairs by the package, [queries, base]."""
    rows = []
    for query in queries.float() / 255:
        batches = (batch.float() / 255 for batch in base.split(BATCH))
        # normalize: from [0, 1] to the package's [-1, 1]
        row = [package(query.expand_as(b), b, normalize=True).flatten() for b in batches]
        rows.append(torch.cat(row))
    return torch.stack(rows).double().numpy()


def timed(do: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """What do() returns, and its seconds by the wall's clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    done = do()
    return done, {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
    }


# --- report ----------------------------------------------------------------------------------


def report(result: Result) -> str:
    repeats = result["repeats"]
    lines = [
        "# Nearest neighbours in LPIPS, beside the package on all pairs",
        "",
        f"`python benchmarks/lpips_neighbours.py --repeats {repeats}`. "
        "**The backbones have random weights**: cost and equality are measured, and no distance "
        "here is LPIPS. Each query gets its nearest picture of a base of as many; pictures of the "
        "pocket world, 32 x 32. Ours: embedding both sets (float32) and searching. Reference: the "
        f"`lpips` package on pairs, {BATCH} at once, timed on a part and scaled to all queries. "
        f"Median and, in brackets, smallest to largest of {repeats} repeats; ratios within a "
        "repeat. Processor seconds do not count waiting for other programs.",
        "",
    ]
    for net, name in BACKBONES.items():
        lines += backbone_section(name, result["backbones"][net])
    loads = [row["load"] for rows in result["backbones"].values() for row in rows]
    return "\n".join(
        [*lines, f"{in_words(result['machine'])}; load {min(loads):.1f} to {max(loads):.1f}.", ""]
    )


def backbone_section(name: str, rows: Sequence[Result]) -> list[str]:
    first = rows[0]
    n, compared = first["pictures"], sum(row["reference pairs"] for row in rows)
    queries = compared // n
    same = sum(row["same neighbours"] for row in rows)
    error = max(row["largest difference"] for row in rows)
    peak = max(row["peak gibibytes"] for row in rows)
    return [
        f"## {name}, random weights: {n:,} x {n:,} pictures",
        "",
        f"| seconds | {' | '.join(first['reference'])} |",
        "| --- | ---: | ---: |",
        line("embedding", rows, lambda row, clock: row["embedding"][clock]),
        line("searching", rows, lambda row, clock: row["searching"][clock]),
        line("ours", rows, ours),
        line("reference, scaled", rows, lambda row, clock: row["reference"][clock]),
        line(f"times faster (goal {GOAL})", rows, times_faster),
        "",
        f"The reference was timed on {first['reference pairs']:,} of {n * n:,} pairs in each "
        f"repeat. Same neighbour for {same} of {queries} queries; largest difference of "
        f"{compared:,} distances {error:.1e} (the median distance to the nearest is "
        f"{first['median distance']:.3f}). An embedding has {first['numbers']:,} numbers, both "
        f"sets {first['gibibytes']:.2f} GiB; the whole process took {peak:.1f} GiB at most.",
        "",
    ]


def line(name: str, rows: Sequence[Result], read: Callable[[Result, str], float]) -> str:
    cells = [spread([read(row, clock) for row in rows]) for clock in rows[0]["reference"]]
    return f"| {name} | {' | '.join(cells)} |"


def ours(row: Result, clock: str) -> float:
    return row["embedding"][clock] + row["searching"][clock]


def times_faster(row: Result, clock: str) -> float:
    return row["reference"][clock] / ours(row, clock)


def spread(values: Sequence[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    digits = 1 if middle < 100 else 0
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


if __name__ == "__main__":
    main()
