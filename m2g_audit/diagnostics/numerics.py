"""Numerics on which the answers rest: exact fp32, one generator an image, determinism."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.errors import NumericsError, ResourceError

Result = TypeVar("Result")

_SEEDS = 2**32
_GOLDEN = 0x9E3779B1  # odd, so that i -> i * _GOLDEN is a bijection modulo 2^32


class _ExactBackends:
    """Counts the blocks that want exact backends: the switches belong to all threads at once.

    The first block saves and sets them, the last one restores them, in whatever order they end.
    """

    def __init__(self) -> None:
        self._lock, self._blocks = Lock(), 0
        self._saved = (False, False, False, False)

    def enter(self) -> None:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        with self._lock:
            if self._blocks == 0:
                self._saved = (
                    matmul.allow_tf32,
                    cudnn.allow_tf32,
                    cudnn.deterministic,
                    cudnn.benchmark,
                )
                matmul.allow_tf32 = cudnn.allow_tf32 = False
                cudnn.deterministic, cudnn.benchmark = True, False
            self._blocks += 1

    def leave(self) -> None:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                (
                    matmul.allow_tf32,
                    cudnn.allow_tf32,
                    cudnn.deterministic,
                    cudnn.benchmark,
                ) = self._saved


_EXACT = _ExactBackends()


@contextmanager
def exact_numerics(*, math_attention: bool = False) -> Iterator[None]:
    """A block in which fp32 is fp32: TF32 off, deterministic convolutions; all restored afterwards.

    `math_attention` also selects unfused attention, which forward-mode AD needs. Blocks may nest
    and run in several threads.
    """
    _EXACT.enter()
    try:
        if math_attention:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield
    finally:
        _EXACT.leave()


def seed_for(run_seed: int, prompt: str, index: int) -> int:
    """The integer in [0, 2^32) for `torch.Generator("cpu").manual_seed` of one image of a prompt.

    Torch's CPU generator keeps the low 32 bits of a seed, so a longer one would only hide
    collisions. SHA-256 of (run seed, prompt) gives the start, and steps by an odd constant never
    meet within a prompt.
    """
    digest = hashlib.sha256(f"{run_seed}\0{prompt}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + index * _GOLDEN) % _SEEDS


def noise_for(
    seed: int, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Float[Tensor, " *shape"]:
    """Standard normal noise of one item, drawn on the CPU: the same on any device, in any batch."""
    return torch.randn(
        (1, *shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=dtype
    )[0]


def noises_for(
    seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Float[Tensor, " b *shape"]:
    """`noise_for` of several seeds, stacked."""
    return torch.stack([noise_for(seed, shape, dtype) for seed in seeds])


def check_finite(values: Tensor, what: str) -> Tensor:
    """`values` as they are; raises NumericsError if any of them is NaN or infinite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise NumericsError(
            f"{bad} of {values.numel()} values of {what} are not finite. The network overflows or "
            "its weights are broken, so nothing computed from it would mean anything. Try --dtype "
            "float32; if it is used already, get the model's weights again."
        )
    return values


@torch.no_grad()
def probe_determinism(model: ScoreModel, x: Float[Tensor, " b *shape"], t: int) -> None:
    """Raises NumericsError if `model` answers the same question (x, t) in two ways."""
    first, second = model.predict_noise(x, t), model.predict_noise(x, t)
    check_finite(first, "the noise prediction")
    if not torch.equal(first, second):
        change = float((first - second).abs().max())
        raise NumericsError(
            f"The network gave two answers to the same input (they differ by up to {change:.2g}), "
            "so a spectrum would measure its randomness. Dropout or a non-deterministic kernel is "
            "active: put the model in evaluation mode, or run with --device cpu."
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out, on whatever device."""
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("out of memory", "can't allocate memory"))
    )


def in_batches(
    count: int, size: int, work: Callable[[range], Result], what: str
) -> Iterator[tuple[range, Result]]:
    """(range, work(range)) over consecutive ranges of 0 .. count-1, of at most `size` each.

    Where memory runs out the size is halved for good and the range done again; a range of one that
    does not fit raises ResourceError, which names `what` was tried.
    """
    start = 0
    while start < count:
        batch = range(start, min(start + size, count))
        try:
            result = work(batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise ResourceError(too_little_memory(what)) from error
            size = len(batch) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield batch, result
        start = batch.stop


def too_little_memory(what: str) -> str:
    """The message for something that does not fit in memory even alone."""
    return (
        f"There is not enough memory for {what}. Close other programs, use --dtype float16 on a "
        "GPU or --device cpu, or --model pocket, which needs little."
    )
