"""Stage `train_vqvae`: the multi-scale 3D VQVAE, trained on rendered views."""

import dataclasses
from dataclasses import dataclass, field

from pipelines.perceptual import Perceptual, resolved, settled
from pipelines.reconstructed import Views
from pipelines.runtime.inputs import rows
from pipelines.runtime.stage import Context, Log
from pipelines.runtime.training.stage import TrainingStage, TrainInputs, TrainStageConfig
from pipelines.withheld import withheld_objects
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.tasks.vqvae.config import VQVAETaskConfig


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
        found = resolved(config.perceptual, config.task.perceptual, self.name, log)
        return dataclasses.replace(config, perceptual=found)

    def build(self, context: Context[TrainVQVAEConfig], log: Log) -> TrainInputs:
        from sar3d.tasks.vqvae.evaluate import ReconstructionSets
        from sar3d.tasks.vqvae.task import VQVAETask

        config = context.config
        distance = settled(config.perceptual, config.task.perceptual, self.name)
        task = VQVAETask(dataclasses.replace(config.task, perceptual=distance))
        withheld = withheld_objects(context.rows.get("objects"))
        views = Views(context.rows["views"], task.model_config.resolution, config.data, withheld)
        train = views.train()
        log(f"{self.name}: {train.size:,} samples of {train.objects:,} objects to train on")
        held_out = ReconstructionSets(views.held_out(train, config.evaluate_objects), config.draw_objects)
        return TrainInputs(task, train, held_out)


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_vqvae")
