"""The recipe of pocket-flow carried out: pocket's autoencoder, then text encoders and transformer.

Checkpoints, log and random numbers are those of pocket's training.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.models.attention_processor import JointAttnProcessor2_0
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.models.names import POCKET
from m2g_audit.pocket import captions, components, flow_components, training
from m2g_audit.pocket.recipe import FlowRecipe
from m2g_audit.pocket.training import TrainingRun
from m2g_audit.progress import Progress


def train_flow(
    out: Path, recipe: FlowRecipe, *, device: str = "cpu", on_step: Progress | None = None
) -> Path:
    """The folder of a finished pipeline, `out/weights`, trained or taken up where it stopped.

    Raises ModelError if `out` holds a checkpoint of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(out, recipe, torch.device(device), on_step or (lambda *_: None))
    autoencoder = AutoencoderKL.from_pretrained(POCKET_FOLDER, subfolder="vae").to(run.device)
    autoencoder.eval().requires_grad_(False)
    trained = captions.trained_captions()
    latents = training.training_latents(run, autoencoder, trained)
    centre = float(torch.cat(latents).mean())
    shift = centre / autoencoder.config.scaling_factor
    # The path that it was loaded from is no business of the weights.
    autoencoder.register_to_config(shift_factor=shift, _name_or_path=POCKET)
    folder = out / "weights"
    texts = [caption.text for caption in captions.all_captions()]
    tokenizer = components.make_tokenizer(folder / "tokenizer", recipe, texts)
    torch.manual_seed(recipe.seed)
    encoders = nn.ModuleList(
        [flow_components.make_text_encoder(tokenizer, recipe) for _ in range(2)]
    )
    transformer = flow_components.make_transformer(autoencoder, recipe)
    taught = {caption.text: part - centre for caption, part in zip(trained, latents, strict=True)}
    fit_transformer(run, encoders, transformer, tokenizer, taught)
    pipeline = flow_components.assemble(autoencoder.cpu(), encoders, tokenizer, transformer, recipe)
    pipeline.save_pretrained(folder)
    training.write_own_settings(folder, recipe)
    return folder


def fit_transformer(
    run: TrainingRun[FlowRecipe],
    text_encoders: nn.ModuleList,
    transformer: SD3Transformer2DModel,
    tokenizer: CLIPTokenizer,
    latents: Mapping[str, Tensor],
) -> None:
    """Trains text encoders and transformer in place; they end on the CPU with averaged weights.

    latents: latents [k, c, h, w] of each caption's pictures, of mean 0 and variance 1 together;
    captions are drawn equally often.
    """
    recipe = run.recipe
    model = nn.ModuleDict({"text_encoders": text_encoders, "transformer": transformer})
    model.to(run.device)
    ema = EMAModel(model.parameters(), decay=recipe.ema_decay, foreach=True)
    transformer.set_attn_processor(flow_components.OneIdleToken(recipe.idle_tokens))
    examples = training.Examples(tokenizer, latents, recipe)
    tokens = examples.tokens.to(run.device)

    def loss_of(generator: torch.Generator) -> Tensor:
        said, chosen = examples.draw(generator)
        sigma = torch.rand(len(said), generator=generator)
        x0 = examples.pictures[chosen]
        noise = torch.randn(x0.shape, generator=generator)
        level = sigma[:, None, None, None]
        x, velocity = (1 - level) * x0 + level * noise, noise - x0
        text, pooled = flow_components.embed(text_encoders, tokens)
        said = said.to(run.device)
        predicted = transformer(
            hidden_states=x.to(run.device),
            encoder_hidden_states=nn.functional.pad(text[said], (0, 0, 0, 1)),
            pooled_projections=pooled[said],
            timestep=(1000 * sigma).to(run.device),
        ).sample
        return (predicted - velocity.to(run.device)).square().mean()

    training.optimise_denoiser(run, model, loss_of, ema)
    transformer.set_attn_processor(JointAttnProcessor2_0())
