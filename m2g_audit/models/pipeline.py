"""Any diffusers text-to-image pipeline as a text-to-image model and a score model.

Generation is the pipeline's own `__call__`, so that a picture is what plain diffusers gives for the
same seed. Scores are always computed in fp32, from weights read again where the pipeline was loaded
in half precision: rounding to half is as large as the difference of two noise predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy, deepcopy
from dataclasses import replace
from functools import cached_property
from inspect import signature
from math import prod
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils import is_bs4_available, is_ftfy_available
from jaxtyping import Float
from torch import Tensor, nn

from m2g_audit.diagnostics.numerics import (
    check_finite,
    exact_numerics,
    in_batches,
    noises_for,
    out_of_memory,
)
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.diagnostics.trajectory import Trajectory
from m2g_audit.errors import AuditError, ModelError, NumericsError, UsageError
from m2g_audit.files import digest
from m2g_audit.models import latents as latent_units
from m2g_audit.models import sampling
from m2g_audit.models.adapters import Lora, attach, attach_to_denoiser
from m2g_audit.models.bound_score import BoundScore
from m2g_audit.models.denoiser import GUIDED, Denoiser, Unlike, difference
from m2g_audit.models.embeddings import Embedding, load_embeddings
from m2g_audit.models.guidance import MIXES, GuidanceKind, argument_of, resolve_guidance
from m2g_audit.models.learning import learn_denoiser
from m2g_audit.models.levels import is_flow, levels_of
from m2g_audit.models.model_folder import ModelFolder
from m2g_audit.models.networks import load_pipeline, quiet
from m2g_audit.models.origins import FromFolder, InMemory, Origin, identify
from m2g_audit.models.placement import memory
from m2g_audit.models.proof import (
    Proof,
    schedule_difference,
    step_difference,
    takes_plain_steps,
)
from m2g_audit.models.protocol import Generations, ModelIdentity
from m2g_audit.models.tap import Step, decode, denoiser_name, recording, tap
from m2g_audit.models.tokens import Reader
from m2g_audit.models.trajectory import Follower
from m2g_audit.records.vocabulary import SchedulerChoice, ScoreKind
from m2g_audit.text import first_line

_STEPS, _GUIDANCE = 50, 7.5
_BLANK = " "
_EXPLORING = "a picture"
_LEVEL = 1.5 / 255
_PROVING, _PROVING_PROMPT = 5.0, "another picture"


Size = tuple[int, int]


class Pipeline:
    """A text-to-image pipeline; made `from_folder`, or `of` one in memory.

    size: (height, width) of its pictures in pixels, the pipeline's own where it is None.
    """

    def __init__(
        self,
        pipe: Any,
        origin: Origin,
        size: Size | None = None,
        loras: Sequence[Lora] = (),
        embeddings: Sequence[Embedding] = (),
    ) -> None:
        self._pipe = pipe
        self._origin = origin
        self._part = denoiser_name(pipe)
        if self._part is None:
            raise ModelError(
                f"{origin.id} has no network that is asked at every step: it makes pictures "
                "otherwise than by diffusion, or in several stages, which is not supported."
            )
        self._network: nn.Module = getattr(pipe, self._part)
        self._own_scheduler = pipe.scheduler
        self._flow = is_flow(pipe.scheduler)
        self._sampler: Any = _sampler(pipe.scheduler)
        self._levels = levels_of(self._sampler, origin.id)
        self._parameters = signature(pipe.__call__).parameters
        self._guidance_argument = argument_of(pipe)
        self.prediction_type = self._levels.prediction_type
        self.schedule: NoiseSchedule = self._levels.schedule
        self.device: torch.device = self._network.device  # type: ignore[assignment]
        self.dtype: torch.dtype = self._network.dtype  # type: ignore[assignment]
        self._own = origin.own_settings()
        self.size = size or self._own.size
        self._loras, self._embeddings = tuple(loras), tuple(embeddings)
        self.default_metric: str | None = self._own.metric

    @classmethod
    def from_folder(
        cls,
        folder: ModelFolder,
        *,
        dtype: torch.dtype,
        device: torch.device,
        loras: Sequence[Lora] = (),
        embeddings: Sequence[Embedding] = (),
        size: Size | None = None,
    ) -> Pipeline:
        """The pipeline of a checked folder, without its safety checker.

        Raises ModelError for what only its networks tell: another conditioning, weights that do not
        fit; ResourceError if it does not fit in memory.
        """
        with memory(f"loading {folder.id}"):
            pipe = load_pipeline(folder, dtype)
            with quiet():
                attach(pipe, loras)
                load_embeddings(pipe, embeddings)
            pipe.to(device)
        return cls(pipe, FromFolder(folder), size, loras, embeddings)

    @classmethod
    def of(cls, pipe: Any, size: Size | None = None) -> Pipeline:
        """A pipeline in memory as it is: with its adapters, scheduler, device and precision.

        The object itself is left alone. Its safety checker, which would blacken pictures, is not
        asked. ModelError for a scheduler without a noise schedule.
        """
        own = copy(pipe)  # shares the networks
        own.scheduler = deepcopy(pipe.scheduler)  # which sampling changes
        if hasattr(own, "safety_checker"):
            own.safety_checker = None
        own.set_progress_bar_config(disable=True)
        if getattr(pipe.scheduler, "betas", None) is None and not is_flow(pipe.scheduler):
            raise ModelError(
                f"The scheduler of this pipeline ({type(pipe.scheduler).__name__}) has no noise "
                "schedule of betas: give the pipeline the scheduler that it was trained with."
            )
        return cls(own, InMemory(pipe), size)

    # -- what it is

    @property
    def default_steps(self) -> int:
        """The model's own number of steps, else its pipeline's; UsageError for a distilled model.

        Such a model shows what it makes only with few steps and with little or no guidance.
        """
        if self._own.steps is None:
            self._refuse_usual_settings()
            return self._default("num_inference_steps", _STEPS)
        return self._own.steps

    @property
    def default_guidance(self) -> float:
        """The model's own guidance, else its pipeline's; UsageError for a distilled model."""
        if self._own.guidance is None:
            self._refuse_usual_settings()
            return self._default(self._guidance_argument or "", _GUIDANCE)
        return self.resolve_guidance(self._own.guidance)

    def _default(self, argument: str, otherwise: Any) -> Any:
        parameter = self._parameters.get(argument)
        usable = parameter is not None and isinstance(parameter.default, int | float)
        return parameter.default if usable and parameter is not None else otherwise

    def _refuse_usual_settings(self) -> None:
        if why := self.distilled:
            steps = self._default("num_inference_steps", _STEPS)
            guidance = self._default(self._guidance_argument or "", _GUIDANCE)
            raise UsageError(
                f"{self._origin.id} is distilled ({why}): the usual {steps} steps with guidance "
                f"{guidance:g} would not show what it makes. Give both as its model card does, "
                "such as --steps 4 --guidance 0 --scheduler keep."
            )

    @property
    def distilled(self) -> str | None:
        """What tells that the model was distilled to few steps, None where nothing does."""
        return sampling.distilled(self._origin, type(self._own_scheduler).__name__)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What this model is, with the hash of its weights' files."""
        scheduler = type(self._own_scheduler).__name__
        identity = identify(self._origin, self._network, scheduler, self.prediction_type)
        loras = tuple(lora.identity for lora in self._loras)
        words = tuple(embedding.identity for embedding in self._embeddings)
        parts = {"loras": list(loras), "embeddings": list(words)}
        added: dict[str, Any] = {name: said for name, said in parts.items() if said}
        weights = digest({"base": identity.sha256, **added}) if added else identity.sha256
        if self.size is not None and self.size != self._own.size:
            added["size"] = list(self.size)
        return replace(
            identity,
            sha256=weights,
            configuration={**identity.configuration, **added},
            loras=loras,
            embeddings=words,
        )

    @property
    def network_config(self) -> Mapping[str, Any]:
        """The network's configuration."""
        return self._network.config  # type: ignore[return-value]

    @cached_property
    def _sample(self) -> Tensor:
        """A sample as the scheduler sees it, [1, ...]."""
        timesteps = self._levels.timesteps[-1:]
        try:
            answers = self._denoiser.guided_one
        except Unlike:
            answers = None
        with self._exact():
            (step,) = self._run([_EXPLORING], None, GUIDED, [0], timesteps, answers)
        return step.sample

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent as the scheduler sees it: (c, h, w), or packed."""
        return tuple(self._sample.shape[1:])

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of one image in pixels."""
        factor = getattr(self._pipe, "vae_scale_factor", None)
        if factor is None or self._sample.ndim != 4:
            height, width = self.decode(torch.zeros_like(self._sample)).shape[2:]
            return height, width
        height, width = self._sample.shape[2:]
        return height * factor, width * factor

    @property
    def N(self) -> int:
        """The number of dimensions of one latent."""
        return prod(self.latent_shape)

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self._pipe)

    def token_count(self, prompt: str) -> tuple[int, int]:
        """(tokens that `prompt` has, tokens that the text encoder reads), marks included."""
        return self._reader.count(prompt)

    def cut_off(self, prompt: str) -> str:
        """The end of `prompt` that the text encoder does not read, as its tokens spell it."""
        return self._reader.cut_off(prompt)

    # -- guidance

    def resolve_guidance(self, guidance: float) -> float:
        """The guidance that is used; 0, by which model cards mean none, is what the pipeline means.

        UsageError for what is less than none to it.
        """
        return resolve_guidance(guidance, self._unguided)

    @cached_property
    def _unguided(self) -> float:
        """The guidance that means none: 1 to most; a network that is told it takes any from 0."""
        try:
            told = self._denoiser.guidance == "distilled"
            return 0.0 if told else self._denoiser.unguided
        except Unlike:
            return 1.0

    @property
    def guidance_kind(self) -> GuidanceKind | None:
        """How its pipeline guides, None where that could not be made out."""
        try:
            return self._denoiser.guidance
        except Unlike:
            return None

    def is_guided(self, guidance: float) -> bool:
        """Whether pictures under this guidance are led away from a negative prompt."""
        try:
            return self._denoiser.guidance in MIXES and guidance > self._unguided
        except Unlike:
            return guidance > 1

    # -- scores

    @cached_property
    def _denoiser(self) -> Denoiser:
        timesteps = [self._levels.timesteps[t] for t in self._levels.spread()]
        with self._exact():
            return learn_denoiser(self._network, self._run, timesteps, self._levels.count)

    @cached_property
    def _exact_network(self) -> Any:
        if self.dtype == torch.float32:
            return self._network
        assert self._part is not None
        with memory("reading the network in float32"):
            network = self._origin.exact(self._part).to(self.device)
            if self._loras:
                with quiet():
                    attach_to_denoiser(self._pipe, network, self._loras)
            return network

    @cached_property
    def proof(self) -> Proof:
        """Whether what was learned of the pipeline holds where it was not learned.

        Raises Unlike where nothing could be learned.
        """
        denoiser, seeds = self._denoiser, (11, 12)
        timestep = self._levels.timesteps[round(0.6 * len(self._levels.timesteps))]
        scale = self.resolve_guidance(_PROVING)
        with torch.no_grad(), self._exact():
            (seen,) = self._run([_PROVING_PROMPT] * 2, None, scale, seeds, [timestep])
            handed = denoiser.condition(_PROVING_PROMPT, None, scale)
            ours, *others = denoiser.predict(
                self._network, handed, denoiser.branches, seen.sample, timestep
            )
            (alone,) = self._run(
                [_PROVING_PROMPT], None, scale, seeds[1:], [timestep], denoiser.guided_one
            )
        if others:
            ours = MIXES[denoiser.guidance](ours, others[0], scale)
        return Proof(
            schedule=schedule_difference(self._own_scheduler, self._levels),
            prediction=difference(ours, seen.model_output),
            step=self._step_difference(),
            noise=difference(seen.sample[1:], alone.sample),
            tolerance=denoiser.tolerance,
        )

    def _step_difference(self) -> float | None:
        """How far a step of ours ends from the sampler's second of three."""
        if not takes_plain_steps(self._sampler):
            return None
        scheduler = deepcopy(self._sampler)
        _, start, end = self._times(scheduler, 3)
        scheduler.set_timesteps(3, **_shift(scheduler))
        if not self._flow:  # DDIM's own next level, which need not be the next that it asks at
            end = start - self._levels.count // 3
        generator = torch.Generator("cpu").manual_seed(0)
        output, sample = torch.randn(2, 1, *self.latent_shape, generator=generator)
        scheduler.step(output, scheduler.timesteps[0], sample)
        following = scheduler.step(output, scheduler.timesteps[1], sample, return_dict=False)[0]
        return step_difference(self._levels, output, sample, following, (start, end))

    def bind(
        self,
        prompt: str,
        *,
        guidance: float | None = None,
        kind: ScoreKind = "conditional",
        negative_prompt: str | None = None,
    ) -> ScoreModel:
        """The fp32 score model of latents for one prompt.

        `kind`: "conditional" (eps_c), "unconditional" (eps_u, the empty prompt), or "guided", as
        the pipeline mixes the two. `guidance` and `negative_prompt`, which then stands in for the
        empty prompt, count for "guided" only; default_guidance if None. A network that is told its
        guidance is told 1 where it counts for nothing.

        Raises:
            UsageError: It has no unconditional branch, or was distilled to few steps.
            Unlike: What its pipeline does could not be made out.
        """
        denoiser = self._denoiser
        if not self.proof.passed:
            raise Unlike(
                f"The scores of {self._origin.id} can't be had: for the same noise and prompt "
                f"{self.proof}. Give --spectrum none, without --basin."
            )
        why = self.distilled or (denoiser.guidance == "none" and "it has no guidance")
        if why:
            raise UsageError(
                f"{self._origin.id} is distilled to few steps ({why}): what its network predicts "
                "is no score. Give --spectrum none, without --basin."
            )
        if kind == "unconditional" and denoiser.unconditional is None:
            raise UsageError(
                f"The network of {self._origin.id} has no unconditional branch: give "
                "--spectrum-score conditional or guided."
            )
        scale = self.default_guidance if guidance is None else guidance
        away_from = negative_prompt if kind == "guided" else None
        with self._exact():
            told = scale if kind == "guided" else 1.0
            conditioning = denoiser.condition(prompt, away_from, told)
        mixed = kind == "guided" and scale != denoiser.unguided
        branch = denoiser.unconditional if kind == "unconditional" else denoiser.conditional
        assert branch is not None
        return BoundScore(
            denoiser,
            self._exact_network,
            self._levels,
            conditioning,
            denoiser.branches if mixed else (branch,),
            kind=kind,
            scale=scale,
            device=self.device,
        )

    @torch.no_grad()
    def noise_difference_at_first_step(
        self, prompt: str, seeds: Sequence[int], *, steps: int | None = None, batch_size: int = 16
    ) -> Float[Tensor, " n"]:
        """||eps_c - eps_u|| of each seed's first noise at the sampler's first step, in float64.

        The detector of Wen et al. 2024 ("Detecting, explaining, and mitigating memorization in
        diffusion models"), with the noise that `generate` starts from.
        """
        self._sampler.set_timesteps(self.default_steps if steps is None else steps)
        t = int(self._sampler.timesteps[0])
        kinds: tuple[ScoreKind, ...] = ("conditional", "unconditional")
        models = [self.bind(prompt, kind=kind) for kind in kinds]
        norms = []
        for start in range(0, len(seeds), batch_size):
            noise = noises_for(seeds[start : start + batch_size], self.latent_shape, self.dtype)
            noise = noise.to(self.device, torch.float32)
            conditional, unconditional = (model.predict_noise(noise, t) for model in models)
            norms.append((conditional - unconditional).double().flatten(1).norm(dim=1).cpu())
        return torch.cat(norms)

    # -- pictures

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
        `scheduler`: "ddim" (eta 0; for flow matching the pipeline's own) or "keep" (the pipeline's
        own). `on_progress` gets the number of image-steps done, of len(seeds) * steps; it may
        raise, and may step back when a batch that did not fit in memory is done again in halves.
        Raises NumericsError if no image is finite, ResourceError if a batch of one does not fit,
        UsageError for steps outside the schedule, for guidance that is not possible, and for "keep"
        where the pipeline's own scheduler draws noise that no generator decides, or can't do it.
        """
        if not seeds:
            raise UsageError(
                "No seeds were given, so there is nothing to generate: give at least 1."
            )
        steps, guidance = self._sampling(steps, guidance)
        prompts = [prompt] * len(seeds) if isinstance(prompt, str) else list(prompt)
        if negative_prompt is None or isinstance(negative_prompt, str):
            negative_prompt = [negative_prompt] * len(seeds)
        negatives = list(negative_prompt)
        self._pipe.scheduler = self._scheduler(scheduler)
        parts: dict[int, tuple[Tensor, Tensor, Tensor, Trajectory | None]] = {}
        fitted = done = 0
        for group in self._groups(prompts, negatives):

            def work(
                batch: range, group: Sequence[int] = group, done: int = done
            ) -> tuple[Tensor, Tensor, Tensor, list[Trajectory | None]]:
                chosen = [group[i] for i in batch]
                before = (done + batch.start) * steps
                report = sampling.progress_of(on_progress, before, len(batch), steps)
                texts = [(prompts[i], negatives[i]) for i in chosen]
                return self._generate_batch(
                    texts, [seeds[i] for i in chosen], steps, guidance, report
                )

            for batch, made in in_batches(len(group), batch_size, work, "generating one picture"):
                chosen = [group[i] for i in batch]
                parts |= dict(zip(chosen, zip(*made, strict=True), strict=True))
                fitted = max(fitted, len(batch))
            done += len(group)
        ordered = [parts[i] for i in range(len(seeds))]
        *pictures, followed = zip(*ordered, strict=True)
        latents, clean, images = (torch.stack(tensors) for tensors in pictures)
        return replace(self._generations(latents, clean, images, fitted), trajectories=followed)

    def _groups(
        self, prompts: Sequence[str], negatives: Sequence[str | None]
    ) -> Iterator[list[int]]:
        """What may be made together: all, unless some are without a negative prompt.

        Nor may prompts of several lengths where the pipeline would pad the shorter ones.
        """
        alone = len(set(prompts)) > 1 and not self._denoiser.shares_batches
        keys = [
            (negative is None, prompt if alone else None)
            for prompt, negative in zip(prompts, negatives, strict=True)
        ]
        for key in dict.fromkeys(keys):
            yield [i for i, other in enumerate(keys) if other == key]

    def evaluations(
        self,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        scheduler: SchedulerChoice = "ddim",
    ) -> int:
        """How often the network answers for one picture of `generate`: twice a time if guided."""
        steps, guidance = self._sampling(steps, guidance)
        # Some schedulers (PNDM) take more evaluations than steps.
        times = self._times(self._scheduler(scheduler), steps)
        return len(times) * (2 if self.is_guided(guidance) else 1)

    def last_ratio(self, *, steps: int, scheduler: SchedulerChoice = "ddim") -> float:
        """sigma / alpha of the last level that sampling asks the network at."""
        return self._levels.ratio(self._times(self._scheduler(scheduler), steps)[-1])

    def _times(self, scheduler: Any, steps: int) -> list[float]:
        """The timesteps at which a scheduler asks the network, without shifts by picture size."""
        counting = deepcopy(scheduler)  # another thread may be sampling with it
        with self._possible(scheduler, steps):
            counting.set_timesteps(steps, **_shift(scheduler))
        return [float(t) for t in counting.timesteps]

    def _sampling(self, steps: int | None, guidance: float | None) -> tuple[int, float]:
        """Steps and guidance as they will be used; UsageError for those that can't be."""
        steps = self.default_steps if steps is None else steps
        guidance = self.default_guidance if guidance is None else guidance
        guidance = self.resolve_guidance(guidance)
        if not 1 <= steps <= len(self.schedule):
            raise UsageError(f"{steps} steps are not possible: give 1 to {len(self.schedule)}.")
        return steps, guidance

    def _scheduler(self, choice: SchedulerChoice) -> Any:
        if choice == "ddim" and not self._flow:
            return self._sampler
        if why := sampling.unkept(self._own_scheduler):
            raise UsageError(
                f"The scheduler of {self._origin.id} ({type(self._own_scheduler).__name__}) {why}. "
                "Use --scheduler ddim."
            )
        return self._own_scheduler

    def _call(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str] | None,
        guidance: float | None,
        seeds: Sequence[int],
    ) -> dict[str, Any]:
        """What the pipeline is called with; the lists are its own to change."""
        call: dict[str, Any] = {"prompt": list(prompts)}
        if self._guidance_argument is not None and guidance is not None:
            call[self._guidance_argument] = guidance
        mixes = self._guidance_argument == "true_cfg_scale" and (guidance is None or guidance > 1)
        if negatives is None and mixes:
            # Without a negative prompt it would not guide at all.
            negatives = [_BLANK] * len(prompts)
        if negatives is not None and "negative_prompt" in self._parameters:
            call["negative_prompt"] = list(negatives)
        if self.size is not None:
            call["height"], call["width"] = self.size
            if "use_resolution_binning" in self._parameters:
                # It would make pictures of the nearest size of training, and scale them.
                call["use_resolution_binning"] = False
        if "clean_caption" in self._parameters and not (is_bs4_available() and is_ftfy_available()):
            call["clean_caption"] = False  # as it is then all the same, after a page of warnings
        call["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        return call

    def _run(
        self,
        prompts: Sequence[str],
        negative_prompt: str | None,
        guidance: float | None,
        seeds: Sequence[int],
        timesteps: Sequence[int | float],
        answers: Sequence[Any] | None = None,
    ) -> list[Step]:
        """The pipeline's tap; guidance None: its own. ModelError where the pipeline can't run."""
        negatives = None if negative_prompt is None else [negative_prompt] * len(prompts)
        call = self._call(prompts, negatives, guidance, seeds)
        try:
            return tap(self._pipe, self._sampler, timesteps, answers=answers, **call)
        except Exception as error:
            if isinstance(error, AuditError) or out_of_memory(error):
                raise
            raise ModelError(
                f"{self._origin.class_name} can't make a picture of a prompt with the parts of "
                f"{self._origin.id} ({type(error).__name__}: {first_line(error)})."
            ) from error

    def _generate_batch(
        self,
        texts: Sequence[tuple[str, str | None]],
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        on_step: Callable[[int], None],
    ) -> tuple[Tensor, Tensor, Tensor, list[Trajectory | None]]:
        """Latents, clean samples, pictures and how they came about.

        Of the texts all or none have a negative prompt.
        """
        scheduler = self._pipe.scheduler
        negatives = [negative for _, negative in texts if negative is not None]
        call = self._call([prompt for prompt, _ in texts], negatives or None, guidance, seeds)
        follower = self._follower()
        follow = None if follower is None else follower.on_step
        watched = sampling.watched(scheduler, on_step, follow)
        pipe = self._pipe if follower is None else recording(self._pipe, follower.calls)
        with self._exact(), self._possible(scheduler, steps), watched as taken:
            images = pipe(num_inference_steps=steps, output_type="pt", **call).images
        (last,) = taken
        followed: list[Trajectory | None] = [None] * len(seeds)
        if follower is not None:
            followed = follower.trajectories(len(seeds))
        return (
            last.following.float().cpu(),
            last.clean.float().cpu(),
            images.float().cpu(),
            followed,
        )

    def _follower(self) -> Follower | None:
        """What reads the steps of a batch, None where the branches of its network are not known."""
        try:
            known = self.proof.passed and self._denoiser.guidance in MIXES
        except Unlike:
            return None
        return Follower(self._denoiser, self._levels) if known else None

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
    def picture_difference(self, steps: int = 2) -> float:
        """How far a seed's picture in a batch is from that of the pipeline alone, of 255 levels."""
        seeds, guidance = (21, 22), self.resolve_guidance(_PROVING)
        settings: dict[str, Any] = {"steps": steps, "guidance": guidance, "batch_size": 2}
        try:
            made = self.generate(_PROVING_PROMPT, seeds, **settings)
        except UsageError:  # DDIM can't sample all that has a scheduler of its own
            made = self.generate(_PROVING_PROMPT, seeds, scheduler="keep", **settings)
        call = self._call([_PROVING_PROMPT], None, guidance, seeds[1:])
        with self._exact():
            alone = self._pipe(num_inference_steps=steps, output_type="pt", **call).images
        return 255 * float((_quantise(alone.float().cpu()[0]) - made.images[1]).abs().max())

    # -- latents and pictures

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, " n *shape"], *, batch_size: int = 16
    ) -> Float[Tensor, " n 3 H W"]:
        """Images of latents, fp32 on the CPU in [0, 1], on the 256 levels of generated pictures.

        Raises NumericsError if the decoder overflows.
        """
        parts = []
        with self._exact():
            for batch in latents.split(batch_size):
                texts, seeds = [_EXPLORING] * len(batch), range(len(batch))
                try:
                    unguided, answers = self._denoiser.unguided, self._denoiser.blank(len(batch))
                except Unlike:  # its network has to be asked, and is not heard
                    unguided, answers = 1.0, None
                call = self._call(texts, None, unguided, seeds)
                samples = batch.to(self._sample)
                timestep = self._levels.timesteps[-1]
                parts.append(decode(self._pipe, self._sampler, timestep, samples, answers, **call))
        return _quantise(check_finite(torch.cat(parts).float().cpu(), "the decoded pictures"))

    @torch.no_grad()
    def encode(
        self, images: Float[Tensor, " n 3 H W"], *, batch_size: int = 16
    ) -> Float[Tensor, " n *shape"]:
        """Latents (of a posterior its mode) of images in [0, 1]; fp32 on the CPU.

        ModelError where the pipeline's units of latents could not be made out.
        """
        vae = self._vae
        parts = []
        with self._exact():
            for batch in images.split(batch_size):
                modes = latent_units.mode(vae, batch.to(self.device, vae.dtype) * 2 - 1)
                parts.append(self._encoding(modes))
        return check_finite(torch.cat(parts).float().cpu(), "the encoded pictures")

    def round_trip(
        self, images: Float[Tensor, " n 3 H W"], *, batch_size: int = 16
    ) -> Float[Tensor, " n 3 H W"]:
        """Images in [0, 1] as the pipeline would reproduce them at best: encoded and decoded."""
        latents = self.encode(images, batch_size=batch_size)
        return self.decode(latents, batch_size=batch_size)

    @property
    def _vae(self) -> Any:
        vae = getattr(self._pipe, "vae", None) or getattr(self._pipe, "movq", None)
        if vae is None:
            raise ModelError(
                f"{self._origin.id} has no autoencoder that pictures could go through."
            )
        return vae

    @cached_property
    def _encoding(self) -> latent_units.Encoding:
        """From what the VAE gives to what the scheduler sees: the way that the pipeline undoes."""
        vae, (height, width) = self._vae, self.image_size
        generator = torch.Generator("cpu").manual_seed(0)
        picture = torch.rand(1, 3, height, width, generator=generator)
        modes = latent_units.mode(vae, picture.to(self.device, vae.dtype))
        decoded = vae.decode(modes, return_dict=False)[0]
        plain = decoded[:, :, 0] if decoded.ndim == 5 else decoded
        wanted = _quantise(plain.float() / 2 + 0.5)
        for unit in latent_units.units(vae):
            for packing in latent_units.packings():
                latents = packing(unit(modes))
                if tuple(latents.shape[1:]) != self.latent_shape:
                    continue
                if float((self.decode(latents) - wanted.cpu()).abs().max()) <= _LEVEL:
                    return latent_units.after(packing, unit)
        raise ModelError(
            f"In what units {self._origin.id} has its latents could not be made out, so that "
            "pictures can't be brought into them."
        )

    # -- running it

    @contextmanager
    def _possible(self, scheduler: Any, steps: int) -> Iterator[None]:
        """A block in which what a scheduler can't do with the pipeline becomes a UsageError."""
        try:
            yield
        except (ValueError, TypeError, NotImplementedError, IndexError, RuntimeError) as error:
            if out_of_memory(error) or isinstance(error, AuditError):
                raise
            if scheduler is not self._own_scheduler:
                raise UsageError(
                    f"DDIM can't sample {self._origin.id} ({type(error).__name__}: "
                    f"{first_line(error)}). Use --scheduler keep, which is its own."
                ) from error
            raise UsageError(
                f"The scheduler of {self._origin.id} ({type(scheduler).__name__}) can't "
                f"sample this model in {steps} steps ({type(error).__name__}: "
                f"{first_line(error)}). Use --scheduler ddim, or other --steps."
            ) from error

    def _exact(self) -> Any:
        return exact_numerics() if self.dtype == torch.float32 else nullcontext()


def _sampler(scheduler: Any) -> Any:
    """What samples deterministically: DDIM on a schedule of betas, of a flow its own scheduler."""
    if is_flow(scheduler):
        return scheduler
    # Where the entry is missing, DDIM's default would clip latents to [-1, 1].
    clip = scheduler.config.get("clip_sample", False)
    return DDIMScheduler.from_config(scheduler.config, clip_sample=clip)


def _shift(scheduler: Any) -> dict[str, float]:
    """What a scheduler has to be told that shifts its levels by the size of pictures."""
    return {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}


def _quantise(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255
