"""Stages `train_llm` and `train_llm_projector`: a language model that reads cached codes and describes objects."""

import dataclasses
import functools
import hashlib
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.exported import Exported, exported, trained
from pipelines.runtime.stage import Context, Say
from pipelines.runtime.store import Store, is_remote, join
from pipelines.runtime.training.stage import Material, TrainingStage, TrainStageConfig
from sar3d.data.caption_config import CaptionDataConfig
from sar3d.errors import NothingSelectedError, UserError
from sar3d.llm.config import LLMConfig
from sar3d.llm.task_config import LLMTaskConfig, model_config
from sar3d.training.settings import TrainSettings
from sar3d.vqvae.config import from_dict

if TYPE_CHECKING:
    from torch import Tensor

    from sar3d.data.caption_dataset import CaptionDataset, Descriptions
    from sar3d.llm.evaluate import HeldOut

PROJECTOR = "train_llm_projector"


@dataclass(frozen=True)
class TrainLLMConfig(TrainStageConfig):
    """What the captioner is, what it learns from, and how it is judged."""

    train: TrainSettings = field(default_factory=lambda: TrainSettings(ema=None))
    """How it is trained; without a moving average, as published."""
    vqvae: str = field(default="", metadata={"identity": "listing"})
    """Folder or URL of the VQVAE that made the codes; default: `cache_tokens.model`, or what `train_vqvae` made. What
    counts is its digest, not its place."""
    after: Literal["", "train_llm_projector"] = ""
    """The stage whose model this one goes on from: with `train_llm_projector` the two published stages of training."""
    task: LLMTaskConfig = field(default_factory=LLMTaskConfig)
    data: CaptionDataConfig = field(default_factory=CaptionDataConfig)
    evaluate_objects: int = field(default=64, metadata={"identity": False})
    """Objects of each set that are described and measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.after and self.init_from:
            raise UserError(
                f"a captioner goes on from one model: unset either after={self.after} or init_from={self.init_from}"
            )


class TrainLLMStage(TrainingStage[TrainLLMConfig]):
    name = "train_llm"
    version = 1
    about = "train a language model that reads cached codes and describes objects"

    def reads(self, section: TrainLLMConfig) -> tuple[str, ...]:
        model = () if section.vqvae else ("train_vqvae",)
        before = (section.after,) if section.after and section.after != self.name else ()
        return ("download", *model, "cache_tokens", *before)

    def check(self, context: Context[TrainLLMConfig]) -> None:
        config = context.config
        if config.after == self.name:
            raise UserError(
                f"{self.name}.after={config.after} is wrong: a stage cannot go on from itself; leave it out"
            )
        if config.train.ema is not None and config.train.zero == 3:
            raise UserError(
                f"{self.name}.train.zero=3 splits the weights, of which no moving average is kept: set ema=null"
            )

    def identity(self, context: Context[TrainLLMConfig]) -> Any:
        source = context.config.task.source
        return {
            "settings": super().identity(context),
            "vqvae": self.model_of(context).digest,
            "lm": "" if _start(context) else lm_digest(source),
        }

    def places(self, context: Context[TrainLLMConfig]) -> list[str]:
        config = context.config
        places = [place for place in (config.vqvae, config.task.source) if place and not is_remote(place)]
        return [place for place in places if Path(place).is_absolute()]

    def model_of(self, context: Context[TrainLLMConfig]) -> Exported:
        """The VQVAE that the settings mean. Raises `UserError` if there is none."""
        if context.config.vqvae:
            return exported(context.config.vqvae, "vqvae")
        return trained(context.inputs["train_vqvae"], "vqvae")

    def build(self, context: Context[TrainLLMConfig], say: Say) -> Material:
        from sar3d.llm.language_model import train_tokenizer
        from sar3d.llm.task import LLMTask

        config, vqvae = context.config, self.model_of(context)
        descriptions = self._descriptions(context)
        train = self._dataset(context, descriptions, vqvae)
        left = f" ({train.without_caption:,} without a caption left out)" if train.without_caption else ""
        say(f"{self.name}: {train.size:,} view groups of {train.objects:,} objects to describe{left}")
        start, tokenizer = _start(context), None
        if not start and not config.task.source:
            tokenizer = train_tokenizer(_texts(train), config.task.random.vocabulary)
        task = LLMTask(
            config.task,
            self._model_config(context, vqvae, start),
            read_codebook(vqvae),
            vqvae.digest,
            tokenizer,
            partial(local_folder, start) if start else None,
        )
        return Material(task, train, self._held_out(context, descriptions, vqvae, train))

    def _model_config(self, context: Context[TrainLLMConfig], vqvae: Exported, start: str) -> LLMConfig:
        from sar3d.llm.language_model import lm_width

        task = context.config.task
        if start:
            return model_config(task, from_dict(vqvae.config), exported(start, "llm").config["width"])
        width = lm_width(task.source) if task.source else task.random.width
        return model_config(task, from_dict(vqvae.config), width)

    def _descriptions(self, context: Context[TrainLLMConfig]) -> "Descriptions":
        from sar3d.data.caption_dataset import Descriptions

        return Descriptions(context.inputs["download"].files())

    def _dataset(
        self, context: Context[TrainLLMConfig], descriptions: "Descriptions", vqvae: Exported, **chosen: Any
    ) -> "CaptionDataset":
        from sar3d.data.caption_dataset import CaptionDataset

        files = context.inputs["cache_tokens"].files()
        return CaptionDataset(files, descriptions, context.config.data, vqvae=vqvae.digest, **chosen)

    def _held_out(
        self, context: Context[TrainLLMConfig], descriptions: "Descriptions", vqvae: Exported, train: "CaptionDataset"
    ) -> "HeldOut":
        """`views`: held-out view groups of training objects, where there are any; `objects`: validating objects."""
        from sar3d.llm.evaluate import HeldOut
        from sar3d.metrics.captions import majority_caption

        config, sets = context.config, {}
        if config.data.held_out_groups:
            sets["views"] = self._dataset(context, descriptions, vqvae, held_out=True).shown(config.evaluate_objects)
        if config.data.val:
            everything = dataclasses.replace(context, config=dataclasses.replace(config, data=_all_groups(config.data)))
            try:
                validating = self._dataset(everything, descriptions, vqvae, split="val")
                sets["objects"] = validating.shown(config.evaluate_objects)
            except NothingSelectedError:  # a small dataset may have no object whose hash falls into the share
                pass
        known = [sample.about for sample in train.shown(_KNOWN)]
        majority = majority_caption([about.captions[0] for about in known], [about.name for about in known])
        names = tuple(sorted({(about.name, about.category) for about in known if about.name}))
        return HeldOut(sets, majority, names, config.task.decoding)


_KNOWN = 4096
"""Training objects that the baseline and the known names are taken from."""
_TEXTS = 65536
"""Training objects whose texts a tokenizer is trained on."""


class TrainLLMProjectorStage(TrainLLMStage):
    name = PROJECTOR
    about = "train the projector of codes into a language model, the first of the captioner's two stages"


def _all_groups(data: CaptionDataConfig) -> CaptionDataConfig:
    return dataclasses.replace(data, held_out_groups=())


def _start(context: Context[TrainLLMConfig]) -> str:
    """Folder or URL of the captioner that training goes on from; empty for none."""
    config = context.config
    if config.after:
        return join(context.inputs[config.after].url, "model")
    where = config.init_from
    if where and not Store(where).exists("config.json"):
        return join(where, "model")
    return where


def _texts(train: "CaptionDataset") -> list[str]:
    """Everything that is written in training, for the tokenizer."""
    from sar3d.llm.instructions import QUESTIONS, answers

    asked = [question for questions in QUESTIONS.values() for question in questions]
    told = [
        text
        for about in (sample.about for sample in train.shown(_TEXTS))
        for texts in answers(about.name, about.category, about.captions).values()
        for text in texts
    ]
    return [*asked, *(f" {text}" for text in told)]


def read_codebook(vqvae: Exported) -> "Tensor":
    """(K, D) codes of a saved VQVAE; nothing else of it is read."""
    from safetensors import safe_open

    with safe_open(local_folder(vqvae.url, ("config.json", "model.safetensors")) / "model.safetensors", "pt") as file:
        codebook: Tensor = file.get_tensor("quantizer.codebook")
        return codebook.float()


def lm_digest(source: str) -> str:
    """What tells a language model from others: the content of a folder, the name of a repository; empty for none."""
    folder = Path(source)
    if not source or not folder.is_dir():
        return source
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return total.hexdigest()


def local_folder(url: str, names: tuple[str, ...] = ()) -> Path:
    """The folder itself if it is local, else a copy of it, or of these files, that lives as long as this process."""
    if not is_remote(url):
        return Path(url.removeprefix("file://"))
    return _fetched(url, names or tuple(sorted(Store(url).names())))


@functools.cache
def _fetched(url: str, names: tuple[str, ...]) -> Path:
    folder = Path(tempfile.mkdtemp(dir=_scratch().name))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Store(url).download(name, folder / name)
    return folder


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sar3d-llm-")


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_llm")
