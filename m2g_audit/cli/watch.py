"""`m2g-audit watch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2g_audit.cli.options import OUTPUT, Format, with_audit_options

if TYPE_CHECKING:
    from m2g_audit.batch.monitor import Monitor
    from m2g_audit.models.checkpoints import Checkpoint
    from m2g_audit.review.watching import Check

_TRAINING = "The training"
_POLL_SECONDS = 5.0
_FINDINGS = 1


@with_audit_options(
    without=("model", "reference", "reference_complete"),
    defaults={"spectrum": "none", "seeds": "8"},
)
def watch(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Where the training saves: folders checkpoint-500 (a whole model, its denoiser "
            "alone, a LoRA) or LoRA files whose names end in a number.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="What it is trained on, as for finetune.",
            rich_help_panel=_TRAINING,
            show_default=False,
        ),
    ],
    every: Annotated[
        int,
        typer.Option(
            min=1, help="Steps from one check to the next, at least.", rich_help_panel=_TRAINING
        ),
    ] = 1,
    captions: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many captions each checkpoint is asked for, the same ones each time.",
            rich_help_panel=_TRAINING,
        ),
    ] = 16,
    trigger: Annotated[
        str | None,
        typer.Option(help="The word that is taught, as for finetune.", rich_help_panel=_TRAINING),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Of captions that are not UTF-8.", rich_help_panel=_TRAINING),
    ] = None,
    stop_at: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="End with exit code 1 once surely more than this share of the training set's "
            "captions give back a picture.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            help="Check what is there and end, as from a trainer's script after a checkpoint.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    *,
    options: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the checks; FOLDER/m2g-audit if left out. The same command "
            "continues.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output_format: Format = "text",
) -> None:
    """Tell from which step on a training gives back pictures of its training set.

    Looks at every checkpoint that a training saves, beside it or afterwards, asks it for some of
    the training set's captions, and says how many give back a picture, until it is interrupted.

    Example: m2g-audit watch ./output --data ./training-set --every 500 --stop-at 0.05
    """
    from m2g_audit.cli.bars import loading
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.errors import OutputError

    if not folder.is_dir():
        raise OutputError(f"{folder} is no folder: give the one that the training saves in.")
    console = Terminal(stderr=True)
    with loading(console):
        from m2g_audit.batch.monitor import Monitor
        from m2g_audit.review.watching import find_onset, in_words
    monitor = Monitor(
        data,
        out=out or folder / "m2g-audit",
        captions=captions,
        trigger=trigger,
        encoding=encoding,
        **options,
    )
    for notice in monitor.prompts.notices:
        console.print(f"Note: {notice}", soft_wrap=True, highlight=False)
    watcher = _Watcher(monitor, folder, every, console)
    for check in monitor.checks:
        watcher.say(check)
    limit = 0.0 if stop_at is None else stop_at
    while True:
        young = watcher.look()
        stopped = stop_at is not None and find_onset(monitor.checks, stop_at) is not None
        if stopped or (once and not young):
            break
        time.sleep(_POLL_SECONDS)
    if output_format == "json":
        for check in monitor.checks:
            print(check.model_dump_json())
    else:
        text = in_words(monitor.checks, limit)
        Terminal().print(text, soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(_FINDINGS if stopped else 0)


class _Watcher:
    """Checks the checkpoints of a folder as they come; those that can't be are told of once."""

    def __init__(self, monitor: Monitor, folder: Path, every: int, console: Any) -> None:
        self._monitor, self._folder, self._every = monitor, folder, every
        self._console = console
        self._failed: set[Path] = set()

    def look(self) -> int:
        """Check what is new; return how many checkpoints may still be written."""
        from m2g_audit.models.checkpoints import find_checkpoints

        found, young = find_checkpoints(self._folder)
        for checkpoint in found:
            if self._is_due(checkpoint):
                self._check(checkpoint)
        return young

    def _is_due(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.path in self._failed:
            return False
        steps = [check.step for check in self._monitor.checks]
        return all(abs(checkpoint.step - step) >= self._every for step in steps)

    def _check(self, checkpoint: Checkpoint) -> None:
        from m2g_audit.cli.bars import progress_on
        from m2g_audit.errors import ModelError, NumericsError

        try:
            with progress_on(self._console) as progress:
                check = self._monitor.check(
                    str(checkpoint.path), checkpoint.step, on_progress=progress
                )
        except (ModelError, NumericsError) as error:
            if isinstance(error, ModelError) and checkpoint.path.exists():
                raise
            # Trainers remove old checkpoints, and one that overflows must not end the watch.
            self._failed.add(checkpoint.path)
            self._console.print(f"Step {checkpoint.step:,} was not checked: {error}", markup=False)
            return
        self.say(check)

    def say(self, check: Check) -> None:
        """Print one check in a line."""
        share = check.share
        doubt = "" if check.calibrated else "; thresholds not measured, nothing confirmed"
        self._console.print(
            f"step {check.step:,}: {check.giving:,} of {check.captions:,} captions give back a "
            f"picture ({share.low:.0%} to {share.high:.0%}); {check.copies:,} of "
            f"{check.generations:,} pictures are copies{doubt}; {check.seconds:.0f} s",
            soft_wrap=True,
            highlight=False,
        )
