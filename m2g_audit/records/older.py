"""Records of earlier schemas, brought to the present one as they are read."""

import math
from typing import Any

_RENAMED = {
    "curvature": "spectrum",
    "curvature_samples": "spectrum_samples",
    "curvature_score": "spectrum_score",
}
_ALGORITHMS = {"alg2": "exact-alg2", "alg3": "exact-alg3", "exact": "exact-jacobian"}


def from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a record of schema 1.x under the names of schema 2.0.

    Until 2.0 all spectra were exact (a tolerance of 0), and critical times were those of Alg. 1 as
    printed; the record kept their mean over trials, from which the present one, that of the sample,
    does not follow: it is taken from the trials' own.
    """
    settings = {_RENAMED.get(key, key): value for key, value in content["settings"].items()}
    settings["spectrum"] = _ALGORITHMS.get(settings["spectrum"], settings["spectrum"])
    spectra = [
        {**entry, "algorithm": _ALGORITHMS.get(entry["algorithm"], entry["algorithm"])}
        for entry in content["curvature"]
    ]
    attractors = [
        {**attractor, "basin": attractor.get("basin") and _basin(attractor["basin"])}
        for attractor in content["attractors"]
    ]
    return {
        **content,
        "schema_version": "2.0",
        "settings": {
            **settings,
            "spectrum_tolerance": 0.0,
            "basin_exact": settings["basin"],
        },
        "curvature": spectra,
        "attractors": attractors,
    }


_SET_BY_CONTROLS = "control prompts"
_MARK = (
    "The thresholds of this record come from the model's own control prompts. A model that gives "
    "back training pictures does so for those too, which hides copies: audit this prompt again."
)


def from_version_2(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a record of schema 2.x under the names of schema 3.0.

    Until 3.0 thresholds could be quantiles of the model's own control prompts, whatever those
    showed: such a record is marked, and counts as uncalibrated.
    """
    thresholds, warnings = content["thresholds"], list(content["warnings"])
    if thresholds is not None and _SET_BY_CONTROLS in thresholds["source"]:
        thresholds = {**thresholds, "calibrated": False}
        warnings.append(_MARK)
    screening = content.get("screening")
    looks = screening and {
        "looks": screening["looks"],
        "ended_at": screening["stopped_at"] or screening["looks"][-1],
    }
    return {
        **content,
        "schema_version": "3.0",
        "thresholds": thresholds,
        "looks": looks,
        "warnings": warnings,
    }


def _basin(basin: dict[str, Any]) -> dict[str, Any]:
    times = sorted(basin["critical_times"], reverse=True)
    needed = max(1, math.ceil(basin["delta_p"] * len(times)))
    return {**basin, "algorithm": "alg1", "critical_time": times[needed - 1]}
