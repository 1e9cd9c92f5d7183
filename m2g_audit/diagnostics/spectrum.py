"""The curvature spectrum at one sample, by whichever algorithm is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics import exact_spectrum, fast_spectrum
from m2g_audit.diagnostics.exact_spectrum import Spectrum
from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.errors import UsageError

Algorithm = Literal["fast", "exact-alg2", "exact-alg3", "exact-jacobian"]


def spectrum(
    model: ScoreModel,
    latents: Float[Tensor, " *shape"],
    *,
    t0: int = 5,
    algorithm: Algorithm = "fast",
    seed: int = 0,
    tolerance: float = fast_spectrum.TOLERANCE,
    block: int = 16,
    kept: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Spectrum:
    """Return the normalised singular values of the score's Jacobian near a clean sample.

    Args:
        model: A score model, such as `load_model("pocket").bind("a prompt")`.
        latents: The clean sample x_0, of the model's own shape.
        t0: The noise level's index, where x_t = alpha x_0 + sigma noise.
        algorithm: "fast" (estimated, with a stated error), the paper's "exact-alg2" or
            "exact-alg3", or "exact-jacobian", the Jacobian itself.
        seed: Of noise and directions.
        tolerance: The relative error at which "fast" stops.
        block: Points or columns in one network call.
        kept: A file that an interrupted Alg. 2 or 3 continues from.
        on_progress: Gets network evaluations done.

    Raises:
        UsageError: A number is out of range, or the algorithm unknown.
        NumericsError: The network is random or overflows.
        ResourceError: One point does not fit in memory.
    """
    if algorithm == "fast":
        [fast] = fast_spectrum.fast_spectra(
            model,
            latents[None],
            t0,
            seeds=[seed],
            tolerance=tolerance,
            block=block,
            on_progress=on_progress,
        )
        return fast
    if algorithm == "exact-jacobian":
        return exact_spectrum.exact_jacobian(model, latents, t0, seed=seed, on_progress=on_progress)
    algorithms = {"exact-alg2": exact_spectrum.alg2, "exact-alg3": exact_spectrum.alg3}
    if algorithm not in algorithms:
        raise UsageError(
            f"There is no algorithm {algorithm!r}: give fast, exact-alg2, exact-alg3 or "
            "exact-jacobian."
        )
    return algorithms[algorithm](model, latents, t0, seed=seed, kept=kept, on_progress=on_progress)
