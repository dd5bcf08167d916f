"""`sar3d generate`: a text or a picture to a 3D object; and the stage `generate`: many prompts, on a cluster."""

import argparse
import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.exported import CAPTIONER_STAGE, TOKENIZER_STAGE, Exported, check_same
from pipelines.generating.models import GENERATOR_STAGES, GeneratorRef, configured, generator_of
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row, Say, Stage, StageConfig
from pipelines.runtime.store import is_remote
from sar3d.ar.decoding_config import Decoding, decoding
from sar3d.errors import UserError
from sar3d.export.config import ExportSettings
from sar3d.generate.prompts import KINDS, Kind
from sar3d.pictures import Preparation

if TYPE_CHECKING:
    from pipelines.generating.worker import Maker

LISTING: dict[str, Any] = {"identity": "listing"}
HARDWARE: dict[str, Any] = {"identity": False}


@dataclass(frozen=True)
class GenerateConfig(StageConfig):
    """Prompts, models, and how objects are drawn and exported."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    prompts: str = field(default="", metadata=LISTING)
    """File of prompts (.jsonl, .json, .yaml, .csv) with id, text or image, and seed; empty: objects of the dataset, by
    their captions and by views of them, to be compared with what they should look like."""
    kinds: tuple[Kind, ...] = field(default=KINDS, metadata=LISTING)
    """Kinds of prompts; each needs its generator."""
    objects: int = field(default=4, metadata=LISTING)
    """Without `prompts`: objects that are prompts."""
    views: Literal["render", "import_chunks"] = field(default="render", metadata=LISTING)
    """Without `prompts`: the stage whose views are prompts and what the objects should look like."""
    seed: int = field(default=0, metadata=LISTING)
    """Of prompts that name none."""
    vqvae: str = field(default="", metadata=LISTING)
    """Folder or URL of the VQVAE; default: what `train_vqvae` made of this configuration. Models count by their digests."""
    text_model: str = field(default="", metadata=LISTING)
    """Folder or URL of the generator for texts; default: what `train_ar` made."""
    image_model: str = field(default="", metadata=LISTING)
    """Folder or URL of the generator for pictures; default: what `train_ar_image` made."""
    text_weights: str = field(default="", metadata=LISTING)
    """Folder, or repository of the Hugging Face hub, with the text encoder's weights; default: where training had them."""
    image_weights: str = field(default="", metadata=LISTING)
    """As `text_weights`."""
    caption: bool = False
    """Whether a captioner describes what was made; its question and decoding are those of the section `caption`."""
    captioner: str = field(default="", metadata=LISTING)
    """Folder or URL of the captioner; default: what `train_llm` made."""
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
        if self.captioner and not self.caption:
            raise UserError("generate.captioner names who describes what was made: set generate.caption=true as well")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError("generate.kinds is wrong: give text, image or both, each once")
        self.decoding()

    def decoding(self) -> Decoding:
        """The preset with the changes. Raises `UserError` for one that is not there or a value out of its range."""
        names = ("guidance", "top_k", "top_p", "temperature", "smooth")
        return decoding(self.preset, **{n: getattr(self, n) for n in names if getattr(self, n) is not None})


@dataclass(frozen=True)
class Models:
    """The models that the settings mean, not loaded."""

    vqvae: Exported
    generators: dict[Kind, GeneratorRef]
    encoders: dict[Kind, tuple[str, str]]
    """Name and weights."""
    captioner: Exported | None = None


class GenerateStage(Stage[GenerateConfig]):
    name = "generate"
    version = 1
    stateful = True
    about = "generate 3D objects from texts and pictures: one prompt, a file of them, or objects of the dataset"

    def reads(self, section: GenerateConfig) -> tuple[str, ...]:
        names = [] if section.vqvae else [TOKENIZER_STAGE]
        names += [GENERATOR_STAGES[kind] for kind in section.kinds if not getattr(section, f"{kind}_model")]
        names += [CAPTIONER_STAGE] if section.caption and not section.captioner else []
        if not section.prompts:
            names += [section.views, *(["download"] if "text" in section.kinds else [])]
        return tuple(names)

    def check(self, context: Context[GenerateConfig]) -> None:
        from pipelines.generating.models import encoder_ids

        encoder_ids(models_of(context).encoders)

    def identity(self, context: Context[GenerateConfig]) -> Any:
        from pipelines.generating.models import encoder_ids
        from pipelines.generating.prompts import content_of

        config, models = context.config, models_of(context)
        # What is listed counts by itself where a stage has no inputs, and then may grow.
        asked = [list(config.kinds), config.objects, config.seed, content_of(config.prompts)]
        return {
            "listing": asked if context.inputs else [],
            "vqvae": models.vqvae.digest,
            "generators": {kind: ref.model.digest for kind, ref in models.generators.items()},
            "encoders": encoder_ids(models.encoders),
            "decoding": dataclasses.asdict(config.decoding()),
            "precision": config.precision,
            "preparation": dataclasses.asdict(config.preparation),
            "export": dataclasses.asdict(config.export),
            "caption": None if models.captioner is None else [models.captioner.digest, _asked(context)],
        }

    def items(self, context: Context[GenerateConfig], say: Say) -> Iterable[Item]:
        from pipelines.generating.prompts import dataset_items, file_items

        config = context.config
        if config.prompts:
            return file_items(config.prompts, config.kinds, config.seed)
        views, objects = context.inputs[config.views], context.inputs.get("download")
        return dataset_items(views, objects, config.kinds, config.objects, config.seed, say)

    def schema(self, context: Context[GenerateConfig]) -> pa.Schema:
        from pipelines.generating.rows import generated_schema

        models = models_of(context)
        quantizer = models.vqvae.config["quantizer"]
        return generated_schema(models.vqvae.digest, quantizer["scales"], quantizer["codes"])

    def places(self, context: Context[GenerateConfig]) -> list[str]:
        config = context.config
        # The driver alone reads the prompts; the pictures that they name are read by every node.
        pictures = os.path.dirname(config.prompts) if "image" in config.kinds else ""
        named = (config.vqvae, config.text_model, config.image_model, config.captioner, pictures)
        return [place for place in named if place and not is_remote(place)]

    def gpus(self, config: GenerateConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[GenerateConfig]) -> "Maker":
        from pipelines.generating.worker import open_maker

        return open_maker(context.everything, models_of(context))

    def process(self, context: Context[GenerateConfig], items: list[Item]) -> Iterator[Row | Failure]:
        maker: Maker = context.state
        yield from maker.make(items)

    def artifacts(self, context: Context[GenerateConfig], output: Output, say: Say) -> dict[str, bytes]:
        from pipelines.generating.sheet import contact_sheet, kept_objects
        from pipelines.generating.unpack import unpack

        if context.config.unpack:
            unpack(output)
            say(f"generate: the files of each object are in {output.store.address('files')}/<id>/")
        sheet = contact_sheet(output)
        if sheet is None:
            return {}
        say(f"generate: contact sheet {output.store.address('artifacts/contact_sheet.png')}")
        return {"contact_sheet.png": sheet, **kept_objects(output)}

    def summary(self, context: Context[GenerateConfig], output: Output) -> dict[str, float]:
        from pipelines.generating.rows import seconds_of

        return seconds_of(output)


def models_of(context: Context[GenerateConfig]) -> Models:
    """What the settings mean. Raises `UserError` where a model is missing, or does not belong to the others."""
    from pipelines.generating.models import encoder_of

    config, inputs = context.config, context.inputs
    vqvae = configured(config.vqvae, "vqvae", inputs.get(TOKENIZER_STAGE))
    generators: dict[Kind, GeneratorRef] = {}
    for kind in config.kinds:
        model = configured(getattr(config, f"{kind}_model"), "ar", inputs.get(GENERATOR_STAGES[kind]))
        generators[kind] = generator_of(model, kind, vqvae)
    encoders = {kind: encoder_of(ref, kind, getattr(config, f"{kind}_weights")) for kind, ref in generators.items()}
    captioner = None
    if config.caption:
        captioner = configured(config.captioner, "llm", inputs.get(CAPTIONER_STAGE))
        check_same(captioner, vqvae, "captioner", "generate")
    return Models(vqvae, generators, encoders, captioner)


def _asked(context: Context[GenerateConfig]) -> list[Any]:
    """What decides a caption besides the captioner."""
    section = context.everything.caption
    return [section.question, dataclasses.asdict(section.decoding)]


def add_command(commands: Any) -> None:
    """Add `generate` to the subparsers of the command line: one prompt, or the stage."""
    from pipelines.cli import work_options
    from pipelines.generating.command import add_options

    sub = commands.add_parser(
        "generate",
        help=GenerateStage.about,
        description="Generate 3D objects. With --text or --image: for one prompt, on this machine. With --config alone: the "
        "stage, on a cluster, for a file of prompts or for objects of the dataset.",
    )
    add_options(sub)
    work_options(sub, required=False)
    sub.set_defaults(call=_call, stage=GenerateStage.name)


def _call(parsed: argparse.Namespace) -> int:
    if parsed.text is not None or parsed.image is not None:
        from pipelines.generating.command import generate_once

        return generate_once(parsed)
    if parsed.config is None:
        raise UserError(
            "what is to be generated? Give --text or --image, or --config for the prompts of a configuration's stage"
        )
    from pipelines.cli import stage_command
    from pipelines.generating.command import check_no_prompt

    check_no_prompt(parsed)
    return stage_command(parsed)


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("generate")
