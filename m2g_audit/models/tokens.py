"""A model's tokenizers: whether they fit its text encoders, and what these read of a prompt."""

from __future__ import annotations

import re
from inspect import signature
from typing import Any

from transformers import CLIPTokenizer

from m2g_audit.errors import ModelError

# Embeddings are padded to a multiple of at most this.
_PADDED = 128
_WHOLE_WORD = re.compile(r"[a-z]{3,}</w>")
_TRIED = 200


def check_tokenizer(tokenizer: Any, text_encoder: Any, name: str) -> None:
    """Raise ModelError where prompts would not reach the text encoder as they are meant.

    Without its vocabulary a tokenizer makes the same of all prompts, without its merges it spells
    them letter by letter, and with too many tokens it asks for embeddings that are not there.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    said = _size(tokenizer, text_encoder)
    if isinstance(tokenizer, CLIPTokenizer):
        said = said or _length(tokenizer, text_encoder) or _merges(tokenizer)
    if tokenizer.pad_token is None:
        said = "it has no token that fills up short prompts (`pad_token` in tokenizer_config.json)"
    if said:
        raise ModelError(
            f"The tokenizer of {name} does not belong to its text encoder: {said}. Get the folder "
            "`tokenizer` again, from where the model comes from."
        )


def _size(tokenizer: Any, text_encoder: Any) -> str | None:
    numbers = tokenizer.get_vocab().values()
    rows = text_encoder.get_input_embeddings().num_embeddings
    # Language models keep rows for tokens that may come; CLIP's vocabulary is whole.
    spare = max(_PADDED, rows // 100) if isinstance(tokenizer, CLIPTokenizer) else rows // 2
    if numbers and max(numbers) < rows and rows - len(numbers) <= spare:
        return None
    highest = f" up to number {max(numbers):,}" if numbers else ""
    return f"it has {len(numbers):,} tokens{highest}, the text encoder knows {rows:,}"


def _length(tokenizer: Any, text_encoder: Any) -> str | None:
    places = getattr(text_encoder.config, "max_position_embeddings", None)
    length = tokenizer.model_max_length
    # The marks of beginning and end take two places.
    if isinstance(length, int) and length > 2 and (places is None or length <= places):
        return None
    return (
        f"it makes {length} tokens of a prompt (`model_max_length` in tokenizer_config.json), the "
        f"text encoder reads {places}"
    )


def _merges(tokenizer: Any) -> str | None:
    """What is said where words that have a token of their own are taken apart all the same."""
    words = sorted(filter(_WHOLE_WORD.fullmatch, tokenizer.get_vocab()))
    some = words[:: max(1, len(words) // _TRIED)]
    whole = sum(tokenizer.tokenize(word.removesuffix("</w>")) == [word] for word in some)
    if 2 * whole >= len(some):
        return None
    return (
        f"of {len(some)} words that it has tokens for it takes {len(some) - whole} apart, as if "
        "merges.txt were empty"
    )


class Reader:
    """What a pipeline's text encoders read of a prompt; the one that reads most counts."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        named = signature(pipe.__call__).parameters.get("max_sequence_length")
        longest = 0
        for name, part in pipe.components.items():
            if name.startswith("tokenizer") and part is not None:
                part = getattr(part, "tokenizer", part)  # of a processor
                own = part.model_max_length
                # Others than CLIP's are cut where the pipeline says.
                window = own if isinstance(part, CLIPTokenizer) or named is None else named.default
                if window > longest:
                    self._tokenizer, longest = part, window
        self._window = longest

    def count(self, prompt: str) -> tuple[int, int]:
        """(tokens that `prompt` has, tokens that are read), marks included."""
        return len(self._tokens(prompt)), self._window

    def cut_off(self, prompt: str) -> str:
        """The end of `prompt` that is not read, as its tokens spell it."""
        # The encoder's last place is the end mark's.
        return self._tokenizer.decode(self._tokens(prompt)[self._window - 1 : -1])

    def _tokens(self, prompt: str) -> list[int]:
        # A word of a textual inversion may stand for several vectors, each a token.
        convert = getattr(self._pipe, "maybe_convert_prompt", None)
        whole = prompt if convert is None else convert(prompt, self._tokenizer)
        return self._tokenizer(whole, verbose=False).input_ids
