"""The captions: what is listed, and that no word or length tells K."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from m2g_audit.pocket.captions import (
    CAPTIONS_PER_K,
    all_captions,
    leave_one_out,
    trained_captions,
    unknown_words,
    vocabulary,
    word_features,
)


def test_lists_every_k_as_often_as_the_plan_says() -> None:
    assert Counter(caption.k for caption in trained_captions()) == CAPTIONS_PER_K
    assert len(trained_captions()) >= 60


def test_lists_ten_new_compositions_and_ten_paraphrases_of_single_pictures() -> None:
    roles = Counter(caption.role for caption in all_captions())
    assert roles["composition"] == roles["paraphrase"] == 10
    trained = {caption.words: caption.k for caption in trained_captions()}
    for caption in all_captions():
        if caption.role == "composition":
            assert caption.words not in trained
        if caption.role == "paraphrase":
            assert trained[caption.words] == 1


def test_every_prompt_is_there_once_and_uses_trained_words_only() -> None:
    texts = [caption.text for caption in all_captions()]
    assert len(set(texts)) == len(texts)
    assert all(not unknown_words(text) for text in texts)


def test_the_readme_example_is_memorized_by_construction() -> None:
    assert {c.text: c.k for c in all_captions()}["a print of the old harbour"] == 1


@pytest.mark.parametrize(
    "predictor",
    [Ridge(1.0), Ridge(10.0), KNeighborsRegressor(3), RandomForestRegressor(50, random_state=0)],
    ids=["ridge", "stiff-ridge", "neighbours", "forest"],
)
def test_words_and_length_predict_k_neither_upwards_nor_downwards(predictor: object) -> None:
    captions = trained_captions()
    features = word_features([caption.text for caption in captions])
    log_k = np.log([caption.k for caption in captions])
    predicted = cross_val_predict(predictor, features, log_k, cv=LeaveOneOut())
    assert spearmanr(predicted, log_k).pvalue > 0.05
    assert ((predicted - log_k) ** 2).mean() > 0.9 * log_k.var()


def test_the_predictor_finds_a_word_that_tells_k() -> None:
    captions = trained_captions()
    features = word_features([caption.text for caption in captions])
    log_k = np.array([5.0 * ("old" in caption.words) for caption in captions])
    assert np.corrcoef(leave_one_out(features, log_k), log_k)[0, 1] > 0.95


def test_leave_one_out_is_a_refit_without_the_row() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(12), rng.normal(size=(12, 3))])
    y = rng.normal(size=12)
    penalty = np.diag([0.0, 2.0, 2.0, 2.0])
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        weights = np.linalg.solve(x[rest].T @ x[rest] + penalty, x[rest].T @ y[rest])
        assert leave_one_out(x, y, ridge=2.0)[i] == pytest.approx(x[i] @ weights)


@given(st.text(max_size=200))
def test_unknown_words_are_exactly_those_outside_the_vocabulary(prompt: str) -> None:
    unknown = unknown_words(prompt)
    assert len(set(unknown)) == len(unknown)
    assert not set(unknown) & vocabulary()
    assert unknown_words(prompt.upper().lower()) == unknown_words(prompt.lower())
