"""LPIPS against another implementation on the same weights, where weights come from, and what stands in for it."""

import functools
import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sar3d.errors import UserError
from sar3d.metrics.config import PerceptualConfig
from sar3d.metrics.lpips import LaplacianPyramid, Lpips, perceptual_loss, resolve_weights

WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def trunk() -> nn.Sequential:
    """torchvision's VGG-16 features, from its published list of layers, with random weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 3
    for entry in WIDTHS:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, 2))
            continue
        convolution = nn.Conv2d(width, entry, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        convolution.bias = nn.Parameter(0.1 * torch.randn(entry))
        layers += [convolution, nn.ReLU(inplace=True)]
        width = entry
    return nn.Sequential(*layers)


@functools.cache
def vgg16() -> dict[str, Tensor]:
    weights = trunk().state_dict(prefix="features.")
    return {**weights, "classifier.6.bias": torch.zeros(1000)}


@functools.cache
def heads() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    widths = (64, 128, 256, 512, 512)
    return {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for k, c in enumerate(widths)}


def pictures(seed: int, count: int = 2, side: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 3, side, side, generator=generator)
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def test_agrees_with_another_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's own forward pass and heads; its trunk comes from a package that is not needed for these weights."""
    peer_module = pytest.importorskip("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(peer_module, "_get_tv_model_features", lambda name, pretrained: trunk())
    peer = peer_module._LPIPS(pretrained=True, net="vgg", pnet_rand=True)
    ours = Lpips(vgg16(), {name: value for name, value in peer.state_dict().items() if name.startswith("lin")})
    image, target = pictures(0, side=41)
    with torch.no_grad():
        expected = peer(image, target, normalize=True).flatten()
    assert expected.min() > 0.01
    torch.testing.assert_close(ours(image, target), expected, atol=1e-6, rtol=1e-4)


def test_is_frozen_but_passes_gradients_to_the_picture() -> None:
    distance = Lpips(vgg16(), heads())
    image, target = pictures(1, side=24)
    image[:, :, :, :12] = 0.5
    image.requires_grad_()
    loss = distance(image, target)
    loss.sum().backward()
    assert not any(p.requires_grad for p in distance.parameters())
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    nearer = image.detach() - 0.02 * image.grad.sign()
    assert (distance(nearer, target) < loss).all()
    assert (distance(target, target) == 0).all()


def test_pixels_without_any_feature_are_alike() -> None:
    dead = {name: torch.full_like(value, -9.0) if name.endswith("bias") else value for name, value in vgg16().items()}
    image, target = pictures(5, side=16)
    loss = Lpips(dead, heads())(image.requires_grad_(), target)
    loss.sum().backward()
    assert (loss == 0).all()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("make", [lambda: Lpips(vgg16(), heads()), LaplacianPyramid])
def test_is_float32_under_autocast(make: Any) -> None:
    image, target = pictures(2, side=32)
    distance = make()
    plain = distance(image, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(image, target), plain)
        assert distance(image.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_are_called_by_their_own_name(tmp_path: Path, suffix: str, caplog: Any) -> None:
    """Random weights of the right layout measure something, but that is not LPIPS."""
    path = tmp_path / f"vgg16{suffix}"
    if suffix == ".pth":
        torch.save(vgg16(), path)
    else:
        save_file(vgg16(), path)
    with caplog.at_level(logging.WARNING):
        distance = perceptual_loss(PerceptualConfig(vgg16=str(path)))
    assert isinstance(distance, Lpips)
    assert distance.key == "vgg_other_weights"
    assert distance.name != "LPIPS-VGG"
    assert len(caplog.records) == 1
    image, target = pictures(3)
    published = torch.load(_packaged(), map_location="cpu", weights_only=True)
    torch.testing.assert_close(distance(image, target), Lpips(vgg16(), published)(image, target))


def test_only_the_weights_it_was_fitted_to_are_called_lpips() -> None:
    kernel = [[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]]
    biases = [0.4034, 0.3778, 0.4644, -0.3228, 0.3940, -0.3953, 0.3951, -0.5496]
    imagenet = {name: value.clone() for name, value in vgg16().items()}
    imagenet["features.0.weight"][0, 0] = torch.tensor(kernel)
    imagenet["features.0.bias"][:8] = torch.tensor(biases)
    published = torch.load(_packaged(), map_location="cpu", weights_only=True)
    assert Lpips(imagenet, published).name == "LPIPS-VGG"
    assert Lpips(imagenet, published).key == "lpips_vgg"
    assert Lpips(imagenet, heads()).key == "vgg_other_weights"
    assert Lpips(vgg16(), published).key == "vgg_other_weights"
    other_biases = {**imagenet, "features.0.bias": torch.zeros(64)}
    assert Lpips(other_biases, published).key == "vgg_other_weights"


def test_wrong_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"features.0.weight": Malicious()}, tmp_path / "code.pth")
    torch.save(vgg16(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:100_000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({k: v for k, v in vgg16().items() if k != "features.28.bias"}, tmp_path / "short.pth")
    torch.save({**vgg16(), "features.5.weight": torch.zeros(128, 32, 3, 3)}, tmp_path / "thin.pth")
    for name, words in {
        "code.pth": "not loaded",
        "cut.pth": "truncated",
        "cut.safetensors": "truncated",
        "list.pth": "no state dict",
        "short.pth": "features.28.bias is missing",
        "thin.pth": r"features.5.weight is of shape \(128, 32, 3, 3\)",
        "none.pth": "there is no file",
    }.items():
        with pytest.raises(UserError, match=words):
            perceptual_loss(PerceptualConfig(vgg16=str(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


def test_without_weights_the_substitute_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        distance = perceptual_loss()
    assert distance.key == "substitute_laplacian"
    assert "substitute" in distance.name
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "substitute_laplacian" in caplog.text
    assert "set vgg16" in caplog.text


def test_a_substitute_may_be_asked_for(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        assert isinstance(perceptual_loss(PerceptualConfig(vgg16="substitute")), LaplacianPyramid)
    assert len(caplog.records) == 1
    with pytest.raises(UserError, match="owner/name"):
        resolve_weights(PerceptualConfig(repository="not a/repository/name"))


def test_weights_are_fetched_from_a_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mirror: "Mirror") -> None:
    save_file(vgg16(), tmp_path / "source.safetensors")
    mirror.files["/timm/vgg16.tv_in1k/resolve/main/model.safetensors"] = (tmp_path / "source.safetensors").read_bytes()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", mirror.url)
    template = mirror.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    resolved = resolve_weights(PerceptualConfig())
    assert Path(resolved.vgg16).read_bytes() == (tmp_path / "source.safetensors").read_bytes()
    mirror.files.clear()  # whoever has the resolved configuration asks the hub no more
    distance = perceptual_loss(resolved)
    assert isinstance(distance, Lpips)
    assert torch.equal(distance.features.get_parameter("28.weight"), vgg16()["features.28.weight"])


class Mirror(ThreadingHTTPServer):
    """Serves `files` as a hub does: the commit and the checksum in the headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        data = self.server.files.get(self.path)
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(data or b"").hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(data or b"")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("side", [1, 3, 17, 64])
def test_substitute_is_a_distance_at_any_size(side: int) -> None:
    image, target = pictures(4, side=side)
    distance = LaplacianPyramid()
    assert (distance(target, target) == 0).all()
    assert (distance(image, target) > 0).all()
    torch.testing.assert_close(distance(image, target), distance(target, image))


def test_substitute_weighs_coarse_and_fine_errors_alike() -> None:
    """Brightness that is wrong everywhere and a checkerboard of the same amplitude cost that amplitude."""
    target = torch.full((1, 3, 64, 64), 0.5)
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    assert LaplacianPyramid()(target + 0.1, target).item() == pytest.approx(0.1, rel=1e-4)
    assert LaplacianPyramid()(target + 0.1 * checkers, target).item() == pytest.approx(0.1, rel=0.05)


def test_substitute_grows_with_displacement() -> None:
    target = torch.zeros(1, 3, 64, 64)
    target[..., 16:40, 16:40] = 1
    costs = [LaplacianPyramid()(target.roll(pixels, -1), target).item() for pixels in (1, 2, 4, 8)]
    assert costs == sorted(costs)
    assert costs[-1] > 2 * costs[0]


def test_lpips_refuses_pictures_without_a_last_feature() -> None:
    with pytest.raises(UserError, match="at least 16 pixels, not 15 x 40"):
        Lpips(vgg16(), heads())(torch.rand(1, 3, 15, 40), torch.rand(1, 3, 15, 40))


def _packaged() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("torchmetrics")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package torchmetrics, which brings the linear heads, is not installed")
    return Path(spec.submodule_search_locations[0]) / "functional" / "image" / "lpips_models" / "vgg.pth"
