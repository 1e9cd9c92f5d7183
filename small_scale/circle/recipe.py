"""Every number that the circle depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

T_PICTURE = 0.15
"""The time of Fig. 2's energies (App. A); beta = 1 / (2 sigma^2 t) is 3.3 there for sigma = 1."""

BETA_EXACT = 20.0
"""The inverse temperature of Fig. 2's exact panel (App. A)."""


EXTENT = 1.8
"""Fig. 2's panels show [-EXTENT, EXTENT] in both directions."""


def spaced_betas(low: float, high: float, count: int, sigma: float = 1.0) -> tuple[float, ...]:
    """Return `count` log-spaced inverse temperatures and, among them, the paper's 3.3 and 20."""
    marked = [1 / (2 * sigma**2 * T_PICTURE), BETA_EXACT]
    return tuple(sorted({*np.geomspace(low, high, count).tolist(), *marked}))


@dataclass(frozen=True)
class Recipe:
    """The settings of one run; the defaults are App. A's. Two equal recipes give equal results."""

    seed: int = 0
    sizes: tuple[int, ...] = (2, 9, 1000)
    """K of the networks."""
    sigma: float = 1.0
    t_min: float = 1e-5

    width: int = 256
    blocks: int = 4
    """Residual blocks of the encoder, and as many of the decoder."""
    fourier_scale: float = 30.0
    """Of the random frequencies of t, as in the code of Song et al.; App. A gives none."""

    iterations: int = 800_000
    batch: int = 500
    batch_within_k: bool = True
    """Whether a batch has min(K, batch) points (App. A) or always `batch`."""
    learning_rate: float = 1e-4
    final_learning_rate: float = 1.0
    """The last learning rate as a share of the first (cosine); 1 keeps it."""
    ema_decay: float = 0.0
    """Of the average of the weights that is kept; 0 keeps the last ones."""
    checkpoint_every: int = 1000

    samples: int = 1000
    sampler_steps: int = 1000
    grid: int = 41
    """Points of the energy's grid along each side."""

    curve_sizes: tuple[int, ...] = (2, 3, 5, 9, 16, 32, 64, 128, 256, 1000)
    betas: tuple[float, ...] = spaced_betas(0.6, 1e4, 16)
    draws: int = 20
    learned_betas: tuple[float, ...] = spaced_betas(1.0, 1000.0, 7)
    """Where a network's own minima are searched."""
    learned_rounds: int = 100
    """After how many rounds of 20 mean-shift steps of a network a start counts as lost."""

    def identity(self) -> dict[str, Any]:
        """Return what a result depends on, for the run's folder."""
        settings = asdict(self)
        del settings["checkpoint_every"]
        return {"command": "toy", **settings}


PRESETS = {
    "paper": Recipe(),
    "desk": replace(
        Recipe(),
        width=128,
        iterations=10_000,
        batch=128,
        batch_within_k=False,
        learning_rate=1e-3,
        final_learning_rate=0.0,
        ema_decay=0.999,
        checkpoint_every=250,
    ),
    "smoke": replace(
        Recipe(),
        sizes=(2, 9),
        width=16,
        blocks=1,
        iterations=20,
        batch=32,
        checkpoint_every=8,
        samples=50,
        sampler_steps=20,
        grid=5,
        curve_sizes=(2, 9),
        betas=spaced_betas(1.0, 100.0, 3),
        draws=2,
        learned_betas=spaced_betas(5.0, 10.0, 1),
        learned_rounds=2,
    ),
}
"""`paper`: App. A to the letter; `desk`: fits on one core; `smoke`: every stage, in seconds."""
