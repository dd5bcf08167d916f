"""View groups to codes: batches of one shape through a loaded VQVAE, with the next ones decoded meanwhile."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.caching.batches import in_batches
from pipelines.caching.devices import begin_worker, exact, helpers
from pipelines.runtime.models import local_copy
from pipelines.runtime.plan import Item
from sar3d import hub
from sar3d.data.loading.view_rows import EncoderViews, decode_encoder, stored_rows
from sar3d.errors import ObjectError
from sar3d.prefetch import mapped
from sar3d.vqvae.config import VQVAEConfig
from sar3d.vqvae.model import VQVAE

CUDA_BATCH = 16


@dataclass(frozen=True)
class TokenEncoder:
    """A loaded VQVAE, and how it is run."""

    model: VQVAE
    digest: str
    device: torch.device
    batch: int
    helpers: int
    """Threads that decode views while the model computes."""


@dataclass(frozen=True)
class Group:
    """One view group of an object."""

    uid: str
    sha256: str
    group: int


@dataclass(frozen=True)
class Encoded:
    """The codes of one item's view groups, or why there are none."""

    item: Item
    groups: list[Group]
    tokens: list[NDArray[np.uint16]]
    """(L,) of each group."""
    error: ObjectError | None = None


def open_token_encoder(url: str, gpus: float, cpus: float, batch: int | None) -> TokenEncoder:
    """Load a VQVAE for encoding in this process.

    Raises:
        UserError: the model cannot be loaded, or there is no GPU where one is asked for.
    """
    device = begin_worker(gpus, cpus)
    folder = local_copy(url)
    model = hub.from_pretrained(folder, device, kind="vqvae").requires_grad_(False)
    batch = batch or (CUDA_BATCH if device.type == "cuda" else 1)
    return TokenEncoder(model, hub.digest(folder), device, batch, helpers(device, cpus))


def loaded_encoder(model: VQVAE, digest: str) -> TokenEncoder:
    """A VQVAE that is loaded already, for one object at a time on its device."""
    return TokenEncoder(model, digest, next(model.parameters()).device, 1, 0)


def encode_objects(token_encoder: TokenEncoder, objects: Iterable[tuple[Item, pa.Table]]) -> Iterator[Encoded]:
    """The codes of every view group of the objects, in order; views are decoded while the model computes.

    The codes of a group do not depend on the groups beside it, see `in_batches`.
    """

    def load(entry: tuple[Item, pa.Table]) -> tuple[Encoded, list[EncoderViews]]:
        item, table = entry
        try:
            return _load(item, table, token_encoder.model.config)
        except ObjectError as error:
            return Encoded(item, [], [], error), []

    loaded = mapped(load, objects, token_encoder.helpers)
    stack, compute = partial(_stack, token_encoder), partial(_tokens, token_encoder)
    for made, tokens in in_batches(
        loaded, token_encoder.batch, stack, compute, depth=2 if token_encoder.helpers else 0
    ):
        yield replace(made, tokens=tokens)


def _load(item: Item, table: pa.Table, config: VQVAEConfig) -> tuple[Encoded, list[EncoderViews]]:
    """An item without codes yet, and its groups' first views."""
    rows, count = stored_rows(table), config.encoder.views
    groups, views = [], []
    for i, group in enumerate(rows.groups):
        places = rows.views(i)[:count]
        if len(places) < count:
            raise ObjectError("too_few_views", f"view group {group} has {len(places)} views, and {count} are encoded.")
        groups.append(Group(rows.uids[i], rows.hashes[i], group))
        views += [(rows, place) for place in places]
    # All groups in one go: at low resolutions the calls cost as much as the pixels.
    return Encoded(item, groups, []), decode_encoder(views, config.resolution).split(count) if views else []


def _stack(token_encoder: TokenEncoder, groups: list[EncoderViews]) -> Tensor:
    """Encoder input, made just before it is used: where one core does everything, its cache still holds it."""
    views = [group.tensor() for group in groups]
    stacked = torch.stack(views) if len(views) > 1 else views[0][None]  # one needs no copy
    return stacked.pin_memory() if token_encoder.device.type == "cuda" else stacked


def _tokens(token_encoder: TokenEncoder, views: Tensor) -> list[NDArray[np.uint16]]:
    with torch.inference_mode(), exact():
        tokens = token_encoder.model.tokens(views.to(token_encoder.device, non_blocking=True))
    return list(tokens.cpu().numpy().astype(np.uint16))
