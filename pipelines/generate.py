"""Stage `generate`: 3D objects from many prompts, on a cluster. For one prompt see `pipelines.commands.generate`."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.generating.models import encoder_ids, generators_of
from pipelines.generating.prompts import content_of, dataset_items, file_items
from pipelines.runtime.inputs import driver_file, model, rows, same_as, weights
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.runtime.store import is_remote
from sar3d.ar.decoding_config import Decoding, decoding
from sar3d.conditions.kinds import CONDITION_KINDS, ConditionKind
from sar3d.data.held_out import HeldOut
from sar3d.errors import UserError
from sar3d.export.config import ExportSettings
from sar3d.llm.config import CaptionDecoding
from sar3d.pictures import Preparation
from sar3d.vqvae.flexi_config import FieldDecoder

if TYPE_CHECKING:
    from pipelines.generating.worker import GeneratorWorker

LISTING: dict[str, Any] = {"identity": "listing"}
HARDWARE: dict[str, Any] = {"identity": False}


@dataclass(frozen=True)
class GenerateConfig(StageConfig):
    """Prompts, models, and how objects are drawn and exported."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    prompts: str = driver_file()
    """File of prompts (.jsonl, .json, .yaml, .csv) with id, text or image, and seed; empty: objects of the dataset, by
    their captions and by views of them, to be compared with what they should look like."""
    kinds: tuple[ConditionKind, ...] = field(default=CONDITION_KINDS, metadata=LISTING)
    """Kinds of prompts; each needs its generator."""
    objects: int = field(default=4, metadata=LISTING)
    """Without `prompts`: objects that are prompts."""
    text_objects: str = rows("objects", default="download", when=lambda g: not g.prompts and "text" in g.kinds)
    """Without `prompts`: the stage whose objects' captions are prompts."""
    views: str = rows("views", default="render", when=lambda generate: not generate.prompts)
    """Without `prompts`: the stage whose views are prompts and what the objects should look like."""
    held_out: HeldOut = same_as("train_vqvae.data.held_out")
    """Without `prompts`: the views that the tokenizer's training was not given; they prompt, and are compared."""
    seed: int = field(default=0, metadata=LISTING)
    """Of prompts that name none."""
    vqvae: str = model("vqvae", of="train_vqvae", inherit="cache_tokens.vqvae")
    """The VQVAE: a folder, a URL, or a stage that trains one; default: that of `cache_tokens`. Digests count."""
    text_model: str = model("ar", of="train_ar", when=lambda generate: "text" in generate.kinds)
    """The generator for texts."""
    image_model: str = model("ar", of="train_ar_image", when=lambda generate: "image" in generate.kinds)
    """The generator for pictures."""
    decoder: FieldDecoder = "nerf"
    """What tokens become. `nerf`: a radiance field, whose surface is found by marching cubes. `flexicubes`: a mesh."""
    flexicubes: str = model("flexicubes", of="train_flexicubes", when=lambda generate: generate.decoder == "flexicubes")
    """The mesh decoder: a folder, a URL, or a stage that trains one."""
    text_weights: str = weights()
    """Folder, or repository of the Hugging Face hub, with the text encoder's weights; default: where training had them."""
    image_weights: str = weights()
    """As `text_weights`."""
    caption: bool = False
    """Whether a captioner describes what was made."""
    captioner: str = model("llm", of="train_llm", inherit="caption.captioner", when=lambda generate: generate.caption)
    """The captioner: a folder, a URL, or a stage that trains one; default: that of `caption`."""
    question: str = same_as("caption.question")
    """What the captioner is asked; default: as `caption` has it."""
    caption_decoding: CaptionDecoding = same_as("caption.decoding")
    """How the captioner writes; default: as `caption` has it."""
    preset: str = "released"
    """Name of the decoding: released, preview, evaluation, timing, wild or greedy."""
    guidance: float | None = None
    """Instead of the preset's."""
    top_k: int | None = None
    """Instead of the preset's; 0 keeps all codes."""
    top_p: float | None = None
    """Instead of the preset's."""
    temperature: float | None = None
    """Instead of the preset's."""
    smooth: bool | None = None
    """Instead of the preset's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the transformer; `auto`: bf16 where the hardware has it."""
    preparation: Preparation = field(default_factory=Preparation)
    """What is done to pictures."""
    export: ExportSettings = field(default_factory=ExportSettings)
    """Files of each object."""
    unpack: bool = field(default=True, metadata=HARDWARE)
    """Write the files of each object, which are columns of its row, into `files/<id>/` as well."""
    device: Device = field(default="auto", metadata=HARDWARE)
    """`auto`: one GPU per worker where the cluster has any, else the CPU; `gpus` may ask for a fraction of one."""
    batch: int | None = field(default=None, metadata=HARDWARE)
    """Prompts that are decoded at once; default 4 on a CPU and 16 on a GPU."""
    shard_objects: int = field(default=8, metadata=HARDWARE)
    """Prompts in one shard."""

    def __post_init__(self) -> None:
        for name in ("objects", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"generate.{name}={value} is wrong: it is a number from 1 on")
        if self.flexicubes and self.decoder != "flexicubes":
            raise UserError("generate.flexicubes names a mesh decoder: set generate.decoder=flexicubes as well")
        if self.captioner and not self.caption:
            raise UserError("generate.captioner names who describes what was made: set generate.caption=true as well")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError("generate.kinds is wrong: give text, image or both, each once")
        _ = self.decoding  # raises for a wrong one

    @property
    def decoding(self) -> Decoding:
        """The preset with the changes. Raises `UserError` for one that is not there or a value out of its range."""
        names = ("guidance", "top_k", "top_p", "temperature", "smooth")
        return decoding(self.preset, **{n: getattr(self, n) for n in names if getattr(self, n) is not None})


class GenerateStage(Stage[GenerateConfig]):
    name = "generate"
    section = GenerateConfig
    writes = "generated"
    version = 1
    stateful = True
    about = "generate 3D objects from texts and pictures: one prompt, a file of them, or objects of the dataset"

    def check(self, context: Context[GenerateConfig]) -> None:
        encoder_ids(generators_of(context, context.config.kinds))

    def identity(self, context: Context[GenerateConfig]) -> dict[str, Any]:
        config = context.config
        # What is listed counts by itself where a stage reads no rows, and then may grow.
        listing = [list(config.kinds), config.objects, config.seed, content_of(config.prompts)]
        encoders = encoder_ids(generators_of(context, config.kinds))
        return {
            **super().identity(context),
            "listing": listing if context.rows else [],
            "encoders": encoders,
            "decoding": asdict(config.decoding),
        }

    def items(self, context: Context[GenerateConfig], log: Log) -> Iterable[Item]:
        config = context.config
        if config.prompts:
            return file_items(config.prompts, config.kinds, config.seed)
        views, objects = context.rows["views"], context.rows.get("text_objects")
        return dataset_items(views, objects, config.kinds, config.objects, config.seed, log)

    def schema(self, context: Context[GenerateConfig]) -> pa.Schema:
        from pipelines.generating.rows import generated_schema

        vqvae = context.models["vqvae"]
        quantizer = vqvae.config["quantizer"]
        return generated_schema(vqvae.digest, quantizer["scales"], quantizer["codebook_size"], context.config.decoder)

    def shared_paths(self, context: Context[GenerateConfig]) -> list[str]:
        # The driver alone reads the prompts; the pictures that they name are read by every node.
        prompts = context.config.prompts
        pictures = [os.path.dirname(prompts)] if prompts and "image" in context.config.kinds else []
        return [*super().shared_paths(context), *(place for place in pictures if not is_remote(place))]

    def gpus(self, config: GenerateConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[GenerateConfig]) -> "GeneratorWorker":
        from pipelines.generating.worker import open_generator_worker

        return open_generator_worker(context)

    def process(self, context: Context[GenerateConfig], items: list[Item]) -> Iterator[Row | Failure]:
        generator: GeneratorWorker = context.state
        yield from generator.make(items)

    def artifacts(self, context: Context[GenerateConfig], output: Output, log: Log) -> dict[str, bytes]:
        from pipelines.generating.contact_sheet import contact_sheet, kept_objects
        from pipelines.generating.rows import notes_of
        from pipelines.generating.unpack import unpack

        if notes := notes_of(output):
            uid, note = next(iter(notes.items()))
            log(f"generate: {len(notes):,} prompts have a note in their settings, such as {uid}: {note}")
        if context.config.unpack:
            unpack(output)
            log(f"generate: the files of each object are in {output.store.address('files')}/<id>/")
        sheet = contact_sheet(output)
        if sheet is None:
            return {}
        log(f"generate: contact sheet {output.store.address('artifacts/contact_sheet.png')}")
        return {"contact_sheet.png": sheet, **kept_objects(output)}

    def summary(self, context: Context[GenerateConfig], output: Output) -> dict[str, float]:
        from pipelines.generating.rows import seconds_of

        return seconds_of(output)


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("generate")
