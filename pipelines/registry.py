"""The stages there are, by name, in the order in which data flows through them."""

from typing import Any

from pipelines.cache_conditions import CacheConditionsStage
from pipelines.cache_tokens import CacheTokensStage
from pipelines.caption import CaptionStage
from pipelines.download import DownloadStage
from pipelines.evaluate import EvaluateStage
from pipelines.generate import GenerateStage
from pipelines.import_chunks import ImportChunksStage
from pipelines.render import RenderStage
from pipelines.runtime.stage import StageBase
from pipelines.train_ar import TrainARImageStage, TrainARStage
from pipelines.train_llm import TrainLLMProjectorStage, TrainLLMStage
from pipelines.train_vqvae import TrainVQVAEStage

STAGES: dict[str, StageBase[Any]] = {
    stage.name: stage
    for stage in (
        DownloadStage(),
        RenderStage(),
        ImportChunksStage(),
        TrainVQVAEStage(),
        CacheTokensStage(),
        CacheConditionsStage(),
        TrainARStage(),
        TrainARImageStage(),
        TrainLLMProjectorStage(),
        TrainLLMStage(),
        CaptionStage(),
        GenerateStage(),
        EvaluateStage(),
    )
}
