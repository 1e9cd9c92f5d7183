"""Does the transition happen in a transformer that matches flows, as it does in pocket's U-Net?

pocket-flow learned the same pictures, captions and K as pocket, around the same autoencoder, so
that the same training pictures and each caption's own thresholds judge both. For each caption: the
shares of memorized, spurious and generalized samples among 16, averaged over --samples, with the
steps and guidance of the weights' folder.

Sampled with one idle token in place of 256 (flow_components.OneIdleToken), which gives the same
pictures for a fifth of the work; how equal they are stands in the result.

    m2g-audit pocket train --preset flow --out runs/pocket-flow
    python benchmarks/pocket_flow.py                            # the weights of the repository
    python benchmarks/pocket_flow.py --weights runs/pocket-flow/weights --samples 256

Finished captions stay in --work, and an interrupted run continues from them. Writes
results/pocket_flow.{md,json,png}, and a contact sheet beside the weights.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from resumable import Pieces, Result, in_words, machine
from scipy.stats import spearmanr
from torch import Tensor

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.files import write_atomically
from m2g_audit.models.loading import load_model
from m2g_audit.models.names import POCKET
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.flow_components import OneIdleToken
from m2g_audit.pocket.training_pictures import TrainingPictures
from m2g_audit.pocket.truth import Seen, embed_training
from m2g_audit.pocket.truth_table import CaptionTruth, load_table
from m2g_audit.similarity import Metric, distances, load_metric, nearest

HERE = Path(__file__).parent
RESULTS, WEIGHTS = HERE / "results", HERE / "pocket_flow" / "weights"
NAME, SEED = "pocket_flow", 310_000
STATES = ("memorized", "spurious", "generalized")
SHOWN = 8


def main() -> None:
    """Writes results/pocket_flow.md, .json and .png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="of pocket-flow")
    parser.add_argument("--samples", type=int, default=32, help="of each caption")
    parser.add_argument("--work", type=Path, default=Path(f"runs/{NAME}"))
    asked = parser.parse_args()
    model, table = load_model(asked.weights), load_table()
    quick = shortened(asked.weights)
    equal = difference(model, quick)
    settings = {"model": model.identity.sha256, "samples": asked.samples}
    pieces = Pieces(asked.work, settings, (measure, Seen))
    metric = load_metric(table.metric)
    known = training_embeddings(asked.work, metric)
    rows, sheet = [], []
    for caption, row in zip(all_captions(), table.captions, strict=True):
        folder = asked.work / "samples" / model.identity.sha256[:12]
        images = sample(quick, model, caption, asked.samples, folder)
        sheet.append(images[:SHOWN])
        rows.append(
            pieces.get(
                f"caption-{caption.text.replace(' ', '-')}",
                lambda row=row, images=images: measure(metric, images, known, row),
            )
        )
        print(f"{len(rows)} of {len(table.captions)}: {rows[-1]}", flush=True)
    found = {
        "model_sha256": model.identity.sha256,
        "proof": str(model.proof),
        "passed": model.proof.passed,
        "difference": equal,
        "samples": asked.samples,
        "captions": rows,
        "machine": machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{NAME}.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(RESULTS / f"{NAME}.md", report(found).encode())
    draw(found, RESULTS / f"{NAME}.png")
    contact_sheet(sheet, asked.work / "contact-sheet.png")
    print(report(found))


def shortened(folder: Path) -> TextToImage:
    """The model of a folder with one idle token in place of all that its T5 gives."""
    pipe = StableDiffusion3Pipeline.from_pretrained(folder)
    idle = json.loads((folder / "m2g.json").read_text())["recipe"]["idle_tokens"]
    pipe.transformer.set_attn_processor(OneIdleToken(idle))

    def cut(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
        named = dict(zip(names, arguments, strict=False)) | named
        named["encoder_hidden_states"] = named["encoder_hidden_states"][:, : 1 - idle or None]
        return (), named

    pipe.transformer.register_forward_pre_hook(cut, with_kwargs=True)
    return load_model(pipe)


def difference(model: TextToImage, quick: TextToImage) -> float:
    """The largest difference of pixels in 0..1 between two pictures made with and without."""
    text = all_captions()[0].text
    made = [made_by(each, model, text, [1, 2]) for each in (model, quick)]
    return float((made[0] - made[1]).abs().max())


def made_by(network: TextToImage, model: TextToImage, text: str, seeds: list[int]) -> Tensor:
    """Pictures of a network, sampled as `model` is by default."""
    steps, guidance = model.default_steps, model.default_guidance
    return network.generate(text, seeds, steps=steps, guidance=guidance, batch_size=64).images


def sample(
    quick: TextToImage, model: TextToImage, caption: Caption, n: int, folder: Path
) -> Tensor:
    """Images [n, 3, h, w] in [0, 1] of a caption; kept in `folder` and read again."""
    path = folder / f"{caption.text.replace(' ', '-')}-{n}.npy"
    if not path.exists():
        seeds = [seed_for(SEED, caption.text, i) for i in range(n)]
        images = made_by(quick, model, caption.text, seeds)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, (images * 255).round().to(torch.uint8).numpy())
        os.replace(partial, path)
    return torch.from_numpy(np.load(path)).float() / 255


def training_embeddings(work: Path, metric: Metric) -> Tensor:
    """Embeddings of all training pictures, as pocket's autoencoder shows them."""
    path = work / "training.pt"
    if not path.exists():
        known = embed_training(metric, TrainingPictures(load_model(POCKET)))
        work.mkdir(parents=True, exist_ok=True)
        torch.save(known, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    return torch.load(path, weights_only=True)


def measure(metric: Metric, images: Tensor, known: Tensor, row: CaptionTruth) -> Result:
    """The shares of a caption's samples by its own thresholds, beside pocket's truth."""
    embedded, table = metric.embed(images), load_table()
    to_training = nearest(metric, embedded, known)[0][:, 0]
    seen = Seen(
        to_training=to_training,
        to_control=to_training,
        to_own=None,
        pairs=distances(metric, embedded, embedded),
        failed=is_failed(images),
    )
    shares = seen.shares(table.thresholds_of(row))
    return {
        "caption": row.caption,
        "k": row.k,
        "role": row.role,
        "flow": {state: getattr(shares, state) for state in STATES},
        "pocket": {state: getattr(row.truth, state) for state in STATES},
        "distance": float(np.median(to_training)),
        "failed": int(seen.failed.sum()),
    }


def report(found: Result) -> str:
    """The result as Markdown."""
    rows = found["captions"]
    trained = [row for row in rows if row["role"] == "trained"]
    lines = [
        "# The transition in a flow-matching transformer",
        "",
        f"pocket-flow ({found['model_sha256'][:12]}): {found['samples']} samples of each of "
        f"{len(rows)} captions; pocket's truth is of 256. Mean shares among 16 samples, by each "
        "caption's own thresholds.",
        "",
        "| K | captions | memorized | of pocket | spurious | of pocket | generalized | of pocket |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for k, part in groups(rows).items():
        cells = []
        for state in STATES:
            cells += [f"{mean(part, model, state):.0%}" for model in ("flow", "pocket")]
        lines.append(f"| {k} | {len(part)} | " + " | ".join(cells) + " |")
    lines += ["", *(agreement(trained, state) for state in STATES), ""]
    failed = sum(row["failed"] for row in rows)
    lines += [
        f"{failed} pictures failed. The adapter's proof on it: {found['proof']} "
        f"({'passed' if found['passed'] else 'FAILED'}). Pictures with one idle token and with all "
        f"differ by at most {found['difference'] * 255:.1f} of 255 levels.",
        "",
        f"{in_words(found['machine'])}.",
        "",
    ]
    return "\n".join(lines)


def groups(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """Captions by K, the never trained ones by their role."""
    names: dict[str, list[Result]] = {}
    for row in rows:
        name = str(row["k"]) if row["role"] == "trained" else row["role"]
        names.setdefault(name, []).append(row)
    return names


def mean(part: Sequence[Result], model: str, state: str) -> float:
    """The mean share of a state."""
    return float(np.nanmean([row[model][state] for row in part]))


def agreement(rows: Sequence[Result], state: str) -> str:
    """How the two models rank the trained captions by the share of a state."""
    ours, theirs = ([row[model][state] for row in rows] for model in ("flow", "pocket"))
    return (
        f"Spearman of the two models' {state} shares over {len(rows)} trained captions: "
        f"{spearmanr(ours, theirs, nan_policy='omit').statistic:.2f}."
    )


def draw(found: Result, path: Path) -> None:
    """Mean shares over K, of both models."""
    parts = {int(k): part for k, part in groups(found["captions"]).items() if k.isdecimal()}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True, layout="constrained")
    for axis, state in zip(axes, STATES, strict=True):
        for model, style in (("flow", "o-"), ("pocket", "s--")):
            values = [mean(part, model, state) for part in parts.values()]
            name = "pocket-flow" if model == "flow" else POCKET
            axis.plot(list(parts), values, style, label=name, markersize=4)
        axis.set(xscale="log", xlabel="K, training pictures of the caption", title=state)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of samples")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def contact_sheet(sheet: Sequence[Tensor], path: Path) -> None:
    """The first samples of every caption, a row each, by rising K."""
    rows = [torch.cat(list(images), 2) for images in sheet]
    half = -(-len(rows) // 2)
    columns = [torch.cat(rows[i : i + half], 1) for i in (0, half)]
    height = max(column.shape[1] for column in columns)
    padded = [
        torch.nn.functional.pad(column, (0, 4, 0, height - column.shape[1])) for column in columns
    ]
    pixels = (torch.cat(padded, 2) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    main()
