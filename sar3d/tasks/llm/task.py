"""Training SAR3D-LLM: what one step computes (paper section 3.3; published.md, language model)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d import hub
from sar3d.data.datasets.caption_dataset import CaptionSample
from sar3d.errors import UserError
from sar3d.llm.config import LLMConfig
from sar3d.llm.language_model import load_lm, load_tokenizer, random_lm, tokenizer_of
from sar3d.llm.model import SAR3DLM, assemble, writer_of
from sar3d.llm.prompt import Example, Writer
from sar3d.seeds import SampleKey, generator
from sar3d.tasks.llm.config import LLMTaskConfig
from sar3d.tasks.llm.evaluate import CaptionSets, GeneratedCaption, captions_json, evaluate
from sar3d.tasks.llm.instructions import answers, draw_pair
from sar3d.training.task import Losses, Sync, Task

_IGNORED = -100
"""Label of what is not learned."""


@dataclass(frozen=True)
class LLMBatch:
    """One micro-batch of B conversations."""

    ids: Int64[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    """True at tokens, False at padding."""
    labels: Int64[Tensor, "B T"]
    """The ids where they belong to the answer."""
    tokens: Int64[Tensor, "B N"]
    keep: int
    """Last positions of a row that hold all answers and one place before."""


class LLMTask(Task):
    """A language model that reads 3D tokens, trained to answer questions about objects.

    Args:
        config: how it is trained.
        model_config: the model besides the language model.
        codebook: (K, D) codes of the VQVAE that made the tokens.
        vqvae: its digest, kept with the exported model.
        tokenizer: for a language model from a random start, see `language_model.train_tokenizer`.
        start: gives the folder of a SAR3D-LLM to go on from, on the machine that calls it.
    """

    name = "llm"
    split_parameters = True
    """Its weights are read in the forward passes of their modules alone, so ZeRO 3 may split them."""
    own_start = True
    """`build` already holds the weights that a new run begins with."""

    def __init__(
        self,
        config: LLMTaskConfig,
        model_config: LLMConfig,
        codebook: Float[Tensor, "K D"],
        vqvae: str = "",
        tokenizer: str | None = None,
        start: Callable[[], Path] | None = None,
    ) -> None:
        self.config, self.model_config = config, model_config
        self.codebook, self.vqvae = codebook, vqvae
        self.tokenizer, self.start = tokenizer, start
        self._writer: Writer | None = None
        self._told: tuple[dict[str, list[GeneratedCaption]], dict[str, str]] = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writer": None, "_told": ({}, {})}

    def build(self) -> SAR3DLM:
        """Raises `UserError` where the language model cannot be had or does not fit."""
        model = self._begun() if self.start is not None else self._new()
        if self.config.train == "lora":
            _add_adapters(model, self.config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_learns(name, self.config.train))
        if self.config.checkpoint_activations:
            model.lm.activation_checkpointing_enable({"use_reentrant": False})
        self._writer = writer_of(model)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        learning = [p for p in model.parameters() if p.requires_grad]
        return [{"params": learning, "lr": self.config.peak_lr, "weight_decay": self.config.weight_decay}]

    def discriminator_groups(self, discriminator: nn.Module) -> list[dict[str, Any]]:
        raise TypeError("a captioner has no discriminator")

    def collate(self, samples: list[CaptionSample], step: int, keys: list[SampleKey]) -> LLMBatch:
        examples = [self._example(sample, key) for sample, key in zip(samples, keys, strict=True)]
        longest = max(len(example.ids) for example in examples)
        padding = self.writer.end
        return LLMBatch(
            ids=torch.tensor([e.ids + [padding] * (longest - len(e.ids)) for e in examples]),
            mask=torch.tensor([[True] * len(e.ids) + [False] * (longest - len(e.ids)) for e in examples]),
            labels=torch.tensor([_labels(e, longest) for e in examples]),
            tokens=torch.stack([self._tokens(sample, key) for sample, key in zip(samples, keys, strict=True)]),
            keep=longest - min(e.answer for e in examples) + 1,
        )

    def losses(self, model: nn.Module, batch: LLMBatch, step: int, discriminator: nn.Module | None = None) -> Losses:
        """Cross-entropy of the answers' tokens: the mean over each answer, then over the answers, so that it does not
        depend on how a batch is divided. (The published one is the mean over all tokens.)
        """
        logits = model(batch.ids, batch.mask, batch.tokens, batch.keep)[:, :-1].float()
        labels = batch.labels[:, 1 - batch.keep :]
        told = labels != _IGNORED
        each = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=_IGNORED, reduction="none")
        total = (each.sum(1) / told.sum(1)).mean()
        right = ((logits.argmax(-1) == labels) & told).sum(1) / told.sum(1)
        return Losses(total, {"loss": total.detach(), "accuracy": right.mean(), "tokens": told.sum(1).float().mean()})

    def evaluate(self, model: nn.Module, held_out: CaptionSets, sync: Sync) -> dict[str, float]:
        llm = _llm(model)
        together = _split(llm) and sync.world > 1
        values, told, absent = evaluate(llm, self.writer, held_out, sync, together)
        self._told = told, absent
        return values

    def draw(self, model: nn.Module, held_out: CaptionSets) -> dict[str, bytes]:
        """The captions of the last evaluation, `captions_<set>.json`."""
        told, absent = self._told
        return {f"captions_{name}.json": captions_json(rows, absent) for name, rows in told.items()}

    def export(self, model: nn.Module, folder: Path) -> None:
        hub.save_pretrained(_llm(model), folder, {"vqvae": self.vqvae})

    @property
    def writer(self) -> Writer:
        """Writes this model's conversations; there once the model has been built."""
        if self._writer is None:
            self.build()
        assert self._writer is not None
        return self._writer

    def _new(self) -> SAR3DLM:
        source = self.config.source
        if source:
            tokenizer, lm = load_tokenizer(source), load_lm(source)
        else:
            assert self.tokenizer is not None
            tokenizer = tokenizer_of(self.tokenizer)
            lm = random_lm(self.config.random, tokenizer)
        return assemble(self.model_config, self.codebook, lm, tokenizer)

    def _begun(self) -> SAR3DLM:
        assert self.start is not None
        folder = self.start()
        model = hub.from_pretrained(folder, kind="llm")
        if model.config != self.model_config:
            changed = next(k for k, v in vars(model.config).items() if v != getattr(self.model_config, k))
            raise UserError(
                f"the model {folder} cannot be gone on from: its {changed} is {getattr(model.config, changed)}, this "
                f"one's is {getattr(self.model_config, changed)}"
            )
        return model

    def _tokens(self, sample: CaptionSample, key: SampleKey) -> Int64[Tensor, " N"]:
        tokens, noise = sample.tokens[: self.model_config.num_tokens], self.config.noise
        if not noise:
            return tokens
        draws = generator(key.seed, "noise", key.step, key.index)
        others = torch.randint(self.model_config.codebook_size, tokens.shape, generator=draws)
        return torch.where(torch.rand(tokens.shape, generator=draws) < noise, others, tokens)

    def _example(self, sample: CaptionSample, key: SampleKey) -> Example:
        about = sample.about
        given = answers(about.name, about.category, about.captions)
        varied = self.config.instructions == "varied"
        question, answer = draw_pair(given, varied, self.config.caption_p, key.generator())
        return self.writer.example(question, answer)


def _labels(example: Example, longest: int) -> list[int]:
    padding = [_IGNORED] * (longest - len(example.ids))
    return [_IGNORED] * example.answer + example.ids[example.answer :] + padding


def _add_adapters(model: SAR3DLM, config: LLMTaskConfig) -> None:
    import peft

    chosen = config.lora
    described = peft.LoraConfig(
        r=chosen.rank,
        lora_alpha=chosen.alpha,
        lora_dropout=chosen.dropout,
        target_modules=list(chosen.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        peft.inject_adapter_in_model(described, model.lm)
    except ValueError as error:
        raise UserError(f"the adapters of lora cannot be added ({error}): change task.lora.targets") from error


def _learns(name: str, train: str) -> bool:
    """Whether a parameter is trained."""
    return not name.startswith("lm.") or train == "all" or (train == "lora" and ".lora_" in name)


def _split(model: nn.Module) -> bool:
    """Whether the weights lie in parts on several workers (ZeRO 3)."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def _llm(model: nn.Module) -> SAR3DLM:
    """What is inside a wrapper for distributed training."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, SAR3DLM)
    return inner
