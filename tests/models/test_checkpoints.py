"""Single files and what trainings leave, completed by a model of their family, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.errors import ModelError, UsageError
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, resolve
from m2g_audit.models.pipeline import Pipeline
from m2g_audit.models.protocol import TextToImage
from tests.support import original_layout, tiny
from tests.support.families import FAMILIES, SMALL

PROMPT, SEEDS = "a print of the old harbour", (1, 2)
WEIGHTS = "diffusion_pytorch_model.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned() -> StableDiffusionPipeline:
    return tiny.text_to_image(seed=1)


@pytest.fixture(scope="module")
def single(tuned: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return original_layout.save(tuned, tmp_path_factory.mktemp("single") / "merged.safetensors")


@pytest.fixture
def training(tuned: StableDiffusionPipeline, base: Path, tmp_path: Path) -> Path:
    """The folder of a training of `base` with one checkpoint, of the network alone."""
    tuned.unet.save_pretrained(network := tmp_path / "checkpoint-500" / "unet")
    change(network / "config.json", _name_or_path=str(base))
    return tmp_path


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def pictures(model: TextToImage) -> Tensor:
    return model.generate(PROMPT, SEEDS, steps=2, guidance=3.0).images


def loaded(model: Path, **named: Any) -> TextToImage:
    return load_model(model, device="cpu", **named)


# -- single files


def test_a_single_file_is_its_own_network_encoder_and_vae(
    tuned: StableDiffusionPipeline, single: Path, base: Path
) -> None:
    model = loaded(single, config_from=str(base))
    assert torch.equal(pictures(model), pictures(Pipeline.of(tuned)))
    identity = model.identity
    assert (identity.id, identity.completed_from) == (str(single), str(base))
    assert identity.stored == "F32"


def test_scores_in_half_precision_are_read_again_in_float32(single: Path, base: Path) -> None:
    x = torch.randn(1, *tiny.LATENT, generator=torch.Generator().manual_seed(0))
    found = [
        loaded(single, config_from=str(base), dtype=dtype).bind(PROMPT).predict_noise(x, 300)
        for dtype in ("float32", "bfloat16")
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.02)


def test_a_network_alone_is_completed_by_the_other_parts(tmp_path: Path) -> None:
    """Of transformers people share the network, and mean the other parts to be the base's."""
    plain = FAMILIES["flux_dev"]()
    plain.save_pretrained(folder := tmp_path / "base")
    other = FluxTransformer2DModel.from_config(plain.transformer.config)
    save_file(other.state_dict(), file := tmp_path / "style.safetensors")
    height, width = SMALL["flux_dev"]["height"], SMALL["flux_dev"]["width"]
    found = loaded(file, config_from=str(folder), size=(height, width))
    whole = FluxPipeline.from_pretrained(folder, transformer=other)
    assert torch.equal(pictures(found), pictures(Pipeline.of(whole, (height, width))))


def test_averaged_weights_are_read_where_they_are_asked_for(
    tuned: StableDiffusionPipeline, base: Path, tmp_path: Path
) -> None:
    averaged = tiny.text_to_image(seed=2).unet
    file = original_layout.save(tuned, tmp_path / "both.safetensors", averaged=averaged)
    live, ema = (loaded(file, config_from=str(base), ema=ema) for ema in (False, True))
    assert torch.equal(pictures(live), pictures(Pipeline.of(tuned)))
    whole = StableDiffusionPipeline(
        **{**tuned.components, "unet": averaged}, requires_safety_checker=False
    )
    assert torch.equal(pictures(ema), pictures(Pipeline.of(whole)))
    assert live.identity.configuration_sha256 != ema.identity.configuration_sha256


def test_a_file_without_averaged_weights_has_none(single: Path, base: Path) -> None:
    with pytest.raises(UsageError, match="holds no averaged weights"):
        loaded(single, config_from=str(base), ema=True)


def test_the_identity_is_of_the_content(single: Path, base: Path, tmp_path: Path) -> None:
    shutil.copy(single, elsewhere := tmp_path / "renamed.safetensors")
    found = [resolve(file, TEXT_TO_IMAGE, config_from=str(base)) for file in (single, elsewhere)]
    assert found[0].sha256 == found[1].sha256
    assert found[0].configuration == found[1].configuration
    weights = load_file(single)
    key = next(iter(weights))
    save_file({**weights, key: weights[key] + 1}, elsewhere)
    assert resolve(elsewhere, TEXT_TO_IMAGE, config_from=str(base)).sha256 != found[0].sha256


def test_a_single_file_without_settings_is_refused_with_the_likely_base(single: Path) -> None:
    said = "without the settings of its model.*--config-from stable-diffusion-v1-5/"
    with pytest.raises(ModelError, match=said):
        loaded(single)


def test_settings_that_are_not_here_are_not_made_up(single: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no model './nowhere'"):
        loaded(single, config_from="./nowhere")


@pytest.mark.parametrize("family", ["sdxl", "flux_dev"])
def test_a_checkpoint_of_another_architecture_is_refused(
    single: Path, tmp_path: Path, family: str
) -> None:
    FAMILIES[family]().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"single file .* (does not fit|do not fit)|do not fit"):
        loaded(single, config_from=str(tmp_path))


@pytest.mark.parametrize("fault", ["more", "fewer", "wider"])
def test_weights_that_do_not_fit_are_refused(
    single: Path, base: Path, tmp_path: Path, fault: str
) -> None:
    weights = load_file(single)
    last = original_layout.UNET + "out.2.bias"
    if fault == "more":
        other = {k.replace("input_blocks.3", "input_blocks.4"): w for k, w in weights.items()}
        weights |= {key: w.clone() for key, w in other.items()}
    elif fault == "fewer":
        weights.pop(last)
    else:
        weights[last] = torch.zeros(9)
    save_file(weights, file := tmp_path / "wrong.safetensors")
    with pytest.raises(ModelError, match="fit") as caught:
        loaded(file, config_from=str(base))
    assert "--config-from" in str(caught.value)


def test_precision_of_the_file_is_in_the_identity(single: Path, base: Path, tmp_path: Path) -> None:
    small = {key: w.to(torch.float8_e4m3fn) for key, w in load_file(single).items()}
    save_file(small, file := tmp_path / "small.safetensors")
    assert loaded(file, config_from=str(base)).identity.stored == "F8_E4M3"


@pytest.mark.parametrize(
    "extra",
    [
        {"model.diffusion_model.out.2.scale_weight": torch.ones(1)},
        {"model.diffusion_model.out.2.weight.absmax": torch.ones(1)},
        {"scaled_fp8": torch.ones(1)},
        {"model.diffusion_model.out.2.weight": torch.ones(4, 8, dtype=torch.int8)},
    ],
)
def test_quantised_weights_are_refused(
    single: Path, base: Path, tmp_path: Path, extra: dict[str, Tensor]
) -> None:
    save_file({**load_file(single), **extra}, file := tmp_path / "nf4.safetensors")
    with pytest.raises(ModelError, match="are quantised"):
        loaded(file, config_from=str(base))
    (tmp_path / "flux-Q4_K.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="is a GGUF file: its weights are quantised"):
        loaded(tmp_path / "flux-Q4_K.gguf", config_from=str(base))


# -- what a training left


def test_a_network_of_a_training_is_completed_by_the_base_that_it_names(
    tuned: StableDiffusionPipeline, base: Path, training: Path, tmp_path: Path
) -> None:
    model = loaded(training / "checkpoint-500")
    whole = StableDiffusionPipeline.from_pretrained(base, unet=tuned.unet)
    assert torch.equal(pictures(model), pictures(Pipeline.of(whole)))
    assert model.identity.completed_from == str(base)
    # The same weights in the layout of a whole model are the same model.
    whole.save_pretrained(tmp_path / "whole")
    assert resolve(tmp_path / "whole", TEXT_TO_IMAGE).sha256 == model.identity.sha256
    assert torch.equal(pictures(loaded(training / "checkpoint-500" / "unet")), pictures(model))


def test_the_base_may_stand_in_the_card_of_the_training(base: Path, training: Path) -> None:
    change(training / "checkpoint-500" / "unet" / "config.json", _name_or_path=None)
    card = f"---\nlicense: mit\nbase_model: {base}\ntags:\n- text-to-image\n---\n"
    (training / "README.md").write_text(card)
    found = resolve(training / "checkpoint-500", TEXT_TO_IMAGE)
    assert found.completed_from == str(base)


def test_a_base_that_is_not_here_is_asked_for_and_not_fetched(training: Path) -> None:
    change(training / "checkpoint-500" / "unet" / "config.json", _name_or_path="some/model")
    with pytest.raises(ModelError, match=r"trained from some/model, which is not on this machine"):
        loaded(training / "checkpoint-500")
    change(training / "checkpoint-500" / "unet" / "config.json", _name_or_path=None)
    with pytest.raises(ModelError, match=r"holds only unet of a model\. Name with --config-from"):
        loaded(training / "checkpoint-500")


def test_of_several_checkpoints_the_last_is_proposed(training: Path) -> None:
    shutil.copytree(training / "checkpoint-500", training / "checkpoint-1000")
    with pytest.raises(ModelError, match=r"such as --model .*/checkpoint-1000\.$"):
        loaded(training)


def test_averaged_and_last_weights_are_told_apart(base: Path, training: Path) -> None:
    folder = training / "checkpoint-500"
    tiny.text_to_image(seed=2).unet.save_pretrained(folder / "unet_ema")
    change(folder / "unet_ema" / "config.json", decay=0.9999, optimization_step=500)
    with pytest.raises(ModelError, match=r"twice\. Say --ema .*unet_ema.*--model .*/unet for"):
        loaded(folder)
    last = loaded(folder / "unet")
    averaged = loaded(folder, ema=True, config_from=str(base))
    assert torch.equal(
        pictures(averaged), pictures(loaded(folder / "unet_ema", config_from=str(base)))
    )
    assert last.identity.sha256 != averaged.identity.sha256
    shutil.rmtree(folder / "unet_ema")
    with pytest.raises(UsageError, match="holds no averaged weights"):
        loaded(folder, ema=True)


def test_a_network_of_another_architecture_is_refused(training: Path, tmp_path: Path) -> None:
    FAMILIES["flux_dev"]().save_pretrained(tmp_path / "flux")
    with pytest.raises(ModelError, match=r"UNet2DConditionModel, and .* has no unet in its place"):
        loaded(training / "checkpoint-500", config_from=str(tmp_path / "flux"))
    FAMILIES["sdxl"]().save_pretrained(tmp_path / "xl")
    with pytest.raises(ModelError, match=r"unet has cross_attention_dim 16, the unet of .* 32"):
        loaded(training / "checkpoint-500", config_from=str(tmp_path / "xl"))


def test_a_part_of_a_whole_model_is_not_taken_for_a_training(base: Path) -> None:
    with pytest.raises(ModelError, match="is a part of a model: give the folder above it"):
        loaded(base / "unet")


def test_a_whole_model_needs_no_completion(base: Path) -> None:
    for option, given in (("--config-from", {"config_from": "x/y"}), ("--ema", {"ema": True})):
        with pytest.raises(UsageError, match=f"{option} is for single files"):
            loaded(base, **given)


# -- layouts


def test_a_variant_is_read_and_part_of_the_identity(base: Path, tmp_path: Path) -> None:
    half = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    model = loaded(tmp_path, variant="fp16")
    assert model.identity.stored == "F16"
    plain = StableDiffusionPipeline.from_pretrained(
        tmp_path, variant="fp16", torch_dtype=torch.float32
    )
    assert torch.equal(pictures(model), pictures(Pipeline.of(plain)))
    with pytest.raises(ModelError, match=r"as the variant fp16 .*: say --variant fp16"):
        loaded(tmp_path)


def test_shards_of_a_variant_are_read(base: Path, tmp_path: Path) -> None:
    whole = StableDiffusionPipeline.from_pretrained(base)
    whole.save_pretrained(tmp_path, variant="fp16", max_shard_size="40KB")
    assert (tmp_path / "unet" / f"{WEIGHTS}.index.fp16.json").is_file()
    assert torch.equal(pictures(loaded(tmp_path, variant="fp16")), pictures(loaded(base)))


def test_only_some_parts_may_have_a_variant(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    tiny.text_to_image(seed=2).unet.save_pretrained(folder / "unet", variant="ema")
    assert not torch.equal(pictures(loaded(folder, variant="ema")), pictures(loaded(folder)))


@pytest.mark.parametrize("variant", ["bf16", "../fp16"])
def test_a_variant_that_is_not_there_is_refused(base: Path, variant: str) -> None:
    with pytest.raises((ModelError, UsageError), match="variant"):
        loaded(base, variant=variant)


def test_a_model_may_lie_in_a_subfolder(base: Path) -> None:
    model = loaded(base.parent, subfolder=base.name)
    assert model.identity.sha256 == loaded(base).identity.sha256
    with pytest.raises(ModelError, match="There is no nowhere in"):
        loaded(base.parent, subfolder="nowhere")
    with pytest.raises(UsageError, match="lies outside"):
        loaded(base, subfolder="..")


def test_a_lora_on_a_single_file_has_it_as_its_base(
    single: Path, base: Path, tmp_path: Path
) -> None:
    from tests.models.test_adapters import FILE, trained

    trained(tiny.text_to_image(), tmp_path)
    options = AuditOptions.of(
        model=str(single), config_from=str(base), lora=(str(tmp_path / FILE),), device="cpu"
    )
    setup = set_up(options)
    assert setup.base is not None
    made = setup.base.generate([PROMPT] * 2, SEEDS, steps=2, guidance=3.0).images
    assert torch.equal(made, pictures(loaded(single, config_from=str(base))))
