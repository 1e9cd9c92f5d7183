"""One prompt and the setup that it is audited with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m2g_audit.audits.setup import Setup
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.errors import UsageError
from m2g_audit.prompts.entries import MAX_PROMPT
from m2g_audit.records.record import Wording
from m2g_audit.records.vocabulary import ScoreKind


@dataclass(frozen=True)
class Job:
    """A prompt to audit.

    wording: what the model reads of it; seconds: of the stages that are done, by name.
    """

    setup: Setup
    prompt: str
    negative_prompt: str | None
    wording: Wording
    warnings: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a number of the record, as JSON values."""
        away = self.negative_prompt
        negative = {} if away is None else {"negative_prompt": away}
        return {"prompt": self.prompt, **negative, **self.setup.identity}

    def seed_of(self, purpose: str, index: int) -> int:
        """Return the seed of what is drawn for a sample of this prompt beside its picture."""
        return seed_for(self.setup.settings.seed, f"{purpose} {self.prompt}", index)

    def bind(self, kind: ScoreKind) -> ScoreModel:
        """Return the score that the model gives this prompt, under the run's guidance."""
        return self.setup.pipeline.bind(
            self.prompt,
            guidance=self.setup.settings.guidance,
            kind=kind,
            negative_prompt=self.negative_prompt,
        )

    def generator_seed(self, index: int) -> int:
        """Return what `torch.Generator("cpu").manual_seed` needs to draw one image's noise."""
        return seed_for(self.setup.settings.seed, self.prompt, index)


def make_job(
    setup: Setup,
    prompt: str,
    negative_prompt: str | None = None,
    seconds: Mapping[str, float] | None = None,
    wording: Wording | None = None,
) -> Job:
    """Return the job of one prompt.

    Args:
        setup: What it is audited with.
        prompt: Checked by `check_prompt` before.
        negative_prompt: What it is sampled away from.
        seconds: Of stages that are done already.
        wording: What the model reads, by default as its tokenizer says.

    Raises:
        UsageError: There is a negative prompt and no guidance, without which it does nothing.
    """
    setup.check_negative_prompt(negative_prompt)
    if wording is None:
        wording = _wording(setup, prompt)
    remarks = setup.provenance.remarks(prompt) if setup.provenance is not None else []
    return Job(
        setup=setup,
        prompt=prompt,
        negative_prompt=negative_prompt,
        wording=wording,
        warnings=(*remarks, *_warnings(wording)),
        seconds=dict(seconds or {}),
    )


def check_prompt(prompt: str, negative_prompt: str | None = None) -> None:
    """Raise UsageError for a text that is no prompt."""
    if not prompt.strip():
        raise UsageError(
            'The prompt is empty. Give the text to audit: m2g-audit prompt "a print of the old '
            'harbour"'
        )
    if len(prompt.strip()) > MAX_PROMPT:  # lists leave out what is around prompts
        raise UsageError(
            f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are taken. Models "
            "read some 75 words of it and drop the rest: give the beginning."
        )
    if len(negative_prompt or "") > MAX_PROMPT:
        raise UsageError(f"--negative-prompt may have {MAX_PROMPT:,} characters at most.")
    try:
        f"{prompt}{negative_prompt}".encode()
    except UnicodeEncodeError as error:
        raise UsageError("The prompt is not valid UTF-8 text.") from error


def _wording(setup: Setup, prompt: str) -> Wording:
    pipeline, provenance = setup.pipeline, setup.provenance
    tokens, window = pipeline.token_count(prompt)
    return Wording(
        tokens=tokens,
        window=window,
        cut_off=pipeline.cut_off(prompt) if tokens > window else "",
        unknown_words=[] if provenance is None else provenance.unknown_words(prompt),
    )


def _warnings(wording: Wording) -> list[str]:
    tokens, window = wording.tokens, wording.window
    if tokens is None or window is None or tokens <= window:
        return []
    return [
        f"The prompt has {tokens} tokens and the model reads {window}: the end of the prompt has "
        "no effect on the pictures."
    ]
