"""What a batch has come to so far, for whoever watches it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from m2g_audit.records.record import AuditRecord
from m2g_audit.review.gate import badness


@dataclass
class Tally:
    """What a batch has come to so far, for whoever watches it.

    before: prompts that were finished when this process began; done and failed: with them, by
    whatever process; pictures: made by this one; stage: what the model is asked for, and how much
    of it is done; verdicts and worst: of the records seen here.
    """

    prompts: int
    before: int = 0
    done: int = 0
    failed: int = 0
    pictures: int = 0
    stage: tuple[str, float] | None = None
    verdicts: Counter[str] = field(default_factory=Counter)
    worst: tuple[tuple[float, ...], str, str] | None = None
    began: float = field(default_factory=time.monotonic)

    def work_on(self, stage: str, done: int, total: int) -> None:
        """Take in what the model is asked for now."""
        self.stage = (stage, done / max(1, total))

    def see(self, record: AuditRecord) -> None:
        """Take in a record: its verdict, and whether it is the worst."""
        if record.error is not None:
            return
        self.verdicts[record.verdict.state] += 1
        seen = (badness(record), record.prompt, record.verdict.state)
        if self.worst is None or seen[0] > self.worst[0]:
            self.worst = seen

    @property
    def prompts_per_second(self) -> float | None:
        """Return the rate since this process began, whoever did them; None before there is one."""
        made = self.done + self.failed - self.before
        return made / max(1e-9, time.monotonic() - self.began) if made > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest takes at that rate."""
        rate = self.prompts_per_second
        return None if rate is None else (self.prompts - self.done - self.failed) / rate
