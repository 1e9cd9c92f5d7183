"""What is shown for each family of text-to-image models, on tiny networks with random weights.

For every family that the tests build: whether it loads from a folder, how far the adapter's guided
prediction, a step of the sampler and a seed's noise are from the pipeline's own, how far a seed's
picture in a batch is from that of plain diffusers alone, how far a picture is from the same beside
prompts of other lengths, and how far products with the Jacobian are from central differences.

    PYTHONPATH=. python benchmarks/families.py      # a minute of a core

Writes m2g_audit/models/families.json, which `m2g-audit models` prints, and results/families.md.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch
from resumable import machine

from m2g_audit.diagnostics.operators import ScoreJacobian
from m2g_audit.errors import AuditError
from m2g_audit.models.denoiser import difference
from m2g_audit.models.examination import examine
from m2g_audit.models.families import FILE
from m2g_audit.models.loading import load_model
from m2g_audit.models.pipeline import Pipeline
from tests.support import tiny
from tests.support.families import FAMILIES, SMALL

RESULTS = Path(__file__).parent / "results"
PROMPTS = ("a print of the old harbour", "a much longer print of another harbour", "a cat")
SEEDS = (3, 4, 5)
T0 = 5
MADE: dict[str, Any] = {
    "stable_diffusion_1": tiny.text_to_image,
    "stable_diffusion_2": lambda: tiny.text_to_image("v_prediction", version="2.x"),
    **FAMILIES,
}


def main() -> None:
    """Measures, and writes the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for family in MADE:
        with tempfile.TemporaryDirectory() as name:
            rows.append(measure(family, Path(name)))
        print(rows[-1], flush=True)
    found = {"diffusers": diffusers.__version__, "machine": machine(), "families": rows}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "families.md").write_text(as_table(found))


def measure(family: str, folder: Path) -> dict[str, Any]:
    """One family, through a folder of its files."""
    pipe, small = MADE[family](), SMALL.get(family)
    row: dict[str, Any] = {"family": family, "pipeline": type(pipe).__name__}
    pipe.save_pretrained(folder)
    size = (small["height"], small["width"]) if small else None
    try:
        model = load_model(folder, device="cpu", size=size)
        seen = examine(model)
        row |= {
            "noise": seen.noise,
            "guidance": seen.guidance_kind,
            "prediction": seen.prediction,
            "step": seen.step,
            "picture": seen.picture,
            "refused": None if seen.no_score is None else said(seen.no_score, folder),
            "beside_others": beside_others(model),
            "product": None if seen.no_score else product_error(model),
        }
    except AuditError as error:
        row |= {"refused": said(str(error), folder)}
    return row


def said(message: str, folder: Path) -> str:
    """A refusal without the folder's name."""
    return message.replace(str(folder), "the model")


def beside_others(model: Pipeline) -> float | None:
    """The largest relative difference of latents made beside prompts of other lengths."""
    settings: dict[str, Any] = {"steps": 2, "guidance": 4.0}
    try:
        together = model.generate(PROMPTS, SEEDS, batch_size=3, **settings).latents
        alone = [model.generate(PROMPTS[i], SEEDS[i : i + 1], **settings) for i in range(3)]
    except AuditError:
        return None
    return max(difference(together[i], alone[i].latents[0]) for i in range(3))


def product_error(model: Pipeline) -> float:
    """The relative difference of J v by forward mode from central differences of the score."""
    score = model.bind(PROMPTS[0], guidance=4.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *score.shape, generator=generator)
    v = torch.randn(1, 1, score.size, generator=generator)
    v /= v.norm()
    # Normalised by sigma^2.
    product = ScoreJacobian(score, x, T0).matvec(v)[0, 0] / float(score.schedule.sigma(T0)) ** 2
    step = 0.05 * v.reshape(x.shape)
    change = score.score(x + step, T0) - score.score(x - step, T0)
    return difference(product, change.flatten().double() / 0.1)


def as_table(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [
        "# Families of text-to-image models",
        "",
        f"Tiny networks with random weights, diffusers {found['diffusers']}, {found['machine']}.",
        "Relative differences, but for pictures (of 255 levels). Made by `benchmarks/families.py`.",
        "",
        "| family | noise | guidance | prediction | step | picture | beside others | J v | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["families"]:
        cells = [
            row["family"],
            row.get("noise") or "",
            row.get("guidance") or "",
            *(shown(row.get(key)) for key in ("prediction", "step", "picture", "beside_others")),
            shown(row.get("product")),
            row["refused"] or "scores and pictures",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(value: float | None) -> str:
    """A number of two digits, nothing for none."""
    return "" if value is None else f"{value:.1e}" if value < 0.01 else f"{value:.2g}"


if __name__ == "__main__":
    main()
