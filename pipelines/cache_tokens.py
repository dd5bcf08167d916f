"""Stage `cache_tokens`: the codes that a trained VQVAE gives each view group (the `tokens` dataset)."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.caching.view_objects import read_objects, view_items, view_metadata
from pipelines.exported import Exported, exported, trained
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Row, Say, Stage, StageConfig
from pipelines.runtime.store import is_remote
from sar3d.data.tokens import token_row, tokens_schema
from sar3d.errors import UserError
from sar3d.vqvae.config import VQVAEConfig, from_dict

if TYPE_CHECKING:
    from pipelines.caching.tokeniser import Tokeniser

COUNTED = 4096
"""Rows in which the used codes are counted."""


@dataclass(frozen=True)
class CacheTokensConfig(StageConfig):
    """Which views become codes, and by which model."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    views: Literal["render", "import_chunks"] = "render"
    """The stage whose views are encoded."""
    model: str = field(default="", metadata={"identity": "listing"})
    """Folder or URL of an exported VQVAE; default: what `train_vqvae` made of this configuration. What counts is its
    digest, not its place."""
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
    version = 1
    stateful = True
    about = "encode the views of every object into codes with a trained VQVAE"

    def reads(self, section: CacheTokensConfig) -> tuple[str, ...]:
        return (section.views,) if section.model else (section.views, "train_vqvae")

    def check(self, context: Context[CacheTokensConfig]) -> None:
        check_views(context.inputs[context.config.views], from_dict(model_of(context).config), self.name)

    def identity(self, context: Context[CacheTokensConfig]) -> Any:
        return {"vqvae": model_of(context).digest}

    def items(self, context: Context[CacheTokensConfig], say: Say) -> Iterable[Item]:
        digest = model_of(context).digest
        return ({**item, "vqvae": digest} for item in view_items(context.inputs[context.config.views]))

    def schema(self, context: Context[CacheTokensConfig]) -> pa.Schema:
        if context.state is not None:
            digest, config = context.state.digest, context.state.model.config
        else:
            ref = model_of(context)
            digest, config = ref.digest, from_dict(ref.config)
        return tokens_schema(digest, config.quantizer.scales, config.quantizer.codes)

    def places(self, context: Context[CacheTokensConfig]) -> list[str]:
        model = context.config.model
        return [model] if model and not is_remote(model) else []

    def gpus(self, config: CacheTokensConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[CacheTokensConfig]) -> "Tokeniser":
        from pipelines.caching.tokeniser import open_tokeniser

        config = context.config
        return open_tokeniser(model_of(context).url, config.gpus, config.cpus, config.batch)

    def process(self, context: Context[CacheTokensConfig], items: list[Item]) -> Iterator[Row | Failure]:
        from pipelines.caching.tokeniser import encode_objects
        from sar3d.data.view_rows import ENCODER_COLUMNS

        tokeniser: Tokeniser = context.state
        if any(item["vqvae"] != tokeniser.digest for item in items):
            raise UserError(
                f"the model at {model_of(context).url} has changed since {self.name} began: run the same command again"
            )
        for made in encode_objects(tokeniser, read_objects(items, ENCODER_COLUMNS)):
            if made.error is not None:
                uid, error = made.item["uid"], made.error
                yield Failure(uid, made.item["_file"], self.name, error.kind, error.reason, error.attempts)
                continue
            for group, codes in zip(made.groups, made.codes, strict=True):
                yield token_row(group.uid, group.sha256, group.group, codes)

    def summary(self, context: Context[CacheTokensConfig], output: Output) -> dict[str, float]:
        rows = itertools.islice(read_rows(output, ["codes"], batch=256), COUNTED)
        return {"different_codes": float(len(np.unique(np.array([row["codes"] for row in rows]))))}


def model_of(context: Context[CacheTokensConfig]) -> Exported:
    """The VQVAE that the settings mean. Raises `UserError` if there is none."""
    if context.config.model:
        return exported(context.config.model, "vqvae")
    return trained(context.inputs["train_vqvae"], "vqvae")


def check_views(views: Output, config: VQVAEConfig, stage: str) -> None:
    """Raise `UserError` unless a VQVAE of this configuration can encode these views."""
    found = view_metadata(views).get("resolution")
    if found is not None and int(found) != config.resolution:
        again = f"render them with render.resolution={config.resolution}, or " if views.stage == "render" else ""
        raise UserError(
            f"the views of {views.stage} are {found} pixels wide and the VQVAE takes {config.resolution}: "
            f"{again}name a model for {found} pixels ({stage}.model)"
        )


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("cache_tokens")
