"""Stage `train_flexicubes`: heads that read meshes from the triplanes of a trained VQVAE, trained by pictures of meshes."""

import dataclasses
from dataclasses import dataclass, field

from pipelines.cache_tokens import check_views
from pipelines.perceptual import Perceptual, resolved, settled
from pipelines.reconstructed import Views
from pipelines.runtime.inputs import model, rows, same_as
from pipelines.runtime.models import check_tokens_of
from pipelines.runtime.stage import Context, Log
from pipelines.runtime.training.stage import TrainingStage, TrainInputs, TrainStageConfig
from pipelines.withheld import withheld_objects
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.errors import UserError
from sar3d.tasks.flexicubes.config import FlexiTaskConfig
from sar3d.vqvae.config import from_dict


@dataclass(frozen=True)
class TrainFlexiCubesConfig(TrainStageConfig):
    """Which VQVAE the mesh decoder belongs to, what it learns from, and how it is judged."""

    vqvae: str = model("vqvae", of="train_vqvae", inherit="cache_tokens.vqvae")
    """The trained VQVAE whose triplanes it reads: a folder, a URL, or a stage that trains one; default: that of
    `cache_tokens`."""
    views: str = rows("views", default="render")
    """The stage whose views it learns from."""
    objects: str = rows("objects", default="download", when=lambda train: train.views == "render")
    """The stage whose objects say which of them are held out of every training."""
    task: FlexiTaskConfig = field(default_factory=FlexiTaskConfig)
    data: ViewDataConfig = same_as("train_vqvae.data")
    """How views become samples, and what is held out; default: as `train_vqvae` has it. Normals are read if the loss
    compares them."""
    supervise: int | None = 4
    """Views that each object is compared in, drawn anew for each step; none for as many as `data` has."""
    perceptual: Perceptual = same_as("train_vqvae.perceptual")
    """The perceptual distance, see `train_vqvae`."""
    evaluate_objects: int = field(default=64, metadata={"identity": False})
    """Objects of each set that the model is measured on."""
    draw_objects: int = field(default=8, metadata={"identity": False})
    """Objects of each set whose meshes are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.supervise is not None and self.supervise < 1:
            raise UserError(
                f"train_flexicubes.supervise={self.supervise} leaves no view to compare with: give 1 or more"
            )


class TrainFlexiCubesStage(TrainingStage[TrainFlexiCubesConfig]):
    name = "train_flexicubes"
    section = TrainFlexiCubesConfig
    writes = "flexicubes"
    version = 1
    about = "train heads that read meshes from the triplanes of a trained VQVAE"

    def resolve(self, config: TrainFlexiCubesConfig, log: Log) -> TrainFlexiCubesConfig:
        found = resolved(config.perceptual, config.task.perceptual, self.name, log)
        return dataclasses.replace(config, perceptual=found)

    def check(self, context: Context[TrainFlexiCubesConfig]) -> None:
        vqvae, start = context.models["vqvae"], context.models.get("init_from")
        check_views(context.rows["views"], from_dict(vqvae.config), self.name)
        if start is not None:
            check_tokens_of(start, vqvae, "mesh decoder", f"{self.name}.vqvae")

    def build(self, context: Context[TrainFlexiCubesConfig], log: Log) -> TrainInputs:
        from sar3d.tasks.flexicubes.task import FlexiTask
        from sar3d.tasks.vqvae.evaluate import ReconstructionSets

        config, vqvae = context.config, context.models["vqvae"]
        distance = settled(config.perceptual, config.task.perceptual, self.name)
        settings = dataclasses.replace(config.task, perceptual=distance)
        if "init_from" in context.models:  # its heads are the start
            settings = dataclasses.replace(settings, start="random", level=None, steepness=None)
        views = Views(
            context.rows["views"],
            from_dict(vqvae.config).resolution,
            _data(config),
            withheld_objects(context.rows.get("objects")),
        )
        train = views.train()
        log(f"{self.name}: {train.size:,} samples of {train.objects:,} objects to train on")
        held_out = ReconstructionSets(views.held_out(train, config.evaluate_objects), config.draw_objects)
        return TrainInputs(FlexiTask(settings, vqvae.folder, vqvae.digest), train, held_out)


def _data(config: TrainFlexiCubesConfig) -> ViewDataConfig:
    # Published samples are compared in all of their views.
    supervise = config.data.supervise if config.data.unit == "published" else config.supervise or config.data.supervise
    return dataclasses.replace(config.data, supervise=supervise, normals=bool(config.task.loss.normal))


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_flexicubes")
