"""The networks of a model folder: each with weights that are all its own, from the hashed files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging as transformers_logging

from m2g_audit.diagnostics.numerics import out_of_memory
from m2g_audit.errors import AuditError, ModelError
from m2g_audit.models import single_file
from m2g_audit.models.levels import is_flow
from m2g_audit.models.model_folder import NOT_ASKED, ModelFolder
from m2g_audit.models.tokens import check_tokenizer
from m2g_audit.models.weight_files import count_and_names, of_transformers, read_object
from m2g_audit.text import first_line

_NAMES = {
    "unet": "U-Net",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "text_encoder_3": "third text encoder",
}
# Buffers that were once saved, and the rest of a CLIP whose text half is the encoder.
_HARMLESS = re.compile(
    r"(^|\.)position_ids$|^(vision_model|visual_projection|text_projection)\.|^logit_scale$"
)
_SAVE_ANEW = (
    "Get the model again, or save it anew with save_pretrained, which writes weights and "
    "config.json that belong together."
)
_UNWRAP = (
    "They were saved from a model that torch.compile or a parallel training had wrapped: save what "
    "is inside of it (`model._orig_mod` or `model.module`) with save_pretrained."
)


def load_pipeline(folder: ModelFolder, dtype: torch.dtype) -> Any:
    """The pipeline of a text-to-image folder on the CPU, without what its pictures do not need.

    Raises ModelError for what only its networks tell: another conditioning, weights that do not
    fit.
    """
    kind = _pipeline_class(folder)
    _check_channels(folder)
    with quiet(), readable(folder, "pipeline"):
        scheduler = load_scheduler(folder)
        tokenizers = {
            part: _load_plain(folder, part, PreTrainedTokenizerBase, ProcessorMixin)
            for part in folder.others
            if part != "scheduler"
        }
        # A single file's text encoders are read by the pipeline's own loader.
        apart = [p for p in folder.networks if not (folder.in_file(p) and of_transformers(p))]
        networks = {part: load_network(folder, part, dtype) for part in apart}
        index = read_object(folder.path / "model_index.json")
        # Of a pipeline's parts some are not asked, and some, as T5, were left out by who saved it.
        wanted = signature(kind.__init__).parameters
        held = (*folder.networks, *folder.others)
        parts = (*folder.family.networks, *folder.family.others, *NOT_ASKED)
        left_out: dict[str, Any] = {p: None for p in parts if p in wanted and p not in held}
        if "requires_safety_checker" in index:
            left_out["requires_safety_checker"] = False
        loaded = {**networks, **tokenizers, **left_out, "scheduler": scheduler}
        if len(apart) < len(folder.networks):
            pipe = single_file.load_encoders(folder, kind, loaded)
            networks = {part: getattr(pipe, part) for part in folder.networks}
            for part in networks.keys() - loaded.keys():
                missing = single_file.missing(networks[part])
                _refuse_unfit(folder, part, {"missing_keys": missing})
                _for_inference(networks[part], dtype)
        else:
            pipe = kind.from_pretrained(folder.path, **loaded, local_files_only=True)
        for encoder, part in networks.items():
            if of_transformers(encoder) and (own := _tokenizer_of(encoder)) in tokenizers:
                check_tokenizer(tokenizers[own], part, folder.id)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _tokenizer_of(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")


def _pipeline_class(folder: ModelFolder) -> Any:
    kind = getattr(diffusers, folder.class_name, None)
    takes_prompts = (
        isinstance(kind, type)
        and issubclass(kind, DiffusionPipeline)
        and "prompt" in signature(kind.__call__).parameters
    )
    if not takes_prompts:
        raise ModelError(
            f"{folder.id} is a {folder.class_name}, which is no text-to-image pipeline of the "
            "installed diffusers. Update diffusers, or give another model."
        )
    return kind


def _check_channels(folder: ModelFolder) -> None:
    if "unet" not in folder.networks or "vae" not in folder.networks:
        return
    unet, vae = folder.config("unet"), folder.config("vae")
    channels = unet.get("in_channels"), vae.get("latent_channels")
    if channels[0] != channels[1]:
        raise ModelError(
            f"The U-Net of {folder.id} takes {channels[0]} channels, its VAE gives {channels[1]}: "
            "an inpainting, depth or other image-conditioned model, not text-to-image."
        )


def load_network(folder: ModelFolder, component: str, dtype: torch.dtype = torch.float32) -> Any:
    """The network of one part on the CPU, for inference.

    Raises ModelError unless its weights are those that its config.json asks for, no more, no fewer
    and of the same shapes: what is missing would be drawn at random, what is left over ignored.
    """
    kind = _class(folder, component, ModelMixin, PreTrainedModel)
    with quiet(), readable(folder, component):
        if folder.in_file(component):
            network, found = single_file.load_part(folder, component, kind)
        elif issubclass(kind, PreTrainedModel):
            network, found = _load_transformer(folder, component, kind)
        else:
            network, found = _load_diffuser(folder, component, kind)
    _refuse_unfit(folder, component, found)
    return _for_inference(network, dtype)


def _for_inference(network: Any, dtype: torch.dtype) -> Any:
    # Not diffusers' own `to`, whose name for the dtype differs between its versions.
    torch.nn.Module.to(network, dtype)
    return network.eval().requires_grad_(False)


def load_scheduler(folder: ModelFolder) -> Any:
    """The scheduler of a model; ModelError unless it has a noise schedule of betas, or is a flow's.

    From settings without betas another scheduler would make up a schedule that no training saw.
    """
    _, name = folder.class_of("scheduler")
    scheduler = _load_plain(folder, "scheduler", SchedulerMixin)
    said = folder.config("scheduler")
    if is_flow(scheduler):
        return scheduler
    if not hasattr(scheduler, "alphas_cumprod") or not (
        said.get("trained_betas") or said.keys() >= {"beta_start", "beta_end"}
    ):
        raise ModelError(
            f"The scheduler of {folder.id} ({name}) has no betas: what noise the model was trained "
            "with is not known. Save it with the scheduler of its training, such as DDPMScheduler."
        )
    return scheduler


def _load_plain(folder: ModelFolder, component: str, *bases: type) -> Any:
    kind = _class(folder, component, *bases)
    with quiet(), readable(folder, component):
        return kind.from_pretrained(folder.location(component), local_files_only=True)


def _class(folder: ModelFolder, component: str, *bases: type) -> Any:
    """The class of one part, one of `bases`; ModelError where the libraries know no such class."""
    library, name = folder.class_of(component)
    found = getattr(diffusers if library == "diffusers" else transformers, name, None)
    if getattr(found, "_backends", None):
        # A stand-in of diffusers, which says what package it needs once it is loaded.
        return found
    if not (isinstance(found, type) and issubclass(found, bases)):
        raise ModelError(
            f"The {_NAMES.get(component, component)} of {folder.id} is a {name} of {library}: no "
            f"such part is known to the installed {library}. Update {library}, or save the model "
            "anew with a part that it knows."
        )
    return found


def _load_transformer(
    folder: ModelFolder, component: str, kind: Any
) -> tuple[Any, Mapping[str, Collection[Any]]]:
    # Not by the folder's name: transformers would look for adapters and other files there.
    config = kind.config_class.from_pretrained(folder.location(component) / "config.json")
    weights: dict[str, Tensor] = {}
    for file in folder.weights_of(component):
        weights |= (
            torch.load(file, map_location="cpu", weights_only=True)
            if file.suffix == ".bin"
            else load_file(file)
        )
    return kind.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )


def _load_diffuser(
    folder: ModelFolder, component: str, kind: Any
) -> tuple[Any, Mapping[str, Collection[Any]]]:
    pickled = any(file.suffix == ".bin" for file in folder.weights_of(component))
    try:
        return kind.from_pretrained(
            folder.location(component),
            use_safetensors=None if pickled else True,
            variant=folder.variant_of(component),
            local_files_only=True,
            output_loading_info=True,
        )
    except ValueError:
        # It stops at the first weight of another shape.
        if misshapen := _misshapen(folder, component, kind):
            return None, {"mismatched_keys": misshapen}
        raise


def _misshapen(folder: ModelFolder, component: str, kind: Any) -> list[str]:
    with torch.device("meta"):
        wanted = kind.from_config(folder.config(component)).state_dict()
    held = folder.shapes(component)
    return [key for key in wanted.keys() & held.keys() if list(wanted[key].shape) != held[key]]


def _refuse_unfit(
    folder: ModelFolder, component: str, found: Mapping[str, Collection[Any]]
) -> None:
    strange = [key for key in found.get("unexpected_keys", ()) if not _HARMLESS.search(key)]
    mismatched = found.get("mismatched_keys", ())
    faults = {
        "missing": found.get("missing_keys", ()),
        "unknown to it": strange,
        "of another shape": [key if isinstance(key, str) else key[0] for key in mismatched],
    }
    said = [f"{what} {count_and_names(keys)}" for what, keys in faults.items() if keys]
    if said:
        raise ModelError(
            f"The weights of the {_NAMES.get(component, component)} of {folder.id} do not fit the "
            f"network of its config.json: {'; '.join(said)}. "
            f"{single_file.OTHER_BASE if folder.in_file(component) else _way_out(strange)}"
        )


def _way_out(strange: Collection[str]) -> str:
    if any("lora" in key.lower() for key in strange):
        return "A LoRA lies among them: save it alone (save_lora_weights), and give it with --lora."
    if any(key.startswith(("_orig_mod.", "module.")) for key in strange):
        return _UNWRAP
    return _SAVE_ANEW


@contextmanager
def readable(folder: ModelFolder, part: str) -> Iterator[None]:
    """A block in which a part is loaded: whatever the loaders raise becomes a ModelError."""
    try:
        yield
    except AuditError:
        raise
    except ImportError as error:
        raise ModelError(
            f"The {_NAMES.get(part, part)} of {folder.id} needs a package that is not here: "
            f"{first_line(error)}"
        ) from error
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ModelError(
            f"The {_NAMES.get(part, part)} of {folder.id} could not be loaded "
            f"({type(error).__name__}: {first_line(error)}). Its files do not fit together, or are "
            "of another version: get the model again, or save it anew with save_pretrained."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """A block without the libraries' own bars and reports, which say less than our refusals."""
    libraries = (diffusers_logging, transformers_logging)
    before = [(lib, lib.is_progress_bar_enabled(), lib.get_verbosity()) for lib in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity(library.CRITICAL)
    try:
        yield
    finally:
        for library, bars, verbosity in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
