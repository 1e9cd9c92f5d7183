"""Pipelines: what plain diffusers gives, whatever the batch; scores of every prediction type."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    CMStochasticIterativeScheduler,
    CogVideoXDPMScheduler,
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
    LCMScheduler,
    TCDScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m2g_audit.diagnostics.exact_spectrum import alg2, exact_jacobian
from m2g_audit.diagnostics.numerics import noise_for, noises_for
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel, perturb, predict_sample
from m2g_audit.errors import ModelError, NumericsError, ResourceError, UsageError
from m2g_audit.models.ddpm import UnconditionalModel
from m2g_audit.models.loading import load_model
from m2g_audit.models.prediction import noise_from_output
from m2g_audit.models.protocol import Generations, TextToImage
from tests.support import tiny
from tests.support.score_models import VP

PROMPT = "a print of the old harbour"
STEPS, GUIDANCE = 4, 3.0
KINDS = [("epsilon", "1.x"), ("v_prediction", "2.x"), ("sample", "1.x")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> TextToImage:
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module", params=KINDS, ids=[f"{kind}-{version}" for kind, version in KINDS])
def any_model(request, tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    prediction_type, version = request.param
    pipeline = tiny.text_to_image(prediction_type, version=version)
    folder = tiny.save(pipeline, tmp_path_factory.mktemp("model"))
    return load_model(folder, device="cpu")


def generate(model: TextToImage, seeds: list[int], **settings) -> Generations:
    return model.generate(PROMPT, seeds, **{"steps": STEPS, "guidance": GUIDANCE, **settings})


def levels(images: Tensor) -> np.ndarray:
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    "name",
    [
        "None.py",
        "StableDiffusionPipeline.py",
        "diffusers.py",
        "unet/diffusers.py",
        "unet/UNet2DConditionModel.py",
        "text_encoder/transformers.py",
        "scheduler/diffusers.py",
    ],
)
def test_no_code_that_lies_in_a_model_folder_runs(folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / name).write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    with suppress(ModelError):
        load_model(copy, device="cpu")
    assert not (tmp_path / "owned").exists()


# -- generation


@pytest.mark.parametrize(
    ("prediction_type", "version", "scheduler"),
    # PNDM, the pipelines' own, knows no prediction of the sample.
    [*((*kind, "ddim") for kind in KINDS), *((*kind, "keep") for kind in KINDS[:2])],
)
def test_generation_is_plain_diffusers(
    tmp_path: Path, prediction_type: str, version: str, scheduler: str
) -> None:
    pipe = tiny.text_to_image(prediction_type, version=version)
    model = load_model(tiny.save(pipe, tmp_path), device="cpu")
    pipe.set_progress_bar_config(disable=True)
    if scheduler == "ddim":
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    seeds = [3, 2**32 - 1, 0]
    pictures = pipe(
        [PROMPT] * 3,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
    ).images
    ours = levels(generate(model, seeds, batch_size=3, scheduler=scheduler).images).astype(int)
    apart = np.abs(ours - np.stack(pictures))
    # How threads share a sum decides the last bit, which now and then rounds to the next level.
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= apart.size / 500


def test_negative_prompts_are_those_of_plain_diffusers(model: TextToImage, tmp_path: Path) -> None:
    pipe = tiny.text_to_image()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    negatives = ["trees, shrubs", "", "low quality"]
    pictures = pipe(
        [PROMPT] * 3,
        negative_prompt=negatives,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(3)],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
    ).images
    ours = generate(model, [0, 1, 2], negative_prompt=[n or None for n in negatives])
    np.testing.assert_array_equal(levels(ours.images), np.stack(pictures))
    without = generate(model, [0, 1, 2])
    same = (without.images == ours.images).flatten(1).all(1)
    assert same.tolist() == [False, True, False]
    one = generate(model, [0], negative_prompt=negatives[0])
    torch.testing.assert_close(one.images, ours.images[:1], atol=1e-5, rtol=0)


def test_a_guided_score_leads_away_from_the_negative_prompt(model: TextToImage) -> None:
    x, negative = torch.randn(1, *model.latent_shape), "trees, shrubs"
    eps = model.bind(PROMPT).predict_noise(x, 7)
    away = model.bind(negative).predict_noise(x, 7)
    guided = model.bind(PROMPT, guidance=3.0, kind="guided", negative_prompt=negative)
    torch.testing.assert_close(guided.predict_noise(x, 7), away + 3 * (eps - away))
    for kind in ("conditional", "unconditional"):
        plain = model.bind(PROMPT, kind=kind).predict_noise(x, 7)
        told = model.bind(PROMPT, kind=kind, negative_prompt=negative).predict_noise(x, 7)
        assert torch.equal(plain, told)


def test_a_safety_checker_that_flags_everything_blacks_out_nothing(
    model: TextToImage, tmp_path: Path
) -> None:
    pipe = tiny.text_to_image(flag_everything=True)
    flagging = load_model(tiny.save(pipe, tmp_path), device="cpu")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    black = pipe(PROMPT, num_inference_steps=2, output_type="np", generator=generator).images
    assert black.max() == 0
    ours = generate(flagging, [0, 1])
    assert float(ours.images.std()) > 0.01
    torch.testing.assert_close(ours.images, generate(model, [0, 1]).images, rtol=0, atol=0)


@settings(max_examples=10)
@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), batch=st.integers(1, 6))
def test_a_picture_does_not_depend_on_its_batch_mates(
    model: TextToImage, seeds: list[int], batch: int
) -> None:
    together = generate(model, seeds, steps=2, batch_size=batch)
    alone = generate(model, seeds[-1:], steps=2)
    difference = (together.images[-1] - alone.images[0]).abs().max()
    assert float(difference) <= 1 / 255 + 1e-6


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_prompts_can_share_a_batch(model: TextToImage, batch: int) -> None:
    others = ["a kite", PROMPT, "kite " * 100, PROMPT]
    settings = {"steps": STEPS, "guidance": GUIDANCE}
    together = model.generate(others, [5, 6, 7, 8], batch_size=batch, **settings)
    for i, (prompt, seed) in enumerate(zip(others, [5, 6, 7, 8], strict=True)):
        alone = model.generate(prompt, [seed], **settings)
        assert float((together.images[i] - alone.images[0]).abs().max()) <= 1 / 255 + 1e-6
    assert together.fitted == batch


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_first_noise_is_that_of_the_seed_bit_for_bit(model: TextToImage, batch: int) -> None:
    seen: list[Tensor] = []
    hook = model._pipe.unet.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].clone())
    )
    try:
        generate(model, [7, 8, 9, 10], steps=1, batch_size=batch)
    finally:
        hook.remove()
    # Guidance doubles each batch.
    noise = torch.cat([part.chunk(2)[0] for part in seen])
    assert torch.equal(noise, noises_for([7, 8, 9, 10], tiny.LATENT))


def test_pictures_lie_on_the_levels_of_a_png(model: TextToImage) -> None:
    ours = generate(model, [0])
    assert ours.images.shape == (1, 3, *tiny.IMAGE)
    assert ours.latents.shape == (1, *tiny.LATENT)
    assert ours.images.dtype == ours.latents.dtype == torch.float32
    scaled = ours.images * 255
    torch.testing.assert_close(scaled, scaled.round(), rtol=0, atol=1e-4)
    assert ours.finite.tolist() == [True]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", ["ddim", "keep"])
def test_evaluations_are_those_of_the_network(
    model: TextToImage, scheduler: str, guidance: float
) -> None:
    seen: list[int] = []
    hook = model._pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        generate(model, [0, 1, 2], batch_size=2, scheduler=scheduler, guidance=guidance)
    finally:
        hook.remove()
    each = model.evaluations(steps=STEPS, guidance=guidance, scheduler=scheduler)
    assert sum(seen) == 3 * each


@pytest.mark.parametrize("scheduler", ["ddim", "keep"])
def test_progress_counts_image_steps(model: TextToImage, scheduler: str) -> None:
    seen: list[int] = []
    generate(model, [0, 1, 2], batch_size=2, scheduler=scheduler, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 3 * STEPS


def test_an_interruption_passes_through(model: TextToImage) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, [0], on_progress=stop)


def test_ddim_does_not_clip_latents_where_the_scheduler_is_silent(tmp_path: Path) -> None:
    tiny.save(tiny.text_to_image(), tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    del config["clip_sample"]
    file.write_text(json.dumps(config))
    ours = generate(load_model(tmp_path, device="cpu"), [0])
    assert float(ours.latents.abs().max()) > 1


def test_settings_that_mean_nothing_are_refused(model: TextToImage) -> None:
    for guidance in (0.5, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="guidance"):
            generate(model, [0], guidance=guidance)
    for steps in (0, 1001):
        with pytest.raises(UsageError, match="give 1 to 1000"):
            generate(model, [0], steps=steps)
    with pytest.raises(UsageError, match="No seeds"):
        generate(model, [])


# -- what goes wrong while generating


def overflow(model: TextToImage, monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Makes the pictures of the seeds in `bad` NaN, as half precision does."""
    whole = model._generate_batch

    def broken(prompt, seeds, *rest) -> tuple[Any, ...]:
        latents, clean, images, followed = whole(prompt, seeds, *rest)
        for index, seed in enumerate(seeds):
            if seed in bad:
                images[index, 0, 0, 0] = float("nan")
        return latents, clean, images, followed

    monkeypatch.setattr(model, "_generate_batch", broken)


def test_pictures_that_overflow_are_marked(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(model, [0, 1, 2])
    overflow(model, monkeypatch, {1})
    ours = generate(model, [0, 1, 2])
    assert ours.finite.tolist() == [True, False, True]
    assert float(ours.images[1].abs().max()) == 0
    torch.testing.assert_close(ours.images[[0, 2]], expected.images[[0, 2]])


def test_nothing_finite_stops_with_the_way_out(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow(model, monkeypatch, {0, 1})
    with pytest.raises(NumericsError, match="weights are broken"):
        generate(model, [0, 1])
    monkeypatch.setattr(model, "dtype", torch.float16)
    with pytest.raises(NumericsError, match="--dtype float32"):
        generate(model, [0, 1])


def cramp(model: TextToImage, monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """Lets only `limit` pictures fit in memory; the list collects the batches tried."""
    whole, tried = model._generate_batch, []

    def cramped(prompt, seeds, *rest) -> tuple[Any, ...]:
        tried.append(len(seeds))
        if len(seeds) > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return whole(prompt, seeds, *rest)

    monkeypatch.setattr(model, "_generate_batch", cramped)
    return tried


def test_a_batch_that_does_not_fit_is_halved(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(model, [0, 1, 2, 3, 4, 5])
    tried = cramp(model, monkeypatch, 2)
    ours = generate(model, [0, 1, 2, 3, 4, 5], batch_size=6)
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]
    assert ours.fitted == 1
    assert float((ours.images - expected.images).abs().max()) <= 1 / 255 + 1e-6


def test_one_picture_that_does_not_fit_says_so(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramp(model, monkeypatch, 0)
    with pytest.raises(ResourceError, match="not enough memory for generating one picture"):
        generate(model, [0, 1])


def test_other_errors_are_not_taken_for_memory(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(model, "_generate_batch", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        generate(model, [0])


# -- scores


@given(t=st.integers(0, 999), seed=st.integers(0, 99))
def test_every_prediction_type_gives_the_noise_that_was_added(t: int, seed: int) -> None:
    x0, noise = torch.randn(
        2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    x, alpha, sigma = perturb(VP, x0, noise, t), VP.alpha(t), VP.sigma(t)
    outputs = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0}
    for prediction_type, output in outputs.items():
        found = noise_from_output(prediction_type, output, x, t, VP)
        torch.testing.assert_close(found, noise, rtol=1e-6, atol=1e-9)


def test_the_guided_score_generates_what_the_pipeline_does(any_model: TextToImage) -> None:
    # Every convention at once: schedule, embeddings, prediction type, guidance and DDIM.
    score = any_model.bind(PROMPT, guidance=GUIDANCE, kind="guided")
    # "leading" spacing with an offset of 1; the last step goes to the least noise level, not to 0.
    times = [*(int(t) + 1 for t in range(750, -1, -250)), 0]
    x = noises_for([5, 6], any_model.latent_shape)
    for t, following in pairwise(times):
        noise = score.predict_noise(x, t)
        x = perturb(score.schedule, predict_sample(score.schedule, x, noise, t), noise, following)
    expected = generate(any_model, [5, 6]).latents
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


def test_guidance_mixes_the_two_scores(any_model: TextToImage) -> None:
    x = noises_for([1, 2], any_model.latent_shape)
    conditional = any_model.bind(PROMPT)
    unconditional = any_model.bind(PROMPT, kind="unconditional")
    c, u = conditional.predict_noise(x, 500), unconditional.predict_noise(x, 500)
    assert float((c - u).abs().max()) > 1e-5
    for guidance in (0.0, 1.0, 7.5):
        guided = any_model.bind(PROMPT, guidance=guidance, kind="guided")
        torch.testing.assert_close(
            guided.predict_noise(x, 500), u + guidance * (c - u), rtol=1e-4, atol=1e-5
        )
        evaluations = 1 if guidance == 1 else 2  # which need not be mixed
        assert (guided.kind, guided.evaluations_per_call) == ("guided", evaluations)
    assert (conditional.kind, conditional.evaluations_per_call) == ("conditional", 1)
    empty = any_model.bind("").predict_noise(x, 500)
    torch.testing.assert_close(empty, u)


def test_bound_scores_treat_items_alone_and_follow_the_score_model(any_model: TextToImage) -> None:
    score = any_model.bind(PROMPT, kind="guided")
    x = noises_for([1, 2, 3], any_model.latent_shape)
    together = score.predict_noise(x, 300)
    alone = torch.cat([score.predict_noise(item[None], 300) for item in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert score.size == any_model.N == 256
    assert score.schedule.kind == "vp"
    torch.testing.assert_close(score.score(x, 300), -together / float(score.schedule.sigma(300)))


def assert_jacobian_is_that_of_differences(model: ScoreModel, t: int) -> None:
    x = noise_for(0, model.shape).clone()[None]
    points = x.clone().requires_grad_()
    direction, other = noises_for([1, 2], model.shape)
    gradient = torch.autograd.grad((model.score(points, t) * other).sum(), points)[0]
    step = 0.05
    plus, minus = model.score(x + step * direction, t), model.score(x - step * direction, t)
    numeric = ((plus - minus) / (2 * step) * other).sum()
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=0.02, atol=0.02)


def test_bound_scores_are_differentiable(any_model: TextToImage) -> None:
    assert_jacobian_is_that_of_differences(any_model.bind(PROMPT, kind="guided"), 900)


def test_spectra_of_a_bound_network(model: TextToImage) -> None:
    score = model.bind(PROMPT)
    x0 = generate(model, [0]).latents[0]
    exact = exact_jacobian(score, x0, 5, seed=0, block=128)
    assert exact.singular_values.shape == (model.N,)
    assert (exact.score, exact.evaluations) == ("conditional", model.N + 128)
    again = exact_jacobian(score, x0, 5, seed=0, block=50)
    np.testing.assert_allclose(exact.singular_values, again.singular_values, rtol=1e-3, atol=1e-4)
    paper = alg2(score, x0, 5, seed=0, block=128)
    assert np.isfinite(paper.singular_values).all()


def test_noise_difference_is_that_of_the_first_step(model: TextToImage) -> None:
    found = model.noise_difference_at_first_step(PROMPT, [4, 5, 6], steps=4, batch_size=2)
    x, t = noises_for([4, 5, 6], tiny.LATENT), 751
    c = model.bind(PROMPT).predict_noise(x, t)
    u = model.bind(PROMPT, kind="unconditional").predict_noise(x, t)
    torch.testing.assert_close(found, (c - u).double().flatten(1).norm(dim=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scheduler", ["ddim", "keep"])
def test_sampling_is_followed_from_its_first_step(model: TextToImage, scheduler: str) -> None:
    seeds = [4, 5, 6]
    followed = generate(model, seeds, batch_size=2, scheduler=scheduler).trajectories
    alone = generate(model, seeds[1:2], scheduler=scheduler).trajectories
    x, t = noises_for(seeds, tiny.LATENT), 751
    conditional = model.bind(PROMPT).predict_noise(x, t)
    apart = model.noise_difference_at_first_step(PROMPT, seeds, steps=STEPS)
    for i, found in enumerate(followed):
        assert found is not None
        assert len(found.levels) == (STEPS if scheduler == "ddim" else STEPS + 1)  # PNDM: one twice
        assert (found.levels.diff() <= 0).all()
        torch.testing.assert_close(found.noise_norms[0], conditional[i].square().mean())
        torch.testing.assert_close(found.differences[0].double(), apart[i], rtol=1e-3, atol=1e-6)
    for one, other in zip(vars(followed[1]).values(), vars(alone[0]).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_half_precision_scores_stay_in_float32(
    folder: Path, model: TextToImage, dtype: str
) -> None:
    half = load_model(folder, dtype=dtype, device="cpu")
    assert half.identity.dtype == dtype
    assert half.identity.sha256 == model.identity.sha256
    x = noises_for([1], tiny.LATENT)
    score = half.bind(PROMPT)
    assert score.dtype == torch.float32
    noise = score.predict_noise(x, 100)
    assert noise.dtype == torch.float32
    # Only the text was embedded in half precision, as it was for the pictures.
    torch.testing.assert_close(noise, model.bind(PROMPT).predict_noise(x, 100), rtol=0, atol=0.02)
    ours = generate(half, [0, 1], batch_size=2)
    assert ours.images.dtype == torch.float32
    assert float((ours.images - generate(model, [0, 1]).images).abs().mean()) < 0.1


# -- the VAE


def test_decoding_gives_the_generated_picture(model: TextToImage) -> None:
    ours = generate(model, [0, 1, 2], batch_size=3)
    decoded = model.decode(ours.latents, batch_size=2)
    assert float((decoded - ours.images).abs().max()) <= 1 / 255 + 1e-6


def test_encoding_is_the_mean_in_the_units_of_latents(model: TextToImage) -> None:
    images = torch.rand(5, 3, *tiny.IMAGE, generator=torch.Generator().manual_seed(0))
    latents = model.encode(images, batch_size=2)
    vae = model._pipe.vae
    with torch.no_grad():
        expected = vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.round_trip(images, batch_size=2), model.decode(latents, batch_size=2)
    )


def test_a_tiny_autoencoder_makes_the_round_trip(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(changed / "vae")
    widths = (8, 8)
    AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(changed / "vae")
    index = json.loads((changed / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderTiny"]
    (changed / "model_index.json").write_text(json.dumps(index))
    tiny_vae = load_model(changed, device="cpu")
    images = torch.rand(2, 3, *tiny.IMAGE, generator=torch.Generator().manual_seed(0))
    assert tiny_vae.encode(images).shape == (2, *tiny.LATENT)
    assert tiny_vae.round_trip(images).shape == images.shape


def test_a_decoder_that_overflows_says_so(model: TextToImage) -> None:
    with pytest.raises(NumericsError, match="decoded pictures"):
        model.decode(torch.full((1, *tiny.LATENT), float("nan")))


# -- what a model says of itself


def test_identity_follows_the_weights(folder: Path, model: TextToImage, tmp_path: Path) -> None:
    identity = model.identity
    assert json.loads(json.dumps(asdict(identity)))["prediction_type"] == "epsilon"
    assert identity.architecture == "StableDiffusionPipeline/UNet2DConditionModel"
    assert identity.scheduler == "PNDMScheduler"
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert load_model(copy, device="cpu").identity.sha256 == identity.sha256
    other = tiny.save(tiny.text_to_image(seed=1), tmp_path / "other")
    assert load_model(other, device="cpu").identity.sha256 != identity.sha256


def with_scheduler(folder: Path, place: Path, scheduler: type) -> Path:
    """A copy of a model that has the default settings of another scheduler."""
    shutil.copytree(folder, place)
    (place / "scheduler" / "scheduler_config.json").unlink()
    scheduler().save_pretrained(place / "scheduler")
    index = json.loads((place / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", scheduler.__name__]
    (place / "model_index.json").write_text(json.dumps(index))
    return place


@pytest.mark.parametrize(
    "scheduler", [EDMEulerScheduler, IPNDMScheduler, CMStochasticIterativeScheduler]
)
def test_a_scheduler_without_betas_gets_none_made_up(
    folder: Path, tmp_path: Path, scheduler: type
) -> None:
    changed = with_scheduler(folder, tmp_path / "copy", scheduler)
    with pytest.raises(ModelError, match=f"{scheduler.__name__}. has no betas"):
        load_model(changed, device="cpu")


def test_a_scheduler_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = with_scheduler(folder, tmp_path / "copy", EDMEulerScheduler)
    index = json.loads((changed / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "NewestScheduler"]
    (changed / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="NewestScheduler of diffusers: no such part"):
        load_model(changed, device="cpu")


def test_a_scheduler_with_noise_of_its_own_is_not_kept(model: TextToImage) -> None:
    class DPMSolverSDEScheduler:
        """Stands for diffusers' own, which needs a package of its own."""

    other = copy.copy(model)
    other._own_scheduler = DPMSolverSDEScheduler()
    with pytest.raises(UsageError, match=r"no seed decides.*--scheduler ddim"):
        generate(other, [0], scheduler="keep")
    assert generate(other, [0]).finite.all()


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
def test_pictures_of_the_usual_solvers_do_not_depend_on_batch_mates(
    folder: Path, tmp_path: Path, scheduler: type, algorithm: str
) -> None:
    changed = with_scheduler(folder, tmp_path / "copy", scheduler)
    file = changed / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text()) | {"algorithm_type": algorithm}
    assert settings["lambda_min_clipped"] == -float("inf")
    file.write_text(json.dumps(settings))
    solver = load_model(changed, device="cpu")
    together, alone = (generate(solver, seeds, scheduler="keep") for seeds in ([1, 2, 3], [3]))
    assert float((together.images[2] - alone.images[0]).abs().max()) <= 1 / 255 + 1e-6


@pytest.mark.parametrize("scheduler", [CogVideoXDPMScheduler, DDIMInverseScheduler])
def test_a_scheduler_of_another_task_is_not_kept(
    folder: Path, tmp_path: Path, scheduler: type
) -> None:
    other = load_model(with_scheduler(folder, tmp_path / "copy", scheduler), device="cpu")
    with pytest.raises(UsageError, match=rf"{scheduler.__name__}. does not go.*--scheduler ddim"):
        generate(other, [0], scheduler="keep")
    assert generate(other, [0]).finite.all()


def test_what_a_kept_scheduler_cannot_do_is_its_own(folder: Path, tmp_path: Path) -> None:
    distilled = load_model(with_scheduler(folder, tmp_path / "copy", LCMScheduler), device="cpu")
    for attempt in (generate, lambda model, _, **named: model.evaluations(guidance=1.0, **named)):
        with pytest.raises(UsageError, match=r"LCMScheduler. can't sample .* in 60 steps .*ddim"):
            attempt(distilled, [0], steps=60, scheduler="keep")
    sample = tiny.save(tiny.text_to_image("sample"), tmp_path / "sample")
    with pytest.raises(UsageError, match=r"PNDMScheduler. can't sample this model"):
        generate(load_model(sample, device="cpu"), [0], scheduler="keep")


@pytest.mark.skipif(find_spec("torchsde") is not None, reason="the package is there")
def test_a_package_that_a_scheduler_needs_is_named(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((changed / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DPMSolverSDEScheduler"]
    (changed / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"scheduler of .* needs a package .*torchsde"):
        load_model(changed, device="cpu")


@pytest.mark.parametrize("scheduler", [LCMScheduler, TCDScheduler])
def test_a_distilled_model_has_no_usual_settings(
    folder: Path, tmp_path: Path, scheduler: type
) -> None:
    distilled = load_model(with_scheduler(folder, tmp_path / "copy", scheduler), device="cpu")
    for name in ("default_steps", "default_guidance"):
        with pytest.raises(UsageError, match=f"{scheduler.__name__}.*--steps 4 --guidance 0"):
            getattr(distilled, name)
    assert generate(distilled, [0], guidance=0.0, scheduler="keep").finite.all()


@pytest.mark.parametrize(
    ("name", "few"),
    [("sd-turbo", True), ("my_LCM_v2", True), ("SD15-Lightning-4", True), ("turbocharged", False)],
)
def test_a_distilled_model_is_told_by_its_name(
    folder: Path, tmp_path: Path, name: str, few: bool
) -> None:
    model = load_model(shutil.copytree(folder, tmp_path / name), device="cpu")
    if few:
        with pytest.raises(UsageError, match=f"by its name, {name}"):
            assert model.default_steps
    else:
        assert model.default_steps == 50
    (model._origin.path / "m2g.json").write_text('{"steps": 4, "guidance": 1}')
    own = load_model(model._origin.path, device="cpu")
    assert (own.default_steps, own.default_guidance) == (4, 1)
    (model._origin.path / "m2g.json").write_text('{"steps": 4, "guidance": 0.0}')
    assert load_model(model._origin.path, device="cpu").default_guidance == 1


def test_guidance_0_is_none_as_in_diffusers(model: TextToImage) -> None:
    ours = generate(model, [0, 1], guidance=0.0)
    assert torch.equal(ours.images, generate(model, [0, 1], guidance=1.0).images)
    assert model.resolve_guidance(0.0) == 1


def test_sizes_and_defaults(folder: Path, model: TextToImage, tmp_path: Path) -> None:
    assert model.latent_shape == tiny.LATENT
    assert model.image_size == tiny.IMAGE
    assert (model.default_steps, model.default_guidance, model.default_metric) == (50, 7.5, None)
    copy = shutil.copytree(folder, tmp_path / "copy")
    settings = {"steps": 25, "guidance": 3.0, "metric": "l2"}
    (copy / "m2g.json").write_text(json.dumps(settings))
    own = load_model(copy, device="cpu")
    assert (own.default_steps, own.default_guidance, own.default_metric) == (25, 3.0, "l2")


def test_tokens_are_counted(model: TextToImage) -> None:
    assert model.token_count("") == (2, 77)
    assert model.token_count("a kite") == (7, 77)
    assert model.token_count("kite " * 20000)[0] == 80002


def test_a_word_of_several_vectors_counts_them(folder: Path, tmp_path: Path) -> None:
    pipe = tiny.text_to_image()
    pipe.load_textual_inversion({"<dog>": torch.zeros(3, 16)}, token="<dog>")
    inverted = load_model(tiny.save(pipe, tmp_path), device="cpu")
    assert inverted.token_count("a <dog>") == (2 + 1 + 3, 77)
    assert inverted.cut_off(" ".join("a" * 74) + " <dog>") == "<dog>_1<dog>_2"


def test_what_is_cut_off_is_named(model: TextToImage) -> None:
    letters = "abcdefghijklmnopqrstuvwxy" * 3  # as many as the encoder has places for
    assert model.cut_off(" ".join(letters)) == ""
    assert model.cut_off(" ".join(letters + "zap")).split() == ["z", "a", "p"]


def test_a_prompt_too_long_for_the_encoder_still_works(model: TextToImage) -> None:
    assert generate(model, [0], steps=1).finite.all()
    assert model.generate("kite " * 2000, [0], steps=1, guidance=3.0).finite.all()


def test_devices_and_dtypes_that_are_not_there(folder: Path) -> None:
    with pytest.raises(UsageError, match="--device cpu"):
        load_model(folder, device="cuda:99")
    with pytest.raises(UsageError, match="--device cpu"):
        load_model(folder, device="toaster")
    with pytest.raises(UsageError, match="float32, float16, bfloat16"):
        load_model(folder, device="cpu", dtype="int4")


def test_architectures_that_need_more_than_a_prompt(folder: Path, tmp_path: Path) -> None:
    changes = {
        "weights": ("unet", {"addition_embed_type": "text_time"}),
        "inpainting": ("unet", {"in_channels": 9}),
    }
    for word, (component, change) in changes.items():
        copy = shutil.copytree(folder, tmp_path / word)
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        file = copy / component / name
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(ModelError, match=word):
            load_model(copy, device="cpu")
    flow = with_scheduler(folder, tmp_path / "flow", FlowMatchEulerDiscreteScheduler)
    with pytest.raises(ModelError, match=r"StableDiffusionPipeline can't make a picture"):
        load_model(flow, device="cpu")


def test_weights_that_do_not_fit_their_configuration(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cross_attention_dim": 24}))
    with pytest.raises(ModelError, match=r"U-Net.* do not fit.* of another shape 8 "):
        load_model(copy, device="cpu")


def test_an_unknown_prediction_type_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "flow"}))
    with pytest.raises(ModelError, match="'flow'"):
        load_model(copy, device="cpu")


# -- unconditional models


@pytest.fixture(params=["epsilon", "v_prediction", "sample"])
def unconditional(request, tmp_path: Path) -> UnconditionalModel:
    return UnconditionalModel.load(tiny.save(tiny.ddpm(request.param), tmp_path), device="cpu")


def test_an_unconditional_pipeline_is_a_score_model(unconditional: UnconditionalModel) -> None:
    pipe = tiny.ddpm(unconditional.prediction_type)
    x = noises_for([1, 2], (3, 8, 8))
    with torch.no_grad():
        output = pipe.unet(x, 40).sample
    schedule = NoiseSchedule.of_betas(pipe.scheduler.betas)
    expected = noise_from_output(unconditional.prediction_type, output, x, 40, schedule)
    torch.testing.assert_close(unconditional.predict_noise(x, 40), expected)
    assert unconditional.shape == (3, 8, 8)
    assert unconditional.kind == "unconditional"
    assert_jacobian_is_that_of_differences(unconditional, 900)


def test_an_unconditional_model_has_an_identity(unconditional: UnconditionalModel) -> None:
    identity = unconditional.identity
    assert identity.architecture == "DDPMPipeline/UNet2DModel"
    assert (identity.dtype, identity.scheduler) == ("float32", "DDPMScheduler")
    assert identity.prediction_type == unconditional.prediction_type


def test_models_with_a_class_or_a_variance_are_refused(tmp_path: Path) -> None:
    for name, change, words in (
        ("class", {"num_class_embeds": 10}, "conditioned on a class"),
        ("variance", {"out_channels": 6}, "predicts its variance"),
    ):
        folder = tiny.save(tiny.ddpm(), tmp_path / name)
        file = folder / "unet" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(ModelError, match=words):
            UnconditionalModel.load(folder, device="cpu")
