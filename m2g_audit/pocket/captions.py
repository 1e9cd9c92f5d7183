"""The captions of the pocket world and the number K of training pictures of each.

A caption is "a MEDIUM of the MOOD PLACE"; every caption has the same five-word form, and K is laid
over the compositions so that no single word tells it (checked by a leave-one-out test).
"""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MEDIA = ("print", "painting", "photograph", "postcard", "poster", "sketch")
MOODS = ("old", "quiet", "golden", "stormy", "snowy", "moonlit")
PLACES = ("harbour", "lighthouse", "village", "mountain", "forest", "castle", "garden", "desert")

UNLIMITED = 4000
"""Size of the fixed pool that stands for an unlimited number of training pictures."""

CAPTIONS_PER_K = {
    1: 10,
    2: 4,
    4: 5,
    8: 6,
    12: 6,
    16: 8,
    24: 6,
    32: 6,
    48: 3,
    64: 2,
    128: 2,
    256: 3,
    512: 3,
    1000: 4,
    UNLIMITED: 6,
}
"""K -> how many captions have it."""

FIRST_CAPTION = ("print", "old", "harbour")
"""The README's example; it is given K = 1 and with it a paraphrase."""

N_NEW_COMPOSITIONS = 10
N_PARAPHRASES = 10
_LAYOUT_SEED = 2505_21777
_LAYOUT_TRIALS = 4000

Role = Literal["trained", "composition", "paraphrase"]


@dataclass(frozen=True)
class Caption:
    """One caption of the world: its text, its words, K, and whether it was trained.

    `k` is 0 for the two roles that were never trained: a new `composition` of known words, and a
    `paraphrase` of a caption with K = 1.
    """

    text: str
    medium: str
    mood: str
    place: str
    k: int
    role: Role

    @property
    def words(self) -> tuple[str, str, str]:
        """The three words that say what the picture shows: medium, mood, place."""
        return (self.medium, self.mood, self.place)


def compose(medium: str, mood: str, place: str) -> str:
    """The caption's text, such as "a print of the old harbour"."""
    return f"a {medium} of the {mood} {place}"


@functools.cache
def all_captions() -> tuple[Caption, ...]:
    """Every listed caption: trained ones by rising K, then compositions and paraphrases."""
    rng = np.random.default_rng(_LAYOUT_SEED)
    ks = np.repeat(list(CAPTIONS_PER_K), list(CAPTIONS_PER_K.values()))
    chosen = _balanced_compositions(rng, len(ks) + N_NEW_COMPOSITIONS)
    trained, new = chosen[: len(ks)], chosen[len(ks) :]
    trained = [FIRST_CAPTION, *(words for words in trained if words != FIRST_CAPTION)]
    ks = _least_telling_order(rng, trained, ks)
    captions = [
        Caption(compose(*words), *words, k=int(k), role="trained")
        for words, k in zip(trained, ks, strict=True)
    ]
    captions.sort(key=lambda caption: caption.k)
    singles = [caption for caption in captions if caption.k == 1][:N_PARAPHRASES]
    compositions = [Caption(compose(*words), *words, k=0, role="composition") for words in new]
    paraphrases = [
        Caption(_paraphrase(caption, i), *caption.words, k=0, role="paraphrase")
        for i, caption in enumerate(singles)
    ]
    return (*captions, *compositions, *paraphrases)


def trained_captions() -> tuple[Caption, ...]:
    """The captions that the model was trained on, by rising K."""
    return tuple(caption for caption in all_captions() if caption.role == "trained")


def vocabulary() -> frozenset[str]:
    """Every word that occurs in a training caption."""
    return frozenset(word for caption in trained_captions() for word in _words(caption.text))


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that no training caption contains, in order, each once."""
    known = vocabulary()
    return [word for word in dict.fromkeys(_words(prompt)) if word not in known]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _paraphrase(caption: Caption, i: int) -> str:
    # Known words only: another word would make the prompt one that the model cannot mean.
    if i % 2 == 0:
        return f"the {caption.medium} of the {caption.mood} {caption.place}"
    return f"{caption.medium} of {caption.mood} {caption.place}"


def _balanced_compositions(rng: np.random.Generator, n: int) -> list[tuple[str, str, str]]:
    """n distinct compositions, every word about equally often; the README's example among them."""
    pool = list(itertools.product(MEDIA, MOODS, PLACES))
    counts: dict[str, int] = dict.fromkeys([*MEDIA, *MOODS, *PLACES], 0)
    chosen: list[tuple[str, str, str]] = []

    def take(words: tuple[str, str, str]) -> None:
        pool.remove(words)
        chosen.append(words)
        for word in words:
            counts[word] += 1

    take(FIRST_CAPTION)
    while len(chosen) < n:
        load = np.array([sum(counts[word] for word in words) for words in pool])
        take(pool[rng.choice(np.flatnonzero(load == load.min()))])
    return chosen


def word_features(texts: Sequence[str]) -> np.ndarray:
    """A bag of words, with the length in letters and an intercept, standardised [n, features]."""
    words = sorted({word for text in texts for word in _words(text)})
    bags = [[word in _words(text) for word in words] + [len(text)] for text in texts]
    features = np.array(bags, dtype=float)
    features = features[:, features.std(0) > 0]
    return np.column_stack([np.ones(len(texts)), (features - features.mean(0)) / features.std(0)])


def leave_one_out(features: np.ndarray, target: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Predictions of a ridge regression for each row from all others, by the hat matrix.

    `target` is [n] or [n, m] for m targets at once; the intercept (first column) is not shrunk.
    """
    penalty = ridge * np.eye(features.shape[1])
    penalty[0, 0] = 0
    hat = features @ np.linalg.solve(features.T @ features + penalty, features.T)
    left = 1 - np.diag(hat)
    return target - (target - hat @ target) / (left if target.ndim == 1 else left[:, None])


def _least_telling_order(
    rng: np.random.Generator, compositions: list[tuple[str, str, str]], ks: np.ndarray
) -> np.ndarray:
    """The order of K, out of many drawn, that the words predict neither upwards nor downwards.

    Balancing every word against K would be no good: the left-out predictor would then be reliably
    wrong, which tells K just as well.
    """
    features = word_features([compose(*words) for words in compositions])
    orders = np.stack(
        [np.concatenate([ks[:1], rng.permutation(ks[1:])]) for _ in range(_LAYOUT_TRIALS)], axis=1
    )
    log_k = np.log(orders)
    predicted = leave_one_out(features, log_k)
    covariance = ((predicted - predicted.mean(0)) * (log_k - log_k.mean(0))).mean(0)
    correlation = covariance / (predicted.std(0) * log_k.std(0))
    return orders[:, np.argmin(np.abs(correlation))]
