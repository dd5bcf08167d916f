"""Multi-scale residual quantizer with one codebook for all scales and planes (SAR3D section 3.1; published.md, quantizer)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from sar3d.errors import UserError
from sar3d.vqvae.codebook import choose, full_precision, nearest, normal_equations, solve_convolution, spherical_kmeans
from sar3d.vqvae.config import PLANES, QuantizerConfig
from sar3d.vqvae.scales import phi_of_scale, resampling

QuantizerPath = Literal["train", "encode", "generate"]
"""What codes are looked up for: the reconstruction in training, the tokens, or generation and its teacher forcing."""

_WARM_CALLS = 100
"""Updates during which the hit averages follow quickly."""

_USED_SHARE = 0.01
"""A code counts as used above this share of the hits that evenly used codes would have."""

_VECTORS_PER_SCALE = 8192
"""Residuals of one scale that codes are drawn from: every scale has the same say, however many tokens it has."""

_INITIALIZATION_ROUNDS = 2
"""After the second round the error no longer falls."""

_LLOYD_ITERATIONS = 4

_NO_DIRECTION = 1e-8
"""Length below which a residual has no direction."""


@dataclass(frozen=True)
class Quantized:
    """What the training path gives for BP = B·3 planes."""

    f_hat: Float[Tensor, "BP D G G"]
    """Quantized latent; its gradient passes straight to the latent that was quantized."""
    loss: Float[Tensor, ""]
    """Codebook and commitment terms, mean over the scales."""
    tokens: list[Int[Tensor, "BP n2"]]
    """Codes of each scale, row-major."""


class MultiScaleQuantizer(nn.Module):
    """Residual quantization of latent planes, coarse to fine. Rows are planes: row 3b+p is plane p of object b.

    Under the rule `normalized` every path uses the unit-norm code; under `published` the training path ends with the
    raw code and the encoding path uses raw codes throughout (published.md, quantizer). All arithmetic is float32.
    """

    hits: Float[Tensor, "S K"]
    """Moving average of how often one call, over all ranks, uses each code at each scale."""
    calls: Int[Tensor, ""]
    """Training calls so far."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        spread = 1 / config.codebook_size
        initial = torch.empty(config.codebook_size, config.code_dim).uniform_(-spread, spread)
        self.codebook = nn.Parameter(F.normalize(initial, dim=-1))
        self.phi = nn.ModuleList(nn.Conv2d(config.code_dim, config.code_dim, 3, padding=1) for _ in range(config.phi))
        self.phi_of_scale = phi_of_scale(len(config.scales), config.phi)
        self.register_buffer("hits", torch.zeros(len(config.scales), config.codebook_size))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.pending: Tensor | None = None
        """Hits that wait for `settle`, (S, K); None: every training call moves the averages at once, over all ranks."""
        for i, n in enumerate(config.scales[:-1]):
            self.register_buffer(f"pool_{i}", resampling(self.side, n, "area"), persistent=False)
            self.register_buffer(f"up_{i}", resampling(n, self.side, "bicubic"), persistent=False)

    @property
    def side(self) -> int:
        """G: side of the latent planes."""
        return self.config.scales[-1]

    def forward(self, f: Float[Tensor, "BP D G G"]) -> Quantized:
        """Quantize on the training path; in training mode the hit averages move, over all ranks (published.md, quantizer).

        Raises:
            UserError: `f` has another shape than the configuration says.
        """
        self._check_latent(f)
        with full_precision(f.device.type):
            f = f.float()
            f_hat, loss, tokens = torch.zeros_like(f), f.new_zeros(()), []
            for found, contribution in self._pyramid(f, "train"):
                f_hat = f_hat + contribution
                loss = loss + self.config.beta * F.mse_loss(f_hat.detach(), f) + F.mse_loss(f_hat, f.detach())
                tokens.append(found)
            if self.training:
                self._count(tokens)
            # f - f is exactly zero, so the value is f̂ to the bit and the gradient is the identity.
            return Quantized(f_hat.detach() + (f - f.detach()), loss / len(self.config.scales), tokens)

    def encode(self, f: Float[Tensor, "BP D G G"]) -> list[Int[Tensor, "BP n2"]]:
        """The tokens of each scale (published.md, quantizer)."""
        return self.encode_with_f_hat(f)[0]

    @torch.no_grad()
    def encode_with_f_hat(
        self, f: Float[Tensor, "BP D G G"]
    ) -> tuple[list[Int[Tensor, "BP n2"]], Float[Tensor, "BP D G G"]]:
        """The tokens of each scale, and the quantized latent of the encoding path.

        Raises:
            UserError: `f` has another shape than the configuration says.
        """
        self._check_latent(f)
        with full_precision(f.device.type):
            f = f.float()
            f_hat, tokens = torch.zeros_like(f), []
            for found, contribution in self._pyramid(f, "encode"):
                f_hat = f_hat + contribution
                tokens.append(found)
        return tokens, f_hat

    def f_hat(self, tokens: Sequence[Int[Tensor, "BP n2"]]) -> Float[Tensor, "BP D G G"]:
        """The quantized latent that the tokens stand for: generation and reconstruction (published.md, quantizer).

        Raises:
            UserError: the tokens are not of this codebook or these scales.
        """
        self._check_tokens(tokens)
        f_hat = self._empty(tokens)
        for scale, found in enumerate(tokens):
            f_hat = self._add(f_hat, scale, self.code_vectors(scale, found, "generate"))
        return f_hat

    @torch.no_grad()
    def next_inputs(self, tokens: Sequence[Int[Tensor, "BP n2"]]) -> Float[Tensor, "B M D"]:
        """Teacher-forcing inputs: before each scale but the first, f̂ so far pooled to that scale (published.md, quantizer).

        In sequence order; M is the number of tokens without the first scale's. The last scale's tokens are not read,
        but must be there.

        Raises:
            UserError: the tokens are not of this codebook or these scales.
        """
        self._check_tokens(tokens)
        f_hat, inputs = self._empty(tokens), []
        for scale, found in enumerate(tokens[:-1]):
            f_hat, following = self.step(f_hat, scale, self.code_vectors(scale, found, "generate"))
            assert following is not None
            inputs.append(rearrange(following, "(b p) l d -> b (p l) d", p=PLANES))
        return torch.cat(inputs, 1)

    def code_vectors(self, scale: int, tokens: Int[Tensor, "BP n2"], path: QuantizerPath) -> Float[Tensor, "BP n2 D"]:
        """What a path adds for these codes at this scale: unit ones, or raw where the rule says so (published.md, quantizer)."""
        codes = F.embedding(tokens, self.codebook)
        last = scale == len(self.config.scales) - 1
        raw = self.config.rule == "published" and (path == "encode" or (path == "train" and last))
        return codes if raw else F.normalize(codes, dim=-1)

    def step(
        self, f_hat: Float[Tensor, "BP D G G"], scale: int, vectors: Float[Tensor, "BP n2 D"]
    ) -> tuple[Float[Tensor, "BP D G G"], Float[Tensor, "BP m2 D"] | None]:
        """Add one scale's code vectors to f̂ (zeros before scale 0); also the next scale's input, None after the last."""
        f_hat = self._add(f_hat, scale, vectors)
        if scale == len(self.config.scales) - 1:
            return f_hat, None
        with full_precision(f_hat.device.type):
            return f_hat, self._pool(f_hat, scale + 1)

    def usage(self, rows: int | None = None) -> Float[Tensor, " S"]:
        """Share of the codes in use at each scale: those with more than 1 % of the hits of evenly used codes.

        `rows` is the number of planes in a call, from which the published margin is reckoned; without it the margin
        follows from the recorded hits themselves (published.md, quantizer).
        """
        total = self.hits.sum(1)
        if rows is not None:
            total = torch.tensor([float(rows * n * n) for n in self.config.scales], device=self.hits.device)
        margin = total / self.config.codebook_size * _USED_SHARE
        return (self.hits > margin[:, None]).float().mean(1)

    def perplexity(self) -> Float[Tensor, " S"]:
        """exp(entropy) of the recorded hits at each scale: the number of codes that evenly used ones would be."""
        share = self.hits / self.hits.sum(1, keepdim=True).clamp_min(torch.finfo(self.hits.dtype).tiny)
        return torch.special.entr(share).sum(1).exp()

    @torch.no_grad()
    def initialize(self, f: Float[Tensor, "BP D G G"], generator: torch.Generator) -> None:
        """Codes and φ from data: k-means on the directions of pooled residuals, and φ by least squares.

        Unit codes carry no length; the fitted φ give each scale the length its residuals have, so that latents of any
        magnitude are quantized well at once. The residuals depend on the codes, so collecting and clustering
        alternate. Every code becomes a unit vector and the hits begin anew; with fewer residuals than codes the rest
        keep their directions. Equal inputs give equal codes; on several ranks give every rank the same.

        Raises:
            UserError: `f` has another shape than the configuration says, or is zero throughout.
        """
        self._check_latent(f)
        with full_precision(f.device.type):
            self.codebook.copy_(F.normalize(self.codebook, dim=-1))
            for round_ in range(_INITIALIZATION_ROUNDS):
                vectors = self._residual_directions(f.float(), generator)
                if round_ == 0:
                    first = choose(vectors, self.config.codebook_size, generator)
                    self.codebook[: len(first)] = first
                self.codebook.copy_(spherical_kmeans(vectors, self.codebook, _LLOYD_ITERATIONS))
                if self.config.phi_ratio:
                    self._fit_phi(f.float())
        self.hits.zero_()
        self.calls.zero_()

    @torch.no_grad()
    def reset_dead_codes(self, f: Float[Tensor, "BP D G G"], threshold: float, generator: torch.Generator) -> int:
        """Give codes with fewer than `threshold` hits a call, over all scales, directions of residuals of `f`.

        Returns how many were replaced. A replaced code starts from `threshold` hits. On several ranks give every
        rank the same `f` and generator.

        Raises:
            UserError: `f` has another shape than the configuration says, or is zero throughout.
        """
        self._check_latent(f)
        dead = (self.hits.sum(0) < threshold).nonzero().flatten()
        if not len(dead):
            return 0
        with full_precision(f.device.type):
            vectors = choose(self._residual_directions(f.float(), generator), len(dead), generator)
        dead = dead[: len(vectors)]
        self.codebook[dead] = vectors
        self.hits[:, dead] = threshold / len(self.config.scales)
        return len(dead)

    def _pyramid(self, f: Tensor, path: QuantizerPath) -> Iterator[tuple[Tensor, Tensor]]:
        """For each scale the codes nearest to the pooled residual, and what they add to f̂."""
        residual, unit = f.detach(), F.normalize(self.codebook.detach(), dim=-1)
        for scale in range(len(self.config.scales)):
            found = self._search(residual, scale, unit)
            contribution = self._contribution(scale, self.code_vectors(scale, found, path))
            residual = residual - contribution.detach()
            yield found, contribution

    def _search(self, residual: Tensor, scale: int, unit: Tensor) -> Tensor:
        """(BP, n²) indices of the unit codes nearest in direction to the pooled residual."""
        pooled = F.normalize(self._pool(residual, scale), dim=-1)
        return nearest(rearrange(pooled, "r l d -> (r l) d"), unit).view(pooled.shape[:2])

    def _pool(self, planes: Tensor, scale: int) -> Tensor:
        """(BP, D, G, G) averaged by area to (BP, n², D); the last scale is not pooled."""
        flat = planes.flatten(2)
        if scale < len(self.config.scales) - 1:
            flat = flat @ self.get_buffer(f"pool_{scale}")
        return rearrange(flat, "r d l -> r l d")

    def _contribution(self, scale: int, vectors: Tensor) -> Tensor:
        """φ of the enlarged code vectors: (BP, n², D) to (BP, D, G, G)."""
        planes, ratio = self._enlarge(vectors, scale), self.config.phi_ratio
        return planes * (1 - ratio) + self.phi[self.phi_of_scale[scale]](planes) * ratio

    def _enlarge(self, vectors: Tensor, scale: int) -> Tensor:
        """(BP, n², D) enlarged bicubically to (BP, D, G, G); the last scale is not enlarged."""
        flat = rearrange(vectors, "r l d -> r d l")
        if scale < len(self.config.scales) - 1:
            flat = flat @ self.get_buffer(f"up_{scale}")
        return rearrange(flat, "r d (h w) -> r d h w", h=self.side)

    def _add(self, f_hat: Tensor, scale: int, vectors: Tensor) -> Tensor:
        with full_precision(f_hat.device.type):
            return f_hat + self._contribution(scale, vectors)

    def _empty(self, tokens: Sequence[Tensor]) -> Tensor:
        return self.codebook.new_zeros(len(tokens[0]), self.config.code_dim, self.side, self.side)

    @torch.no_grad()
    def _count(self, tokens: Sequence[Tensor]) -> None:
        """Count one call's hits; unless they are to wait for `settle`, move the averages by them."""
        offsets = torch.arange(len(tokens), device=self.hits.device) * self.config.codebook_size
        flat = torch.cat([found.flatten() + offset for found, offset in zip(tokens, offsets, strict=True)])
        ones = torch.ones_like(flat, dtype=self.hits.dtype)
        counts = torch.zeros_like(self.hits).view(-1).index_add_(0, flat, ones).view_as(self.hits)
        if self.pending is not None:
            self.pending = self.pending.to(counts.device) + counts
            return
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        self._move(counts)

    def defer(self) -> None:
        """Let hits wait for `settle`: micro-batches and workers then count as one call, however many there are."""
        self.pending = torch.zeros_like(self.hits)

    @torch.no_grad()
    def settle(self, total: Float[Tensor, "S K"]) -> None:
        """Move the hit averages by one call's `total`, that of all workers, and forget what was pending."""
        self._move(total)
        self.defer()

    def _move(self, counts: Float[Tensor, "S K"]) -> None:
        """Move the hit averages by one call; the first call sets them."""
        updates = self.calls.expand(len(counts))
        if self.config.rule == "published":
            # The published counter advances at every scale, not at every call.
            updates = self.calls * len(counts) + torch.arange(len(counts), device=self.calls.device)
        keep = torch.where(updates == 0, 0.0, torch.where(updates < _WARM_CALLS, 0.9, 0.99))[:, None]
        self.hits.copy_(keep * self.hits + (1 - keep) * counts)
        self.calls += 1

    def _fit_phi(self, f: Tensor) -> None:
        """Set each φ to the least-squares map from its enlarged codes to the residuals they are to cancel."""
        residual, ratio, unit = f, self.config.phi_ratio, F.normalize(self.codebook, dim=-1)
        systems: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.phi]
        for scale, chosen in enumerate(self.phi_of_scale):
            vectors = self.code_vectors(scale, self._search(residual, scale, unit), "train")
            planes = self._enlarge(vectors, scale)
            systems[chosen].append(normal_equations(planes, (residual - planes * (1 - ratio)) / ratio))
            # Solved anew at each of its scales, so that the finer ones meet residuals that a fitted φ leaves.
            weight, bias = solve_convolution(systems[chosen])
            self.phi[chosen].load_state_dict({"weight": weight, "bias": bias})
            residual = residual - self._contribution(scale, vectors)

    def _residual_directions(self, f: Tensor, generator: torch.Generator) -> Tensor:
        """(N, D) unit residuals under the present codes, up to `_VECTORS_PER_SCALE` from each scale."""
        if f.abs().max() < _NO_DIRECTION:
            raise UserError("the codebook cannot be set from latents that are zero throughout; train the encoder first")
        collected, residual = [], f
        for scale, (_, contribution) in enumerate(self._pyramid(f, "train")):
            pooled = rearrange(self._pool(residual, scale), "r l d -> (r l) d")
            pooled = pooled[pooled.norm(dim=1) > _NO_DIRECTION]
            collected.append(choose(F.normalize(pooled, dim=1), _VECTORS_PER_SCALE, generator))
            residual = residual - contribution
        return torch.cat(collected)

    def _check_latent(self, f: Tensor) -> None:
        wanted = (self.config.code_dim, self.side, self.side)
        if f.dim() != 4 or tuple(f.shape[1:]) != wanted:
            raise UserError(
                f"the quantizer takes latent planes of shape {wanted}, not {tuple(f.shape[1:])}; use the encoder it was "
                "configured with"
            )

    def _check_tokens(self, tokens: Sequence[Tensor]) -> None:
        lengths = [found.shape[1] for found in tokens]
        wanted = [n * n for n in self.config.scales]
        if lengths != wanted:
            raise UserError(
                f"tokens of {lengths} per plane and scale do not fit this tokenizer, which has {wanted}; use the "
                "tokenizer that made them"
            )
        low, high = torch.cat([found.flatten() for found in tokens]).aminmax()
        if low < 0 or high >= self.config.codebook_size:
            raise UserError(
                f"tokens from {int(low)} to {int(high)} are not of this codebook of {self.config.codebook_size} codes; "
                "use the tokenizer that made them"
            )


def pack(tokens: Sequence[Int[Tensor, "BP n2"]]) -> Int[Tensor, "B L"]:
    """Tokens in sequence order: scale after scale, in it plane after plane, in it row-major (published.md, transformer)."""
    return torch.cat([rearrange(found, "(b p) l -> b (p l)", p=PLANES) for found in tokens], 1)


def unpack(tokens: Int[Tensor, "B L"], scales: Sequence[int]) -> list[Int[Tensor, "BP n2"]]:
    """The inverse of `pack`.

    Raises:
        UserError: the sequences are not as long as the scales say.
    """
    lengths = [PLANES * n * n for n in scales]
    if tokens.dim() != 2 or tokens.shape[1] != sum(lengths):
        raise UserError(
            f"tokens of shape {tuple(tokens.shape)} do not fit this tokenizer: an object has {sum(lengths)} of them; "
            "use the tokenizer that made them"
        )
    parts = tokens.long().split(lengths, 1)
    return [rearrange(part, "b (p l) -> (b p) l", p=PLANES) for part in parts]
