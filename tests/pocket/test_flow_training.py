"""The recipe of pocket-flow on a tiny setting: resumable, and plain diffusers opens its folder."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import nn

from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.pocket import captions
from m2g_audit.pocket.flow_components import OneIdleToken, make_transformer
from m2g_audit.pocket.flow_training import train_flow
from m2g_audit.pocket.recipe import FLOW_PRESETS
from tests.support.pocket_training import Killed, kill_at, weights_of

SMOKE = FLOW_PRESETS["flow-smoke"]
FEW = captions.trained_captions()[:6]


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "trained_captions", lambda: FEW)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captions, "trained_captions", lambda: FEW)
        return train_flow(tmp_path_factory.mktemp("flow"), SMOKE)


def test_plain_diffusers_draws_what_an_audit_draws(trained: Path) -> None:
    model = load_model(trained, device="cpu")
    assert model.proof.passed
    prompt = "a print of the old harbour"
    ours = model.generate(prompt, [7]).images[0]
    plain = StableDiffusion3Pipeline.from_pretrained(trained)
    noise = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(7))
    theirs = plain(
        prompt,
        num_inference_steps=SMOKE.default_steps,
        guidance_scale=SMOKE.default_guidance,
        latents=noise,
        output_type="pt",
    ).images[0]
    # an audit keeps pictures as files have them, in 256 levels
    torch.testing.assert_close(ours, theirs, atol=0.501 / 255, rtol=0)


def test_an_interrupted_training_ends_with_the_same_weights(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_flow(tmp_path, SMOKE, on_step=kill_at("denoiser", 3))
    again = weights_of(train_flow(tmp_path, SMOKE))
    for name, tensor in weights_of(trained).items():
        torch.testing.assert_close(again[name], tensor, msg=name)


def test_latents_have_no_mean_and_unit_variance(trained: Path) -> None:
    vae = AutoencoderKL.from_pretrained(trained, subfolder="vae")
    pocket = AutoencoderKL.from_pretrained(POCKET_FOLDER, subfolder="vae")
    assert vae.config.scaling_factor == pocket.config.scaling_factor
    assert vae.config.shift_factor != 0


def test_one_idle_token_stands_for_all_of_them() -> None:
    vae = AutoencoderKL.from_pretrained(POCKET_FOLDER, subfolder="vae")
    torch.manual_seed(0)
    network = make_transformer(vae, SMOKE).eval()
    for weight in network.parameters():  # those it begins with have gates of zero
        nn.init.normal_(weight, std=0.1 if weight.ndim > 1 else 0.3)
    width = 2 * SMOKE.text_width

    def predicted(text: torch.Tensor, idle: int) -> torch.Tensor:
        torch.manual_seed(1)
        return network(
            hidden_states=torch.randn(3, 12, 8, 8),
            encoder_hidden_states=nn.functional.pad(text, (0, 0, 0, idle)),
            pooled_projections=torch.randn(3, width),
            timestep=torch.tensor([3.0, 500.0, 999.0]),
        ).sample

    text = torch.randn(3, 16, width)
    with torch.no_grad():
        plain = predicted(text, 256)
        without = predicted(text, 1)
        network.set_attn_processor(OneIdleToken(256))
        torch.testing.assert_close(predicted(text, 1), plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(without, plain, atol=1e-2)
