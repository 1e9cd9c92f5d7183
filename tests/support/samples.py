"""A complete record, small enough to read, for the tests of what reads records."""

from m2g_audit.records.record import (
    AttractorRecord,
    AuditRecord,
    BasinRecord,
    CurvatureRecord,
    IntervalRecord,
    ModelRecord,
    NearestReference,
    NearestSample,
    ReferenceRecord,
    SeedRecord,
    Settings,
    ThresholdRecord,
    Timings,
    VerdictRecord,
    Wording,
)


def interval(estimate: float, low: float, high: float) -> IntervalRecord:
    return IntervalRecord(estimate=estimate, low=low, high=high, level=0.95, method="goodman")


def sample_record() -> AuditRecord:
    """Return a record of four seeds: three of them one memorized picture, one generalized."""
    reference = NearestReference(name="harbour.png", distance=0.01, image="reference/0000.png")
    states = ("memorized", "memorized", "generalized", "memorized")
    seeds = [
        SeedRecord(
            index=i,
            generator_seed=1000 + i,
            state=state,  # type: ignore[arg-type]
            image=f"images/{i:04d}.png",
            attractor=0 if state == "memorized" else None,
            nearest_sample=NearestSample(index=(i + 1) % 4, distance=0.02),
            nearest_reference=reference if state == "memorized" else None,
        )
        for i, state in enumerate(states)
    ]
    return AuditRecord(
        prompt="a print of the old harbour",
        wording=Wording(tokens=8, window=77),
        model=ModelRecord(
            id="pocket",
            sha256="ab" * 32,
            architecture="StableDiffusionPipeline",
            dtype="float32",
            device="cpu",
            scheduler="DDIMScheduler",
            prediction_type="epsilon",
            latent_shape=(4, 2, 2),
            image_size=(16, 16),
        ),
        settings=Settings(
            asked={"model": "pocket", "seeds": 4},
            seeds=4,
            seed=0,
            steps=10,
            guidance=3.0,
            scheduler="ddim",
            batch_size=4,
            metric="l2",
            reference="pocket",
            reference_complete=True,
            reference_flipped=False,
            spectrum="fast",
            spectrum_tolerance=0.02,
            t0=5,
            spectrum_samples=3,
            spectrum_score="conditional",
            basin=True,
            basin_exact=False,
        ),
        reference=ReferenceRecord(
            source="pocket", pictures=3, sha256="cd" * 32, complete=True, flipped=False
        ),
        thresholds=ThresholdRecord(
            metric="l2", delta_m=0.05, delta_s=0.04, source="pocket's truth", calibrated=True
        ),
        verdict=VerdictRecord(
            state="undecided",
            summary="Four seeds are too few to say more.",
            evidence=["3 of 4 pictures are one picture of the training set."],
            fractions={
                "memorized": interval(0.75, 0.2, 0.98),
                "spurious": interval(0.0, 0.0, 0.6),
                "generalized": interval(0.25, 0.02, 0.8),
                "attractor": interval(0.75, 0.2, 0.98),
            },
            level=0.95,
            undetected_mass=0.7,
        ),
        attractors=[
            AttractorRecord(
                mass=interval(0.75, 0.2, 0.98),
                seeds=[0, 1, 3],
                medoid=1,
                diameter=0.03,
                state="memorized",
                nearest_reference=reference,
                basin=BasinRecord(
                    algorithm="bisection",
                    critical_time=411,
                    critical_times=[391, 411],
                    radius=3.2,
                    log_volume=12.5,
                    never_recovered=0.0,
                    stopped=True,
                    checked=[391, 411, 421],
                    recovery=[1.0, 0.9, 0.7],
                    evaluations=1200,
                    delta_d=0.05,
                    delta_p=0.8,
                    steps=10,
                    stride=10,
                ),
            )
        ],
        seeds=seeds,
        loose=[],
        unseen=interval(0.25, 0.0, 0.9),
        collision=interval(0.5, 0.1, 0.9),
        curvature=[
            CurvatureRecord(
                image=i,
                state=states[i],  # type: ignore[arg-type]
                attractor=0 if states[i] == "memorized" else None,
                t0=5,
                kind="jacobian",
                score="conditional",
                algorithm="fast",
                scale=194.0,
                median=scale,
                rank=16,
                evaluations=16,
                file=f"curvature/{i:04d}.safetensors",
                singular_values=[scale * (1.2 - 0.02 * k) for k in range(16)],
            )
            for i, scale in ((1, 1.0), (2, 0.5))
        ],
        warnings=["The thresholds were made for another machine."],
        failures=[],
        timings=Timings(started="2026-01-01T00:00:00+00:00", seconds={"images": 1.5}),
        versions={"m2g-audit": "0.1.0"},
    )
