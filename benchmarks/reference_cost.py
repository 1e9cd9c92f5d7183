"""What does a folder of pictures of 512 x 512 cost as the reference, by a distance of pixels?

JPEG files of made-up photographs (smooth colours and noise), through a VAE that changes nothing, by
`tiled_l2`: what is left is what this program adds to the model's own work. Beside it, in turns and
in one process, what a script would do for each prompt: open every file, scale it, and take the
distance of every tile to 16 samples with `torch.cdist`.

    python benchmarks/reference_cost.py     # ten minutes on two cores

Writes results/reference_cost.{md,json}. Files are in the page cache, for both.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from resumable import in_words, machine
from torch import Tensor

from m2g_audit.pictures.decoding import crop
from m2g_audit.references.nulls import find_nulls, nearest_and_ratios
from m2g_audit.references.reference import ReferenceSet, load_folder, scan
from m2g_audit.similarity import load_metric

RESULTS = Path(__file__).parent / "results"
SIZE, SAMPLES, CUT = 512, 16, 0.03
METRIC = load_metric("tiled_l2")
Seconds = dict[str, float]


def main() -> None:
    """Writes results/reference_cost.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        files = photographs(Path(work) / "pictures", asked.pictures)
        rows = [repeat(files, Path(work) / f"cache-{i}") for i in range(asked.repeats)]
    result = {"pictures": asked.pictures, "rows": rows, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reference_cost.md").write_text(report(result))
    (RESULTS / "reference_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print((RESULTS / "reference_cost.md").read_text())


def photographs(folder: Path, n: int) -> list[Path]:
    """JPEG files, somewhat larger than the model's pictures."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        colours = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.array(colours.resize((SIZE + 40, SIZE + 20), Image.Resampling.BICUBIC))
        levels = smooth.astype(int) + rng.integers(-8, 9, smooth.shape)
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg")
    return sorted(folder.iterdir())


def repeat(files: Sequence[Path], cache: Path) -> Seconds:
    """Seconds of each part, nothing kept from before; both find the same neighbours."""
    os.environ["M2G_CACHE"] = str(cache)
    taken: Seconds = {}
    with timed(taken, "load"):
        reference = load(files[0].parent)
    first, second = samples(reference, 0), samples(reference, SAMPLES)
    with timed(taken, "plain"):
        expected = plain(files, second)
    with timed(taken, "nulls"):
        find_nulls(reference, None, METRIC, CUT)
    reference = load(files[0].parent)  # nothing in memory
    for name, images in (("first prompt", first), ("next prompt", second)):
        with timed(taken, name):
            found = nearest_and_ratios(reference, METRIC, METRIC.embed(images), CUT)
    assert np.allclose(found[0], expected, rtol=1e-3)
    return taken


@contextmanager
def timed(taken: Seconds, name: str) -> Iterator[None]:
    """Notes the seconds of a block."""
    start = time.perf_counter()
    yield
    taken[name] = time.perf_counter() - start
    print(f"{name}: {taken[name]:.1f} s", flush=True)


@dataclass
class Identity:
    """Of a model that there is none of."""

    sha256: str = "none"
    dtype: str = "float32"
    configuration: dict[str, Any] = field(default_factory=dict)
    configuration_sha256: str = "none"


class NoModel:
    """A VAE that changes nothing."""

    identity = Identity()
    image_size = (SIZE, SIZE)
    round_trip: Callable[[Tensor], Tensor] = staticmethod(lambda images: images)


def load(folder: Path) -> ReferenceSet:
    """The folder as a reference."""
    return load_folder(scan(folder), NoModel())


def samples(reference: ReferenceSet, first: int) -> Tensor:
    """Some of its pictures with noise, float32 [16, 3, h, w] in [0, 1]."""
    pictures = torch.stack([reference.picture(first + i) for i in range(SAMPLES)]).float() / 255
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(first))
    return (pictures + 0.05 * noise).clamp(0, 1)


def plain(files: Sequence[Path], images: Tensor) -> np.ndarray:
    """The nearest distance of each image as a script would find it."""
    queries, best = tiles(images), torch.full((len(images),), torch.inf)
    for file in files:
        with Image.open(file) as picture:
            levels = torch.from_numpy(np.array(crop(picture, (SIZE, SIZE)))).permute(2, 0, 1)
        one = tiles(levels[None].float() / 255)
        apart = torch.cdist(queries, one, compute_mode="donot_use_mm_for_euclid_dist")
        best = torch.minimum(best, apart.amax(dim=0)[:, 0])
    return best.numpy()


def tiles(images: Tensor) -> Tensor:
    """4 x 4 tiles of images, [16, n, d], so that distances are root-mean-squares."""
    n, side = len(images), SIZE // 4
    cut = images.reshape(n, 3, 4, side, 4, side).permute(2, 4, 0, 1, 3, 5).reshape(16, n, -1)
    return cut / cut.shape[2] ** 0.5


def report(result: dict[str, Any]) -> str:
    """The table."""
    rows: list[Seconds] = result["rows"]
    lines = [
        f"# A reference of {result['pictures']:,} pictures of {SIZE} x {SIZE}",
        "",
        f"`python benchmarks/reference_cost.py`, {in_words(result['machine'])}, median of "
        f"{len(rows)} repeats (least to most). A pixel distance (`tiled_l2`), a VAE that changes "
        "nothing.",
        "",
        "| | seconds | times a plain script |",
        "| --- | --- | --- |",
    ]
    parts = {
        "plain": "a plain script, the nearest of 16 samples, for every prompt",
        "load": "reading the folder, once",
        "nulls": "thresholds from the pictures themselves, once",
        "first prompt": "16 samples of the first prompt: nearest and ratio",
        "next prompt": "16 samples of every further prompt",
    }
    for name, said in parts.items():
        seconds = [row[name] for row in rows]
        ratios = [row[name] / row["plain"] for row in rows]
        lines.append(f"| {said} | {spread(seconds, 1)} | {spread(ratios, 2)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], digits: int) -> str:
    """Median, least and most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
