"""Planted copies of the model under audit, as an earlier audit left them if it did."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from m2g_audit.audits.ordinary_prompts import probe_prompts
from m2g_audit.audits.setup import Setup
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import NumericsError
from m2g_audit.files import cache_folder
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.progress import Progress
from m2g_audit.references import power
from m2g_audit.references.plants import Plants
from m2g_audit.references.reference import Reference


def planted(setup: Setup, reference: Reference | None, on_progress: Progress) -> Plants:
    """Planted copies of this model, as an earlier audit left them if it did."""
    path = plants_file(setup, reference)
    kept = power.load(path)
    if kept is not None:
        return kept
    plants = power.plant(
        setup.pipeline,
        setup.metric,
        _to_plant(setup, reference),
        None if reference is None else lambda images: reference.nearest(setup.metric, images)[0],
        on_progress=partial(on_progress, "planted copies"),
    )
    power.save(path, plants)
    return plants


def plants_file(setup: Setup, reference: Reference | None) -> Path:
    """Return where they are kept between audits."""
    settings = setup.settings
    sampling: dict[str, object] = {}
    if reference is None:  # the pictures are the model's own
        sampling = {
            "steps": settings.steps,
            "guidance": settings.guidance,
            "prompts": probe_prompts(setup),
        }
    identity = {
        **compared_by(setup),
        "reference": None if reference is None else reference.sha256,
        **sampling,
    }
    return power.cache_file(cache_folder("power"), identity)


def compared_by(setup: Setup) -> dict[str, object]:
    """What pictures look like through this model, and the distance between them."""
    return {
        "model": setup.pipeline.identity.sha256,
        "configuration": setup.pipeline.identity.configuration_sha256,
        "dtype": setup.pipeline.identity.dtype,
        "metric": setup.metric.name,
        "metric_weights": setup.metric.weights_sha256,
    }


def _to_plant(setup: Setup, reference: Reference | None) -> torch.Tensor:
    """Pictures of S, [n, 3, h, w] in [0, 1]; without one the model's own for control prompts."""
    if reference is not None:
        count = min(power.PLANTS // 2, len(reference.names))
        numbers = np.random.default_rng(0).choice(len(reference.names), count, replace=False)
        pictures = [reference.picture(int(i)).float() / 255 for i in sorted(numbers)]
        return torch.stack(pictures)
    prompts = probe_prompts(setup)
    images = setup.pipeline.generate(
        prompts,
        [seed_for(0, f"plant {prompt}", 0) for prompt in prompts],
        steps=setup.settings.steps,
        guidance=setup.settings.guidance,
        batch_size=setup.settings.batch_size,
        scheduler=setup.settings.scheduler,
    ).images
    failed = torch.from_numpy(is_failed(images))
    if failed.all():  # plants of blank pictures would all be found
        raise NumericsError(
            f"The pictures of {len(prompts)} control prompts are all blank or not finite. Use "
            "--dtype float32, or --control-prompts of what the model was taught."
        )
    return images[~failed]
