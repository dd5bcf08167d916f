"""Stage `cache_conditions`: what condition encoders make of captions and views (the `conditions` dataset)."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.caching.view_objects import view_items
from pipelines.runtime.inputs import rows, weights
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows, rows_of
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from sar3d.data.formats.conditions import conditions_schema
from sar3d.data.loading.row_groups import ParquetFiles
from sar3d.errors import UserError
from sar3d.vqvae.config import EncoderConfig

if TYPE_CHECKING:
    from pipelines.caching.condition_encoder import ConditionEncoderWorker

EMPTY = ""
"""The uid of the rows that hold the empty conditions."""


@dataclass(frozen=True)
class CacheConditionsConfig(StageConfig):
    """Which captions and views are encoded, and by which encoders. The default is the published pair (published.md, data)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    text: Literal["clip-text", "minilm", "none"] = "clip-text"
    """Encoder of the captions of `download`. `minilm` is small and comes inside a package; `none`: no text."""
    text_weights: str = weights()
    """Folder, or repository of the Hugging Face hub, with other weights; what counts is their digest, not their place."""
    image: Literal["dinov2", "efficientnet-lite0", "none"] = "dinov2"
    """Encoder of one view of every view group. `efficientnet-lite0` is small and comes inside a package."""
    image_weights: str = weights()
    """As `text_weights`."""
    objects: str = rows("objects", default="download", when=lambda conditions: conditions.text != "none")
    """The stage whose objects' captions are encoded."""
    views: str = rows("views", default="render", when=lambda conditions: conditions.image != "none")
    """The stage whose views are encoded."""
    image_views: int = 1
    """Views of every view group that are encoded: the published one, and those beside it that the tokenizer's encoder
    sees too, up to five; never the one from a pole. Of several, training takes another one each time."""
    device: Device = field(default="auto", metadata={"identity": False})
    """`auto`: one GPU per worker where the cluster has any, else the CPU; `gpus` may ask for a fraction of one."""
    batch: int | None = field(default=None, metadata={"identity": False})
    """Captions or views that are encoded at once; default 1 on a CPU and 64 on a GPU."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UserError(f"cache_conditions.batch={self.batch} is wrong: it is a number of conditions from 1 on")
        if not 1 <= self.image_views < EncoderConfig.views:
            raise UserError(
                f"cache_conditions.image_views={self.image_views} is wrong: it is a number from 1 to {EncoderConfig.views - 1}"
            )
        if self.text == self.image == "none":
            raise UserError(
                "cache_conditions has nothing to encode: text and image are both none; choose an encoder for one"
            )

    def encoders(self) -> dict[str, tuple[str, str]]:
        """Name and weights of the encoder of each kind that is wanted."""
        both = {"text": (self.text, self.text_weights), "image": (self.image, self.image_weights)}
        return {kind: chosen for kind, chosen in both.items() if chosen[0] != "none"}


class CacheConditionsStage(Stage[CacheConditionsConfig]):
    name = "cache_conditions"
    section = CacheConditionsConfig
    writes = "conditions"
    version = 1
    stateful = True
    about = "encode captions and views into the features that a generator is conditioned on"

    def check(self, context: Context[CacheConditionsConfig]) -> None:
        encoder_ids(context.config)

    def identity(self, context: Context[CacheConditionsConfig]) -> dict[str, Any]:
        return {**super().identity(context), "encoders": encoder_ids(context.config)}

    def items(self, context: Context[CacheConditionsConfig], log: Log) -> Iterable[Item]:
        """The empty conditions, the captions of each object, the views of each object."""
        ids = encoder_ids(context.config)
        for kind, encoder in ids.items():
            yield {"uid": f"empty/{kind}", "kind": f"empty {kind}", "encoder": encoder}
        if "text" in ids:
            yield from _captions(context.rows["objects"], ids["text"], log)
        if "image" in ids:
            for item in view_items(context.rows["views"]):
                yield {**item, "uid": f"{item['uid']}/image", "kind": "image", "encoder": ids["image"]}

    def schema(self, context: Context[CacheConditionsConfig]) -> pa.Schema:
        worker: ConditionEncoderWorker | None = context.state
        return conditions_schema(worker.ids if worker is not None else encoder_ids(context.config))

    def gpus(self, config: CacheConditionsConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[CacheConditionsConfig]) -> "ConditionEncoderWorker":
        from pipelines.caching.condition_encoder import open_condition_encoder

        config = context.config
        return open_condition_encoder(config.encoders(), config.gpus, config.cpus, config.batch, config.image_views)

    def process(self, context: Context[CacheConditionsConfig], items: list[Item]) -> Iterator[Row | Failure]:
        from pipelines.caching.condition_encoder import encode_items

        worker: ConditionEncoderWorker = context.state
        for item in items:
            kind = item["kind"].removeprefix("empty ")
            if item["encoder"] != worker.ids[kind]:
                raise UserError(
                    f"a node has other weights of {item['encoder'].split(':')[0]} than the driver: "
                    f"give every node the same folder (cache_conditions.{kind}_weights)"
                )
        for made in encode_items(worker, items):
            if made.error is not None:
                error = made.error
                yield Failure(made.item["uid"], "", self.name, error.kind, error.reason, error.attempts)
            else:
                yield from made.rows

    def artifacts(self, context: Context[CacheConditionsConfig], output: Output, log: Log) -> dict[str, bytes]:
        """The empty conditions apart, as `empty_<kind>.npz` with `tokens` (N, C) and `pooled` (C')."""
        from sar3d.data.formats.conditions import decode_condition

        found: dict[str, bytes] = {}
        for row in rows_of(output, {EMPTY}):
            condition = decode_condition(row)
            buffer = io.BytesIO()
            np.savez(buffer, tokens=condition.tokens, pooled=condition.pooled)
            found[f"empty_{condition.kind}.npz"] = buffer.getvalue()
            if len(found) == len(context.config.encoders()):  # they are listed first; the rest need not be searched
                break
        return found

    def summary(self, context: Context[CacheConditionsConfig], output: Output) -> dict[str, float]:
        rows = (output.manifest() or {})["rows"]
        return {"conditions": float(rows - len(context.config.encoders()))}


def _captions(objects: Output, encoder: str, log: Log) -> Iterator[Item]:
    """One item per object that has captions; says at the end how many have none."""
    count = without = 0
    for row in read_rows(objects, ["uid", "sha256", "captions"]):
        count += 1
        if row["captions"]:
            yield {**row, "uid": f"{row['uid']}/text", "kind": "text", "encoder": encoder}
        else:
            without += 1
    if without:
        log(f"cache_conditions: {without:,} of {count:,} objects have no caption and get no text condition")


def encoders_in(conditions: Output) -> dict[str, str]:
    """Id of the encoder of each kind of condition that a finished dataset holds."""
    files = ParquetFiles(conditions.files())
    metadata = {key.decode(): value.decode() for key, value in (files.schema(0).metadata or {}).items()}
    return {kind: metadata[f"encoder_{kind}"] for kind in ("text", "image") if metadata.get(f"encoder_{kind}")}


def encoder_ids(config: CacheConditionsConfig) -> dict[str, str]:
    """Id of the encoder of each kind. Raises `UserError` where weights are missing."""
    from sar3d.conditions import encoder_id

    return {
        kind: encoder_id(name, place, f"cache_conditions.{kind}_weights")
        for kind, (name, place) in config.encoders().items()
    }


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("cache_conditions")
