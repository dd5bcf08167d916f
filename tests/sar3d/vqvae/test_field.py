"""The triplane field: agreement with the recorded field, fast against plain, analytic gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sar3d.vqvae.config import FieldConfig
from sar3d.vqvae.field import FieldMLP, PlainTriplaneField, TriplaneField, sample_planes

SMALL = FieldConfig(hidden=12, hidden_layers=2, density_scale=3.0, density_shift=-0.5)


def small(
    dtype: torch.dtype = torch.float64, objects: int = 2, channels: int = 4, side: int = 6
) -> tuple[Tensor, FieldMLP]:
    torch.manual_seed(3)
    mlp = FieldMLP(3 * channels, SMALL).to(dtype)
    return torch.randn(objects, 3, channels, side, side, dtype=dtype), mlp


def points(count: int, reach: float, dtype: torch.dtype = torch.float64, objects: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(objects, count, 3, generator=generator, dtype=dtype) - 0.5) * reach


@pytest.fixture(scope="module")
def recorded(shared: Path) -> tuple[FieldMLP, dict[str, Tensor]]:
    prefix = "decoder.triplane_decoder.decoder."
    weights = load_file(shared / "goldens/tiny_vqvae.safetensors")
    mlp = FieldMLP(96, FieldConfig())
    mlp.load_state_dict({k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)})
    with np.load(shared / "goldens/render_12_noise.npz") as file:
        return mlp, {k: torch.from_numpy(file[k]).float() for k in file.files}


def test_features_colors_and_densities_agree_with_the_recorded_field(
    recorded: tuple[FieldMLP, dict[str, Tensor]],
) -> None:
    mlp, golden = recorded
    planes = golden["planes"].unflatten(1, (3, 32))
    features = sample_planes(planes, golden["pts"], 0.9)
    expected = golden["pts_features"].permute(0, 2, 1, 3).flatten(2)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    out = mlp(features)  # the recording does not blacken points outside the cube; the field does
    torch.testing.assert_close(out[..., :1], golden["pts_sigma"], atol=1e-4, rtol=0)
    inside = (golden["pts"].abs() <= 0.45).all(-1)
    assert 50 < inside.sum() < 500
    for field in (PlainTriplaneField(planes, mlp, FieldConfig()), TriplaneField(planes, mlp, FieldConfig())):
        found = field.query(golden["pts"])
        torch.testing.assert_close(found.rgb[inside], golden["pts_rgb"][inside], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.raw[inside], golden["pts_sigma"][inside], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("plane", "across", "down"), [(0, 0, 1), (1, 1, 2), (2, 2, 0)])
def test_each_plane_is_read_along_its_own_axes(plane: int, across: int, down: int) -> None:
    planes = torch.zeros(1, 3, 1, 4, 8)[..., :4].clone()
    planes[0, plane, 0, 2, 1] = 1.0
    where = torch.zeros(1, 2, 3)
    where[:, 0, across], where[:, 0, down] = -0.25, 0.25  # the center of column 1, row 2 on [-1, 1]
    where[:, 1, across], where[:, 1, down] = 0.25, -0.25
    features = sample_planes(planes, where, 2.0)
    assert features[0, 0].tolist() == [float(p == plane) for p in range(3)]
    assert features[0, 1].abs().max() == 0


@pytest.mark.parametrize("reach", [0.9, 1.3])
def test_the_fast_field_equals_the_plain_one_in_values_and_gradients(reach: float) -> None:
    planes, mlp = small()
    planes.requires_grad_()
    where = points(300, reach)
    found, gradients = [], []
    for kind in (PlainTriplaneField, TriplaneField):
        field = kind(planes, mlp, SMALL)
        sample = field.query(where)
        loss = (sample.rgb - 0.3).square().sum() + field.density(sample.raw).sum()
        gradients.append(torch.autograd.grad(loss, [planes, *mlp.parameters()]))
        found.append(sample)
    torch.testing.assert_close(found[0].rgb, found[1].rgb)
    torch.testing.assert_close(found[0].raw, found[1].raw)
    for plain, fast in zip(*gradients, strict=True):
        assert plain.abs().max() > 1e-3
        torch.testing.assert_close(plain, fast)


def test_points_on_the_faces_and_corners_of_the_cube_agree_with_the_plain_field() -> None:
    planes, mlp = small()
    ends = torch.tensor([-0.45, -0.375, 0.0, 0.375, 0.45], dtype=torch.float64)
    where = torch.cartesian_prod(ends, ends, ends).expand(2, -1, -1)
    plain, fast = (kind(planes, mlp, SMALL).query(where) for kind in (PlainTriplaneField, TriplaneField))
    torch.testing.assert_close(plain.rgb, fast.rgb)
    torch.testing.assert_close(plain.raw, fast.raw)
    assert plain.raw.abs().max() < 100


def test_outside_the_cube_the_field_is_black_and_empty_and_gradients_stay_finite() -> None:
    planes, mlp = small(torch.float32)
    planes.requires_grad_()
    field = TriplaneField(planes, mlp, SMALL)
    where = torch.tensor([[0.4501, 0.0, 0.0], [0.0, -0.6, 0.0], [2.0, 2.0, 2.0]]).expand(2, -1, -1)
    found = field.query(where)
    assert found.rgb.abs().max() == 0
    assert field.density(found.raw).abs().max() == 0
    assert field.density((found.raw + 50) / 2).abs().max() == 0  # averaged with a dense neighbor
    (gradient,) = torch.autograd.grad(field.density(found.raw).sum() + found.rgb.sum(), planes)
    assert gradient.abs().max() == 0
    assert field.density_gradient(where).abs().max() == 0


def test_colors_reach_a_little_beyond_black_and_white() -> None:
    planes, mlp = small(torch.float32)
    with torch.no_grad():
        mlp.linears()[-1].bias.copy_(torch.tensor([0.0, 200.0, -200.0, 0.0]))
        mlp.linears()[-1].weight.zero_()
    rgb = TriplaneField(planes, mlp, SMALL).query(torch.zeros(2, 1, 3)).rgb[0, 0]
    torch.testing.assert_close(rgb, torch.tensor([1.001, -0.001, 0.5]))


def test_the_density_gradient_agrees_with_autograd_and_with_finite_differences() -> None:
    planes, mlp = small()
    field = TriplaneField(planes, mlp, SMALL)
    where = points(200, 0.8).requires_grad_()
    (expected,) = torch.autograd.grad(field.density(field.query(where).raw).sum(), where)
    found = field.density_gradient(where)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected)
    step = 1e-7  # short enough that hardly a point crosses a kink of the interpolation or the ReLUs
    where = where.detach()
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        ahead, behind = (field.density(field.query(where + s).raw)[..., 0] for s in (shift, -shift))
        error = ((ahead - behind) / (2 * step) - found[..., axis]).abs()
        assert error.median() < 1e-5
        assert (error > 1e-3).float().mean() < 0.01


def test_the_density_gradient_is_differentiable_by_planes_and_mlp() -> None:
    planes, mlp = small(objects=1, channels=2, side=3)
    where = points(4, 0.7, objects=1)
    names = [name for name, _ in mlp.named_parameters()]

    def normals(planes: Tensor, *weights: Tensor) -> Tensor:
        clone = FieldMLP(6, SMALL).double()
        for name, weight in zip(names, weights, strict=True):
            module, leaf = name.rsplit(".", 1)
            owner = clone.get_submodule(module)
            del owner._parameters[leaf]
            setattr(owner, leaf, weight)
        return TriplaneField(planes, clone, SMALL).density_gradient(where)

    inputs = [planes.requires_grad_(), *(p.detach().clone().requires_grad_() for p in mlp.parameters())]
    assert torch.autograd.gradcheck(normals, inputs, eps=1e-7, atol=1e-5)


def test_color_and_density_pass_gradcheck() -> None:
    planes, mlp = small(objects=2, channels=2, side=3)
    where = points(5, 0.9)

    def both(planes: Tensor) -> tuple[Tensor, Tensor]:
        found = TriplaneField(planes, mlp, SMALL).query(where)
        return found.rgb, found.raw

    assert torch.autograd.gradcheck(both, [planes.requires_grad_()], eps=1e-7, atol=1e-5)


def test_under_autocast_the_answers_are_float32_and_close() -> None:
    planes, mlp = small(torch.float32)
    where = points(100, 0.9, torch.float32)
    exact = TriplaneField(planes, mlp, SMALL).query(where)
    with torch.autocast("cpu", torch.bfloat16):
        rough = TriplaneField(planes.bfloat16(), mlp, SMALL).query(where)
        plain = PlainTriplaneField(planes.bfloat16(), mlp, SMALL).query(where)
    for found in (rough, plain):
        assert found.rgb.dtype == found.raw.dtype == torch.float32
        assert (found.rgb - exact.rgb).abs().max() < 0.03
