"""What multiplying with a random matrix does to singular values: free multiplication.

M of Alg. 2 is a Jacobian times N x 4N normal numbers, so its squared singular values follow the
free product of the Jacobian's with the Marchenko-Pastur law of ratio 1/4 (Marchenko and Pastur
1967; Silverstein and Choi 1995).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.integrate import cumulative_trapezoid

RATIO = 0.25
_ATOMS = 300
_GRID = 500
_LEAST_IMAGINARY = 1e-6  # of the largest square: the resolution of edges
_NEWTON = 50


def broadened(
    singular_values: Float[np.ndarray, " N"], *, ratio: float = RATIO
) -> Float[np.ndarray, " N"]:
    """The N singular values, from largest, of J G sqrt(ratio / N), G being N x N/ratio normal.

    Only the N singular values of J matter. With H the distribution of their squares, the companion
    Stieltjes transform m(z) solves z = -1/m + ratio * mean(tau / (1 + tau m)) over tau ~ H; density
    follows from its imaginary part. Values of J that stand apart (spikes) map one to one
    (Baik and Silverstein 2006): sqrt(tau (1 + ratio * mean(lambda / (tau - lambda)))).
    """
    squares = np.sort(np.asarray(singular_values, dtype=float) ** 2)[::-1]
    N = len(squares)
    if squares[0] == 0:
        return np.zeros(N)
    spikes = _spikes(squares, ratio)
    bulk = squares[len(spikes) :]
    nonzero = bulk[bulk > 1e-12 * squares[0]]
    share = len(nonzero) / len(bulk)
    values = np.zeros(len(bulk))
    values[: len(nonzero)] = np.sqrt(_bulk(nonzero, share, ratio * len(bulk) / N))
    return np.concatenate([np.sqrt(spikes), values])


def _spikes(squares: np.ndarray, ratio: float) -> np.ndarray:
    """The images of the largest squares that stay apart from the bulk, from largest."""
    N = len(squares)
    found: list[float] = []
    for i in range(N - 1):
        tau, rest = squares[i], squares[i + 1 :]
        if tau <= rest[0]:
            break
        # psi'(tau) > 0: the image is outside the bulk's support.
        if ratio / N * float((rest**2 / (tau - rest) ** 2).sum()) >= 1:
            break
        others = squares[squares != tau]
        found.append(tau * (1 + ratio / N * float((others / (tau - others)).sum())))
    return np.array(found)


def _bulk(squares: np.ndarray, share: float, ratio: float) -> np.ndarray:
    """Quantiles, from largest, of the broadened squares; `share` of the distribution is not 0."""
    tau = np.interp(
        (np.arange(_ATOMS) + 0.5) / _ATOMS,
        (np.arange(len(squares)) + 0.5) / len(squares),
        squares[::-1],
    )
    top = tau[-1] * (1 + np.sqrt(ratio)) ** 2 * 1.01
    roots = np.linspace(0, np.sqrt(top), _GRID + 1)[1:]
    x = roots**2
    m = _companion_transform(x, tau, share, ratio, top)
    z = x + 1j * _LEAST_IMAGINARY * top
    # m of the N x N side, without the part of it that sits at zero.
    transform = (m + (1 - ratio) / z) / ratio + (1 - share) / z
    density = np.maximum(transform.imag / np.pi, 0) * 2 * roots
    above = cumulative_trapezoid(density, roots, initial=0)
    above /= above[-1]
    wanted = (np.arange(len(squares)) + 0.5) / len(squares)
    return np.interp(wanted, above, x)[::-1]


def _companion_transform(
    x: np.ndarray, tau: np.ndarray, share: float, ratio: float, top: float
) -> np.ndarray:
    """m(x + i eta) by Newton's method, from a large eta, where it is -1/z, down to the least."""
    eta = top
    m = -1 / (x + 1j * eta)
    weight = ratio * share
    while eta > _LEAST_IMAGINARY * top:
        eta = max(eta / 2, _LEAST_IMAGINARY * top)
        z = x + 1j * eta
        for _ in range(_NEWTON):
            part = tau / (1 + tau * m[:, None])
            value = -1 / m + weight * part.mean(1) - z
            step = value / (1 / m**2 - weight * (part**2).mean(1))
            # The solution's imaginary part is positive: a step must not leave that half-plane.
            while bool((outside := (m - step).imag <= 0).any()):
                step[outside] /= 2
            m = m - step
            if float(np.abs(step / m).max()) < 1e-10:
                break
    return m
