"""FID-Inception: the Inception v3 of TensorFlow's 2015 graph, whose features FID and KID are defined on.

Written from its structure (Szegedy et al. 2016, figures 5 to 7, and the graph's departures from it): 1,008 classes and no
auxiliary head; average pools do not count their padding; the last block pools by maximum. 23,850,960 parameters. Names
of the tensors are those of the PyTorch port whose weights are used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.weights import is_published, locate, read_tensors

FEATURES = {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits": 1008}
"""Outputs by name, with their width."""

Size = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU. Stride 1 keeps the size where the kernel is padded."""

    def __init__(self, width: int, out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return F.relu(self.bn(self.conv(x)), inplace=True)


@dataclass(frozen=True)
class Step:
    """One convolution of a branch, or two of the same input whose outputs are joined."""

    names: tuple[str, ...]
    out: int
    kernels: tuple[Size, ...]


def _step(name: str, out: int, kernel: Size) -> Step:
    return Step((name,), out, (kernel,))


def _fork(name: str, out: int) -> Step:
    return Step((f"{name}a", f"{name}b"), out, ((1, 3), (3, 1)))


Pool = Literal["average", "max", "halve"]
"""How a block's last branch pools: 3 × 3 around each place, or 3 × 3 with stride 2 as its other branches end."""


class Block(nn.Module):
    """Branches of convolutions whose outputs are joined, and a branch that pools first."""

    def __init__(self, width: int, branches: Sequence[Sequence[Step]], pool: Pool, project: int = 0) -> None:
        """`project`: channels that the pooled input is projected to; a block that halves joins it as it is."""
        super().__init__()
        self.pool = pool
        self.branches = branches
        for branch in branches:
            channels = width
            for step in branch:
                halving = pool == "halve" and step is branch[-1]
                for name, kernel in zip(step.names, step.kernels, strict=True):
                    self.add_module(
                        name, Conv(channels, step.out, kernel, 2) if halving else _same(channels, step.out, kernel)
                    )
                channels = step.out
        if project:
            self.branch_pool = Conv(width, project, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = torch.cat([self.get_submodule(name)(y) for name in step.names], 1)
            outputs.append(y)
        return torch.cat([*outputs, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "halve":
            return F.max_pool2d(x, 3, 2)
        around = F.max_pool2d(x, 3, 1, 1) if self.pool == "max" else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        pooled: Tensor = self.branch_pool(around)
        return pooled


def _same(width: int, out: int, kernel: Size) -> Conv:
    height, breadth = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    return Conv(width, out, kernel, 1, (height // 2, breadth // 2))


_DOUBLE_3 = (_step("branch3x3dbl_1", 64, 1), _step("branch3x3dbl_2", 96, 3), _step("branch3x3dbl_3", 96, 3))


def _block_35(width: int, project: int) -> Block:
    """At 35²: figure 5."""
    five = (_step("branch5x5_1", 48, 1), _step("branch5x5_2", 64, 5))
    return Block(width, [(_step("branch1x1", 64, 1),), five, _DOUBLE_3], "average", project)


def _reduce_35(width: int) -> Block:
    return Block(width, [(_step("branch3x3", 384, 3),), _DOUBLE_3], "halve")


def _block_17(inner: int) -> Block:
    """At 17²: figure 6 with n = 7."""
    row, column = (1, 7), (7, 1)
    seven = (_step("branch7x7_1", inner, 1), _step("branch7x7_2", inner, row), _step("branch7x7_3", 192, column))
    double = (
        _step("branch7x7dbl_1", inner, 1),
        _step("branch7x7dbl_2", inner, column),
        _step("branch7x7dbl_3", inner, row),
        _step("branch7x7dbl_4", inner, column),
        _step("branch7x7dbl_5", 192, row),
    )
    return Block(768, [(_step("branch1x1", 192, 1),), seven, double], "average", 192)


def _reduce_17() -> Block:
    seven = (
        _step("branch7x7x3_1", 192, 1),
        _step("branch7x7x3_2", 192, (1, 7)),
        _step("branch7x7x3_3", 192, (7, 1)),
        _step("branch7x7x3_4", 192, 3),
    )
    return Block(768, [(_step("branch3x3_1", 192, 1), _step("branch3x3_2", 320, 3)), seven], "halve")


def _block_8(width: int, pool: Pool) -> Block:
    """At 8²: figure 7."""
    three = (_step("branch3x3_1", 384, 1), _fork("branch3x3_2", 384))
    double = (_step("branch3x3dbl_1", 448, 1), _step("branch3x3dbl_2", 384, 3), _fork("branch3x3dbl_3", 384))
    return Block(width, [(_step("branch1x1", 320, 1),), three, double], pool, 192)


class Inception(nn.Module):
    """The network. `load_inception` gives it its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _reduce_35(288)
        self.Mixed_6b = _block_17(128)
        self.Mixed_6c = _block_17(160)
        self.Mixed_6d = _block_17(160)
        self.Mixed_6e = _block_17(192)
        self.Mixed_7a = _reduce_17()
        self.Mixed_7b = _block_8(1280, "average")
        self.Mixed_7c = _block_8(2048, "max")
        self.fc = nn.Linear(2048, FEATURES["logits"])
        self.requires_grad_(False).eval()

    def forward(self, x: Float[Tensor, "B 3 299 299"]) -> dict[str, Float[Tensor, "B C"]]:
        """All `FEATURES` of prepared pictures (`resize.prepare`): maps as their means over places."""
        found = {}
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        found["64"] = x.mean((2, 3))
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        found["192"] = x.mean((2, 3))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        found["768"] = x.mean((2, 3))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        found["2048"] = x.mean((2, 3))
        found["logits"] = self.fc(found["2048"])
        return found


def load_inception(path: str = "") -> tuple[Inception, bool]:
    """The network with its weights, and whether they are the published ones, on which alone it makes FID and KID.

    Args:
        path: of a .pth or .safetensors file; default the registered one (`sar3d.weights`).

    Raises:
        UserError: the weights are missing, damaged or of another network.
    """
    file = locate("inception", path, "inception")
    return inception_from(read_tensors(file), file), is_published("inception", file)


def inception_from(tensors: Mapping[str, Tensor], file: Path) -> Inception:
    """The network from its tensors; `file` is for the sentence."""
    with torch.device("meta"):  # weights that are drawn and then replaced cost a second
        network = Inception()
    # Counters of batches decide nothing, and ports leave them out.
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    wanted = {name: t for name, t in network.state_dict().items() if name not in counters}
    wrong = [name for name, t in wanted.items() if name not in tensors or tensors[name].shape != t.shape]
    if wrong:
        raise UserError(
            f"{file} holds no FID-Inception, {wrong[0]} for one is missing or of another shape: fetch it again"
        )
    zeros = {name: torch.zeros((), dtype=torch.long) for name in counters}
    network.load_state_dict({name: tensors[name].float() for name in wanted} | zeros, assign=True)
    return network.requires_grad_(False).eval()
