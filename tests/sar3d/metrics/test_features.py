"""Networks whose features are compared: structure, parity, names, resizes, distances with known answers."""

import itertools
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.metrics.features.frechet import frechet_distance
from sar3d.metrics.features.inception import FEATURES, Inception, inception_from, load_inception
from sar3d.metrics.features.kernel import kernel_distance
from sar3d.metrics.features.musiq import GRID, Musiq, cut, load_musiq, padded_same
from sar3d.metrics.features.networks import EncoderFeatures, InceptionFeatures, PictureFeatures, inception_names
from sar3d.metrics.features.resize import RESIZES, SIDE, prepare
from sar3d.metrics.numbers import picture_numbers


def pictures(count: int, height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


# ---- FID-Inception


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Random weights with which features neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        network = Inception()
    state = network.to_empty(device="cpu").state_dict()
    for name, value in state.items():
        if name.endswith(("running_var", "bn.weight")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.endswith(("bias", "running_mean")):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif value.ndim == 0:
            value.zero_()
        else:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    return state


class ByName:
    """FID-Inception written out a second time, as functions of the named tensors; for parity alone."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def conv(self, x: Tensor, name: str, stride: int = 1, pad: Any = 0) -> Tensor:
        t = {key: self.tensors[f"{name}.{key}"] for key in ("conv.weight", "bn.weight", "bn.bias")}
        x = F.conv2d(x, t["conv.weight"], stride=stride, padding=pad)
        mean, var = self.tensors[f"{name}.bn.running_mean"], self.tensors[f"{name}.bn.running_var"]
        return F.relu(F.batch_norm(x, mean, var, t["bn.weight"], t["bn.bias"], eps=0.001))

    def average(self, x: Tensor) -> Tensor:
        ones = F.avg_pool2d(F.pad(torch.ones_like(x), (1, 1, 1, 1)), 3, 1)
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) / ones

    def a(self, x: Tensor, b: str) -> Tensor:
        five = self.conv(self.conv(x, f"{b}.branch5x5_1"), f"{b}.branch5x5_2", pad=2)
        double = self.conv(self.conv(x, f"{b}.branch3x3dbl_1"), f"{b}.branch3x3dbl_2", pad=1)
        double = self.conv(double, f"{b}.branch3x3dbl_3", pad=1)
        pooled = self.conv(self.average(x), f"{b}.branch_pool")
        return torch.cat([self.conv(x, f"{b}.branch1x1"), five, double, pooled], 1)

    def b(self, x: Tensor, b: str) -> Tensor:
        double = self.conv(self.conv(x, f"{b}.branch3x3dbl_1"), f"{b}.branch3x3dbl_2", pad=1)
        double = self.conv(double, f"{b}.branch3x3dbl_3", 2)
        return torch.cat([self.conv(x, f"{b}.branch3x3", 2), double, F.max_pool2d(x, 3, 2)], 1)

    def c(self, x: Tensor, b: str) -> Tensor:
        row, column = (0, 3), (3, 0)
        seven = self.conv(self.conv(x, f"{b}.branch7x7_1"), f"{b}.branch7x7_2", pad=row)
        seven = self.conv(seven, f"{b}.branch7x7_3", pad=column)
        double = self.conv(x, f"{b}.branch7x7dbl_1")
        for i, pad in ((2, column), (3, row), (4, column), (5, row)):
            double = self.conv(double, f"{b}.branch7x7dbl_{i}", pad=pad)
        pooled = self.conv(self.average(x), f"{b}.branch_pool")
        return torch.cat([self.conv(x, f"{b}.branch1x1"), seven, double, pooled], 1)

    def d(self, x: Tensor, b: str) -> Tensor:
        three = self.conv(self.conv(x, f"{b}.branch3x3_1"), f"{b}.branch3x3_2", 2)
        seven = self.conv(self.conv(x, f"{b}.branch7x7x3_1"), f"{b}.branch7x7x3_2", pad=(0, 3))
        seven = self.conv(self.conv(seven, f"{b}.branch7x7x3_3", pad=(3, 0)), f"{b}.branch7x7x3_4", 2)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)

    def e(self, x: Tensor, b: str, pooled: Tensor) -> Tensor:
        three = self.conv(x, f"{b}.branch3x3_1")
        double = self.conv(self.conv(x, f"{b}.branch3x3dbl_1"), f"{b}.branch3x3dbl_2", pad=1)
        forks = [(three, "branch3x3_2"), (double, "branch3x3dbl_3")]
        sides = [self.conv(y, f"{b}.{n}{s}", pad=p) for y, n in forks for s, p in (("a", (0, 1)), ("b", (1, 0)))]
        return torch.cat([self.conv(x, f"{b}.branch1x1"), *sides, self.conv(pooled, f"{b}.branch_pool")], 1)

    def __call__(self, x: Tensor) -> list[Tensor]:
        x = self.conv(self.conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3")
        first = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3", pad=1), 3, 2)
        second = F.max_pool2d(self.conv(self.conv(first, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
        x = self.b(self.a(self.a(self.a(second, "Mixed_5b"), "Mixed_5c"), "Mixed_5d"), "Mixed_6a")
        for block in "bcde":
            x = self.c(x, f"Mixed_6{block}")
        y = self.d(x, "Mixed_7a")
        y = self.e(y, "Mixed_7b", self.average(y))
        y = self.e(y, "Mixed_7c", F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 1))  # features are not negative
        last = y.flatten(2).mean(2)
        logits = last @ self.tensors["fc.weight"].T + self.tensors["fc.bias"]
        return [first.flatten(2).mean(2), second.flatten(2).mean(2), x.flatten(2).mean(2), last, logits]


@torch.no_grad()
def test_inception_is_the_network_of_fid(tensors: dict[str, Tensor]) -> None:
    network = inception_from(tensors, Path("x"))
    assert sum(p.numel() for p in network.parameters()) == 23_850_960
    assert len(network.state_dict()) == 566
    x = prepare(pictures(1))
    found = network(x)
    assert {name: value.shape[1] for name, value in found.items()} == FEATURES
    for ours, other in zip(found.values(), ByName(tensors)(x), strict=True):
        assert other.std() > 0.01
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_inception_and_its_legacy_input_agree_with_torch_fidelity(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that package is installed; its extractor is loaded alone, since the package itself needs torchvision."""
    spec = find_spec("torch_fidelity")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torch-fidelity is not installed (pip install --no-deps torch-fidelity)")
    parent = ModuleType("torch_fidelity")
    parent.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "torch_fidelity", parent)
    name = "feature_extractor_inceptionv3"
    file = spec_from_file_location(f"torch_fidelity.{name}", Path(parent.__path__[0]) / f"{name}.py")
    assert file is not None
    assert file.loader is not None
    module = module_from_spec(file)
    file.loader.exec_module(module)
    torch.save(tensors, tmp_path / "weights.pth")
    peer = module.FeatureExtractorInceptionV3("x", list(FEATURES), str(tmp_path / "weights.pth"))
    images = pictures(2)
    theirs = peer(torch.from_numpy(images).permute(0, 3, 1, 2))
    ours = inception_from(tensors, Path("x"))(prepare(images, "legacy_tensorflow"))
    for found, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-5)


def test_only_the_published_weights_make_fid(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({k: t for k, t in tensors.items() if not k.endswith("num_batches_tracked")}, tmp_path / "own.pth")
    network = InceptionFeatures(str(tmp_path / "own.pth"), "legacy_pytorch")
    assert network.names.frechet == "frechet_inception_other_weights_legacy_pytorch"
    assert network.names.kernel == "kernel_inception_other_weights_legacy_pytorch"
    published = inception_names(published=True, resize="clean")
    assert (published.frechet, published.kernel, published.fast) == ("fid", "kid", "frechet_inception_192")
    assert inception_names(True, "torchmetrics").frechet == "fid_torchmetrics"
    images = pictures(2)
    together = network.features(images)
    assert together.full.shape == (2, 2048)
    alone = np.concatenate([network.features(image[None]).full for image in images])
    np.testing.assert_allclose(together.full, alone, rtol=2e-3, atol=2e-3)
    torch.save({k: t for k, t in tensors.items() if k != "fc.weight"}, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"holds no FID-Inception, fc\.weight for one is missing"):
        load_inception(str(tmp_path / "cut.pth"))


def test_an_encoder_that_stands_in_bears_its_own_name() -> None:
    vectors = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    encoder: Any = SimpleNamespace(
        id="efficientnet-lite0:0123", width=300, encode=lambda x: SimpleNamespace(pooled=vectors[: len(x)])
    )
    network = EncoderFeatures(encoder)
    assert (network.names.frechet, network.names.kernel) == ("frechet_efficientnet", "kernel_efficientnet")
    assert network.features(pictures(5)).fast.shape == (5, 192)


# ---- the input of FID-Inception


PLACES = (0, 1, 57, 150, 297, 298)
"""Rows and columns that are compared."""


def bilinear(image: np.ndarray, places: Any) -> np.ndarray:
    """(6, 6, 3): the picture at output i, j of `PLACES` read at places(i), places(j), pixel by pixel."""
    out = np.zeros((len(PLACES), len(PLACES), 3))
    sides = image.shape[:2]
    for i, j in itertools.product(range(len(PLACES)), repeat=2):
        y, x = (max(0.0, places(PLACES[k], side)) for k, side in ((i, sides[0]), (j, sides[1])))
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, sides[0] - 1), min(x0 + 1, sides[1] - 1)
        top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
        low = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
        out[i, j] = top * (1 - (y - y0)) + low * (y - y0)
    return out


def test_each_way_of_resizing_is_what_its_name_says() -> None:
    images = 64 + pictures(1, 37, 420) // 2  # Pillow cuts off what overshoots
    image = images[0].astype(np.float64)
    found = {way: prepare(images, way)[0].permute(1, 2, 0).numpy() for way in RESIZES}
    some = {way: values[np.ix_(PLACES, PLACES)] for way, values in found.items()}
    corner = bilinear(image, lambda i, side: i * side / SIDE)
    np.testing.assert_allclose(some["legacy_tensorflow"], (corner - 128) / 128, atol=1e-4)
    center = bilinear(image, lambda i, side: (i + 0.5) * side / SIDE - 0.5)
    np.testing.assert_allclose(some["legacy_pytorch"], 2 * center / 255 - 1, atol=1e-4)
    for way, filter_ in (("clean", Image.Resampling.BICUBIC), ("torchmetrics", Image.Resampling.BILINEAR)):
        rounded = np.asarray(Image.fromarray(images[0]).resize((SIDE, SIDE), filter_)).astype(np.float64)
        assert np.abs(found[way] * 128 + 128 - rounded).max() < 1.2, "Pillow rounds after rows and after columns"
        assert (found[way] * 128 % 1 > 0).any(), "here nothing is rounded"
    with pytest.raises(ValueError, match="of bytes"):
        prepare(images.astype(np.float32))


# ---- distances


def gaussian(mean: np.ndarray, deviations: np.ndarray, count: int = 400) -> np.ndarray:
    """A sample with exactly this mean and these deviations."""
    raw = np.random.default_rng(len(deviations)).normal(size=(count, len(deviations)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return white * deviations + mean


def test_gaussians_of_known_moments_have_the_distance_of_the_formula() -> None:
    first, second = np.array([1.0, 2.0, 0.5, 3.0]), np.array([2.0, 1.0, 0.5, 1.0])
    made, true = gaussian(np.zeros(4), first), gaussian(np.full(4, 2.0), second)
    assert frechet_distance(made, true) == pytest.approx(4 * 4 + ((first - second) ** 2).sum(), rel=1e-9)
    scipy = pytest.importorskip("scipy.linalg")
    mixed = made @ np.random.default_rng(0).normal(size=(4, 4))
    a, b = np.cov(mixed.T), np.cov(true.T)
    root = scipy.sqrtm(a @ b).real
    expected = ((mixed.mean(0) - true.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert frechet_distance(mixed, true) == pytest.approx(expected, abs=1e-7)


def test_a_set_has_no_distance_from_itself_in_any_order() -> None:
    made, true = (np.random.default_rng(seed).normal(seed, 1, (300, 32)) for seed in (0, 1))
    assert frechet_distance(made, made[::-1]) < 1e-3
    few = np.random.default_rng(2).normal(size=(20, 64))
    assert frechet_distance(few, few) < 1e-3, "singular covariances, too"
    assert frechet_distance(made[::-1], true) == pytest.approx(frechet_distance(made, true), rel=1e-9)
    forward, backward = kernel_distance(made, true, 50), kernel_distance(made[::-1], true[::-1], 50)
    assert forward == backward
    assert (forward.subset, forward.subsets) == (50, 100)


def test_the_kernel_distance_is_unbiased() -> None:
    """By its definition on few pictures, and 0 on average between samples of one distribution."""
    made, true = (np.random.default_rng(seed).normal(size=(7, 5)) for seed in (0, 1))
    k = [(x @ y.T / 5 + 1) ** 3 for x, y in ((made, made), (true, true), (made, true))]
    expected = sum((m.sum() - np.trace(m)) / 42 for m in k[:2]) - 2 * k[2].mean()
    found = kernel_distance(made, true)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert (found.subset, found.subsets) == (7, 1)
    random = np.random.default_rng(3)
    values = [kernel_distance(*random.normal(size=(2, 40, 5))).value for _ in range(60)]
    assert abs(np.mean(values)) < 2.6 * np.std(values) / 60**0.5
    with pytest.raises(UserError, match="over subsets of 1000 pictures needs as many on either side"):
        kernel_distance(made, true, 1000)
    with pytest.raises(UserError, match="two pictures on either side, not 1 and 7"):
        frechet_distance(made[:1], true)


def test_pictures_are_summed_up_under_the_networks_names() -> None:
    random = np.random.default_rng(0)
    made, true = ([PictureFeatures(*random.normal(s, 1, (2, 4, 8))) for _ in range(12)] for s in (0.3, 0.0))
    fid, fast, kid = picture_numbers(inception_names(True, "clean"), made, true)
    assert (fid.metric, fast.metric, kid.metric) == ("fid", "frechet_inception_192", "kid")
    assert fid.interval is None
    assert fast.interval is not None
    assert fast.interval.low < fast.value < fast.interval.high
    assert fast.interval.resamples == 100
    assert kid.interval is not None
    assert kid.interval.low < kid.value < kid.interval.high
    assert kid.about == "48 pictures against 48, 1 subsets of 48"


# ---- MUSIQ


@torch.no_grad()
def test_musiq_has_the_published_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        network = Musiq()
    block = 2 * 2 * 384 + 4 * (384 * 384 + 384) + 384 * 1152 + 1152 + 1152 * 384 + 384
    stem = 3 * 64 * 49 + 128 + 64 * 64 + 64 * 64 * 9 + 2 * 64 * 256 + 2 * (64 + 64 + 256 + 256)
    rest = 64 * 256 * 384 + 384 + 103 * 384 + 384 + 2 * 384 + 385
    assert sum(p.numel() for p in network.parameters()) == stem + 14 * block + rest == 27_125_825
    generator = torch.Generator().manual_seed(0)
    for value in network.to_empty(device="cpu").state_dict().values():
        value.copy_(0.05 * torch.randn(value.shape, generator=generator))
    monkeypatch.setattr("sar3d.metrics.features.musiq.LONGER_SIDES", (64, 96))
    images = torch.rand(2, 3, 70, 100, generator=generator)
    scores = network(images)
    assert scores.shape == (2,)
    torch.testing.assert_close(network(images[1:]), scores[1:])
    assert network(images[:, :, :64]).ne(scores).all(), "any size is taken"
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "own.pth")
    loaded, name = load_musiq(str(tmp_path / "own.pth"))
    assert name == "musiq_other_weights"
    assert torch.equal(loaded(images), scores)
    torch.save({"head.bias": torch.zeros(1)}, tmp_path / "cut.pth")
    with pytest.raises(UserError, match="holds no MUSIQ of KonIQ-10k"):
        load_musiq(str(tmp_path / "cut.pth"))


def test_patches_know_their_place_and_padding_is_tensorflows() -> None:
    image = torch.arange(64 * 352).float().reshape(1, 1, 64, 352).expand(1, 3, -1, -1)
    patches, places, scales = cut(image, 2)
    assert patches.shape == (1, 22, 3, 32, 32)
    assert torch.equal(patches[0, 12, 0], image[0, 0, 32:, 32:64])
    assert places.tolist() == [*(GRID * i // 11 for i in range(11)), *(50 + GRID * i // 11 for i in range(11))]
    assert scales.tolist() == [2] * 22
    assert padded_same(torch.ones(1, 1, 33, 32), 32, 32).shape == (1, 1, 64, 32)
    assert padded_same(torch.ones(1, 1, 32, 32), 7, 2)[0, 0, :, 10].tolist() == [0] * 2 + [1] * 32 + [0] * 3
