"""How many pictures a batch makes at once, learned while it works."""

from __future__ import annotations

from m2g_audit.audits.setup import Setup

_PAYS = 1.1
_LARGE_PIXELS = 128


class BatchSize:
    """How many pictures are made at once: doubled while that pays, halved where memory ends.

    Every size is tried twice, the first time to warm up; a larger one must make 10% more pictures a
    second to be kept.
    """

    def __init__(self, start: int, most: int) -> None:
        self.value = start
        self._most = most
        self._best, self._rate = start, 0.0
        self._tries, self._found = 0, start >= most

    @classmethod
    def of(cls, setup: Setup) -> BatchSize:
        """Return where the search for a setup starts; a size that was asked for is not exceeded."""
        if setup.batch_size is not None:
            return cls(setup.batch_size, setup.batch_size)
        large = max(setup.pipeline.image_size) > _LARGE_PIXELS
        if setup.pipeline.device.type == "cpu":
            # A CPU has few lanes to fill, and running out of its memory ends the process.
            return cls(1, 1) if large else cls(16, 64)
        return cls(4, 64) if large else cls(16, 1024)

    def learn(self, asked: int, fitted: int, seconds: float) -> None:
        """Take in that `asked` pictures took `seconds`, at most `fitted` of them at once."""
        if fitted < asked:
            self.value, self._found = fitted, True
        if self._found or asked < self.value:
            return
        self._tries += 1
        if self._tries < 2:
            return
        rate = asked / max(seconds, 1e-9)
        if rate < _PAYS * self._rate:
            self.value, self._found = self._best, True
            return
        self._best, self._rate, self._tries = self.value, rate, 0
        self.value = min(2 * self.value, self._most)
        self._found = self.value == self._best
