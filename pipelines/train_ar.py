"""Stages `train_ar` and `train_ar_image`: the next-scale transformer, on cached codes and conditions."""

import dataclasses
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipelines.cache_conditions import EMPTY, encoders_in
from pipelines.runtime.inputs import model, rows, same_as, weights
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Context, Log
from pipelines.runtime.training.stage import TrainingStage, TrainInputs, TrainStageConfig
from pipelines.withheld import withheld_objects
from sar3d.conditions.kinds import ConditionKind
from sar3d.data.datasets.token_config import TokenDataConfig
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.held_out import HeldOut
from sar3d.errors import NothingSelectedError, UserError
from sar3d.tasks.ar.config import ARTaskConfig, model_config
from sar3d.vqvae.config import from_dict

if TYPE_CHECKING:
    from sar3d.conditions.condition import Condition, PooledStatistics
    from sar3d.data.datasets.prompted_objects import PromptedObjects
    from sar3d.data.datasets.token_dataset import TokenDataset
    from sar3d.tasks.ar.task import EncoderSource


COUNTED = 1024
"""Samples by which the layer for pooled vectors is standardized."""


@dataclass(frozen=True)
class TrainARConfig(TrainStageConfig):
    """What the generator is, what it learns from, and how it is judged."""

    condition: ConditionKind = "text"
    """What prompts it: captions or pictures."""
    tokens: str = rows("tokens", default="cache_tokens")
    """The stage whose tokens it learns to predict."""
    conditions: str = rows("conditions", default="cache_conditions")
    """The stage whose features of captions or views it is prompted by."""
    vqvae: str = model("vqvae", of="train_vqvae", inherit="cache_tokens.vqvae")
    """The VQVAE that made the tokens: a folder, a URL, or a stage that trains one; default: that of `cache_tokens`."""
    objects: str = rows("objects", default="download", when=lambda t: t.condition == "text" or t.views == "render")
    """The stage whose objects say which of them are held out of every training, and have the captions that are asked for
    in the evaluation."""
    views: str = rows("views", default="render")
    """The stage whose views generated objects are compared with."""
    held_out: HeldOut = same_as("train_vqvae.data.held_out")
    """The views that the tokenizer's training was not given: they prompt the image model in its evaluation."""
    text_weights: str = weights(inherit="cache_conditions.text_weights")
    """Weights of the encoder of captions. What counts is the id that the cached conditions bear."""
    image_weights: str = weights(inherit="cache_conditions.image_weights")
    """Weights of the encoder of views, as `text_weights`."""
    target_group: Literal["own", "first"] = "own"
    """Whose tokens a sample is trained to generate. `own`: those of its view group. `first`: those of the object's first
    view group, so that every object has one target instead of several, which a short run on few objects learns sooner
    (`sar3d.data.datasets.first_group`)."""
    task: ARTaskConfig = field(default_factory=ARTaskConfig)
    data: TokenDataConfig = field(default_factory=TokenDataConfig)
    evaluate_objects: int = field(default=16, metadata={"identity": False})
    """Objects of each set that the model is asked for; the time to tell them apart grows with the square."""
    evaluate_prompts: int = field(default=1, metadata={"identity": False})
    """Held-out views of each object that prompt the image model."""
    draw_objects: int = field(default=8, metadata={"identity": False})
    """Objects of each set that are drawn."""


class TrainARStage(TrainingStage[TrainARConfig]):
    name = "train_ar"
    section = TrainARConfig
    writes = "ar"
    version = 1
    about = "train the next-scale transformer on cached tokens, conditioned on captions"

    def check(self, context: Context[TrainARConfig]) -> None:
        config, kind = context.config, context.config.condition
        if config.data.condition not in (None, kind):
            raise UserError(
                f"{self.name}.data.condition={config.data.condition} contradicts the condition {kind} of the stage: "
                f"leave it out, or set {self.name}.condition"
            )
        if kind not in encoders_in(context.rows["conditions"]):
            raise UserError(
                f"{self.name} wants {kind} conditions, but {config.conditions} has none: choose an encoder there "
                f"({config.conditions}.{kind})"
            )

    def build(self, context: Context[TrainARConfig], log: Log) -> TrainInputs:
        from sar3d.data.datasets.first_group import FirstGroupTokens
        from sar3d.tasks.ar.evaluate import GenerationSets
        from sar3d.tasks.ar.task import ARTask, FrozenVQVAE

        config, vqvae = context.config, context.models["vqvae"]
        train = self._dataset(context)
        left = f" ({train.without_condition:,} without conditions left out)" if train.without_condition else ""
        log(f"{self.name}: {train.size:,} samples of {train.index.objects:,} objects to train on{left}")
        encoder, empty = self._conditions(context)
        sizes = empty.tokens.shape[-1], empty.pooled.shape[-1]
        shape = model_config(config.task, config.condition, from_dict(vqvae.config), *sizes)
        frozen = FrozenVQVAE(vqvae.folder, vqvae.digest)
        statistics = _statistics(train) if config.task.pooled_start == "standardized" else None
        task = ARTask(config.task, shape, frozen, encoder, empty, statistics)
        held_out = GenerationSets(self._sets(context), config.task.decoding, config.draw_objects)
        return TrainInputs(task, FirstGroupTokens(train) if config.target_group == "first" else train, held_out)

    def _dataset(
        self,
        context: Context[TrainARConfig],
        split: Literal["train", "all"] = "train",
        uids: Collection[str] | None = None,
    ) -> "TokenDataset":
        from sar3d.data.datasets.token_dataset import TokenDataset

        data = dataclasses.replace(context.config.data, condition=context.config.condition)
        tokens, conditions = (context.rows[name].files() for name in ("tokens", "conditions"))
        withheld, digest = withheld_objects(context.rows.get("objects")), context.models["vqvae"].digest
        return TokenDataset(tokens, conditions, data, vqvae=digest, split=split, uids=uids, withheld=withheld)

    def _conditions(self, context: Context[TrainARConfig]) -> "tuple[EncoderSource, Condition]":
        """The encoder that made the conditions, and its empty one."""
        import torch

        from sar3d.conditions.condition import Condition
        from sar3d.data.formats.conditions import decode_condition
        from sar3d.tasks.ar.task import EncoderSource

        config, kind = context.config, context.config.condition
        for row in rows_of(context.rows["conditions"], {EMPTY}):
            if row["kind"] == kind:
                found = decode_condition(row)
                tokens, pooled = (torch.from_numpy(x[None].copy()) for x in (found.tokens, found.pooled))
                source = EncoderSource(found.encoder.split(":")[0], getattr(config, f"{kind}_weights"), found.encoder)
                return source, Condition(tokens, pooled)
        raise UserError(f"the conditions dataset holds no empty {kind} condition: cache the conditions again")

    def _sets(self, context: Context[TrainARConfig]) -> "dict[str, PromptedObjects]":
        """`known`: objects that are trained on; `objects`: validating ones, where there are any."""
        sets = {}
        for name, split in (("known", "train"), ("objects", "val")):
            if split == "val" and not context.config.data.val:
                continue
            found = self._prompted(context, split)
            if found is not None:
                sets[name] = found
        return sets

    def _prompted(self, context: Context[TrainARConfig], split: Any) -> "PromptedObjects | None":
        from sar3d.data.datasets.prompted_objects import PromptedObjects, spread_objects
        from sar3d.data.datasets.view_dataset import ViewDataset

        config = context.config
        try:
            files, withheld = context.rows["views"].files(), withheld_objects(context.rows.get("objects"))
            views = ViewDataset(files, None, _view_data(config), split=split, withheld=withheld)
            uids = spread_objects(views, config.evaluate_objects)
            tokens = self._dataset(context, "all", uids)
        except NothingSelectedError:  # a small dataset may have no object whose hash falls into the share
            if split == "val":
                return None
            raise
        labels = {}
        if config.condition == "text":
            objects = rows_of(context.rows["objects"], set(uids))
            labels = {row["uid"]: str(row["captions"][0]) for row in objects if row["captions"]}
        return PromptedObjects(tokens, views, uids, labels, prompts=config.evaluate_prompts)


def _statistics(train: "TokenDataset") -> "PooledStatistics":
    """Of the pooled vectors of the first samples: objects lie in no order that means anything."""
    from sar3d.conditions.condition import PooledStatistics

    samples = itertools.islice(train.samples(), COUNTED)
    return PooledStatistics.of(sample.pooled for sample in samples if sample.pooled is not None)


def _view_data(config: TrainARConfig) -> ViewDataConfig:
    """All views of an object; held out are those that the tokenizer's training held out."""
    data = config.data
    return ViewDataConfig(
        unit="object", normals=False, held_out=config.held_out, val=data.val, test=data.test, cache_decoded=False
    )


@dataclass(frozen=True)
class TrainARImageConfig(TrainARConfig):
    """As of `train_ar`, prompted by pictures."""

    condition: ConditionKind = "image"


class TrainARImageStage(TrainARStage):
    name = "train_ar_image"
    section = TrainARImageConfig
    about = "train the next-scale transformer on cached tokens, conditioned on pictures"


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_ar")
