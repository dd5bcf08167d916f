"""MUSIQ, a transformer that rates pictures of any size without a reference (Ke et al. 2021), in the variant of KonIQ-10k.

Written from its structure: the picture at three scales (longer side 224, 384 and its own) is cut into patches of 32²; a
stem of weight-standardized convolutions embeds each patch; 14 blocks attend over all patches, which know their scale and
their place on a grid of 10 × 10. Names of the tensors, and the deviation of the weight standardization (unbiased), are
those of the PyTorch port whose weights are used. Scores are those of KonIQ-10k, about 0 to 100.
"""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.weights import is_published, locate, read_tensors

PATCH = 32
LONGER_SIDES = (224, 384)
GRID = 10
WIDTH, HEADS, LAYERS, MLP = 384, 6, 14, 1152
_STEM, _TOKEN = 64, 256
"""Channels of the stem's two stages."""


class StandardizedConv(nn.Conv2d):
    """Convolution with TensorFlow's padding, whose kernels have mean 0 and deviation 1."""

    def __init__(self, width: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(width, out, kernel, stride, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        axes = (1, 2, 3)
        weight = self.weight - self.weight.mean(axes, keepdim=True)
        weight = weight / (weight.std(axes, keepdim=True) + 1e-5)
        return F.conv2d(padded_same(x, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


def padded_same(x: Float[Tensor, "B C H W"], kernel: int, stride: int) -> Float[Tensor, "B C h w"]:
    """Zeros so that ceil(side / stride) windows fit; the odd one goes below and to the right, as in TensorFlow."""
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Bottleneck(nn.Module):
    """One residual block (He et al. 2016) with group norm."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardizedConv(width, width, 1), nn.GroupNorm(32, width, eps=1e-4)
        self.conv2, self.gn2 = StandardizedConv(width, width, 3), nn.GroupNorm(32, width, eps=1e-4)
        self.conv3, self.gn3 = StandardizedConv(width, out, 1), nn.GroupNorm(32, out, eps=1e-4)
        self.conv_proj, self.gn_proj = StandardizedConv(width, out, 1), nn.GroupNorm(32, out, eps=1e-4)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        shortcut = self.gn_proj(self.conv_proj(x))
        x = F.relu(self.gn1(self.conv1(x)))
        x = F.relu(self.gn2(self.conv2(x)))
        return F.relu(self.gn3(self.conv3(x)) + shortcut)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        q, k, v = (rearrange(layer(x), "b l (h c) -> b h l c", h=HEADS) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.out(rearrange(mixed, "b h l c -> b l (h c)")))


class EncoderBlock(nn.Module):
    """Attention and an MLP, each after a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attention = Attention()
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, MLP), "fc2": nn.Linear(MLP, WIDTH)})

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        x = x + self.attention(self.norm1(x))
        return x + cast(Tensor, self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class Encoder(nn.Module):
    """The transformer over all patches of one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.posembed_input = nn.ParameterDict({"position_emb": torch.zeros(1, GRID * GRID, WIDTH)})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": torch.zeros(len(LONGER_SIDES) + 1, WIDTH)})
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": EncoderBlock() for i in range(LAYERS)})
        self.encoder_norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(
        self, x: Float[Tensor, "B L C"], places: Int[Tensor, " L"], scales: Int[Tensor, " L"]
    ) -> Float[Tensor, "B C"]:
        """The state of the class token."""
        x = x + self.posembed_input["position_emb"][0, places] + self.scaleembed_input["scale_emb"][scales]
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for block in self.transformer.values():
            x = block(x)
        return cast(Tensor, self.encoder_norm(x[:, 0]))


class Musiq(nn.Module):
    """The network. `load_musiq` gives it its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_root, self.gn_root = StandardizedConv(3, _STEM, 7, 2), nn.GroupNorm(32, _STEM, eps=1e-6)
        self.block1 = Bottleneck(_STEM, _TOKEN)
        self.embedding = nn.Linear(_TOKEN * (PATCH // 4) ** 2, WIDTH)
        self.transformer_encoder = Encoder()
        self.head = nn.Linear(WIDTH, 1)
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """The score of each picture, with colors in [0, 1]; higher is better."""
        scaled = [self._resized(images, side) for side in LONGER_SIDES] + [images]
        patches, places, scales = zip(*(cut(image * 2 - 1, i) for i, image in enumerate(scaled)), strict=True)
        tokens = torch.cat([self._embedded(p) for p in patches], 1)
        state = self.transformer_encoder(tokens, torch.cat(places), torch.cat(scales))
        return cast(Tensor, self.head(state)[:, 0])

    def _resized(self, images: Tensor, longer: int) -> Tensor:
        height, width = images.shape[-2:]
        ratio = longer / max(height, width)
        size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        return F.interpolate(images, size, mode="bicubic", align_corners=False)

    def _embedded(self, patches: Float[Tensor, "B L 3 h w"]) -> Float[Tensor, "B L C"]:
        x = rearrange(patches, "b l c h w -> (b l) c h w")
        x = F.relu(self.gn_root(self.conv_root(x)))
        x = self.block1(F.max_pool2d(padded_same(x, 3, 2), 3, 2))
        # Channels last, as TensorFlow flattens.
        return cast(Tensor, self.embedding(rearrange(x, "(b l) c h w -> b l (h w c)", b=len(patches))))


def cut(
    images: Float[Tensor, "B 3 H W"], scale: int
) -> tuple[Float[Tensor, "B L 3 h w"], Int[Tensor, " L"], Int[Tensor, " L"]]:
    """Patches row by row, their places on the grid, and their scale. What a picture lacks to whole patches is 0."""
    x = padded_same(images, PATCH, PATCH)
    patches = rearrange(x, "b c (i h) (j w) -> b (i j) c h w", h=PATCH, w=PATCH)
    rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
    row, column = (torch.arange(n, device=x.device) * GRID // n for n in (rows, columns))
    places = (row[:, None] * GRID + column).flatten()
    return patches, places, torch.full_like(places, scale)


def load_musiq(path: str = "") -> tuple[Musiq, str]:
    """The network with its weights, and the name of its scores: `musiq_koniq` with the published weights alone.

    Args:
        path: of a .pth or .safetensors file; default the registered one (`sar3d.weights`).

    Raises:
        UserError: the weights are missing, damaged or of another network.
    """
    file = locate("musiq-koniq", path, "musiq")
    tensors = {name.removeprefix("module."): t for name, t in read_tensors(file).items()}
    with torch.device("meta"):  # weights that are drawn and then replaced cost a second
        network = Musiq()
    wrong = [n for n, t in network.state_dict().items() if n not in tensors or tensors[n].shape != t.shape]
    if wrong:
        raise UserError(f"{file} holds no MUSIQ of KonIQ-10k, {wrong[0]} for one is missing or of another shape")
    network.load_state_dict({name: tensors[name].float() for name in network.state_dict()}, assign=True)
    network.requires_grad_(False).eval()
    return network, "musiq_koniq" if is_published("musiq-koniq", file) else "musiq_other_weights"
