"""The mesh decoder's heads: the published recording, lazy against dense, start from a radiance field."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plain_flexi_heads import plain_heads, plain_meshes
from torch import Tensor

from sar3d.errors import UserError
from sar3d.flexicubes import FlexiMesh, edge_sign_consistency, regular_grid
from sar3d.vqvae.config import DecoderConfig, EncoderConfig, FieldConfig, QuantizerConfig, VQVAEConfig
from sar3d.vqvae.field import FieldMLP, PlainTriplaneField
from sar3d.vqvae.flexi_config import (
    GRID_SCALE,
    PUBLISHED_DEFORMATION,
    FlexiConfig,
    FlexiVQVAEConfig,
    from_dict,
    to_dict,
)
from sar3d.vqvae.flexi_field import FlexiField
from sar3d.vqvae.flexi_heads import MeshHeads
from sar3d.vqvae.flexi_model import FlexiVQVAE
from sar3d.vqvae.model import VQVAE

SMALL = FlexiConfig(grid=12, hidden=16, hidden_layers=2)
SIDE = 0.9


@pytest.fixture
def planes() -> Tensor:
    """Of three objects; the second has no surface."""
    generator = torch.Generator().manual_seed(3)
    drawn = 2 * torch.randn(3, 3, 4, 8, 8, generator=generator).double()
    drawn[1] = 0
    return drawn


@pytest.fixture
def heads() -> MeshHeads:
    torch.manual_seed(0)
    made = MeshHeads(12, SMALL).double()
    for parameter in made.parameters():
        parameter.data *= 1.7
    made.sdf[-1].bias.data.fill_(0.05)
    return made


def test_heads_equal_the_published_recording(shared: Path):
    with np.load(shared / "goldens" / "mesh_heads.npz") as file:
        golden = {name: torch.from_numpy(file[name]) for name in file}
    heads = MeshHeads(96, FlexiConfig())
    nets = {name: name.removeprefix("net_").replace("__", ".") for name in golden if name.startswith("net_")}
    heads.load_state_dict({ours: golden[name] for name, ours in nets.items()})
    config = FlexiConfig(grid=4, deformation=PUBLISHED_DEFORMATION)
    field = FlexiField(golden["planes"].float(), heads, config, 2.0)
    torch.testing.assert_close(field.dense_sdf().view(1, -1, 1), golden["sdf"], atol=1e-5, rtol=0)
    torch.testing.assert_close(field.sdf_at(torch.arange(125)).view(1, -1, 1), golden["sdf"], atol=1e-5, rtol=0)
    torch.testing.assert_close(field.color(golden["verts"][None]), golden["rgb"], atol=1e-5, rtol=0)
    positions, _, weights = plain_heads(golden["planes"].float(), heads, config, 2.0)
    torch.testing.assert_close(weights.view(1, -1, 21), golden["weight"], atol=1e-5, rtol=0)
    shift = (positions - regular_grid(4, 2.005)).view(1, -1, 3)
    # Recorded for a grid of 128.
    torch.testing.assert_close(shift / 32, golden["deformation_applied_gridres128"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_lazy_heads_equal_dense_ones(planes: Tensor, heads: MeshHeads, training: bool):
    planes.requires_grad_()
    lazy = FlexiField(planes, heads, SMALL, SIDE).surfaces(training=training)
    dense, sdf, _ = plain_meshes(planes, heads, SMALL, SIDE, training=training)
    assert [mesh.valid for mesh in lazy.meshes] == [mesh.valid for mesh in dense] == [True, False, True]
    for a, b in zip(lazy.meshes, dense, strict=True):
        torch.testing.assert_close(a.vertices, b.vertices, atol=1e-6, rtol=0)
        torch.testing.assert_close(a.l_dev, b.l_dev, atol=1e-6, rtol=0)
        assert torch.equal(a.faces, b.faces)

    # Border points count as outside, so their own negative values say nothing of a surface.
    edges = []
    for axis in range(1, 4):
        across = sdf.movedim(axis, 1)[:, :, 1:-1, 1:-1]
        edges.append(torch.stack([across[:, 1:-2], across[:, 2:-1]], -1).reshape(-1, 2))
        for border, next_to_it in ((across[:, 0], across[:, 1]), (across[:, -1], across[:, -2])):
            edges.append(torch.stack([border, next_to_it], -1)[border > 0])
    signs = edge_sign_consistency(torch.cat(edges))
    torch.testing.assert_close(lazy.sign_consistency(), signs, atol=1e-6, rtol=0)

    def loss(meshes: list[FlexiMesh], sign: Tensor) -> Tensor:
        return sum((m.vertices.square().sum() + m.l_dev.sum() for m in meshes), sign)

    targets = [planes, *heads.sdf.parameters(), *heads.deformation.parameters(), *heads.weight.parameters()]
    mine = torch.autograd.grad(loss(lazy.meshes, lazy.sign_consistency()), targets)
    theirs = torch.autograd.grad(loss(dense, signs), targets)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_colors_have_the_same_gradient_with_and_without_that_of_points(planes: Tensor, heads: MeshHeads):
    planes = planes.float().requires_grad_()
    field = FlexiField(planes, heads.float(), SMALL, SIDE)
    points = torch.rand(3, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    fast, slow = field.color(points), field.color(points.clone().requires_grad_())
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=0)
    targets = [planes, *heads.rgb.parameters()]
    gradients = [torch.autograd.grad(color.square().sum(), targets) for color in (fast, slow)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_an_object_without_a_surface_is_pulled_to_have_one(planes: Tensor, heads: MeshHeads):
    field = FlexiField(planes, heads, SMALL, SIDE)
    missing = field.surfaces(training=True, margin=0.05).missing
    value = field.dense_sdf()[1].min()
    torch.testing.assert_close(missing, torch.stack([value * 0, value + 0.05, value * 0]))
    (gradient,) = torch.autograd.grad(missing.sum(), heads.sdf[-1].bias)
    assert gradient.item() > 0


def test_heads_start_from_a_radiance_field():
    config = FieldConfig(hidden=16, hidden_layers=2, side=SIDE)
    torch.manual_seed(1)
    mlp, planes = FieldMLP(12, config), torch.randn(1, 3, 4, 8, 8)
    heads = MeshHeads(12, SMALL)
    heads.start_from(mlp, level=0.1, steepness=3.0)
    field, nerf = FlexiField(planes, heads, SMALL, SIDE), PlainTriplaneField(planes, mlp, config)
    points = regular_grid(12, SIDE * GRID_SCALE)[1:-1, 1:-1, 1:-1].reshape(1, -1, 3)
    found = nerf.query(points)
    expected = torch.sigmoid(3 * (0.1 - found.raw[..., 0])) - 0.5
    torch.testing.assert_close(field.dense_sdf()[:, 1:-1, 1:-1, 1:-1].reshape(1, -1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(field.color(points), found.rgb, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="widths"):
        MeshHeads(12, FlexiConfig(hidden=8, hidden_layers=2)).start_from(mlp, level=0.1)


def test_a_field_of_a_mesh_is_solid_for_ray_marchers(planes: Tensor, heads: MeshHeads):
    field = FlexiField(planes[:1], heads, SMALL, SIDE)
    inner = regular_grid(12, SIDE * GRID_SCALE)[1:-1, 1:-1, 1:-1].reshape(1, -1, 3).double()
    found = field.query(inner)
    inside = field.dense_sdf()[:, 1:-1, 1:-1, 1:-1].reshape(1, -1) < 0
    assert torch.equal(found.raw[..., 0] > 0, inside)
    assert torch.equal(field.density(found.raw)[..., 0] > 0, inside)
    assert (field.query(torch.full((1, 1, 3), 0.5).double()).raw < 0).all()


def test_a_trained_vqvae_becomes_one_with_meshes():
    config = VQVAEConfig(
        resolution=32,
        encoder=EncoderConfig(channels=32, multipliers=(1,), blocks=1, attention_width=32, attention_heads=1),
        quantizer=QuantizerConfig(scales=(1, 2, 4, 8)),
        decoder=DecoderConfig(width=32, depth=1, heads=1, multipliers=(1,), blocks=1, plane_channels=4),
        field=FieldConfig(hidden=16, hidden_layers=2),
    )
    vqvae, both = VQVAE(config), FlexiVQVAE(FlexiVQVAEConfig(vqvae=config, mesh=SMALL))
    state = {name: t for name, t in vqvae.state_dict().items() if not name.startswith("field_mlp.")}
    missing, unknown = both.load_state_dict(state, strict=False)
    assert not unknown
    assert {name.split(".")[0] for name in missing} == {"heads"}
    both.heads.start_from(vqvae.field_mlp, level=0.0)
    tokens = torch.zeros(1, config.tokens, dtype=torch.int64)
    planes = both.decode_tokens(tokens)
    assert torch.equal(planes, vqvae.decode_tokens(tokens))
    assert both.field(planes).dense_sdf().shape == (1, 13, 13, 13)


def test_configurations_are_read_and_checked():
    config = FlexiVQVAEConfig(mesh=SMALL)
    assert from_dict(to_dict(config)) == config
    with pytest.raises(UserError, match="grid"):
        FlexiConfig(grid=2)
    with pytest.raises(UserError, match="deformation"):
        FlexiConfig(deformation=0.5)
