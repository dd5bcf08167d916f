"""The stages there are, by name, in the order in which data flows through them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import config
from pipelines.cache_conditions import CacheConditionsStage
from pipelines.cache_tokens import CacheTokensStage
from pipelines.caption import CaptionStage
from pipelines.compare import CompareStage
from pipelines.download import DownloadStage
from pipelines.evaluate import EvaluateStage
from pipelines.generate import GenerateStage
from pipelines.import_chunks import ImportChunksStage
from pipelines.render import RenderStage
from pipelines.runtime.pipeline import Pipeline, pipeline_of
from pipelines.runtime.stage import StageBase
from pipelines.set_distances import SetDistancesStage
from pipelines.train_ar import TrainARImageStage, TrainARStage
from pipelines.train_flexicubes import TrainFlexiCubesStage
from pipelines.train_llm import TrainLLMProjectorStage, TrainLLMStage
from pipelines.train_vqvae import TrainVQVAEStage

PipelineConfig = pipeline_of(
    (
        DownloadStage(),
        RenderStage(),
        ImportChunksStage(),
        TrainVQVAEStage(),
        TrainFlexiCubesStage(),
        CacheTokensStage(),
        CacheConditionsStage(),
        TrainARStage(),
        TrainARImageStage(),
        TrainLLMProjectorStage(),
        TrainLLMStage(),
        CaptionStage(),
        GenerateStage(),
        EvaluateStage(),
        CompareStage(),
        SetDistancesStage(),
    )
)
"""The whole configuration: everything that a run needs to know. Each section is documented where it is defined."""

STAGES: Mapping[str, StageBase[Any]] = PipelineConfig.registry


def load(file: str | Path, overrides: list[str]) -> Pipeline:
    """Read a configuration of this project's stages. Raises `UserError` naming the key that is wrong."""
    return config.load(file, overrides, PipelineConfig)
