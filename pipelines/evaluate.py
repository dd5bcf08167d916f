"""Stage `evaluate`: how good a pipeline's models are on objects that they were not trained on, beside baselines."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.evaluating.objects import Asked, Split, evaluation_items, shares_of
from pipelines.evaluating.rows import WHATS, What, evaluated_schema
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row, Say, Stage, StageConfig
from pipelines.runtime.store import is_remote
from sar3d.errors import UserError
from sar3d.generate.prompts import KINDS, Kind
from sar3d.metrics.config import PerceptualConfig

if TYPE_CHECKING:
    from pipelines.evaluating.worker import Judge

Perceptual = Literal["auto", "lpips", "substitute"]
LISTING: dict[str, Any] = {"identity": "listing"}
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

    reconstruction: bool | None = None
    """Judge the VQVAE; default: where the configuration's stages train one."""
    text: bool | None = None
    """Judge what is generated from captions; default: where the stages train such a generator."""
    image: bool | None = None
    """Judge what is generated from pictures; default: where the stages train such a generator."""
    captions: bool | None = None
    """Judge descriptions; default: where the stages train a captioner."""
    views: Literal["render", "import_chunks"] = "render"
    """The stage whose views are the truth."""
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
    vqvae: str = field(default="", metadata=LISTING)
    """Folder or URL of the VQVAE; default: that of `generate`, or what `train_vqvae` made. Models count by their digests."""
    text_model: str = field(default="", metadata=LISTING)
    """Folder or URL of the generator for texts; default: that of `generate`, or what `train_ar` made."""
    image_model: str = field(default="", metadata=LISTING)
    """Folder or URL of the generator for pictures; default: that of `generate`, or what `train_ar_image` made."""
    captioner: str = field(default="", metadata=LISTING)
    """Folder or URL of the captioner; default: that of `caption`, or what `train_llm` made."""
    text_weights: str = field(default="", metadata=LISTING)
    """Folder, or repository of the Hugging Face hub, with the text encoder's weights; default: those of `generate`."""
    image_weights: str = field(default="", metadata=LISTING)
    """As `text_weights`."""
    perceptual: Perceptual = "auto"
    """`auto`: as `train_vqvae` has it; there, `auto` is LPIPS where its weights can be had, else a named substitute."""
    lpips: PerceptualConfig = field(default_factory=PerceptualConfig)
    """Where the weights of LPIPS come from; default: as `train_vqvae` has it."""
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

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of prompts that objects are generated from."""
        return tuple(kind for kind in KINDS if getattr(self, kind))


class EvaluateStage(Stage[EvaluateConfig]):
    name = "evaluate"
    version = 1
    stateful = True
    about = "measure reconstruction, generation and captions on held-out objects, beside baselines"

    def reads(self, section: EvaluateConfig) -> tuple[str, ...]:
        wanted = section.whats
        names: list[str] = [section.views] if set(wanted) != {"captions"} else []
        places = {"train_ar": section.text_model, "train_ar_image": section.image_model, "train_llm": section.captioner}
        if not section.vqvae and (section.reconstruction or section.kinds):
            names.append(STAGES_OF["reconstruction"])
        names += [s for s in (STAGES_OF[w] for w in wanted) if s in places and not places[s]]
        names += ["cache_conditions"] if section.kinds else []
        names += ["cache_tokens"] if section.captions else []
        return (*(["download"] if section.text or section.captions else []), *names)

    def resolve(self, config: EvaluateConfig, say: Say) -> EvaluateConfig:
        if config.perceptual != "auto":
            return config
        from sar3d.metrics.lpips import resolve_weights

        found: Perceptual = "substitute" if resolve_weights(config.lpips).vgg16 == "substitute" else "lpips"
        say(f"{self.name}: the perceptual distance is {found}")
        return dataclasses.replace(config, perceptual=found)

    def check(self, context: Context[EvaluateConfig]) -> None:
        from pipelines.evaluating.models import check_conditions, models_of

        if not context.config.whats:
            raise UserError(
                "there is no finished model to evaluate: list a stage that trains one in `stages` "
                f"({', '.join(STAGES_OF.values())}), or set evaluate.reconstruction, text, image or captions to true"
            )
        check_conditions(context, models_of(context))

    def identity(self, context: Context[EvaluateConfig]) -> Any:
        from pipelines.evaluating.models import identity_of

        # Baselines depend on training objects that no item names: whatever is read counts.
        inputs = {name: output.content() for name, output in context.inputs.items()}
        return {"settings": super().identity(context), "inputs": inputs, **identity_of(context)}

    def items(self, context: Context[EvaluateConfig], say: Say) -> Iterable[Item]:
        config, inputs = context.config, context.inputs
        asked = [
            Asked(
                what,
                inputs["cache_tokens" if what == "captions" else config.views],
                shares_of(context.everything, what),
                described=what in ("text", "captions"),
            )
            for what in config.whats
        ]
        return evaluation_items(asked, inputs.get("download"), config.split, config.objects, config.seed, say)

    def schema(self, context: Context[EvaluateConfig]) -> pa.Schema:
        return evaluated_schema()

    def places(self, context: Context[EvaluateConfig]) -> list[str]:
        config = context.config
        named = (config.vqvae, config.text_model, config.image_model, config.captioner)
        return [place for place in named if place and not is_remote(place)]

    def gpus(self, config: EvaluateConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[EvaluateConfig]) -> "Judge":
        from pipelines.evaluating.worker import open_judge

        return open_judge(context)

    def process(self, context: Context[EvaluateConfig], items: list[Item]) -> Iterator[Row | Failure]:
        judge: Judge = context.state
        yield from judge.rows(items)

    def artifacts(self, context: Context[EvaluateConfig], output: Output, say: Say) -> dict[str, bytes]:
        from pipelines.evaluating.sheet import sheets
        from pipelines.evaluating.table import lines, make_table, table_csv, table_json

        table = make_table(context, output)
        for line in lines(table):
            say(f"{self.name}: {line}")
        return {"evaluation.csv": table_csv(table), "evaluation.json": table_json(table), **sheets(output)}

    def summary(self, context: Context[EvaluateConfig], output: Output) -> dict[str, float]:
        from pipelines.evaluating.table import metrics_of, read_table

        return metrics_of(read_table(output))


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("evaluate")
