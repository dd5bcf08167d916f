"""Stage `caption`: every object of the dataset described in words, on a cluster. For files see `pipelines.commands.caption`."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.caching.view_objects import read_objects, view_items
from pipelines.runtime.inputs import model, rows
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from sar3d.llm.config import CaptionDecoding
from sar3d.llm.prompt import CAPTION, check_question

if TYPE_CHECKING:
    from sar3d.generate.captioner import Captioner

SHOWN = 64
"""Captions in the artifact that people look at."""


@dataclass(frozen=True)
class CaptionConfig(StageConfig):
    """Which objects are described, by which model, and how."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    tokens: str = rows("tokens", default="cache_tokens")
    """The stage whose tokens are described."""
    captioner: str = model("llm", of="train_llm")
    """The captioner: a folder, a URL, or a stage that trains one. What counts is its digest, not its place."""
    question: str = CAPTION
    """What is asked of every object; by default the published instruction, which asks for a caption."""
    groups: Literal["first", "all"] = "first"
    """View groups of every object that are described."""
    decoding: CaptionDecoding = field(default_factory=CaptionDecoding)
    device: Device = field(default="auto", metadata={"identity": False})
    """`auto`: one GPU per worker where the cluster has any, else the CPU; `gpus` may ask for a fraction of one."""
    shard_objects: int = field(default=256, metadata={"identity": False})
    """Objects in one shard."""

    def __post_init__(self) -> None:
        check_question(self.question)


class CaptionStage(Stage[CaptionConfig]):
    name = "caption"
    section = CaptionConfig
    writes = "captions"
    version = 1
    stateful = True
    about = "describe 3D files, or every object of the dataset, with a trained captioner"

    def check(self, context: Context[CaptionConfig]) -> None:
        from sar3d import hub
        from sar3d.data.formats.tokens import tokens_info
        from sar3d.data.loading.row_groups import ParquetFiles

        captioner, tokens = context.models["captioner"], context.rows["tokens"]
        files = ParquetFiles(tokens.files())
        found = tokens_info(files.schema(0), files.files[0]).vqvae
        hint = "train a captioner on these tokens, or name another one (caption.captioner)"
        made_for = captioner.extra.get("vqvae")
        hub.check_tokens(f"the captioner at {captioner.url}", made_for, f"the one behind {tokens.stage}", found, hint)

    def items(self, context: Context[CaptionConfig], log: Log) -> Iterable[Item]:
        # Rows of tokens lie together by object, as those of views do.
        digest = context.models["captioner"].digest
        return ({**item, "captioner": digest} for item in view_items(context.rows["tokens"]))

    def schema(self, context: Context[CaptionConfig]) -> pa.Schema:
        text, number = pa.string(), pa.int16()
        return pa.schema([("uid", text), ("sha256", text), ("group", number), ("question", text), ("caption", text)])

    def gpus(self, config: CaptionConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[CaptionConfig]) -> "Captioner":
        from pipelines.caching.devices import begin_worker
        from sar3d.generate.captioner import Captioner

        device = begin_worker(context.config.gpus, context.config.cpus)
        return Captioner.from_pretrained(context.models["captioner"].folder(), device)

    def process(self, context: Context[CaptionConfig], items: list[Item]) -> Iterator[Row | Failure]:
        import torch

        config, captioner = context.config, context.state
        for _, table in read_objects(items, ("uid", "sha256", "group", "codes")):
            groups = table.to_pylist()[: 1 if config.groups == "first" else None]
            tokens = torch.tensor([row.pop("codes") for row in groups])
            said = captioner.caption(tokens, config.question, config.decoding)
            for row, text in zip(groups, said, strict=True):
                yield {**row, "question": config.question, "caption": text}

    def artifacts(self, context: Context[CaptionConfig], output: Output, log: Log) -> dict[str, bytes]:
        """The first captions, as `captions.json`."""
        first = itertools.islice(read_rows(output, ["uid", "group", "caption"]), SHOWN)
        values = {"question": context.config.question, "captions": list(first)}
        return {"captions.json": json.dumps(values, indent=1, ensure_ascii=False).encode()}

    def summary(self, context: Context[CaptionConfig], output: Output) -> dict[str, float]:
        said = [row["caption"] for row in read_rows(output, ["caption"])]
        return {"different_captions": float(len(set(said))), "empty_captions": float(said.count(""))}


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("caption")
