"""Networks of Table 3 by their printed numbers of parameters."""

from dataclasses import replace

import pytest
import torch

from small_scale.models.network import make_network, make_scheduler
from small_scale.settings import PUBLISHED


@pytest.mark.parametrize(
    ("data", "width", "millions"),
    [
        ("mnist", 128, 24.5),
        ("fashion-mnist", 128, 24.5),
        ("cifar10", 64, 8.9),
        ("cifar10", 96, 20.1),
        ("cifar10", 128, 35.7),
        ("lsun-church", 64, 27.4),
        ("lsun-church", 96, 61.7),
        ("lsun-church", 128, 109.7),
    ],
)
def test_parameters_are_those_of_table_3(data: str, width: int, millions: float) -> None:
    published = PUBLISHED[data]
    with torch.device("meta"):
        network = make_network(
            replace(published.network, width=width), published.side, published.channels
        )
    count = sum(values.numel() for values in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_schedule_is_that_of_app_b4() -> None:
    betas = make_scheduler().betas
    assert len(betas) == 1000
    assert (float(betas[0]), float(betas[-1])) == pytest.approx((1e-4, 2e-2))
