"""Image distances: closed forms, invariances, and equality with the packages they stand in for."""

from __future__ import annotations

import json
import sys
import tracemalloc
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lpips
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from m2g_audit.errors import ModelError, UsageError
from m2g_audit.similarity import (
    METRICS,
    Metric,
    default_metric,
    distances,
    find_weights,
    load_metric,
    nearest,
    paired,
    search,
    within,
)
from m2g_audit.similarity.clip import Clip, trained_clip
from m2g_audit.similarity.lpips import Lpips, empty_backbone, random_backbone_distance
from m2g_audit.similarity.sscd import KNOWN_SHA256, Sscd, trained_sscd

_BUILDERS = {"alex": "alexnet", "vgg": "vgg16"}


def images(n: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def random_backbone(net: str) -> nn.Sequential:
    torch.manual_seed(0)
    backbone = empty_backbone(net).to_empty(device="cpu")
    for layer in backbone:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return backbone


def random_lpips(net: str) -> Lpips:
    return random_backbone_distance(net, random_backbone(net))


class _TinyFeatures(nn.Module):
    """Stands for a descriptor network: any size in, eight numbers out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 8, 5, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).flatten(2).mean(2)


@pytest.fixture(scope="module")
def tiny_clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    from safetensors.torch import save_model

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "patch_size": 16,
            "head_width": 16,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "tiny-random.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    save_model(open_clip.create_model("tiny-random"), str(folder / "tiny.safetensors"))
    return folder / "tiny.safetensors"


def lpips_package(net: str, metric: Lpips) -> nn.Module:
    """Return the package's LPIPS with the backbone of ours."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # it calls torchvision in an outdated way
        # Its constructor would draw a classifier of a hundred million weights and drop it.
        shell = SimpleNamespace(features=empty_backbone(net))
        patch.setattr(lpips.pretrained_networks.tv, _BUILDERS[net], lambda pretrained: shell)
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for i, part in enumerate(metric._slices, start=1):
        getattr(package.net, f"slice{i}").load_state_dict(part.state_dict(), assign=True)
    return package


# --- closed forms -----------------------------------------------------------------------------


def test_l2_is_the_root_mean_square_over_pixels() -> None:
    a, b = images(4), images(5, seed=1)
    metric = load_metric("l2")
    expected = (a[:, None] - b[None]).double().square().mean(dim=(2, 3, 4)).sqrt()
    np.testing.assert_allclose(distances(metric, metric.embed(a), metric.embed(b)), expected, 1e-6)


def test_l2_of_black_and_white_is_one() -> None:
    ends = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    for name in ("l2", "tiled_l2"):
        metric = load_metric(name)
        e = metric.embed(ends)
        np.testing.assert_allclose(distances(metric, e, e), [[0, 1], [1, 0]], atol=1e-7)


@pytest.mark.parametrize("size", [(32, 32), (30, 19)])
def test_tiled_l2_is_the_worst_tile(size: tuple[int, int]) -> None:
    a, b = images(3, *size), images(3, *size, seed=1)
    metric = load_metric("tiled_l2")
    difference = (a - b).double().square()
    tiles = [
        tile.mean(dim=(1, 2, 3)).sqrt()
        for row in difference.tensor_split(4, dim=2)
        for tile in row.tensor_split(4, dim=3)
    ]
    found = distances(metric, metric.embed(a), metric.embed(b)).diagonal()
    np.testing.assert_allclose(found, torch.stack(tiles).amax(0), 1e-6)


def test_one_different_tile_is_diluted_in_l2_but_not_in_tiled_l2() -> None:
    a = images(1)
    b = a.clone()
    b[:, :, :8, :8] = 1 - b[:, :, :8, :8]
    plain, tiled = load_metric("l2"), load_metric("tiled_l2")
    diluted = distances(plain, plain.embed(a), plain.embed(b))[0, 0]
    worst = distances(tiled, tiled.embed(a), tiled.embed(b))[0, 0]
    assert worst == pytest.approx(4 * diluted, rel=1e-5)


@pytest.mark.parametrize(
    ("net", "size"), [("alex", (32, 32)), ("alex", (64, 48)), ("vgg", (32, 40))]
)
def test_lpips_equals_the_package(net: str, size: tuple[int, int]) -> None:
    metric = random_lpips(net)
    package = lpips_package(net, metric)
    a, b = images(3, *size), images(4, *size, seed=1)
    b[2] = a[0] + 0.01 * (b[2] - a[0])
    with torch.no_grad():
        expected = np.array(
            [[package(x[None], y[None], normalize=True).item() for y in b] for x in a]
        )  # normalize: from [0, 1] to the package's [-1, 1]
    found = distances(metric, metric.embed(a), metric.embed(b))
    # Relative as well: a random backbone's distances may be small.
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)
    assert found[0, 2] == pytest.approx(expected[0, 2], rel=1e-4)
    values, indices = nearest(metric, metric.embed(a), metric.embed(b), 2)
    np.testing.assert_array_equal(indices, expected.argsort(axis=1)[:, :2])
    np.testing.assert_allclose(values, np.sort(expected, axis=1)[:, :2], atol=1e-6, rtol=1e-5)
    assert "random" in metric.name
    assert metric.name not in METRICS


@pytest.mark.parametrize(("net", "numbers"), [("alex", 3490), ("vgg", 124_928)])
def test_channels_without_weight_are_left_out_of_the_embedding(net: str, numbers: int) -> None:
    assert random_lpips(net).embed(images(1)).shape == (1, 1, numbers)


def test_cosine_metrics_are_one_minus_cosine() -> None:
    a, b = images(4), images(5, seed=1)
    metric = Sscd(_TinyFeatures())
    x, y = metric._features(a), metric._features(b)
    expected = 1 - torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2)
    found = distances(metric, metric.embed(a), metric.embed(b))
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)


def stlpips_package(net: str) -> nn.Module:
    """Return the package's own network with its own weights.

    It imports two packages that it neither declares nor uses here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "IPython", SimpleNamespace(embed=None))
        patch.setitem(sys.modules, "torchsummary", SimpleNamespace(summary=None))
        from stlpips_pytorch.stlpips import LPIPS
    with torch.device("meta"):
        package = LPIPS(net=net, variant="shift_tolerant", pretrained=False, verbose=False)
    path = find_weights(f"stlpips-{net}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    package.load_state_dict(state, strict=False, assign=True)
    return package.requires_grad_(False)


@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (21, 40)])
def test_stlpips_equals_the_package_pair_by_pair(net: str, height: int, width: int) -> None:
    metric, package = load_metric(f"stlpips-{net}"), stlpips_package(net)
    a, b = images(2, height, width), images(3, height, width, seed=1)
    expected = [package(x.expand_as(b), b, normalize=True).flatten() for x in a[:, None]]
    found = distances(metric, metric.embed(a), metric.embed(b))
    np.testing.assert_allclose(found, torch.stack(expected), rtol=1e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_stlpips_hardly_sees_a_shift_but_another_picture(net: str) -> None:
    """The direction: its name. Smooth pictures, as noise shifted by a pixel is other noise."""
    metric = load_metric(f"stlpips-{net}")
    smooth = torch.nn.functional.interpolate(images(6, 5, 5), (32, 32), mode="bicubic").clamp(0, 1)
    e = metric.embed(smooth)
    others = distances(metric, e, e)[~np.eye(6, dtype=bool)]
    assert paired(metric, e, metric.embed(smooth.roll(1, -1))).max() < others.min() / 3


# --- invariances ------------------------------------------------------------------------------


def metrics() -> list[Metric]:
    installed = [load_metric(name) for name in ("l2", "tiled_l2", "stlpips-alex")]
    return [*installed, random_lpips("alex"), Sscd(_TinyFeatures())]


@pytest.mark.parametrize("metric", metrics(), ids=lambda m: m.name)
def test_equal_images_are_at_zero_and_others_are_not(metric: Metric) -> None:
    pictures = images(6)
    pictures[4] = pictures[1]
    e = metric.embed(pictures)
    found = distances(metric, e, e)
    assert found[1, 4] == 0
    assert (found.diagonal() == 0).all()
    assert (found[~(found == 0)] > 1e-6).all()
    np.testing.assert_allclose(found, found.T, atol=1e-12)


@pytest.mark.parametrize("metric", metrics(), ids=lambda m: m.name)
def test_an_embedding_does_not_depend_on_its_batch(metric: Metric) -> None:
    pictures = images(7)
    together = metric.embed(pictures)
    np.testing.assert_allclose(metric.embed(pictures, batch_size=2), together, atol=1e-6)
    np.testing.assert_allclose(metric.embed(pictures[3:4]), together[3:4], atol=1e-6)


# --- nearest neighbours -----------------------------------------------------------------------


class _Given(Metric):
    """A metric of embeddings that are given, not made from images."""

    name = "given"

    def __init__(self, squared: bool) -> None:
        self.squared = squared

    def _embed(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def by_definition(metric: Metric, queries: Tensor, base: Tensor) -> np.ndarray:
    differences = queries[:, None].double() - base[None].double()
    squares = (
        differences.square().sum(-1).amax(-1).nan_to_num(nan=torch.inf, posinf=torch.inf).numpy()
    )
    return squares if metric.squared else np.sqrt(squares)


@dataclass(frozen=True)
class Search:
    """A search whose squared distances float64 holds exactly, so that ties are ties."""

    metric: Metric
    queries: Tensor
    base: Tensor
    k: int
    exclude_self: bool
    block: int | None
    chunk: int

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        full = by_definition(self.metric, self.queries, self.base)
        rows = []
        for i, row in enumerate(full):
            others = np.array([j for j in range(len(row)) if not (self.exclude_self and i == j)])
            rows.append(others[np.lexsort((others, row[others]))][: self.k])
        indices = np.array(rows)
        return np.take_along_axis(full, indices, axis=1), indices


@st.composite
def searches(draw: st.DrawFn) -> Search:
    parts, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    numbers = st.lists(st.integers(-2, 2), min_size=parts * width, max_size=parts * width)
    rows = torch.tensor(draw(st.lists(numbers, min_size=1, max_size=5)), dtype=torch.float64)
    # Far from 0, products lose the digits that tell the rows apart; the scales overflow and
    # underflow float32's squares.
    rows = (rows + draw(st.sampled_from([0, 2**11, 2**12, 2**14]))) * draw(
        st.sampled_from([1, 2.0**-50, 2.0**-70, 2.0**60])
    )
    for row in rows:
        if draw(st.integers(0, 4)) == 0:
            row[draw(st.integers(0, len(row) - 1))] = draw(
                st.sampled_from([torch.nan, torch.inf, -torch.inf])
            )
    pool = rows.float().reshape(len(rows), parts, width)
    which = st.lists(st.integers(0, len(pool) - 1), min_size=2, max_size=12)  # so, duplicates
    base = pool[draw(which)]
    exclude_self = draw(st.booleans())
    return Search(
        _Given(squared=draw(st.booleans())),
        base if exclude_self else pool[draw(which)],
        base,
        draw(st.integers(1, len(base) - int(exclude_self))),
        exclude_self,
        draw(st.none() | st.integers(1, 13)),
        draw(st.integers(1, 6)),
    )


@settings(max_examples=200)
@given(searches())
def test_nearest_is_a_stable_sort_of_all_distances(asked: Search) -> None:
    """Ties, duplicates, non-finite embeddings, any k, block and chunk of dimensions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_CHUNK", asked.chunk)
        found, indices = nearest(
            asked.metric,
            asked.queries,
            asked.base,
            asked.k,
            exclude_self=asked.exclude_self,
            block=asked.block,
        )
    expected, where = asked.expected()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(indices, where)


@settings(max_examples=100)
@given(searches(), st.integers(0, 200))
def test_what_is_within_a_limit_is_what_distances_say(asked: Search, which: int) -> None:
    """With limits that are distances of pairs, so that rounding decides if it can."""
    full = by_definition(asked.metric, asked.queries, asked.base)
    limit = float(full.flat[which % full.size])
    if np.isfinite(limit):
        found = within(asked.metric, asked.queries, asked.base, limit)
        np.testing.assert_array_equal(found, full <= limit)


@pytest.mark.parametrize("metric", metrics(), ids=lambda m: m.name)
@pytest.mark.parametrize("block", [None, 7])
def test_one_search_serves_every_metric(metric: Metric, block: int | None) -> None:
    pictures = images(40)
    pictures[30:] = 0.999 * pictures[:10]
    pictures[25] = pictures[3]
    queries, base = metric.embed(pictures[:15]), metric.embed(pictures)
    found, indices = nearest(metric, queries, base, 5, block=block)
    full = by_definition(metric, queries, base)
    np.testing.assert_allclose(found, np.sort(full, axis=1)[:, :5], rtol=1e-12)
    np.testing.assert_array_equal(indices, np.argsort(full, axis=1, kind="stable")[:, :5])
    assert (found[3, :2] == 0).all()
    np.testing.assert_allclose(distances(metric, queries, base), full, rtol=1e-6)


def gaussian(n: int, parts: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, parts, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("parts", "width"), [(1, 5000), (3, 100)])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_rounding_stays_within_its_bound(
    dtype: torch.dtype, parts: int, width: int, offset: float
) -> None:
    x, y = (search.Vectors.of(gaussian(40, parts, width, seed) + offset) for seed in (0, 1))
    exact = by_definition(_Given(squared=True), x.values, y.values)
    error = np.abs(search._squares(x, y, dtype).double().numpy() - exact)
    bound = search._error_of_squares(x, y, dtype).numpy()[:, None]
    assert (error <= bound).all()
    assert error.max() > 1e-4 * bound.max()  # not idle either


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("block", [None, 30])
def test_neighbours_are_right_where_float32_products_order_them_wrongly(
    k: int, block: int | None
) -> None:
    metric = _Given(squared=True)
    queries, base = gaussian(60, 1, 50) + 1000, gaussian(300, 1, 50, seed=1) + 1000
    full = by_definition(metric, queries, base)
    products = search._squares(search.Vectors.of(queries), search.Vectors.of(base), torch.float32)
    assert (products.argmin(1).numpy() != full.argmin(1)).mean() > 0.2
    found, indices = nearest(metric, queries, base, k, block=block)
    np.testing.assert_allclose(found, np.sort(full, axis=1)[:, :k], rtol=1e-12)
    np.testing.assert_array_equal(indices, np.argsort(full, axis=1)[:, :k])


@pytest.mark.parametrize("width", [7, 1001, 20_000])
def test_a_distance_does_not_depend_on_what_else_is_compared(width: int) -> None:
    """To the last bit: otherwise one of two equal pictures would be nearer by chance."""
    x, y = (search.Vectors.of(gaussian(9, 2, width, seed)) for seed in (0, 1))
    i = np.arange(9)
    together = search._squares_by_differences(x.values, y.values, i, i)
    alone = [search._squares_by_differences(x.values, y.values, j, j)[0] for j in i[:, None]]
    np.testing.assert_array_equal(together, alone)


def test_few_pairs_are_compared_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = 0
    by_differences = search._squares_by_differences

    def counted(x: Any, y: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        nonlocal pairs
        pairs += len(rows)
        return by_differences(x, y, rows, columns)

    monkeypatch.setattr(search, "_squares_by_differences", counted)
    queries, base = gaussian(200, 1, 2000), gaussian(400, 1, 2000, seed=1)
    base[7] = torch.nan  # says nothing about the others
    nearest(_Given(squared=True), queries, base, 3, block=200)
    assert 3 * 200 <= pairs <= 2 * 3 * 200 * 1.1  # two blocks of the base, three pairs each


class _LargestTensor(TorchDispatchMode):
    """Keeps the number of bytes of the largest tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize(("width", "duplicates"), [(4, False), (70, False), (4, True)])
def test_no_matrix_of_all_pairs_is_held(
    monkeypatch: pytest.MonkeyPatch, width: int, duplicates: bool
) -> None:
    """Not by torch, not by numpy, not where every pair must be compared again."""
    bound = 2**17
    monkeypatch.setattr(search, "_BLOCK_BYTES", bound)
    monkeypatch.setattr(search, "_CHUNK", 64)
    n = 400
    base = gaussian(1, 1, width).expand(n, 1, width) if duplicates else gaussian(n, 1, width)
    metric = _Given(squared=True)
    nearest(metric, base[:1], base[:1])  # what is imported on first use
    tracemalloc.start()
    with _LargestTensor() as largest:
        found, indices = nearest(metric, base, base)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 0).all()
    assert indices[-1, 0] == (0 if duplicates else n - 1)
    assert largest.bytes < bound < 4 * n * n
    assert peak < 8 * bound < 8 * n * n


@pytest.mark.parametrize("closeness", [1e-1, 1e-3, 1e-4, 1e-5, 1e-7])
def test_distances_keep_their_digits_where_products_cancel(closeness: float) -> None:
    metric = _Given(squared=False)
    a = gaussian(10, 2, 300)
    b = a + closeness * gaussian(10, 2, 300, seed=1)
    np.testing.assert_allclose(distances(metric, a, b), by_definition(metric, a, b), rtol=1e-6)


def test_nearest_leaves_out_the_image_itself_but_not_its_copies() -> None:
    pictures = images(5, 8, 8)
    pictures[3] = pictures[0]
    metric = load_metric("l2")
    e = metric.embed(pictures)
    found, indices = nearest(metric, e, e, 4, exclude_self=True, block=2)
    assert (found[0, 0], indices[0, 0]) == (0, 3)
    assert all(i not in row for i, row in enumerate(indices))


# --- what images may be -----------------------------------------------------------------------


def test_uint8_and_float_images_agree() -> None:
    levels = (images(3) * 255).round().to(torch.uint8)
    metric = load_metric("l2")
    np.testing.assert_allclose(
        metric.embed(levels), metric.embed(levels.float() / 255), rtol=0, atol=0
    )


def test_a_non_finite_image_is_infinitely_far() -> None:
    pictures = images(3, 8, 8)
    pictures[1, 0, 0, 0] = torch.nan
    metric = load_metric("l2")
    e = metric.embed(pictures)
    found = distances(metric, e, e)
    assert np.isinf(found[1]).all()
    assert np.isfinite(found[0, 2])


# --- weights and bad input --------------------------------------------------------------------


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("lpips-alex", "alexnet(weights='IMAGENET1K_V1')"),
        ("lpips-vgg", "vgg16(weights='IMAGENET1K_V1')"),
        ("clip", "hf download laion/CLIP-ViT-B-32"),
        ("sscd", "curl"),
    ],
)
def test_missing_weights_say_how_to_get_them(empty_caches: Path, name: str, command: str) -> None:
    with pytest.raises(ModelError) as error:
        load_metric(name)
    assert command in str(error.value)
    with pytest.raises(ModelError, match="no file"):
        load_metric(name, weights=empty_caches / "absent.pt")


@pytest.mark.usefixtures("empty_caches")
def test_the_default_metric_is_never_clip() -> None:
    assert default_metric() == "tiled_l2"


def test_the_default_metric_is_sscd_where_its_file_is(empty_caches: Path) -> None:
    (empty_caches / "checkpoints" / "sscd_disc_mixup.torchscript.pt").touch()
    assert default_metric() == "sscd"


def test_another_backbone_is_not_taken_for_lpips(empty_caches: Path) -> None:
    file = empty_caches / "checkpoints" / "alexnet-owt-7be5be79.pth"
    torch.save(random_backbone("alex").state_dict(), file)
    with pytest.raises(ModelError, match="is not torchvision's"):
        load_metric("lpips-alex")


def test_another_file_is_not_taken_for_stlpips(tmp_path: Path) -> None:
    file = tmp_path / "alex_shift_tolerant.pth"
    torch.save({}, file)
    with pytest.raises(ModelError, match=r"is not stlpips_pytorch's(.|\n)*pip install"):
        load_metric("stlpips-alex", weights=file)


def test_weights_of_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2g_audit.similarity.weights.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install stlpips_pytorch"):
        load_metric("stlpips-vgg")


def test_a_checkpoint_of_the_right_hash_is_loaded(
    empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real checkpoint is not at hand in tests: a file declared to have its hash stands in."""
    file = empty_caches / "checkpoints" / "alexnet-owt-7be5be79.pth"
    state = {f"features.{k}": v for k, v in random_backbone("alex").state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(1)}, file)
    monkeypatch.setattr(
        "m2g_audit.similarity.weights.file_sha256", lambda path: "7be5be79" + 56 * "0"
    )
    metric = load_metric("lpips-alex")
    expected = random_lpips("alex").embed(images(2))
    torch.testing.assert_close(metric.embed(images(2)), expected)
    assert metric.name == "lpips-alex"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript itself
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_unknown_torchscript_file_needs_trust(tmp_path: Path) -> None:
    file = tmp_path / "descriptor.pt"
    torch.jit.trace(_TinyFeatures(), images(1)).save(str(file))
    with pytest.raises(ModelError, match="--trust"):
        load_metric("sscd", weights=file)
    metric = load_metric("sscd", weights=file, trust=True)
    expected = Sscd(_TinyFeatures()).embed(images(2))
    torch.testing.assert_close(metric.embed(images(2)), expected)
    (tmp_path / "text.pt").write_text("not a program")
    with pytest.raises(ModelError, match="not a TorchScript"):
        trained_sscd(tmp_path / "text.pt", trust=True)


def test_known_hashes_are_sha256() -> None:
    assert all(len(digest) == 64 and int(digest, 16) for digest in KNOWN_SHA256)


def test_clip_loads_a_local_file_and_is_blind_to_size(tiny_clip_file: Path) -> None:
    metric = trained_clip(tiny_clip_file, architecture="tiny-random")
    assert isinstance(metric, Clip)
    small = images(2)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    e, f = metric.embed(small), metric.embed(large)
    assert e.shape == (2, 1, 16)
    torch.testing.assert_close(e.square().sum(2), torch.full((2, 1), 0.5))
    across = distances(metric, e, f)
    assert (across.diagonal() < across[[0, 1], [1, 0]]).all()


@pytest.mark.usefixtures("tiny_clip_file")
def test_a_file_that_does_not_fit_clip_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "half.safetensors").write_bytes(b"half a download")
    with pytest.raises(ModelError, match="does not hold"):
        trained_clip(tmp_path / "half.safetensors", architecture="tiny-random")


def test_bad_input_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no metric 'ssim'"):
        load_metric("ssim")
    with pytest.raises(UsageError, match="has no weights"):
        load_metric("l2", weights="some.pt")
    metric = load_metric("l2")
    with pytest.raises(UsageError, match="Repeat"):
        metric.embed(torch.rand(2, 1, 8, 8))
    with pytest.raises(UsageError, match="no images"):
        metric.embed(torch.rand(0, 3, 8, 8))
    with pytest.raises(UsageError, match="one size"):
        distances(metric, metric.embed(images(1, 8, 8)), metric.embed(images(1, 9, 9)))
    with pytest.raises(UsageError, match="nearest"):
        nearest(metric, metric.embed(images(1)), metric.embed(images(1)), exclude_self=True)
    with pytest.raises(UsageError, match="at least 4"):
        load_metric("tiled_l2").embed(images(1, 3, 3))
    with pytest.raises(UsageError, match="at least 32"):
        random_lpips("alex").embed(images(1, 28, 28))
    with pytest.raises(UsageError, match="at least 21"):
        load_metric("stlpips-alex").embed(images(1, 20, 40))


@pytest.mark.parametrize("name", ["l2", "tiled_l2"])
def test_paired_distances_are_those_of_all_pairs(name: str) -> None:
    metric = load_metric(name)
    generator = torch.Generator().manual_seed(0)
    a, b = (metric.embed(torch.rand(5, 3, 8, 8, generator=generator)) for _ in range(2))
    np.testing.assert_allclose(paired(metric, a, b), np.diag(distances(metric, a, b)), rtol=1e-6)
    assert torch.equal(paired(metric, a, a), torch.zeros(5, dtype=torch.float64))
