"""Stage `train_vqvae`: the multi-scale 3D VQVAE, trained on rendered views."""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipelines.runtime.inputs import rows
from pipelines.runtime.output import Output
from pipelines.runtime.stage import Context, Log
from pipelines.runtime.training.stage import TrainingStage, TrainInputs, TrainStageConfig
from pipelines.withheld import withheld_objects
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.held_out import HeldOut
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import NothingSelectedError, UserError
from sar3d.metrics.config import PerceptualConfig
from sar3d.tasks.vqvae.config import VQVAETaskConfig

if TYPE_CHECKING:
    from sar3d.data.datasets.shown import ShownSamples
    from sar3d.data.datasets.view_dataset import ViewDataset
    from sar3d.tasks.vqvae.task import VQVAETask

Perceptual = Literal["auto", "lpips", "substitute"]


@dataclass(frozen=True)
class TrainVQVAEConfig(TrainStageConfig):
    """What the tokenizer is, what it learns from, and how it is judged."""

    views: str = rows("views", default="render")
    """The stage whose views it learns from."""
    objects: str = rows("objects", default="download", when=lambda train: train.views == "render")
    """The stage whose objects say which of them are held out of every training."""
    task: VQVAETaskConfig = field(default_factory=VQVAETaskConfig)
    data: ViewDataConfig = field(default_factory=ViewDataConfig)
    perceptual: Perceptual = "auto"
    """`auto`: LPIPS where its weights can be had, else a named substitute; settled when the stage first runs."""
    evaluate_objects: int = field(default=64, metadata={"identity": False})
    """Objects of each set that the model is measured on."""
    draw_objects: int = field(default=8, metadata={"identity": False})
    """Objects of each set whose reconstructions are drawn."""


class TrainVQVAEStage(TrainingStage[TrainVQVAEConfig]):
    name = "train_vqvae"
    section = TrainVQVAEConfig
    writes = "vqvae"
    version = 1
    about = "train the multi-scale 3D VQVAE on rendered views"

    def resolve(self, config: TrainVQVAEConfig, log: Log) -> TrainVQVAEConfig:
        if config.perceptual != "auto":
            return config
        found: Perceptual = "substitute" if _weights(config).vgg16 == "substitute" else "lpips"
        log(f"{self.name}: the perceptual distance is {found}")
        return dataclasses.replace(config, perceptual=found)

    def build(self, context: Context[TrainVQVAEConfig], log: Log) -> TrainInputs:
        from sar3d.tasks.vqvae.evaluate import ReconstructionSets
        from sar3d.tasks.vqvae.task import VQVAETask

        config = context.config
        task = VQVAETask(dataclasses.replace(config.task, perceptual=_settled(config)))
        views = context.rows["views"]
        withheld = withheld_objects(context.rows.get("objects"))
        train = _dataset(views, task, config, withheld)
        log(f"{self.name}: {train.size:,} samples of {train.objects:,} objects to train on")
        return TrainInputs(
            task, train, ReconstructionSets(_held_out(views, task, config, train, withheld), config.draw_objects)
        )


def _weights(config: TrainVQVAEConfig) -> PerceptualConfig:
    from sar3d.metrics.lpips import resolve_weights

    return resolve_weights(config.task.perceptual)


def _settled(config: TrainVQVAEConfig) -> PerceptualConfig:
    if config.perceptual == "substitute":
        return dataclasses.replace(config.task.perceptual, vgg16="substitute")
    found = _weights(config)
    if found.vgg16 == "substitute":
        raise UserError(
            "the weights of LPIPS cannot be had now, but train_vqvae.perceptual is lpips: make them reachable, set "
            "train_vqvae.task.perceptual.vgg16 to their path, or set train_vqvae.perceptual=substitute"
        )
    return found


def _dataset(
    views: Output, task: "VQVAETask", config: TrainVQVAEConfig, withheld: Withheld | None, split: Any = "train"
) -> "ViewDataset":
    from sar3d.data.datasets.view_dataset import ViewDataset

    return ViewDataset(views.files(), task.model_config.resolution, config.data, split=split, withheld=withheld)


def _held_out(
    views: Output, task: "VQVAETask", config: TrainVQVAEConfig, train: "ViewDataset", withheld: Withheld | None
) -> "dict[str, ShownSamples]":
    """`views`: unseen views of training objects, where the data hold some out; `objects`: the validating objects."""
    from sar3d.data.datasets.shown import ShownSamples

    sets = {}
    if config.data.held_out:
        sets["views"] = ShownSamples(train, "held_out", config.evaluate_objects)
    if config.data.val:
        try:
            every_view = dataclasses.replace(config, data=_all_views(config.data))
            validating = _dataset(views, task, every_view, withheld, "val")
        except NothingSelectedError:  # a small dataset may have no object whose hash falls into the share
            return sets
        sets["objects"] = ShownSamples(validating, "all", config.evaluate_objects)
    return sets


def _all_views(data: ViewDataConfig) -> ViewDataConfig:
    unit: Literal["group", "object"] = "group" if data.unit == "group" else "object"
    return dataclasses.replace(data, unit=unit, supervise=None, held_out=HeldOut())


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_vqvae")
