"""Stages `train_ar` and `train_ar_image`: the next-scale transformer, on cached codes and conditions."""

import dataclasses
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.cache_conditions import EMPTY
from pipelines.exported import Exported, exported, local_copy, trained
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Context, Say
from pipelines.runtime.store import is_remote
from pipelines.runtime.training.stage import Material, TrainingStage, TrainStageConfig
from sar3d.ar.config import ConditionKind
from sar3d.ar.task_config import ARTaskConfig, model_config
from sar3d.data.token_config import TokenDataConfig
from sar3d.data.view_config import ViewDataConfig
from sar3d.errors import NothingSelectedError, UserError
from sar3d.vqvae.config import from_dict

if TYPE_CHECKING:
    from sar3d.ar.condition import Condition, PooledStatistics
    from sar3d.ar.task import EncoderSource
    from sar3d.data.asked import AskedObjects
    from sar3d.data.token_dataset import TokenDataset


COUNTED = 1024
"""Samples by which the layer for pooled vectors is standardised."""


@dataclass(frozen=True)
class TrainARConfig(TrainStageConfig):
    """What the generator is, what it learns from, and how it is judged."""

    condition: Literal["auto", "text", "image"] = "auto"
    """What prompts it; `auto`: captions in `train_ar`, pictures in `train_ar_image`."""
    vqvae: str = field(default="", metadata={"identity": "listing"})
    """Folder or URL of the VQVAE that made the codes; default: `cache_tokens.model`, or what `train_vqvae` made. What
    counts is its digest, not its place."""
    views: Literal["render", "import_chunks"] = "render"
    """The stage whose views generated objects are compared with."""
    codes: Literal["own", "first"] = "own"
    """`own`: each view group has its codes. `first`: all groups of an object have the first one's, so that there is one
    account of it instead of several, which a short run on few objects learns sooner (`sar3d.data.first_codes`)."""
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
    version = 1
    about = "train the next-scale transformer on cached codes, conditioned on captions"
    default: ClassVar[ConditionKind] = "text"

    def reads(self, section: TrainARConfig) -> tuple[str, ...]:
        captions = ("download",) if self.condition(section) == "text" else ()
        model = () if section.vqvae else ("train_vqvae",)
        return (*captions, section.views, *model, "cache_tokens", "cache_conditions")

    def condition(self, section: TrainARConfig) -> ConditionKind:
        """What prompts the model under these settings."""
        return self.default if section.condition == "auto" else section.condition

    def resolve(self, config: TrainARConfig, say: Say) -> TrainARConfig:
        return dataclasses.replace(config, condition=self.condition(config))

    def check(self, context: Context[TrainARConfig]) -> None:
        config, kind = context.config, self.condition(context.config)
        if config.data.condition not in (None, kind):
            raise UserError(
                f"{self.name}.data.condition={config.data.condition} contradicts the condition {kind} of the stage: "
                f"leave it out, or set {self.name}.condition"
            )
        if kind not in context.everything.cache_conditions.encoders():
            raise UserError(
                f"{self.name} wants {kind} conditions, but cache_conditions.{kind} is none: choose an encoder there"
            )

    def identity(self, context: Context[TrainARConfig]) -> Any:
        return {"settings": super().identity(context), "vqvae": self.model_of(context).digest}

    def places(self, context: Context[TrainARConfig]) -> list[str]:
        place = context.config.vqvae
        return [place] if place and not is_remote(place) else []

    def model_of(self, context: Context[TrainARConfig]) -> Exported:
        """The VQVAE that the settings mean. Raises `UserError` if there is none."""
        if context.config.vqvae:
            return exported(context.config.vqvae, "vqvae")
        return trained(context.inputs["train_vqvae"], "vqvae")

    def build(self, context: Context[TrainARConfig], say: Say) -> Material:
        from sar3d.ar.evaluate import HeldOut
        from sar3d.ar.task import ARTask, FrozenVQVAE
        from sar3d.data.first_codes import FirstCodes

        config, model = context.config, self.model_of(context)
        train = self._dataset(context, model)
        left = f" ({train.without_condition:,} without conditions left out)" if train.without_condition else ""
        say(f"{self.name}: {train.size:,} samples of {train.index.objects:,} objects to train on{left}")
        encoder, empty = self._conditions(context)
        sizes = empty.tokens.shape[-1], empty.pooled.shape[-1]
        shape = model_config(config.task, self.condition(config), from_dict(model.config), *sizes)
        frozen = FrozenVQVAE(partial(local_copy, model.url), model.digest)
        statistics = _statistics(train) if config.task.pooled_start == "standardised" else None
        task = ARTask(config.task, shape, frozen, encoder, empty, statistics)
        held_out = HeldOut(self._sets(context, model), config.task.decoding, config.draw_objects)
        return Material(task, FirstCodes(train) if config.codes == "first" else train, held_out)

    def _dataset(
        self,
        context: Context[TrainARConfig],
        model: Exported,
        split: Literal["train", "all"] = "train",
        uids: Collection[str] | None = None,
    ) -> "TokenDataset":
        from sar3d.data.token_dataset import TokenDataset

        data = dataclasses.replace(context.config.data, condition=self.condition(context.config))
        tokens, conditions = (context.inputs[name].files() for name in ("cache_tokens", "cache_conditions"))
        return TokenDataset(tokens, conditions, data, vqvae=model.digest, split=split, uids=uids)

    def _conditions(self, context: Context[TrainARConfig]) -> "tuple[EncoderSource, Condition]":
        """The encoder that made the conditions, and its empty one."""
        import torch

        from sar3d.ar.condition import Condition
        from sar3d.ar.task import EncoderSource
        from sar3d.data.conditions import decode_condition

        kind = self.condition(context.config)
        name, weights = context.everything.cache_conditions.encoders()[kind]
        for row in rows_of(context.inputs["cache_conditions"], {EMPTY}):
            if row["kind"] == kind:
                found = decode_condition(row)
                tokens, pooled = (torch.from_numpy(x[None].copy()) for x in (found.tokens, found.pooled))
                return EncoderSource(name, weights, found.encoder), Condition(tokens, pooled)
        raise UserError(f"the conditions dataset holds no empty {kind} condition: cache the conditions again")

    def _sets(self, context: Context[TrainARConfig], model: Exported) -> "dict[str, AskedObjects]":
        """`known`: objects that are trained on; `objects`: validating ones, where there are any."""
        sets = {}
        for name, split in (("known", "train"), ("objects", "val")):
            if split == "val" and not context.config.data.val:
                continue
            found = self._asked(context, model, split)
            if found is not None:
                sets[name] = found
        return sets

    def _asked(self, context: Context[TrainARConfig], model: Exported, split: Any) -> "AskedObjects | None":
        from sar3d.data.asked import AskedObjects, spread_objects
        from sar3d.data.view_dataset import ViewDataset

        config = context.config
        try:
            views = ViewDataset(context.inputs[config.views].files(), None, _view_data(context), split=split)
            uids = spread_objects(views, config.evaluate_objects)
            tokens = self._dataset(context, model, "all", uids)
        except NothingSelectedError:  # a small dataset may have no object whose hash falls into the share
            if split == "val":
                return None
            raise
        labels = {}
        if self.condition(config) == "text":
            rows = rows_of(context.inputs["download"], set(uids))
            labels = {row["uid"]: str(row["captions"][0]) for row in rows if row["captions"]}
        return AskedObjects(tokens, views, uids, labels, prompts=config.evaluate_prompts)

    def digest(self, folder: Path) -> str:
        from sar3d import hub

        if hub.describe(folder)["kind"] != "ar":
            raise UserError(f"{folder} holds no generator: give the folder of a model that {self.name} made")
        return hub.digest(folder)


def _statistics(train: "TokenDataset") -> "PooledStatistics":
    """Of the pooled vectors of the first samples: objects lie in no order that means anything."""
    from sar3d.ar.condition import PooledStatistics

    samples = itertools.islice(train.samples(), COUNTED)
    return PooledStatistics.of(sample.pooled for sample in samples if sample.pooled is not None)


def _view_data(context: Context[TrainARConfig]) -> ViewDataConfig:
    """All views of an object; held out are those that the tokenizer's training held out."""
    config, vqvae = context.config, context.everything.train_vqvae.data
    return ViewDataConfig(
        unit="object" if config.views == "render" else "group",
        normals=False,
        held_out=vqvae.held_out,
        held_out_views=vqvae.held_out_views,
        val=config.data.val,
        test=config.data.test,
        cache_decoded=False,
    )


class TrainARImageStage(TrainARStage):
    name = "train_ar_image"
    about = "train the next-scale transformer on cached codes, conditioned on pictures"
    default: ClassVar[ConditionKind] = "image"


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_ar")
