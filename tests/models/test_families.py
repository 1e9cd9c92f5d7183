"""Every family through the one adapter: proven against its pipeline, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from m2g_audit.errors import AuditError, ModelError, UsageError
from m2g_audit.models.denoiser import Unlike, difference
from m2g_audit.models.guidance import GuidanceKind
from m2g_audit.models.pipeline import Pipeline
from m2g_audit.models.sampling import Taken
from m2g_audit.models.trajectory import Follower
from tests.support.families import FAMILIES, SMALL

PROMPT, STEPS, SEEDS = "a print of the old harbour", 2, (3, 4, 5)
GUIDANCES: dict[str, GuidanceKind] = {
    "sdxl": "linear",
    "sd3": "linear",
    "sd3_without_t5": "linear",
    "flux_dev": "distilled",
    "flux_schnell": "none",
    "qwen_image": "renormalised",
    "z_image": "offset",
    "chroma": "linear",
    "lumina2": "renormalised",
    "pixart_alpha": "linear",
    "pixart_sigma": "linear",
    "sana": "linear",
    "auraflow": "linear",
    "cogview4": "linear",
    "flux2": "distilled",
    "flux2_klein": "linear",
    "ovis_image": "linear",
    "hunyuandit": "linear",
    "krea2": "offset",
}
SCORED = [family for family, guidance in GUIDANCES.items() if guidance != "none"]
REFUSED = {
    "lumina": "How it mixes its conditional and unconditional answers is not known",
    "cogview3": "the levels of noise by 2.5e-01",
    "deepfloyd_if": "What its scheduler is given is none of its network's answers",
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def made(family: str) -> tuple[Any, Pipeline]:
    """A pipeline of plain diffusers, and one of the same weights through the adapter."""
    small = SMALL[family]
    return FAMILIES[family](), Pipeline.of(FAMILIES[family](), (small["height"], small["width"]))


@pytest.mark.parametrize("family", GUIDANCES)
def test_a_family_passes_its_proof(family: str) -> None:
    _, model = made(family)
    assert model.proof.passed, str(model.proof)
    assert model._denoiser.guidance == GUIDANCES[family]


@pytest.mark.parametrize("family", GUIDANCES)
def test_a_seed_gives_the_picture_of_plain_diffusers(family: str) -> None:
    plain, model = made(family)
    guidance = model._default(model._guidance_argument or "", 1.0)
    pictures = model.generate(PROMPT, SEEDS, steps=STEPS, guidance=guidance, batch_size=3).images
    plain.set_progress_bar_config(disable=True)
    if not model._flow:
        plain.scheduler = model._sampler
    call = model._call([PROMPT], None, None, SEEDS[1:2])
    alone = plain(num_inference_steps=STEPS, output_type="pt", **call).images[0].float()
    assert float((pictures[1] - alone.clamp(0, 1)).abs().max()) < 1 / 255


@pytest.mark.parametrize("family", [f for f in SCORED if GUIDANCES[f] != "distilled"])
def test_what_is_read_while_sampling_is_the_unmixed_score(family: str) -> None:
    _, model = made(family)
    t, seeds = 300, SEEDS[:2]
    timestep = model._levels.timesteps[t]
    for guidance in (6.0, model._denoiser.unguided):
        (seen,) = model._run([PROMPT] * 2, None, guidance, seeds, [timestep])
        follower = Follower(model._denoiser, model._levels)
        follower.calls.extend(seen.calls)
        follower.on_step(Taken(seen.model_output, timestep, seen.sample, seen.sample, seen.sample))
        conditional = model.bind(PROMPT).predict_noise(seen.sample, t)
        for i, found in enumerate(follower.trajectories(2)):
            assert found is not None
            assert float(found.noise_norms) == pytest.approx(
                float(conditional[i].square().mean()), rel=1e-3
            )
            assert float(found.levels) == pytest.approx(
                float(model.schedule.sigma(t) / model.schedule.alpha(t)), rel=1e-4
            )
            guided = guidance != model._denoiser.unguided and len(model._denoiser.branches) == 2
            assert bool(found.differences.isnan()) != guided


@pytest.mark.parametrize("family", GUIDANCES)
def test_a_picture_does_not_depend_on_prompts_beside_it(family: str) -> None:
    _, model = made(family)
    prompts = [PROMPT, "a very much longer print of another harbour", "a cat"]
    settings: dict[str, Any] = {"steps": STEPS, "guidance": 4.0}
    together = model.generate(prompts, SEEDS, batch_size=3, **settings).latents
    for i, prompt in enumerate(prompts):
        alone = model.generate(prompt, SEEDS[i : i + 1], **settings).latents[0]
        assert difference(together[i], alone) < 2e-3


@pytest.mark.parametrize("family", SCORED)
def test_scores_are_those_of_the_pipeline(family: str) -> None:
    _, model = made(family)
    t = 700
    (seen,) = model._run([PROMPT], None, 6.0, [9], [model._levels.timesteps[t]])
    ours = model.bind(PROMPT, guidance=6.0, kind="guided").predict_noise(seen.sample, t)
    assert difference(ours, model._levels.noise(seen.model_output, seen.sample, t)) < 1e-4
    scale = model._denoiser.unguided
    (seen,) = model._run([PROMPT], None, scale, [9], [model._levels.timesteps[t]])
    ours = model.bind(PROMPT).predict_noise(seen.sample, t)
    assert difference(ours, model._levels.noise(seen.model_output, seen.sample, t)) < 1e-4


@pytest.mark.parametrize("family", SCORED)
def test_scores_are_differentiable_and_treat_items_alone(family: str) -> None:
    _, model = made(family)
    score = model.bind(PROMPT)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *score.shape, generator=generator).requires_grad_()
    together = score.predict_noise(x, 300)
    (gradient,) = torch.autograd.grad(together[0].sum(), x)
    assert float(gradient[0].abs().max()) > 0
    assert float(gradient[1].abs().max()) == 0
    assert difference(together[1:], score.predict_noise(x[1:], 300)) < 1e-3


@pytest.mark.parametrize("family", [f for f, kind in GUIDANCES.items() if kind != "none"])
def test_a_network_without_an_unconditional_branch_has_no_such_score(family: str) -> None:
    _, model = made(family)
    if GUIDANCES[family] == "distilled":
        with pytest.raises(UsageError, match="no unconditional branch"):
            model.bind(PROMPT, kind="unconditional")
    else:
        assert model.bind(PROMPT, kind="unconditional").evaluations_per_call == 1


def test_a_network_without_guidance_has_no_score() -> None:
    _, model = made("flux_schnell")
    with pytest.raises(UsageError, match=r"it has no guidance.*Give --spectrum none"):
        model.bind(PROMPT)


@pytest.mark.parametrize("family", REFUSED)
def test_what_does_not_pass_makes_pictures_without_scores(family: str) -> None:
    _, model = made(family)
    with pytest.raises(Unlike, match=REFUSED[family]):
        model.bind(PROMPT)
    scheduler = "keep" if family == "deepfloyd_if" else "ddim"
    settings: dict[str, Any] = {"steps": STEPS, "guidance": 4.0, "scheduler": scheduler}
    assert model.generate(PROMPT, SEEDS[:1], **settings).finite.all()


def test_what_ddim_can_not_sample_is_sent_to_the_own_scheduler() -> None:
    _, model = made("deepfloyd_if")
    with pytest.raises(UsageError, match=r"DDIM can't sample .*Use --scheduler keep"):
        model.generate(PROMPT, SEEDS[:1], steps=STEPS, guidance=4.0)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux_dev", "qwen_image", "z_image", "sana"])
def test_encoded_pictures_decode_to_what_the_autoencoder_gives(family: str) -> None:
    plain, model = made(family)
    pictures = model.generate(PROMPT, SEEDS, steps=STEPS, guidance=4.0).images
    latents = model.encode(pictures)
    assert tuple(latents.shape[1:]) == model.latent_shape
    scaled = 2 * pictures - 1
    encoded = plain.vae.encode(scaled[:, :, None] if family == "qwen_image" else scaled)
    modes = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    decoded = plain.vae.decode(modes, return_dict=False)[0].reshape(pictures.shape) / 2 + 0.5
    assert float((model.decode(latents) - decoded.clamp(0, 1)).abs().max()) < 1 / 255


def test_a_pipeline_that_guides_otherwise_is_refused_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, model = made("sd3")
    scheduler = type(model._sampler)
    step = scheduler.step

    def slower(self: Any, output: Any, timestep: Any, sample: Any, **named: Any) -> Any:
        return step(self, 0.9 * output, timestep, sample, **named)

    monkeypatch.setattr(scheduler, "step", slower)
    with pytest.raises(ModelError, match=r"a step of the sampler by .*Give --spectrum none"):
        model.bind(PROMPT)


def test_errors_of_an_adapter_are_refusals() -> None:
    assert issubclass(Unlike, AuditError)
