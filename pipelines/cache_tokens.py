"""Stage `cache_tokens`: the codes that a trained VQVAE gives each view group (the `tokens` dataset)."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.caching.view_objects import read_objects, view_items, view_metadata
from pipelines.runtime.inputs import model, rows
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from sar3d.data.formats.tokens import token_row, tokens_schema
from sar3d.errors import UserError
from sar3d.vqvae.config import VQVAEConfig, from_dict

if TYPE_CHECKING:
    from pipelines.caching.token_encoder import TokenEncoder

COUNTED = 4096
"""Rows in which the used codes are counted."""


@dataclass(frozen=True)
class CacheTokensConfig(StageConfig):
    """Which views become codes, and by which model."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    views: str = rows("views", default="render")
    """The stage whose views are encoded."""
    vqvae: str = model("vqvae", of="train_vqvae")
    """Folder or URL of an exported VQVAE, or a stage that trains one. What counts is its digest, not its place."""
    device: Device = field(default="auto", metadata={"identity": False})
    """`auto`: one GPU per worker where the cluster has any, else the CPU; `gpus` may ask for a fraction of one."""
    batch: int | None = field(default=None, metadata={"identity": False})
    """View groups that are encoded at once; default 1 on a CPU, where more are no faster, and 16 on a GPU."""
    shard_objects: int = field(default=256, metadata={"identity": False})
    """Objects in one shard."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UserError(f"cache_tokens.batch={self.batch} is wrong: it is a number of view groups from 1 on")


class CacheTokensStage(Stage[CacheTokensConfig]):
    name = "cache_tokens"
    section = CacheTokensConfig
    writes = "tokens"
    version = 1
    stateful = True
    about = "encode the views of every object into codes with a trained VQVAE"

    def check(self, context: Context[CacheTokensConfig]) -> None:
        check_views(context.rows["views"], from_dict(context.models["vqvae"].config), self.name)

    def items(self, context: Context[CacheTokensConfig], log: Log) -> Iterable[Item]:
        digest = context.models["vqvae"].digest
        return ({**item, "vqvae": digest} for item in view_items(context.rows["views"]))

    def schema(self, context: Context[CacheTokensConfig]) -> pa.Schema:
        if context.state is not None:
            digest, config = context.state.digest, context.state.model.config
        else:
            ref = context.models["vqvae"]
            digest, config = ref.digest, from_dict(ref.config)
        return tokens_schema(digest, config.quantizer.scales, config.quantizer.codebook_size)

    def gpus(self, config: CacheTokensConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[CacheTokensConfig]) -> "TokenEncoder":
        from pipelines.caching.token_encoder import open_token_encoder

        config = context.config
        return open_token_encoder(context.models["vqvae"].url, config.gpus, config.cpus, config.batch)

    def process(self, context: Context[CacheTokensConfig], items: list[Item]) -> Iterator[Row | Failure]:
        from pipelines.caching.token_encoder import encode_objects
        from sar3d.data.loading.view_rows import ENCODER_COLUMNS

        token_encoder: TokenEncoder = context.state
        if any(item["vqvae"] != token_encoder.digest for item in items):
            raise UserError(
                f"the model at {context.models['vqvae'].url} has changed since {self.name} began: run the same command again"
            )
        for made in encode_objects(token_encoder, read_objects(items, ENCODER_COLUMNS)):
            if made.error is not None:
                uid, error = made.item["uid"], made.error
                yield Failure(uid, made.item["_file"], self.name, error.kind, error.reason, error.attempts)
                continue
            for group, tokens in zip(made.groups, made.tokens, strict=True):
                yield token_row(group.uid, group.sha256, group.group, tokens)

    def summary(self, context: Context[CacheTokensConfig], output: Output) -> dict[str, float]:
        first = itertools.islice(read_rows(output, ["codes"], batch=256), COUNTED)
        return {"different_codes": float(len(np.unique(np.array([row["codes"] for row in first]))))}


def check_views(views: Output, config: VQVAEConfig, stage: str) -> None:
    """Raise `UserError` unless a VQVAE of this configuration can encode these views."""
    found = view_metadata(views).get("resolution")
    if found is not None and int(found) != config.resolution:
        again = f"render them with render.resolution={config.resolution}, or " if views.stage == "render" else ""
        raise UserError(
            f"the views of {views.stage} are {found} pixels wide and the VQVAE takes {config.resolution}: "
            f"{again}name a model for {found} pixels ({stage}.vqvae)"
        )


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("cache_tokens")
