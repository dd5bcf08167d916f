"""Stage `train_vqvae`: the multi-scale 3D VQVAE, trained on rendered views."""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipelines.runtime.output import Output
from pipelines.runtime.stage import Context, Say
from pipelines.runtime.training.stage import Material, TrainingStage, TrainStageConfig
from sar3d.data.view_config import ViewDataConfig
from sar3d.errors import NothingSelectedError, UserError
from sar3d.metrics.config import PerceptualConfig
from sar3d.vqvae.task_config import VQVAETaskConfig

if TYPE_CHECKING:
    from sar3d.data.shown import ShownSamples
    from sar3d.data.view_dataset import ViewDataset
    from sar3d.vqvae.task import VQVAETask

Perceptual = Literal["auto", "lpips", "substitute"]


@dataclass(frozen=True)
class TrainVQVAEConfig(TrainStageConfig):
    """What the tokenizer is, what it learns from, and how it is judged."""

    views: Literal["render", "import_chunks"] = "render"
    """The stage whose views it learns from."""
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
    version = 1
    about = "train the multi-scale 3D VQVAE on rendered views"

    def reads(self, section: TrainVQVAEConfig) -> tuple[str, ...]:
        return (section.views,)

    def resolve(self, config: TrainVQVAEConfig, say: Say) -> TrainVQVAEConfig:
        if config.perceptual != "auto":
            return config
        found: Perceptual = "substitute" if _weights(config).vgg16 == "substitute" else "lpips"
        say(f"{self.name}: the perceptual distance is {found}")
        return dataclasses.replace(config, perceptual=found)

    def build(self, context: Context[TrainVQVAEConfig], say: Say) -> Material:
        from sar3d.vqvae.evaluate import HeldOut
        from sar3d.vqvae.task import VQVAETask

        config = context.config
        task = VQVAETask(dataclasses.replace(config.task, perceptual=_settled(config)))
        views = context.inputs[config.views]
        train = _dataset(views, task, config)
        say(f"{self.name}: {train.size:,} samples of {train.objects:,} objects to train on")
        return Material(task, train, HeldOut(_held_out(views, task, config, train), config.draw_objects))


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


def _dataset(views: Output, task: "VQVAETask", config: TrainVQVAEConfig, split: Any = "train") -> "ViewDataset":
    from sar3d.data.view_dataset import ViewDataset

    return ViewDataset(views.files(), task.model_config.resolution, config.data, split=split)


def _held_out(
    views: Output, task: "VQVAETask", config: TrainVQVAEConfig, train: "ViewDataset"
) -> "dict[str, ShownSamples]":
    """`views`: unseen views of training objects, where the data hold some out; `objects`: the validating objects."""
    from sar3d.data.shown import ShownSamples

    sets = {}
    if config.data.holds_out:
        sets["views"] = ShownSamples(train, "held_out", config.evaluate_objects)
    if config.data.val:
        try:
            validating = _dataset(views, task, dataclasses.replace(config, data=_all_views(config.data)), "val")
        except NothingSelectedError:  # a small dataset may have no object whose hash falls into the share
            return sets
        sets["objects"] = ShownSamples(validating, "all", config.evaluate_objects)
    return sets


def _all_views(data: ViewDataConfig) -> ViewDataConfig:
    unit: Literal["group", "object"] = "group" if data.unit == "group" else "object"
    return dataclasses.replace(data, unit=unit, supervise=None, held_out=0, held_out_views=(), held_out_groups=())


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_vqvae")
