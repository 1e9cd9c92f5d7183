"""LoRA files: the pictures of plain diffusers with them, every layout, and nothing left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.errors import ModelError, UsageError
from m2g_audit.models.adapters import Lora, attach, find_loras
from m2g_audit.models.loading import load_model
from m2g_audit.models.pipeline import Pipeline
from m2g_audit.models.protocol import TextToImage
from tests.support import tiny
from tests.support.families import FAMILIES, SMALL

PROMPT, SEEDS = "a print of the old harbour", (1, 2)
FILE = "pytorch_lora_weights.safetensors"
ALPHA, RANK = 8, 4
MADE: dict[str, Any] = {
    "sd15": tiny.text_to_image,
    **{name: FAMILIES[name] for name in ("sdxl", "sd3", "flux_dev", "qwen_image", "z_image")},
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def trained(pipe: Any, folder: Path) -> dict[str, Tensor]:
    """The matrices of a LoRA that lies in `folder`, as peft names them."""
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    network = getattr(pipe, part)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        if "lora_" in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    matrices = get_peft_model_state_dict(network)
    layers = {f"{part}_lora_layers": convert_state_dict_to_diffusers(matrices)}
    type(pipe).save_lora_weights(folder, **layers)
    return matrices


def as_kohya(matrices: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of kohya's trainer."""
    named: dict[str, Tensor] = {}
    for key, weight in matrices.items():
        module, _, side = key.removesuffix(".weight").rpartition(".")
        name = f"lora_unet_{module.replace('.', '_')}"
        named[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = (
            weight.contiguous()
        )
        named[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    return named


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    trained(tiny.text_to_image(), folder)
    return folder / FILE


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("base"))


def pictures(model: TextToImage) -> Tensor:
    return model.generate(PROMPT, SEEDS, steps=2, guidance=3.0).images


def with_lora(base: Path, *files: Path, scale: float = 1.0, **named: Any) -> TextToImage:
    return load_model(base, device="cpu", loras=[Lora(file, scale) for file in files], **named)


@pytest.mark.parametrize("family", MADE)
def test_pictures_are_those_of_diffusers_with_the_same_adapter(family: str, tmp_path: Path) -> None:
    trained(MADE[family](), tmp_path)
    ours, plain = MADE[family](), MADE[family]()
    attach(ours, find_loras([str(tmp_path)], [0.8]))
    plain.load_lora_weights(tmp_path, adapter_name="style")
    plain.set_adapters(["style"], [0.8])
    size = SMALL.get(family)
    models = [
        Pipeline.of(pipe, (size["height"], size["width"]) if size else None)
        for pipe in (ours, plain, MADE[family]())
    ]
    with_it, of_diffusers, without = map(pictures, models)
    assert torch.equal(with_it, of_diffusers)
    assert float((with_it - without).abs().max()) > 0.01


def test_at_scale_0_it_is_the_base(base: Path, lora: Path) -> None:
    assert torch.equal(pictures(with_lora(base, lora, scale=0.0)), pictures(with_lora(base)))


def test_several_are_added(base: Path, lora: Path, tmp_path: Path) -> None:
    half = {key: 0.5 * w if "lora.up" in key else w for key, w in load_file(lora).items()}
    save_file(half, other := tmp_path / "half.safetensors")
    both = pictures(with_lora(base, other, other))
    torch.testing.assert_close(both, pictures(with_lora(base, lora)), rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_other_layouts_are_the_same_lora(base: Path, tmp_path: Path, layout: str) -> None:
    matrices = trained(tiny.text_to_image(), tmp_path)
    folder = tmp_path / layout
    folder.mkdir()
    if layout == "kohya":
        file = folder / "style.safetensors"
        save_file(as_kohya(matrices), file)
    else:
        file = folder
        named = {f"base_model.model.{key}": w.contiguous() for key, w in matrices.items()}
        save_file(named, folder / "adapter_model.safetensors")
        settings = {"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    (found,) = find_loras([str(file)], ())
    ours = pictures(with_lora(base, found.path))
    plain = tiny.text_to_image()
    plain.unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    own = dict(plain.unet.named_parameters())
    for key, weight in matrices.items():
        own[key.replace(".weight", ".default.weight")].data = weight
    assert torch.equal(ours, pictures(Pipeline.of(plain)))


def test_a_peft_folder_of_another_network_is_refused(base: Path, tmp_path: Path) -> None:
    matrices = trained(tiny.text_to_image(), tmp_path)
    named = {f"base_model.model.{key}": w.contiguous() for key, w in matrices.items()}
    save_file(named, tmp_path / "adapter_model.safetensors")
    said = {"auto_mapping": {"base_model_class": "CLIPTextModel"}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="was trained on a CLIPTextModel"):
        with_lora(base, tmp_path / "adapter_model.safetensors")


def test_scores_are_of_both_in_half_precision_too(base: Path, lora: Path) -> None:
    x = torch.randn(1, *tiny.LATENT, generator=torch.Generator().manual_seed(0))
    found = [
        with_lora(base, lora, dtype=dtype).bind(PROMPT).predict_noise(x, 300)
        for dtype in ("float32", "bfloat16")
    ]
    # The prompt is embedded in half precision.
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.02)
    without = with_lora(base).bind(PROMPT).predict_noise(x, 300)
    assert float((found[0] - without).abs().max()) > 0.1


def test_the_identity_has_file_and_scale(base: Path, lora: Path) -> None:
    models = [with_lora(base), with_lora(base, lora), with_lora(base, lora, scale=0.5)]
    assert len({model.identity.sha256 for model in models}) == 3
    (said,) = models[2].identity.loras
    assert (said["file"], said["scale"]) == (FILE, 0.5)
    assert models[2].identity.configuration["loras"] == [said]


def test_the_model_without_it_is_the_base(base: Path, lora: Path) -> None:
    setup = set_up(AuditOptions.of(model=str(base), lora=(str(lora),), device="cpu"))
    assert setup.base is not None
    assert setup.base.id == str(base)
    made = setup.base.generate([PROMPT] * 2, SEEDS, steps=2, guidance=3.0).images
    assert torch.equal(made, pictures(with_lora(base)))


def test_a_lora_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    trained(FAMILIES["sd3"](), tmp_path)
    with pytest.raises(ModelError, match=r"does not fit this model.*the base that it was"):
        with_lora(base, tmp_path / FILE)


def test_a_lora_that_fits_in_part_is_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    more = load_file(lora)
    more |= {key.replace("down_blocks.0", "down_blocks.7"): w.clone() for key, w in more.items()}
    save_file(more, wrong := tmp_path / "more.safetensors")
    with pytest.raises(ModelError, match="does not fit this model"):
        with_lora(base, wrong)


def test_a_lora_of_other_widths_is_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    wide = {
        key: torch.cat([w, w], dim=1 if "lora.down" in key else 0)
        for key, w in load_file(lora).items()
    }
    save_file(wide, wrong := tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match="does not fit this model"):
        with_lora(base, wrong)


def test_weights_that_are_no_lora_are_refused(base: Path, tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2)}, wrong := tmp_path / "no.safetensors")
    with pytest.raises(ModelError, match="does not fit this model"):
        with_lora(base, wrong)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere.safetensors", None, "There is no LoRA file"),
        ("style.pt", b"x", "is no safetensors file"),
        ("cut.safetensors", b"\x08", "no whole weights"),
    ],
)
def test_what_is_no_file_of_a_lora_is_refused(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        find_loras([str(tmp_path / name)], ())
    with pytest.raises(ModelError, match="holds no LoRA"):
        find_loras([str(tmp_path)], ())


def test_scales_belong_to_loras(lora: Path) -> None:
    assert [found.scale for found in find_loras([str(lora)] * 2, (0.5,))] == [0.5, 0.5]
    assert [found.scale for found in find_loras([str(lora)] * 2, (0.5, 2.0))] == [0.5, 2.0]
    with pytest.raises(UsageError, match="2 --lora and 3 --lora-scale"):
        find_loras([str(lora)] * 2, (1.0, 2.0, 3.0))
    with pytest.raises(UsageError, match=r"give one\."):
        AuditOptions.of(lora_scale=(1.0,))
