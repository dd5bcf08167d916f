"""The four heads that read a mesh from a triplane: field, color, deformation and weights (published.md, FlexiCubes)."""

from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.flexicubes.mesh import WEIGHTS
from sar3d.flexicubes.tables import CORNERS
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.field import FieldMLP
from sar3d.vqvae.flexi_config import FlexiConfig

WEIGHT_GAIN = 0.1
"""Of the raw weights, so that a random head is nearly neutral."""


def mlp(inputs: int, config: FlexiConfig, outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width, following in pairwise([inputs, *[config.hidden] * config.hidden_layers]):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(config.hidden, outputs))


class MeshHeads(nn.Module):
    """MLPs from the features of three planes, concatenated: at grid points, at the eight corners of cubes for the
    weights, at surface points for the color.

    Args:
        channels: of the concatenated features.
    """

    def __init__(self, channels: int, config: FlexiConfig) -> None:
        super().__init__()
        self.sdf = mlp(channels, config, 1)
        self.rgb = mlp(channels, config, 3)
        self.deformation = mlp(channels, config, 3)
        self.weight = mlp(len(CORNERS) * channels, config, WEIGHTS)

    @torch.no_grad()
    def start_from(self, field: FieldMLP, level: float, steepness: float = 1.0) -> None:
        """Take over a radiance field: the surface is where its raw density is `level`, and so are the colors.

        Args:
            field: of the same widths.
            level: raw density of the surface; published: 10.
            steepness: logit of the field per unit of raw density; published: 1.

        Raises:
            ValueError: the field's layers have other shapes.
        """
        theirs = field.linears()
        for net in (self.sdf, self.rgb):
            ours = linears(net)
            if [a.weight.shape for a in ours[:-1]] != [b.weight.shape for b in theirs[:-1]]:
                raise ValueError(
                    "the heads' hidden layers have other shapes than the field's: give both the same widths"
                )
            for a, b in zip(ours[:-1], theirs[:-1], strict=True):
                a.load_state_dict(b.state_dict())
        sdf, rgb, last = linears(self.sdf)[-1], linears(self.rgb)[-1], theirs[-1]
        sdf.weight.copy_(-steepness * last.weight[:1])
        sdf.bias.copy_(steepness * (level - last.bias[:1]))
        rgb.weight.copy_(last.weight[1:])
        rgb.bias.copy_(last.bias[1:])


def linears(net: nn.Sequential) -> list[nn.Linear]:
    """The layers with weights, first to last."""
    return [layer for layer in net if isinstance(layer, nn.Linear)]


def after_first(net: nn.Sequential, hidden: Float[Tensor, "*N H"]) -> Float[Tensor, "*N outputs"]:
    """What a head makes of the output of its first layer."""
    for layer in linears(net)[1:]:
        hidden = layer(F.relu(hidden))
    return hidden


def point_maps(net: nn.Sequential, maps: Float[Tensor, "B 3 C N N"]) -> Float[Tensor, "B 3 N N H"]:
    """The first layer applied to planes sampled along the grid's lines: at a grid point its output is the sum of three.

    It is linear in the concatenated features, and a plane's feature depends on two coordinates of the point alone.
    """
    first = linears(net)[0]
    parts = torch.einsum("bpcuv,hpc->bpuvh", maps, rearrange(first.weight, "h (p c) -> h p c", p=PLANES))
    return torch.cat([parts[:, :1] + first.bias, parts[:, 1:]], dim=1)


def cube_maps(net: nn.Sequential, maps: Float[Tensor, "B 3 C N N"]) -> Float[Tensor, "B 3 R R H"]:
    """The same for the weights' head: at a cube the output of its first layer is the sum of three.

    Of a plane the eight corners of a cube see four points, so the layer is a convolution of 2 × 2 on each plane.
    """
    first = linears(net)[0]
    # Corners are numbered x + 2y + 4z, so their axes are z, y, x.
    kernels = rearrange(first.weight, "h (z y x p c) -> p h c x y z", z=2, y=2, x=2, p=PLANES)
    across = (kernels[0].sum(-1), kernels[1].sum(-3), kernels[2].sum(-2).mT)
    biases = (first.bias, None, None)
    parts = [F.conv2d(maps[:, p], across[p], biases[p]) for p in range(PLANES)]
    return rearrange(torch.stack(parts, dim=1), "b p h u v -> b p u v h")
