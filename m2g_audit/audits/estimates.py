"""What an audit will cost, measured on this machine before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import psutil
import torch

from m2g_audit.audits.basins import basin_steps
from m2g_audit.audits.job import Job
from m2g_audit.audits.yardstick_search import images_needed
from m2g_audit.diagnostics import exact_spectrum, fast_spectrum
from m2g_audit.errors import NumericsError, ResourceError
from m2g_audit.store.run_directory import RunDirectory
from m2g_audit.text import duration

_SHARED = frozenset({"thresholds", "reference"})


@dataclass(frozen=True)
class Estimate:
    """Seconds by stage; bytes of memory needed beside the model, and those that are free."""

    seconds: dict[str, float]
    needed_bytes: int
    free_bytes: int

    @property
    def total(self) -> float:
        """Return the seconds of all stages."""
        return sum(self.seconds.values())

    def times(self, prompts: int) -> Estimate:
        """Return the cost of as many prompts; what they share is paid for once."""
        seconds = {
            stage: taken * (1 if stage in _SHARED else prompts)
            for stage, taken in self.seconds.items()
        }
        return Estimate(seconds, self.needed_bytes, self.free_bytes)

    def check(self) -> None:
        """Raise ResourceError where the memory will not do."""
        if self.needed_bytes > self.free_bytes:
            raise ResourceError(
                f"The audit needs about {_gigabytes(self.needed_bytes)} of memory beside the "
                f"model; {_gigabytes(self.free_bytes)} are free. --spectrum none needs the least, "
                "--spectrum fast little more."
            )

    def __str__(self) -> str:
        parts = ", ".join(
            f"{stage} {duration(seconds)}"
            for stage, seconds in self.seconds.items()
            if seconds >= 1
        )
        detail = f" ({parts})" if parts else ""
        return (
            f"about {duration(self.total)}{detail}, {_gigabytes(self.needed_bytes)} of memory "
            "beside the model"
        )


def estimate(job: Job, run: RunDirectory, prompts: Sequence[str] = ()) -> Estimate:
    """Return the cost of what is still missing of a run, from a few measured steps.

    prompts: of the list that the job is one of, by default its own alone.

    Extrapolated; good to about a factor of 1.5 (curvature.estimate_cost).
    """
    settings = job.setup.settings
    missing = sum(not (run.path / run.image_name(i)).exists() for i in range(settings.seeds))
    others = images_needed(job.setup, prompts or [job.prompt])
    step, rest = (0.0, 0.0)
    if missing or others or job.setup.contents or settings.basin:
        step, rest = _time_generation(job)
    each = settings.steps * step + rest
    seconds = {"images": missing * each}
    if others:
        seconds["thresholds"] = others * each
    folders = [folder for folder in (job.setup.contents, job.setup.unseen) if folder is not None]
    if folders:
        # Encoding costs about what decoding does.
        pending = sum(len(folder.pending(job.setup.pipeline)) for folder in folders)
        seconds["reference"] = pending * 2 * rest
    if settings.basin:
        # How many attractors there are is what the run will show.
        most = basin_steps(len(job.setup.pipeline.schedule), exact=settings.basin_exact)
        seconds["each attractor's basin, at most"] = step * most
    needed = 0
    if settings.spectrum != "none":
        cost = _spectrum_cost(job)
        seconds["curvature"] = cost.seconds * min(settings.spectrum_samples, settings.seeds)
        needed = cost.bytes
    return Estimate(seconds, needed, free_bytes(job.setup.pipeline.device))


def _time_generation(job: Job) -> tuple[float, float]:
    """Seconds of one step and of all besides the steps, for one image."""
    batch = job.setup.settings.batch_size

    def run(steps: int) -> float:
        start = time.perf_counter()
        # Some schedules make nothing in one step.
        with suppress(NumericsError) if steps == 1 else nullcontext():
            job.setup.pipeline.generate(
                job.prompt,
                [job.generator_seed(i) for i in range(batch)],
                negative_prompt=job.negative_prompt,
                steps=steps,
                guidance=job.setup.settings.guidance,
                batch_size=batch,
                scheduler=job.setup.settings.scheduler,
            )
        return time.perf_counter() - start

    run(1)  # the first call compiles and allocates
    one, two = run(1), run(2)
    step = max(two - one, 0.1 * one)
    return step / batch, max(one - step, 0.0) / batch


def _spectrum_cost(job: Job) -> exact_spectrum.Cost:
    settings = job.setup.settings
    model = job.bind(settings.spectrum_score)
    if settings.spectrum == "fast":
        return fast_spectrum.estimate_cost(model, settings.t0, settings.spectrum_tolerance)
    algorithm: exact_spectrum.Algorithm = settings.spectrum  # type: ignore[assignment]
    return exact_spectrum.estimate_cost(model, settings.t0, algorithm=algorithm)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
