"""The patch discriminator of the adversarial loss (Isola et al. 2017; published.md, training) and its hinge losses."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.tasks.vqvae.config import Norm

_GROUPS = 32


class PatchDiscriminator(nn.Module):
    """Judges overlapping squares of 70 pixels: three convolutions of stride 2, two of stride 1, kernel 4.

    With `norm="batch"` it is the published network, 2,765,633 parameters with the published tensor names. The default,
    `group`, has the same parameters and no statistics of the batch: those of a small local batch would make the result
    depend on the number of workers.
    """

    smallest = 24
    """Fewest pixels a side that leave one judgment."""

    def __init__(self, width: int = 64, layers: int = 3, norm: Norm = "group") -> None:
        super().__init__()
        self.norm = norm
        modules: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for k in range(1, layers + 1):
            before, after = width * min(2 ** (k - 1), 8), width * min(2**k, 8)
            modules.append(nn.Conv2d(before, after, 4, 2 if k < layers else 1, 1, bias=False))
            modules += [_norm(norm, after), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*modules, nn.Conv2d(width * min(2**layers, 8), 1, 4, 1, 1))
        self.apply(_initialize)

    def forward(self, images: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N 1 p q"]:
        """Logits, high for real, of images with colors in [0, 1].

        Raises:
            UserError: the images are smaller than `smallest`.
        """
        if min(images.shape[-2:]) < self.smallest:
            raise UserError(
                f"the discriminator needs patches of at least {self.smallest} pixels, not {images.shape[-2]} x "
                f"{images.shape[-1]}: render larger patches or set the weight adversarial to 0"
            )
        logits: Tensor = self.main(images * 2 - 1)
        return logits


def generator_loss(fake: Float[Tensor, "N 1 p q"]) -> Float[Tensor, ""]:
    """-mean D(fake), in float32, from the logits of rendered patches."""
    return -fake.float().mean()


def discriminator_loss(real: Float[Tensor, "N 1 p q"], fake: Float[Tensor, "N 1 p q"]) -> Float[Tensor, ""]:
    """Hinge loss, the mean of both halves, in float32 (Lim and Ye 2017): 0 where real ≥ 1 and fake ≤ -1."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def published_discriminator(tensors: Mapping[str, Tensor]) -> PatchDiscriminator:
    """The published discriminator from its state dict, also one saved by a data-parallel wrapper (module.main…).

    Raises:
        UserError: the tensors are not those of the published network.
    """
    loose = {name.removeprefix("module."): value for name, value in tensors.items()}
    model = PatchDiscriminator(norm="batch")
    wanted = model.state_dict()
    wrong = sorted(
        name
        for name in wanted.keys() | loose.keys()
        if name not in wanted or name not in loose or wanted[name].shape != loose[name].shape
    )
    if wrong:
        raise UserError(f"this is no state dict of the published discriminator: {wrong[0]} does not fit; give its own")
    model.load_state_dict(loose)
    return model


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(min(_GROUPS, channels), channels)


def _initialize(module: nn.Module) -> None:
    """N(0, 0.02) for kernels, N(1, 0.02) for gains, 0 for their shifts (Isola et al. 2017, section 6.2)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
