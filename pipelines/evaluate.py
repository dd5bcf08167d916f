"""Stage `evaluate`: how good a pipeline's models are on objects that they were not trained on, beside baselines."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.evaluating.objects import EvaluationSource, Shares, Split, evaluation_items
from pipelines.evaluating.rows import WHATS, What, evaluated_schema
from pipelines.runtime.inputs import listed, model, rows, same_as, weights
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.withheld import withheld_objects
from sar3d.ar.decoding_config import Decoding
from sar3d.conditions.kinds import CONDITION_KINDS, ConditionKind
from sar3d.data.datasets.caption_config import CaptionDataConfig
from sar3d.data.datasets.token_config import TokenDataConfig
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.errors import UserError
from sar3d.llm.config import CaptionDecoding
from sar3d.metrics.config import PerceptualConfig
from sar3d.pictures import Preparation

if TYPE_CHECKING:
    from pipelines.evaluating.worker import Evaluator

Perceptual = Literal["auto", "lpips", "substitute"]
HARDWARE: dict[str, Any] = {"identity": False}
STAGES_OF: dict[What, str] = {
    "reconstruction": "train_vqvae",
    "text": "train_ar",
    "image": "train_ar_image",
    "captions": "train_llm",
}
"""The stage that trains what is evaluated."""


@dataclass(frozen=True)
class EvaluateConfig(StageConfig):
    """What is evaluated, and by which objects."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    reconstruction: bool = listed("train_vqvae")
    """Evaluate the VQVAE; default: where the configuration's stages train one."""
    text: bool = listed("train_ar")
    """Evaluate what is generated from captions; default: where the stages train such a generator."""
    image: bool = listed("train_ar_image")
    """Evaluate what is generated from pictures; default: where the stages train such a generator."""
    captions: bool = listed("train_llm")
    """Evaluate descriptions; default: where the stages train a captioner."""
    objects_of: str = rows("objects", default="download", when=lambda e: e.text or e.captions or e.views == "render")
    """The stage whose objects say which of them are held out of every training, and that has their captions."""
    views: str = rows("views", default="render", when=lambda e: e.reconstruction or e.text or e.image)
    """The stage whose views are the truth."""
    tokens: str = rows("tokens", default="cache_tokens", when=lambda evaluate: evaluate.captions)
    """The stage whose tokens are described."""
    conditions: str = rows("conditions", default="cache_conditions", when=lambda e: e.text or e.image)
    """The stage whose conditions tell which training object is nearest to a prompt."""
    objects: int = 64
    """Objects for each thing that is judged, spread evenly over the dataset."""
    split: Split = "auto"
    """`auto`: the objects that training held out, validating and testing ones; where there are none, training objects,
    and every number is called so. `val`, `test`, `training`: these alone."""
    compared: int = 8
    """Views of each object that are compared."""
    candidates: int = 4096
    """Training objects among which the nearest condition is looked for, spread evenly."""
    mean_objects: int = 64
    """Training objects whose first view groups make the mean image."""
    seed: int = 0
    """Of everything that is generated."""
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
    perceptual: Perceptual = same_as("train_vqvae.perceptual")
    """The perceptual distance, see `train_vqvae`; `auto` is LPIPS where its weights can be had, else a named substitute."""
    lpips: PerceptualConfig = same_as("train_vqvae.task.perceptual")
    """Where the weights of LPIPS come from."""
    device: Device = field(default="auto", metadata=HARDWARE)
    """`auto`: one GPU per worker where the cluster has any, else the CPU; `gpus` may ask for a fraction of one."""
    batch: int | None = field(default=None, metadata=HARDWARE)
    """Prompts that are decoded at once; default 4 on a CPU and 16 on a GPU."""
    shard_objects: int = field(default=16, metadata=HARDWARE)
    """Objects in one shard."""

    def __post_init__(self) -> None:
        for name in ("objects", "compared", "candidates", "mean_objects", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"evaluate.{name}={value} is wrong: it is a number from 1 on")

    @property
    def whats(self) -> tuple[What, ...]:
        """What is judged."""
        return tuple(what for what in WHATS if getattr(self, what))

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
    def kinds(self) -> tuple[ConditionKind, ...]:
        """Kinds of prompts that objects are generated from."""
        return tuple(kind for kind in CONDITION_KINDS if getattr(self, kind))


class EvaluateStage(Stage[EvaluateConfig]):
    name = "evaluate"
    section = EvaluateConfig
    writes = "evaluation"
    version = 1
    stateful = True
    about = "measure reconstruction, generation and captions on held-out objects, beside baselines"

    def resolve(self, config: EvaluateConfig, log: Log) -> EvaluateConfig:
        if config.perceptual != "auto":
            return config
        from sar3d.metrics.lpips import resolve_weights

        found: Perceptual = "substitute" if resolve_weights(config.lpips).vgg16 == "substitute" else "lpips"
        log(f"{self.name}: the perceptual distance is {found}")
        return dataclasses.replace(config, perceptual=found)

    def check(self, context: Context[EvaluateConfig]) -> None:
        from pipelines.evaluating.models import check_conditions

        if not context.config.whats:
            raise UserError(
                "there is no finished model to evaluate: list a stage that trains one in `stages` "
                f"({', '.join(STAGES_OF.values())}), or set evaluate.reconstruction, text, image or captions to true"
            )
        check_conditions(context)

    def identity(self, context: Context[EvaluateConfig]) -> dict[str, Any]:
        from pipelines.evaluating.models import encoders_and_metrics

        # Baselines depend on training objects that no item names: whatever is read counts.
        inputs = {name: output.content() for name, output in context.upstream().items()}
        return {**super().identity(context), "inputs": inputs, **encoders_and_metrics(context)}

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
            )
            for what in config.whats
        ]
        return evaluation_items(sources, inputs.get("objects_of"), config.split, config.objects, config.seed, log)

    def schema(self, context: Context[EvaluateConfig]) -> pa.Schema:
        return evaluated_schema()

    def gpus(self, config: EvaluateConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[EvaluateConfig]) -> "Evaluator":
        from pipelines.evaluating.worker import open_evaluator

        return open_evaluator(context)

    def process(self, context: Context[EvaluateConfig], items: list[Item]) -> Iterator[Row | Failure]:
        evaluator: Evaluator = context.state
        yield from evaluator.rows(items)

    def artifacts(self, context: Context[EvaluateConfig], output: Output, log: Log) -> dict[str, bytes]:
        from pipelines.evaluating.contact_sheet import sheets
        from pipelines.evaluating.table import lines, make_table, table_csv, table_json

        table = make_table(context, output)
        for line in lines(table):
            log(f"{self.name}: {line}")
        return {"evaluation.csv": table_csv(table), "evaluation.json": table_json(table), **sheets(output)}

    def summary(self, context: Context[EvaluateConfig], output: Output) -> dict[str, float]:
        from pipelines.evaluating.table import metrics_of, read_table

        return metrics_of(read_table(output))


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("evaluate")
