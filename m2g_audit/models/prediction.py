"""What networks predict, and the noise that follows from it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics.score_model import NoiseSchedule
from m2g_audit.errors import ModelError

_PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def noise_from_output(
    prediction_type: str,
    output: Float[Tensor, " *b"],
    x: Float[Tensor, " *b"],
    t: int,
    schedule: NoiseSchedule,
) -> Float[Tensor, " *b"]:
    """epsilon from what a network predicts at (x, t).

    epsilon: as it is. v_prediction: v = alpha eps - sigma x_0, so eps = alpha v + sigma x
    (Salimans & Ho 2022). sample: eps = (x - alpha x_0) / sigma. flow_prediction: v = eps - x_0 at
    alpha = 1 - sigma, so eps = x + alpha v (Lipman et al. 2023; Liu et al. 2023).
    """
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    if prediction_type == "v_prediction":
        return alpha * output + sigma * x
    if prediction_type == "sample":
        return (x - alpha * output) / sigma
    if prediction_type == "flow_prediction":
        return x + alpha * output
    return output


def check_prediction_type(name: str, model: str) -> str:
    """Return what the network of `model` predicts; ModelError for what is not supported."""
    if name not in _PREDICTION_TYPES:
        raise ModelError(
            f"{model} predicts {name!r}; only {', '.join(_PREDICTION_TYPES)} are supported."
        )
    return name
