"""Stage `evaluate`: how good a pipeline's models are on objects that they were not trained on, beside baselines."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.download import OBJECTS
from pipelines.evaluating.objects import EvaluationSource, Shares, Split, evaluation_items
from pipelines.evaluating.rows import WHATS, What, evaluated_schema
from pipelines.measuring.config import HARDWARE, DrawingSettings, PictureSettings, picture_identity, settled_pictures
from pipelines.perceptual import Perceptual, resolved
from pipelines.runtime.inputs import listed, model, rows, same_as, weights
from pipelines.runtime.mlflow_evaluation import Assessment
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.sources.config import DownloadConfig
from pipelines.withheld import withheld_objects
from sar3d.ar.decoding_config import DECODINGS, Decoding
from sar3d.conditions.kinds import CONDITION_KINDS, ConditionKind
from sar3d.data.datasets.caption_config import CaptionDataConfig
from sar3d.data.datasets.token_config import TokenDataConfig
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.errors import UserError
from sar3d.export.config import ExportSettings
from sar3d.llm.config import CaptionDecoding
from sar3d.metrics.caption_judge import JudgeConfig
from sar3d.metrics.config import PerceptualConfig, ShapeConfig
from sar3d.pictures import Preparation
from sar3d.vqvae.flexi_config import FieldDecoder

if TYPE_CHECKING:
    from pipelines.evaluating.worker import Evaluator

Protocol = Literal["quick", "published", "heldout"]
WHATS_OF: dict[Protocol, tuple[What, ...]] = {
    "quick": WHATS,
    "published": ("text", "image"),
    "heldout": ("reconstruction", "text", "image"),
}
"""What each protocol can judge."""
PUBLISHED_OBJECTS, MOST_VIEWS = 600, 64
STAGES_OF: dict[What, str] = {
    "reconstruction": "train_vqvae",
    "text": "train_ar",
    "image": "train_ar_image",
    "captions": "train_llm",
}
"""The stage that trains what is evaluated."""


@dataclass(frozen=True)
class EvaluateConfig(StageConfig, PictureSettings, DrawingSettings):
    """What is evaluated, and by which objects."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    protocol: Protocol = "quick"
    """`quick`: pictures and captions beside baselines, a row for each object. `published`: up to 600 objects from their
    frontal picture, decoding and turntable as the paper's, FID, KID, MUSIQ, shapes, latency. `heldout`: objects that
    neither tokenizer nor generator has seen, reconstructed and generated, from all their views."""

    reconstruction: bool = listed("train_vqvae")
    """Evaluate the VQVAE; default: where the configuration's stages train one."""
    text: bool = listed("train_ar")
    """Evaluate what is generated from captions; default: where the stages train such a generator."""
    image: bool = listed("train_ar_image")
    """Evaluate what is generated from pictures; default: where the stages train such a generator."""
    captions: bool = listed("train_llm")
    """Evaluate descriptions; default: where the stages train a captioner."""
    objects_of: str = rows(
        "objects", default="download", when=lambda e: e.measured or e.text or e.captions or e.views == "render"
    )
    """The stage whose objects say which of them are held out of every training, and that has their captions and files."""
    views: str = rows("views", default="render", when=lambda e: e.reconstruction or e.text or e.image)
    """The stage whose views are the truth."""
    tokens: str = rows("tokens", default="cache_tokens", when=lambda evaluate: evaluate.captions)
    """The stage whose tokens are described."""
    conditions: str = rows("conditions", default="cache_conditions", when=lambda e: e.text or e.image)
    """The stage whose conditions tell which training object is nearest to a prompt."""
    objects: int | None = None
    """Objects for each thing that is judged, spread evenly over the dataset; default 64, by other protocols than `quick`
    600."""
    split: Split = "auto"
    """`auto`: the objects that training held out, validating and testing ones; where there are none, training objects,
    and every number is called so. `val`, `test`, `training`: these alone."""
    compared: int | None = None
    """Views of each object that are compared; default 8, by `heldout` all. `published` draws a turntable instead."""
    turntable: int = 24
    """Pictures of an object by `published`, evenly around it."""
    resolution: int = 512
    """Of these pictures."""
    shift: str = ""
    """A column of the objects (`category`, `source`, `attributes.style`) for each of whose values there is a table, by
    other protocols than `quick`."""
    candidates: int = 4096
    """Training objects among which the nearest condition is looked for, spread evenly."""
    mean_objects: int = 64
    """Training objects whose first view groups make the mean image."""
    seed: int = 0
    """Of everything that is generated, and of resamples."""
    vqvae: str = model(
        "vqvae", of="train_vqvae", inherit="generate.vqvae", when=lambda e: e.reconstruction or e.text or e.image
    )
    """The VQVAE: a folder, a URL, or a stage that trains one; default: that of `generate`. Digests count."""
    text_model: str = model("ar", of="train_ar", inherit="generate.text_model", when=lambda evaluate: evaluate.text)
    """The generator for texts; default: that of `generate`."""
    image_model: str = model(
        "ar", of="train_ar_image", inherit="generate.image_model", when=lambda evaluate: evaluate.image
    )
    """The generator for pictures; default: that of `generate`."""
    captioner: str = model("llm", of="train_llm", inherit="caption.captioner", when=lambda evaluate: evaluate.captions)
    """The captioner; default: that of `caption`."""
    decoder: FieldDecoder = same_as("generate.decoder")
    """What tokens become, see `generate`; default: as there. Meshes are compared with marching cubes over the radiance
    field of the same tokens as well."""
    flexicubes: str = model(
        "flexicubes",
        of="train_flexicubes",
        inherit="generate.flexicubes",
        when=lambda e: e.decoder == "flexicubes" and (e.reconstruction or e.text or e.image),
    )
    """The mesh decoder; default: that of `generate`."""
    text_weights: str = weights(inherit="generate.text_weights")
    """Folder, or repository of the Hugging Face hub, with the text encoder's weights; default: those of `generate`."""
    image_weights: str = weights(inherit="generate.image_weights")
    """As `text_weights`."""
    vqvae_data: ViewDataConfig = same_as("train_vqvae.data")
    """What the VQVAE was trained on, and so what was held out from it."""
    text_data: TokenDataConfig = same_as("train_ar.data")
    """What the generator for texts was trained on."""
    image_data: TokenDataConfig = same_as("train_ar_image.data")
    """What the generator for pictures was trained on."""
    captions_data: CaptionDataConfig = same_as("train_llm.data")
    """What the captioner was trained on."""
    decoding: Decoding = same_as("generate.decoding")
    """How tokens are drawn; default: as `generate` does it."""
    precision: Literal["auto", "fp32", "bf16"] = same_as("generate.precision")
    """Of the transformer."""
    preparation: Preparation = same_as("generate.preparation")
    """What is done to pictures."""
    caption_decoding: CaptionDecoding = same_as("caption.decoding")
    """How the captioner writes."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """A language model that scores captions; off unless `judge.url` and `judge.model` are set (docs/metrics.md)."""
    perceptual: Perceptual = same_as("train_vqvae.perceptual")
    """The perceptual distance, see `train_vqvae`; `auto` is LPIPS where its weights can be had, else a named substitute."""
    lpips: PerceptualConfig = same_as("train_vqvae.task.perceptual")
    """Where the weights of LPIPS come from."""
    source: DownloadConfig = same_as("download", identity=False)
    """Where the objects' files are read from, by other protocols than `quick`; what they hold counts."""
    lit: bool = same_as("render.lit")
    """Whether true objects are drawn under the lights of `render`, as what the generator was trained on."""
    up: Literal["y", "z"] = same_as("render.up")
    """The up axis of true .obj, .ply and .stl files, which do not say."""
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    """How shapes are compared."""
    export: ExportSettings = same_as("generate.export")
    """How the surface of a field is found, and its texture, whose time counts."""
    device: Device = field(default="auto", metadata=HARDWARE)
    """`auto`: one GPU per worker where the cluster has any, else the CPU; `gpus` may ask for a fraction of one."""
    batch: int | None = field(default=None, metadata=HARDWARE)
    """Prompts that are decoded at once; default 4 on a CPU and 16 on a GPU."""
    shard_objects: int = field(default=16, metadata=HARDWARE)
    """Objects in one shard."""

    def __post_init__(self) -> None:
        for name in ("objects", "compared", "candidates", "mean_objects", "batch", "turntable"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"evaluate.{name}={value} is wrong: it is a number from 1 on")

    @property
    def measured(self) -> bool:
        """Whether every system of every object has a row, with pictures and shapes measured as sets, too."""
        return self.protocol != "quick"

    @property
    def whats(self) -> tuple[What, ...]:
        """What is judged."""
        return tuple(what for what in WHATS_OF[self.protocol] if getattr(self, what))

    @property
    def count(self) -> int:
        """Objects for each thing that is judged."""
        return self.objects or (PUBLISHED_OBJECTS if self.measured else 64)

    @property
    def seen(self) -> int:
        """Views that are compared, at most."""
        return self.compared or (MOST_VIEWS if self.measured else 8)

    @property
    def drawing(self) -> Decoding:
        """How tokens are drawn: by `published` as the paper's numbers were."""
        return DECODINGS["evaluation"] if self.protocol == "published" else self.decoding

    def shares(self, what: What) -> Shares:
        """The shares of the objects that the training of what is judged held out."""
        shares = {
            "reconstruction": (self.vqvae_data.val, self.vqvae_data.test),
            "text": (self.text_data.val, self.text_data.test),
            "image": (self.image_data.val, self.image_data.test),
            "captions": (self.captions_data.val, self.captions_data.test),
        }
        return shares[what]

    @property
    def unseen_by(self) -> tuple[Shares, ...]:
        """What every training held out that has to do with what is judged."""
        return tuple(dict.fromkeys(self.shares(what) for what in ("reconstruction", *self.whats)))

    @property
    def kinds(self) -> tuple[ConditionKind, ...]:
        """Kinds of prompts that objects are generated from."""
        return tuple(kind for kind in CONDITION_KINDS if getattr(self, kind))


class EvaluateStage(Stage[EvaluateConfig]):
    name = "evaluate"
    section = EvaluateConfig
    writes = "evaluation"
    version = 2
    stateful = True
    about = "measure reconstruction, generation and captions on held-out objects, beside baselines"

    def writing(self, section: EvaluateConfig) -> str:
        return "systems" if section.measured else self.writes

    def resolve(self, config: EvaluateConfig, log: Log) -> EvaluateConfig:
        perceptual = resolved(config.perceptual, config.lpips, self.name, log)
        if not config.measured:
            return dataclasses.replace(config, perceptual=perceptual)
        from sar3d.render import pick_backend

        settled: dict[str, Any] = settled_pictures(config, self.name, log)
        return dataclasses.replace(config, perceptual=perceptual, backend=pick_backend(config.backend), **settled)

    def check(self, context: Context[EvaluateConfig]) -> None:
        from pipelines.evaluating.models import check_conditions

        judge = context.config.judge
        if bool(judge.url) != bool(judge.model):
            raise UserError(
                "a judge needs both its address and the name of its model: set evaluate.judge.url and .model"
            )
        if not context.config.whats:
            raise UserError(
                "there is no finished model to evaluate: list a stage that trains one in `stages` "
                f"({', '.join(STAGES_OF.values())}), or set evaluate.reconstruction, text, image or captions to true"
            )
        if context.config.protocol == "published" and not context.config.image:
            raise UserError(
                "evaluate.protocol=published generates from frontal pictures: list train_ar_image in `stages`, or set "
                "evaluate.image=true and evaluate.image_model"
            )
        if context.config.shift:
            from pipelines.comparing.items import check_shift

            check_shift(context.config.shift, OBJECTS, "evaluate.shift")
        check_conditions(context)

    def identity(self, context: Context[EvaluateConfig]) -> dict[str, Any]:
        from pipelines.evaluating.models import encoders_and_metrics

        # Baselines depend on training objects that no item names: whatever is read counts.
        inputs = {name: output.content() for name, output in context.upstream().items()}
        found = {**super().identity(context), "inputs": inputs, **encoders_and_metrics(context)}
        return found | {"networks": picture_identity(context.config, self.name)} if context.config.measured else found

    def items(self, context: Context[EvaluateConfig], log: Log) -> Iterable[Item]:
        config, inputs = context.config, context.rows
        withheld = withheld_objects(inputs.get("objects_of"))
        sources = [
            EvaluationSource(
                what,
                inputs["tokens" if what == "captions" else "views"],
                config.shares(what),
                described=what in ("text", "captions"),
                withheld=withheld,
                unseen_by=config.unseen_by if config.protocol == "heldout" else (),
            )
            for what in config.whats
        ]
        items = evaluation_items(sources, inputs.get("objects_of"), config.split, config.count, config.seed, log)
        if not config.measured:
            return items
        from pipelines.evaluating.protocol_items import with_truth

        return with_truth(items, inputs["objects_of"], config.shift)

    def schema(self, context: Context[EvaluateConfig]) -> pa.Schema:
        from sar3d.metrics.rows import system_schema

        return system_schema() if context.config.measured else evaluated_schema()

    def gpus(self, config: EvaluateConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[EvaluateConfig]) -> "Evaluator":
        if context.config.measured:
            from pipelines.evaluating.protocols import open_protocol

            return open_protocol(context)
        from pipelines.evaluating.worker import open_evaluator

        return open_evaluator(context)

    def process(self, context: Context[EvaluateConfig], items: list[Item]) -> Iterator[Row | Failure]:
        evaluator: Evaluator = context.state
        yield from evaluator.rows(items)

    def artifacts(self, context: Context[EvaluateConfig], output: Output, log: Log) -> dict[str, bytes]:
        if context.config.measured:
            from pipelines.measuring.artifacts import summarized

            return summarized(output, "evaluation", self.identity(context), context.config.seed, log)
        from pipelines.evaluating.contact_sheet import sheets
        from pipelines.evaluating.table import lines, make_table, table_csv, table_json

        table = make_table(context, output)
        for line in lines(table):
            log(f"{self.name}: {line}")
        return {"evaluation.csv": table_csv(table), "evaluation.json": table_json(table), **sheets(output)}

    def assessments(self, context: Context[EvaluateConfig], output: Output) -> dict[str, list[Assessment]]:
        from pipelines.evaluating.table import judged_captions

        return {} if context.config.measured else judged_captions(output)

    def summary(self, context: Context[EvaluateConfig], output: Output) -> dict[str, float]:
        if context.config.measured:
            from pipelines.measuring import lines

            return lines.metrics_of(lines.read_summary(output, "evaluation.json").lines)
        from pipelines.evaluating.table import metrics_of, read_table

        return metrics_of(read_table(output))


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("evaluate")
