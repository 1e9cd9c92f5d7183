"""Image distances: closed forms, invariances, and equality with the packages they stand in for."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from m2g_audit.errors import ModelError, UsageError
from m2g_audit.similarity import METRICS, default_metric, distances, load_metric, nearest
from m2g_audit.similarity.base import Metric
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
    a, b = images(3, *size), images(3, *size, seed=1)
    b[0] = a[0] + 0.01 * (b[0] - a[0])
    with torch.no_grad():
        expected = [
            [package(x[None], y[None], normalize=True).item() for y in b] for x in a
        ]  # normalize: from [0, 1] to the package's [-1, 1]
    found = distances(metric, metric.embed(a), metric.embed(b))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "random" in metric.name
    assert metric.name not in METRICS


def test_cosine_metrics_are_one_minus_cosine() -> None:
    a, b = images(4), images(5, seed=1)
    metric = Sscd(_TinyFeatures())
    x, y = metric._features(a), metric._features(b)
    expected = 1 - torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2)
    found = distances(metric, metric.embed(a), metric.embed(b))
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)


# --- invariances ------------------------------------------------------------------------------


def metrics() -> list[Metric]:
    return [load_metric("l2"), load_metric("tiled_l2"), random_lpips("alex"), Sscd(_TinyFeatures())]


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


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 13), st.integers(1, 4))
def test_nearest_equals_a_full_sort_for_any_block(n: int, m: int, block: int, k: int) -> None:
    metric = load_metric("tiled_l2")
    queries = metric.embed(images(n, 8, 8, seed=n))
    base = metric.embed(images(m, 8, 8, seed=100 + m))
    k = min(k, m)
    found, indices = nearest(metric, queries, base, k, block=block)
    full = distances(metric, queries, base)
    np.testing.assert_allclose(found, np.sort(full, axis=1)[:, :k], atol=1e-12)
    np.testing.assert_array_equal(indices, np.argsort(full, axis=1, kind="stable")[:, :k])


def test_nearest_leaves_out_the_image_itself_but_not_its_copies() -> None:
    pictures = images(5, 8, 8)
    pictures[3] = pictures[0]
    metric = load_metric("l2")
    e = metric.embed(pictures)
    found, indices = nearest(metric, e, e, 4, exclude_self=True, block=2)
    assert (found[0, 0], indices[0, 0]) == (0, 3)
    assert all(i not in row for i, row in enumerate(indices))


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


def test_a_checkpoint_of_the_right_hash_is_loaded(
    empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real checkpoint is not at hand in tests: a file declared to have its hash stands in."""
    file = empty_caches / "checkpoints" / "alexnet-owt-7be5be79.pth"
    state = {f"features.{k}": v for k, v in random_backbone("alex").state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(1)}, file)
    monkeypatch.setattr("m2g_audit.similarity.weights.sha256", lambda path: "7be5be79" + 56 * "0")
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
