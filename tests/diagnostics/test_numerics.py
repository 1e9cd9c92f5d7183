"""Seeds, noise, precision switches and the determinism probe."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.diagnostics.numerics import (
    check_finite,
    exact_numerics,
    noise_for,
    noises_for,
    probe_determinism,
    seed_for,
)
from m2g_audit.diagnostics.oracles import Empirical
from m2g_audit.errors import NumericsError
from tests.support.score_models import VP, Restless


@given(run_seed=st.integers(0, 2**63), prompt=st.text(), start=st.integers(0, 10**6), n=st.just(64))
def test_seeds_of_one_prompt_never_meet(run_seed: int, prompt: str, start: int, n: int) -> None:
    seeds = [seed_for(run_seed, prompt, index) for index in range(start, start + n)]
    assert len(set(seeds)) == n
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_are_fixed_for_ever() -> None:
    # Records name these integers: a change would make old records irreproducible.
    assert seed_for(0, "a red kite", 0) == 3115759604
    assert seed_for(0, "a red kite", 1) == 1475228069
    assert seed_for(1, "a red kite", 0) != 3115759604
    assert seed_for(0, "a red kite.", 0) != 3115759604


def test_a_longer_seed_would_not_be_another() -> None:
    torch.testing.assert_close(noise_for(7, (3,)), noise_for(7 + 2**32, (3,)), rtol=0, atol=0)


def test_noise_is_that_of_plain_torch_whatever_the_batch() -> None:
    generator = torch.Generator("cpu").manual_seed(11)
    assert torch.equal(noise_for(11, (4, 8, 8)), torch.randn(1, 4, 8, 8, generator=generator)[0])
    together = noises_for([5, 11, 6], (4, 8, 8))
    assert torch.equal(together[1], noise_for(11, (4, 8, 8)))
    assert noise_for(1, (2,), torch.float64).dtype == torch.float64


def test_exact_numerics_restores_what_it_found() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def state() -> tuple[bool, ...]:
        return (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)

    before = state()
    inside = []

    def fail() -> None:
        with exact_numerics():
            inside.append(state())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert inside == [(False, False, True, False)]
    assert state() == before


def test_exact_numerics_lasts_until_the_last_of_several_threads() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic
    first, second = exact_numerics(), exact_numerics()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert cudnn.deterministic
    second.__exit__(None, None, None)
    assert cudnn.deterministic == before


def test_exact_numerics_can_take_the_math_attention() -> None:
    query = torch.randn(1, 1, 4, 8)
    with exact_numerics(math_attention=True):
        assert not torch.backends.cuda.flash_sdp_enabled()
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert torch.backends.cuda.flash_sdp_enabled()


def test_check_finite_counts_what_is_wrong() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf")])
    assert check_finite(values[:1], "x") is not None
    with pytest.raises(NumericsError, match=r"2 of 3 values of the spectrum.*--dtype float32"):
        check_finite(values, "the spectrum")


def test_the_probe_finds_a_random_network() -> None:
    point, x = torch.zeros(1, 3), torch.randn(2, 3, dtype=torch.float64)
    probe_determinism(Empirical(point, VP), x, 5)
    with pytest.raises(NumericsError, match=r"two answers.*evaluation mode"):
        probe_determinism(Restless(point, VP), x, 5)
    with pytest.raises(NumericsError, match="not finite"):
        probe_determinism(Empirical(point, VP), x * float("nan"), 5)
