"""What multiplying with a random matrix does to singular values: free multiplication.

M of Alg. 2 is a Jacobian times N x 4N normal numbers, so its squared singular values follow the
free product of the Jacobian's with the Marchenko-Pastur law of ratio 1/4 (Marchenko and Pastur
1967; Silverstein and Choi 1995). Alg. 3 adds a matrix of rank one to that.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Complex, Float

Kind = Literal["jacobian", "paper"]

RATIO = 0.25
_ATOMS = 300
_GRID = 600
_SPIKES = 0.05  # of the values at most: more of them broaden each other
_ZERO = 1e-12  # of the largest square
_LEAST_IMAGINARY = 1e-6  # of the real part: the resolution of edges
_DESCENT = 10.0
_NEWTON = 50
_GOLDEN = (5**0.5 - 1) / 2
_FOLLOWED = 32  # values that may stay above an added one


def broadened(
    singular_values: Float[np.ndarray, " N"], *, ratio: float = RATIO
) -> Float[np.ndarray, " N"]:
    """The N singular values, from largest, of J G sqrt(ratio / N), G being N x N/ratio normal.

    Only the N singular values of J matter; 0 < ratio < 1. With H the distribution of their squares,
    the companion Stieltjes transform m(z) solves z = -1/m + ratio * mean(tau / (1 + tau m)) over
    tau ~ H; the share of values above a level follows from it. Values of J that stand apart
    (spikes) map one to one (Baik and Silverstein 2006):
    sqrt(tau (1 + ratio * mean(lambda / (tau - lambda)))), lambda over the bulk.
    """
    squares = np.sort(np.asarray(singular_values, dtype=float) ** 2)[::-1]
    N = len(squares)
    squares = squares[squares > _ZERO * squares[0]]
    if not len(squares):
        return np.zeros(N)
    apart = _spikes(squares, ratio / N)
    spikes, bulk = squares[:apart], squares[apart:]
    pushed = [tau * (1 + ratio / N * float((bulk / (tau - bulk)).sum())) for tau in spikes]
    found = np.concatenate([pushed, _bulk(bulk, ratio / N)])
    return np.pad(np.sqrt(found), (0, N - len(found)))


def with_mean(
    broad: Float[np.ndarray, " N"], mean: float, *, ratio: float = RATIO
) -> Float[np.ndarray, " N"]:
    """The N singular values, from largest, after adding `mean` u w^T of rank one to N x N/ratio.

    `broad`: the values before; u and w are unit vectors that have nothing to do with the matrix.
    The new value z solves D(z) = 1 / mean^2 for the D-transform (Benaych-Georges and Nadakuditi
    2012) of the values below it. Each of the others lies between two old ones (interlacing), of
    which the larger stands for it.
    """
    if mean <= np.finfo(float).eps * broad[0]:  # lost in rounding
        return broad
    N, above = len(broad), 0
    # A value that the new one would pass only by that value's own pole stays above it.
    while above < min(_FOLLOWED, N - 1):
        if _added(broad[above + 1 :], N, mean, ratio) > broad[above]:
            break
        above += 1
    new = _added(broad[above:], N, mean, ratio)
    return np.sort(np.concatenate([broad[:-1], [new]]))[::-1]


def point_mass_curve(kind: Kind, N: int) -> Float[np.ndarray, " N"]:
    """The normalised spectrum of a single memory in N dimensions: a test, and a line in plots.

    "jacobian": 1 throughout. "paper": N quantiles, from largest, of the singular values of a random
    N x 4N matrix (Marchenko-Pastur of ratio 1/4), between 1.5 and 0.5 with median 0.957.

    >>> point_mass_curve("paper", 5).round(2).tolist()
    [1.32, 1.12, 0.96, 0.8, 0.63]
    """
    if kind == "jacobian":
        return np.ones(N)
    from scipy.integrate import cumulative_trapezoid

    # With lambda = s^2 = 5/4 + cos(theta), the density is 2 sin^2(theta) / (pi lambda).
    theta = np.linspace(0, np.pi, 20001)
    squares = 1.25 + np.cos(theta)
    above = cumulative_trapezoid(2 * np.sin(theta) ** 2 / (np.pi * squares), theta, initial=0)
    return np.interp((np.arange(N) + 0.5) / N, above / above[-1], np.sqrt(squares))


def paper_scale(scale: float, N: int) -> float:
    """The scale of a "paper" spectrum, sigma_t / sqrt(4N), from that of a "jacobian" one."""
    return (scale * RATIO / N) ** 0.5


def _added(values: Float[np.ndarray, " n"], N: int, mean: float, ratio: float) -> float:
    """The root of D(z) = 1 / mean^2 above `values`."""
    from scipy.optimize import brentq

    scaled = values / mean  # of 1 / mean^2 itself nothing is left where the mean is very small

    def excess(z: float) -> float:
        own = float((z / (z**2 - scaled**2)).sum()) / N
        return own * (ratio * own + (1 - ratio) / z) - 1

    # Just above the largest value D is infinite, and from there on at most 1 / distance^2.
    lowest, highest = scaled[0] * (1 + 1e-12) + 1e-9, scaled[0] + 1.01
    if excess(lowest) <= 0:
        return lowest * mean
    return brentq(excess, lowest, highest, xtol=1e-12 * highest) * mean


def _spikes(squares: Float[np.ndarray, " n"], weight: float) -> int:
    """How many of the squares, from largest, are spikes: their images are outside the bulk's.

    `weight` is the ratio over N. The condition is psi'(tau) > 0 for the least spike; with several
    possible counts the largest is meant, so that spikes close to each other are found too.
    """
    for count in range(int(max(1, _SPIKES * len(squares))), 0, -1):
        tau, bulk = squares[count - 1], squares[count:]
        if not len(bulk):
            continue
        if tau > bulk[0] and weight * float((bulk**2 / (tau - bulk) ** 2).sum()) < 1:
            return count
    return 0


def _bulk(squares: Float[np.ndarray, " n"], weight: float) -> Float[np.ndarray, " n"]:
    """The broadened squares, from largest; `weight` is the ratio over N, with n <= N."""
    n = len(squares)
    parts = np.array_split(squares[::-1], min(_ATOMS, n))
    tau = np.array([part.mean() for part in parts])
    weights = weight * np.array([len(part) for part in parts])
    x = _grid(tau, weight * n)
    m = _companion_transform(x, tau, weights)
    z = x * (1 + 1j * _LEAST_IMAGINARY)
    # The integral of m dz in closed form, so that a gap or a coarse grid loses no mass.
    integral = m * z + np.log(m) - np.log(1 + tau * m[:, None]) @ weights
    below = 1 - (1 - integral.imag / np.pi) / (weight * n)
    below = np.clip(np.maximum.accumulate(below), 0, 1)
    return np.interp((np.arange(n) + 0.5) / n, below, x)[::-1]


def _grid(tau: Float[np.ndarray, " m"], ratio: float) -> Float[np.ndarray, " g"]:
    """Levels where the broadened squares are, ascending: many where there are many of them.

    Each broadened square is within (1 +- sqrt(ratio))^2 of one of J's (Ostrowski).
    """
    least, most = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    # Multiples of the golden ratio spread evenly, also where many atoms are equal.
    place = np.arange(_GRID) * _GOLDEN % 1
    inside = np.resize(tau, _GRID) * least * (most / least) ** place
    return np.sort(np.concatenate([[tau[0] * least, tau[-1] * most], inside]))


def _companion_transform(
    x: Float[np.ndarray, " g"], tau: Float[np.ndarray, " m"], weights: Float[np.ndarray, " m"]
) -> Complex[np.ndarray, " g"]:
    """m(x + i eta) by Newton's method, from a large eta, where it is -1/z, down to the least."""
    least = _LEAST_IMAGINARY * x
    eta = np.full_like(x, 4 * x[-1])
    m = -1 / (x + 1j * eta)
    while bool((eta > least).any()):
        eta = np.maximum(eta / _DESCENT, least)
        z = x + 1j * eta
        for _ in range(_NEWTON):
            part = tau / (1 + tau * m[:, None])
            value = -1 / m + part @ weights - z
            step = value / (1 / m**2 - part**2 @ weights)
            # The solution's imaginary part is positive: a step must not leave that half-plane.
            while bool((outside := (m - step).imag <= 0).any()):
                step[outside] /= 2
            m = m - step
            if float(np.abs(step / m).max()) < 1e-10:
                break
    return m
