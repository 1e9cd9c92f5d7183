"""Options that mean the same in every verb."""

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Format = Annotated[
    Literal["text", "json"],
    typer.Option("--format", help="text for people, json for programs (alone on stdout)."),
]

_MODEL, _REFERENCE, _SAMPLING = "Model", "Reference and thresholds", "Sampling"
MEASURES = "Measures"
OUTPUT = "Output"
# Many choices as a type would leave no room for the options' names in 80 columns.
_NAME = "<name>"

Seeds = Annotated[
    str,
    typer.Option(
        metavar="<n|auto>",
        help="How many pictures to make, each from its own seed: 2 or more, or auto, which takes "
        "8, 16, 32, 64 until the verdict is settled.",
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(help="What pictures are sampled away from.", rich_help_panel=_SAMPLING),
]
Model = Annotated[
    str,
    typer.Option(
        help="A hub id, a diffusers folder, or pocket, which ships with the program.",
        rich_help_panel=_MODEL,
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="The hub's revision of the model.", rich_help_panel=_MODEL)
]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option(
        metavar=_NAME,
        help="Precision of sampling: float32, float16 or bfloat16. Without it float32 on a "
        "CPU, else float16. Curvature is float32.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda or mps. Without it the fastest at hand.", rich_help_panel=_MODEL),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Load weights from pickle files, which can run any code.",
        rich_help_panel=_MODEL,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="The training pictures: a folder, a parquet file, a tar archive or a list of paths; "
        "or none. The pocket model knows its own.",
        rich_help_panel=_REFERENCE,
    ),
]
ReferenceComplete = Annotated[
    bool,
    typer.Option(
        "--reference-complete",
        help="The reference is all that the model saw: repeats outside of it are spurious.",
        rich_help_panel=_REFERENCE,
    ),
]
ReferenceFlipped = Annotated[
    bool,
    typer.Option(
        "--reference-flipped",
        help="Training mirrored pictures at random: compare with mirrored ones as well.",
        rich_help_panel=_REFERENCE,
    ),
]
Unseen = Annotated[
    Path | None,
    typer.Option(
        help="Pictures of the reference's kind, kept in one of the same ways, that training did "
        "not see; they set the thresholds.",
        rich_help_panel=_REFERENCE,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="The model that this one was fine-tuned from: what its pictures are apart sets the "
        "thresholds where no pictures do.",
        rich_help_panel=_REFERENCE,
    ),
]
DeltaM = Annotated[
    float | None,
    typer.Option(
        help="The distance to the reference up to which a picture is a copy, by hand.",
        rich_help_panel=_REFERENCE,
    ),
]
DeltaS = Annotated[
    float | None,
    typer.Option(
        help="The distance up to which two pictures repeat each other, by hand.",
        rich_help_panel=_REFERENCE,
    ),
]
ControlPrompts = Annotated[
    Path | None,
    typer.Option(
        help="A list of ordinary prompts for this model, instead of the program's own.",
        rich_help_panel=_REFERENCE,
    ),
]
ReferenceExif = Annotated[
    Literal["turn", "keep"],
    typer.Option(
        help="Whether training turned pictures as their EXIF says (datasets does) or kept them as "
        "they lie in the file.",
        rich_help_panel=_REFERENCE,
    ),
]
ReferenceAlpha = Annotated[
    Literal["drop", "white", "black"],
    typer.Option(
        metavar=_NAME,
        help="What training made of transparency: drop, as convert('RGB') does, or pictures laid "
        "over white or black.",
        rich_help_panel=_REFERENCE,
    ),
]
ReferencePages = Annotated[
    Literal["first", "all"] | None,
    typer.Option(
        help="What training saw of files with several pages or frames. Without it the first is "
        "read, and the others count as not read.",
        rich_help_panel=_REFERENCE,
    ),
]
Metric = Annotated[
    Literal["auto", "l2", "tiled_l2", "lpips-alex", "lpips-vgg", "clip", "sscd"],
    typer.Option(
        metavar=_NAME,
        help="The image distance: l2, tiled_l2, lpips-alex, lpips-vgg, clip or sscd. auto: the "
        "model's own, else sscd if its file is at hand, else tiled_l2.",
        rich_help_panel=_REFERENCE,
    ),
]
MetricWeights = Annotated[
    Path | None,
    typer.Option(help="The metric's weights file.", rich_help_panel=_REFERENCE),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load a TorchScript metric file whose SHA-256 is not known; it can run any code.",
        rich_help_panel=_REFERENCE,
    ),
]
Controls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Run all control prompts: without a reference or base they set the thresholds, unless "
        "the model repeats for them too. Else a few show whether it does.",
        rich_help_panel=_REFERENCE,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(help="Sampling steps; the model's own, else 50.", rich_help_panel=_SAMPLING),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance scale; the model's own, else 7.5. 0 or 1: none.", rich_help_panel=_SAMPLING
    ),
]
Scheduler = Annotated[
    Literal["ddim", "keep"],
    typer.Option(help="DDIM with eta 0, or the model's own.", rich_help_panel=_SAMPLING),
]
Seed = Annotated[
    int,
    typer.Option(help="The run's seed, from which all others follow.", rich_help_panel=_SAMPLING),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Pictures made at once; changes time and memory only.", rich_help_panel=_SAMPLING
    ),
]
Spectrum = Annotated[
    Literal["fast", "exact-alg2", "exact-alg3", "exact-jacobian", "none"],
    typer.Option(
        "--spectrum",
        "--curvature",
        metavar=_NAME,
        help="The curvature spectrum. fast: estimated with a stated error; exact-alg2, "
        "exact-alg3: by the paper's Alg. 2 or 3 (8N and 4N network evaluations); "
        "exact-jacobian: of the Jacobian itself; or none.",
        rich_help_panel=MEASURES,
    ),
]
SpectrumTolerance = Annotated[
    float,
    typer.Option(
        help="The relative error at which a fast spectrum stops.", rich_help_panel=MEASURES
    ),
]
T0 = Annotated[
    int,
    typer.Option(
        help="Where curvature is taken: an early step of the noise schedule.",
        rich_help_panel=MEASURES,
    ),
]
SpectrumSamples = Annotated[
    int, typer.Option(help="How many pictures get a spectrum.", rich_help_panel=MEASURES)
]
SpectrumScore = Annotated[
    Literal["conditional", "guided", "unconditional"],
    typer.Option(
        metavar=_NAME,
        help="Which of the model's scores: conditional, guided or unconditional.",
        rich_help_panel=MEASURES,
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="A calibration.json whose read-out of spectra may tell memorized from spurious "
        "attractors. Refused where it does not fit the model.",
        rich_help_panel=MEASURES,
    ),
]
Basin = Annotated[
    bool,
    typer.Option(
        "--basin",
        help="Measure from how much noise the model falls back into each attractor: its "
        "critical time, by bisection.",
        rich_help_panel=MEASURES,
    ),
]
BasinExact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="With --basin: the paper's Alg. 1 as printed, with fresh noise at every check; it "
        "ends sooner, and takes several times as long.",
        rich_help_panel=MEASURES,
    ),
]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes",
        "-y",
        help="Start without asking, however long it takes.",
        rich_help_panel=OUTPUT,
    ),
]


def chosen(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a verb's arguments that are options of a Request, by its names for them."""
    from m2g_audit.audits.request import Request

    names = {field.name for field in fields(Request)}
    found = {name: value for name, value in arguments.items() if name in names}
    return {**found, "seeds": _seeds(str(found["seeds"]))}


def _seeds(text: str) -> int | Literal["auto"]:
    from m2g_audit.errors import UsageError

    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--seeds {text} is not possible: give a number, or auto.") from None


def print_json(content: str) -> None:
    """Write JSON to stdout as UTF-8, whatever the terminal's own encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content.encode() if content.endswith("\n") else f"{content}\n".encode())
    sys.stdout.buffer.flush()
