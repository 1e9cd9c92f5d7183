"""Stable Diffusion 1.x and 2.x as a text-to-image model and a score model.

Generation is the pipeline's own `__call__`, so that a picture is what plain diffusers gives for the
same seed. Scores are always computed in fp32, from weights read again where the pipeline was loaded
in half precision: rounding to half is as large as the difference of two noise predictions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy, deepcopy
from functools import cached_property, wraps
from inspect import signature
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics.numerics import check_finite, exact_numerics, in_batches, noises_for
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.errors import ModelError, NumericsError, UsageError
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, ModelFolder
from m2g_audit.models.networks import load_network, load_scheduler, load_tokenizer, quiet, readable
from m2g_audit.models.origins import FromFolder, InMemory, Origin, identify
from m2g_audit.models.placement import memory
from m2g_audit.models.prediction import check_prediction_type, noise_from_output
from m2g_audit.models.protocol import Generations, ModelIdentity
from m2g_audit.models.tokens import check_tokenizer
from m2g_audit.records.vocabulary import SchedulerChoice, ScoreKind
from m2g_audit.text import first_line

# Their noise comes from a Brownian tree for a whole batch, not from the pictures' generators.
_OWN_NOISE = frozenset({"DPMSolverSDEScheduler"})
_FEW_STEPS = frozenset({"LCMScheduler", "TCDScheduler"})
_FEW_STEPS_NAME = re.compile(r"(?i)(?<![a-z])(lcm|tcd|turbo|lightning|hyper-?sd)(?![a-z])")
_STEP = ("model_output", "timestep", "sample")


class StableDiffusion:
    """A Stable Diffusion 1.x or 2.x pipeline; made `from_folder`, or `of` one in memory."""

    def __init__(self, pipe: Any, origin: Origin) -> None:
        self._pipe = pipe
        self._origin = origin
        self._own_scheduler = pipe.scheduler
        # Where the entry is missing, DDIM's default would clip latents to [-1, 1].
        clip = pipe.scheduler.config.get("clip_sample", False)
        self._ddim: Any = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=clip)
        self.prediction_type = check_prediction_type(self._ddim.config.prediction_type, origin.id)
        self.schedule = NoiseSchedule.of_betas(self._ddim.betas)
        self.device: torch.device = pipe.unet.device
        self.dtype: torch.dtype = pipe.unet.dtype
        if any(side % 8 for side in self.image_size):
            raise ModelError(
                f"The pictures of {origin.id} would have {self.image_size[0]} x "
                f"{self.image_size[1]} pixels; both have to be multiples of 8. `sample_size` in "
                "unet/config.json says so: get that file again."
            )
        self._own = origin.own_settings()
        self.default_metric: str | None = self._own.metric

    @classmethod
    def from_folder(
        cls, folder: ModelFolder, *, dtype: torch.dtype, device: torch.device
    ) -> StableDiffusion:
        """The pipeline of a checked folder, without its safety checker.

        Raises ModelError for what only its networks tell: another conditioning, weights that do not
        fit; ResourceError if it does not fit in memory.
        """
        _check_architecture(folder)
        with quiet(), memory(f"loading {folder.id}"), readable(folder, "pipeline"):
            scheduler, tokenizer = load_scheduler(folder), load_tokenizer(folder)
            networks = {part: load_network(folder, part) for part in TEXT_TO_IMAGE.weighted}
            pipe: Any = StableDiffusionPipeline.from_pretrained(
                folder.path,
                **networks,
                scheduler=scheduler,
                tokenizer=tokenizer,
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
                local_files_only=True,
            )
            check_tokenizer(pipe.tokenizer, pipe.text_encoder, folder.id)
            for part in networks.values():
                # Not diffusers' own `to`, whose name for the dtype differs between its versions.
                torch.nn.Module.to(part, dtype)
            pipe.to(device)
            pipe.set_progress_bar_config(disable=True)
            return cls(pipe, FromFolder(folder))

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline) -> StableDiffusion:
        """A pipeline in memory as it is: with its adapters, scheduler, device and precision.

        The object itself is left alone. Its safety checker, which would blacken pictures, is not
        asked. ModelError for a scheduler without a noise schedule of betas.
        """
        own = copy(pipe)  # shares the networks
        own.scheduler = deepcopy(pipe.scheduler)  # which sampling changes
        own.safety_checker = None
        own.set_progress_bar_config(disable=True)
        if getattr(pipe.scheduler, "betas", None) is None:
            raise ModelError(
                f"The scheduler of this pipeline ({type(pipe.scheduler).__name__}) has no noise "
                "schedule of betas: give the pipeline the scheduler that it was trained with."
            )
        return cls(own, InMemory(pipe, TEXT_TO_IMAGE.weighted))

    @property
    def default_steps(self) -> int:
        """The model's own number of steps, else 50; UsageError for a distilled model that has none.

        Such a model shows what it makes only with few steps and with little or no guidance.
        """
        if self._own.steps is None:
            self._refuse_usual_settings()
        return self._own.steps or 50

    @property
    def default_guidance(self) -> float:
        """The model's own guidance, else 7.5; UsageError for a distilled model that has none."""
        if self._own.guidance is None:
            self._refuse_usual_settings()
            return 7.5
        return resolve_guidance(self._own.guidance)

    def _refuse_usual_settings(self) -> None:
        if why := _distilled(self._origin, type(self._own_scheduler).__name__):
            raise UsageError(
                f"{self._origin.id} is distilled ({why}): the usual 50 steps with guidance 7.5 "
                "would not show what it makes. Give both as its model card does, such as --steps 4 "
                "--guidance 0 --scheduler keep."
            )

    @cached_property
    def identity(self) -> ModelIdentity:
        """What this model is, with the hash of its weights' files."""
        scheduler = type(self._own_scheduler).__name__
        return identify(self._origin, self._pipe.unet, scheduler, self.prediction_type)

    @property
    def network_config(self) -> Mapping[str, Any]:
        """The network's configuration."""
        return self._pipe.unet.config

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one latent."""
        size = self._pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self._pipe.unet.config.in_channels, height, width)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of one image in pixels."""
        _, height, width = self.latent_shape
        return (height * self._pipe.vae_scale_factor, width * self._pipe.vae_scale_factor)

    @property
    def N(self) -> int:
        """The number of dimensions of one latent."""
        return prod(self.latent_shape)

    def token_count(self, prompt: str) -> tuple[int, int]:
        """(tokens that `prompt` has, tokens that the text encoder reads), marks included."""
        return len(self._tokens(prompt)), self._pipe.tokenizer.model_max_length

    def cut_off(self, prompt: str) -> str:
        """The end of `prompt` that the text encoder does not read, as its tokens spell it."""
        tokenizer = self._pipe.tokenizer
        # The encoder's last place is the end mark's.
        return tokenizer.decode(self._tokens(prompt)[tokenizer.model_max_length - 1 : -1])

    def _tokens(self, prompt: str) -> list[int]:
        # A word of a textual inversion may stand for several vectors, each a token.
        whole = self._pipe.maybe_convert_prompt(prompt, self._pipe.tokenizer)
        return self._pipe.tokenizer(whole, verbose=False).input_ids

    def bind(
        self,
        prompt: str,
        *,
        guidance: float | None = None,
        kind: ScoreKind = "conditional",
        negative_prompt: str | None = None,
    ) -> ScoreModel:
        """The fp32 score model of latents for one prompt.

        `kind`: "conditional" (eps_c), "unconditional" (eps_u, the empty prompt), or "guided",
        eps_u + guidance (eps_c - eps_u). `guidance` and `negative_prompt`, which then stands in
        for the empty prompt, count for "guided" only; default_guidance if None.
        """
        away_from = negative_prompt if kind == "guided" else None
        conditional, unconditional = self._embed(prompt, away_from)
        scale = self.default_guidance if guidance is None else guidance
        embeddings = {
            "conditional": [conditional],
            "unconditional": [unconditional],
            "guided": [unconditional, conditional],
        }[kind]
        return _BoundUNet(self, embeddings, kind, scale)

    def generate(
        self,
        prompt: str | Sequence[str],
        seeds: Sequence[int],
        *,
        negative_prompt: str | Sequence[str | None] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        batch_size: int = 4,
        scheduler: SchedulerChoice = "ddim",
        on_progress: Callable[[int], None] | None = None,
    ) -> Generations:
        """Pictures of a prompt, or of one prompt for each seed, independent of batch-mates.

        Equal to `pipe(prompt, generator=[torch.Generator("cpu").manual_seed(s), ...])` of plain
        diffusers: the noise bit for bit (drawn in the pipeline's dtype), the pixels to 1/255.
        `negative_prompt`: one for all, or one for each seed, None where there is none.
        `scheduler`: "ddim" (eta 0) or "keep" (the pipeline's own). `on_progress` gets the number of
        image-steps done, of len(seeds) * steps; it may raise, and may step back when a batch that
        did not fit in memory is done again in halves. Raises NumericsError if no image is finite,
        ResourceError if a batch of one does not fit, UsageError for steps outside the schedule, for
        guidance that is neither 0 (none, as model cards say it) nor 1 or more, and for "keep" where
        the pipeline's own scheduler draws noise that no generator decides, or can't do it.
        """
        if not seeds:
            raise UsageError(
                "No seeds were given, so there is nothing to generate: give at least 1."
            )
        steps, guidance = self._sampling(steps, guidance)
        prompts = [prompt] * len(seeds) if isinstance(prompt, str) else prompt
        if negative_prompt is None or isinstance(negative_prompt, str):
            negative_prompt = [negative_prompt] * len(seeds)
        # The empty prompt is what diffusers takes where there is no negative one.
        negatives = [text or "" for text in negative_prompt]
        self._pipe.scheduler = self._scheduler(scheduler)

        def work(batch: range) -> tuple[Tensor, Tensor, Tensor]:
            report = _progress(on_progress, batch, steps)
            texts = [(prompts[index], negatives[index]) for index in batch]
            chosen = [seeds[index] for index in batch]
            return self._generate_batch(texts, chosen, steps, guidance, report)

        batches = list(in_batches(len(seeds), batch_size, work, "generating one picture"))
        parts = [part for _, part in batches]
        latents, clean, images = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return self._generations(latents, clean, images, max(len(batch) for batch, _ in batches))

    def evaluations(
        self,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        scheduler: SchedulerChoice = "ddim",
    ) -> int:
        """How often the network answers for one picture of `generate`: twice a time if guided."""
        steps, guidance = self._sampling(steps, guidance)
        chosen = self._scheduler(scheduler)
        # Some schedulers (PNDM) take more evaluations than steps.
        with self._possible(chosen, steps):
            chosen.set_timesteps(steps)
        return len(chosen.timesteps) * (2 if guidance > 1 else 1)

    def _sampling(self, steps: int | None, guidance: float | None) -> tuple[int, float]:
        """Steps and guidance as they will be used; UsageError for those that can't be."""
        steps = self.default_steps if steps is None else steps
        guidance = self.default_guidance if guidance is None else guidance
        guidance = resolve_guidance(guidance)
        if not 1 <= steps <= len(self.schedule):
            raise UsageError(f"{steps} steps are not possible: give 1 to {len(self.schedule)}.")
        return steps, guidance

    def _scheduler(self, choice: SchedulerChoice) -> Any:
        if choice == "ddim":
            return self._ddim
        if why := _unkept(self._own_scheduler):
            raise UsageError(
                f"The scheduler of {self._origin.id} ({type(self._own_scheduler).__name__}) {why}. "
                "Use --scheduler ddim."
            )
        return self._own_scheduler

    def _generate_batch(
        self,
        texts: Sequence[tuple[str, str]],
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        on_step: Callable[[int], None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        final: dict[str, Tensor] = {}

        def keep_latents(_: Any, step: int, __: Any, tensors: dict[str, Tensor]) -> dict:
            final["latents"] = tensors["latents"]
            on_step(step)
            return {}

        scheduler = self._pipe.scheduler
        with self._exact(), self._possible(scheduler, steps), _clean_samples(scheduler, final):
            images = self._pipe(
                [prompt for prompt, _ in texts],
                negative_prompt=[negative for _, negative in texts],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="pt",
                callback_on_step_end=keep_latents,
            ).images
        clean = final.get("clean", final["latents"])
        return final["latents"].float().cpu(), clean.float().cpu(), images.float().cpu()

    def _generations(
        self, latents: Tensor, clean: Tensor, images: Tensor, fitted: int
    ) -> Generations:
        finite = torch.isfinite(latents).flatten(1).all(1) & torch.isfinite(images).flatten(1).all(
            1
        )
        if not bool(finite.any()):
            cure = (
                "its weights are broken: get them again"
                if self.dtype == torch.float32
                else f"it overflows in {self.identity.dtype}: use --dtype float32"
            )
            raise NumericsError(
                f"None of the {len(finite)} pictures is finite. The network gives NaN; most "
                f"likely {cure}."
            )
        images = torch.where(finite[:, None, None, None], images, torch.zeros(()))
        return Generations(latents, clean, _quantise(images), finite, fitted)

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, " n c h w"], *, batch_size: int = 16
    ) -> Float[Tensor, " n 3 H W"]:
        """Images of latents, fp32 on the CPU in [0, 1], on the 256 levels of generated pictures.

        Raises NumericsError if the decoder overflows.
        """
        vae = self._pipe.vae
        parts = []
        with self._exact():
            for batch in latents.split(batch_size):
                scaled = batch.to(vae.device, vae.dtype) / vae.config.scaling_factor
                image = vae.decode(scaled, return_dict=False)[0]
                parts.append(self._pipe.image_processor.postprocess(image, output_type="pt"))
        return _quantise(check_finite(torch.cat(parts).float().cpu(), "the decoded pictures"))

    @torch.no_grad()
    def encode(
        self, images: Float[Tensor, " n 3 H W"], *, batch_size: int = 16
    ) -> Float[Tensor, " n c h w"]:
        """Latents (the posterior's mean, scaled) of images in [0, 1]; fp32 on the CPU."""
        vae = self._pipe.vae
        parts = []
        with self._exact():
            for batch in images.split(batch_size):
                encoded = vae.encode(batch.to(vae.device, vae.dtype) * 2 - 1)
                # A TAESD has no distribution of latents.
                tiny = getattr(encoded, "latents", None)
                mean = encoded.latent_dist.mode() if tiny is None else tiny
                parts.append(mean * vae.config.scaling_factor)
        return check_finite(torch.cat(parts).float().cpu(), "the encoded pictures")

    def round_trip(
        self, images: Float[Tensor, " n 3 H W"], *, batch_size: int = 16
    ) -> Float[Tensor, " n 3 H W"]:
        """Images in [0, 1] as the pipeline would reproduce them at best: encoded and decoded."""
        latents = self.encode(images, batch_size=batch_size)
        return self.decode(latents, batch_size=batch_size)

    @torch.no_grad()
    def noise_difference_at_first_step(
        self, prompt: str, seeds: Sequence[int], *, steps: int | None = None, batch_size: int = 16
    ) -> Float[Tensor, " n"]:
        """||eps_c - eps_u|| of each seed's first noise at the sampler's first step, in float64.

        The detector of Wen et al. 2024 ("Detecting, explaining, and mitigating memorization in
        diffusion models"), with the noise that `generate` starts from.
        """
        self._ddim.set_timesteps(self.default_steps if steps is None else steps)
        t = int(self._ddim.timesteps[0])
        models = [self.bind(prompt, kind="conditional"), self.bind(prompt, kind="unconditional")]
        norms = []
        for start in range(0, len(seeds), batch_size):
            noise = noises_for(seeds[start : start + batch_size], self.latent_shape, self.dtype)
            noise = noise.to(self.device, torch.float32)
            conditional, unconditional = (model.predict_noise(noise, t) for model in models)
            norms.append((conditional - unconditional).double().flatten(1).norm(dim=1).cpu())
        return torch.cat(norms)

    @torch.no_grad()
    def _embed(self, prompt: str, negative_prompt: str | None = None) -> tuple[Tensor, Tensor]:
        with self._exact():
            conditional, unconditional = self._pipe.encode_prompt(
                prompt,
                self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=negative_prompt,
            )
        return conditional.float(), unconditional.float()

    @cached_property
    def _exact_unet(self) -> Any:
        if self.dtype == torch.float32:
            return self._pipe.unet
        with memory("reading the network in float32"):
            return self._origin.exact("unet").to(self.device)

    @contextmanager
    def _possible(self, scheduler: Any, steps: int) -> Iterator[None]:
        """A block in which what the pipeline's own scheduler can't do becomes a UsageError."""
        try:
            yield
        except (ValueError, TypeError, NotImplementedError, IndexError) as error:
            if scheduler is self._ddim:
                raise
            raise UsageError(
                f"The scheduler of {self._origin.id} ({type(scheduler).__name__}) can't "
                f"sample this model in {steps} steps ({type(error).__name__}: "
                f"{first_line(error)}). Use --scheduler ddim, or other --steps."
            ) from error

    def _exact(self) -> Any:
        return exact_numerics() if self.dtype == torch.float32 else nullcontext()


class _BoundUNet(ScoreModel):
    """A conditional U-Net with its text embeddings fixed."""

    def __init__(
        self,
        pipeline: StableDiffusion,
        embeddings: Sequence[Tensor],
        kind: ScoreKind,
        guidance: float,
    ) -> None:
        self.schedule = pipeline.schedule
        self.shape = pipeline.latent_shape
        self.device = pipeline.device
        self.dtype = torch.float32
        self.kind = kind
        self.evaluations_per_call = len(embeddings)
        self._unet = pipeline._exact_unet
        self._embeddings = embeddings
        self._guidance = guidance
        self._prediction_type = pipeline.prediction_type

    def predict_noise(self, x: Float[Tensor, " b c h w"], t: int) -> Float[Tensor, " b c h w"]:
        """epsilon(x, t) in fp32 of the bound prompt."""
        b, copies = len(x), len(self._embeddings)
        x = x.to(self.device, self.dtype)
        text = torch.cat([embedding.expand(b, -1, -1) for embedding in self._embeddings])
        with exact_numerics():
            output = self._unet(
                torch.cat([x] * copies), t, encoder_hidden_states=text, return_dict=False
            )[0]
        if copies == 2:
            unconditional, conditional = output.chunk(2)
            output = unconditional + self._guidance * (conditional - unconditional)
        return noise_from_output(self._prediction_type, output, x, t, self.schedule)


def resolve_guidance(guidance: float) -> float:
    """The guidance that is used; 0, by which model cards mean none, is 1. UsageError below 1."""
    if guidance == 0:
        return 1.0
    if not guidance >= 1 or guidance == float("inf"):
        raise UsageError(
            f"A guidance of {guidance} is not possible: give 0 or 1 (no guidance) or more than 1."
        )
    return guidance


def _unkept(scheduler: Any) -> str | None:
    """Why a pipeline's own scheduler can't be sampled with, None where it can."""
    name = type(scheduler).__name__
    if name in _OWN_NOISE:
        return "draws noise that no seed decides, so that no picture could be made again"
    needed = [p.name for p in signature(scheduler.step).parameters.values() if p.default is p.empty]
    if "Inverse" in name or len(needed) > len(_STEP):
        return "does not go from noise and a prompt to a picture"
    return None


def _distilled(origin: Origin, scheduler: str) -> str | None:
    """What tells that a model was distilled to few steps, None where nothing does."""
    if scheduler in _FEW_STEPS:
        return f"its scheduler is {scheduler}"
    name = Path(origin.id).name or (origin.path or Path()).resolve().name
    return f"by its name, {name}" if _FEW_STEPS_NAME.search(name) else None


def _check_architecture(folder: ModelFolder) -> None:
    unet, vae = folder.config("unet"), folder.config("vae")
    conditions = [
        name
        for name in (
            "addition_embed_type",
            "class_embed_type",
            "time_cond_proj_dim",
            "encoder_hid_dim_type",
        )
        if unet.get(name)
    ]
    if conditions:
        raise ModelError(
            f"The U-Net of {folder.id} needs more than a prompt ({', '.join(conditions)}), as XL "
            "and distilled models do. Give a Stable Diffusion 1.x or 2.x model, or --model pocket."
        )
    channels = unet.get("in_channels"), vae.get("latent_channels")
    if channels[0] != channels[1]:
        raise ModelError(
            f"The U-Net of {folder.id} takes {channels[0]} channels, its VAE gives {channels[1]}: "
            "an inpainting, depth or other image-conditioned model, not text-to-image."
        )
    scheduler = folder.config("scheduler").get("_class_name", "")
    if "FlowMatch" in scheduler:
        raise ModelError(
            f"{folder.id} is a flow-matching model ({scheduler}), which has no noise schedule of "
            "the kind alpha, sigma. Give a Stable Diffusion 1.x or 2.x model."
        )


def _quantise(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def _progress(
    report: Callable[[int], None] | None, batch: range, steps: int
) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if report is not None:
            # Some schedulers (PNDM) take more evaluations than steps.
            report(batch.start * steps + len(batch) * min(step + 1, steps))

    return on_step


@contextmanager
def _clean_samples(scheduler: Any, kept: dict[str, Tensor]) -> Iterator[None]:
    """A block in which `kept["clean"]` is the clean sample that the scheduler predicted last."""
    step = scheduler.step

    @wraps(step)  # the pipeline asks for its signature
    def keep(*arguments: Any, **named: Any) -> Any:
        found = step(*arguments, **named)
        if isinstance(found, tuple) and len(found) > 1:  # (next sample, predicted clean sample)
            kept["clean"] = found[1]
        return found

    scheduler.step = keep
    try:
        yield
    finally:
        del scheduler.step
