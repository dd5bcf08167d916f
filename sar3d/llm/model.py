"""SAR3D-LLM: the code vectors of an object's coarse tokens as inputs of a causal language model (SAR3D, section 3.3)."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sar3d.errors import UserError
from sar3d.llm.config import CaptionDecoding, LLMConfig
from sar3d.llm.projector import FrozenCodebook, Projector, mean_row
from sar3d.llm.prompt import SpecialIds, Writer, add_special_tokens, special_ids


class SAR3DLM(nn.Module):
    """A causal language model of Hugging Face that reads 3D tokens.

    The 3D tokens and their two delimiters have inputs of their own: projected code vectors and two learned vectors.
    The language model's embeddings serve words alone, so nothing in them is ever overwritten, and a frozen language
    model stays as it was.

    Args:
        config: see `LLMConfig`.
        codebook: (K, D) codes of the VQVAE; only their directions count.
        lm: a Hugging Face causal language model.
        tokenizer: its tokenizer, with the special tokens; see `assemble`.

    Raises:
        UserError: the parts do not fit.
    """

    def __init__(self, config: LLMConfig, codebook: Float[Tensor, "K D"], lm: Any, tokenizer: Any) -> None:
        super().__init__()
        if tuple(codebook.shape) != (config.codebook_size, config.code_dim):
            raise UserError(
                f"the codebook has {tuple(codebook.shape)} numbers where the model takes {config.codebook_size} codes of "
                f"{config.code_dim}: give the VQVAE that made the tokens"
            )
        words = lm.get_input_embeddings().weight
        if words.shape[1] != config.width:
            raise UserError(
                f"the language model takes inputs of width {words.shape[1]}, the projector makes {config.width}: "
                "give the language model that it was made for"
            )
        self.config, self.tokenizer = config, tokenizer
        self.special: SpecialIds = special_ids(tokenizer)
        self.codebook = FrozenCodebook(codebook)
        self.projector = Projector(
            config.code_dim, config.projector, config.width, config.num_tokens if config.pos_embed else 0
        )
        self.delimiters = nn.Embedding(2, config.width)
        """Inputs of <point_start> and <point_end>."""
        with torch.no_grad():
            self.delimiters.weight.copy_(mean_row(words, min(vars(self.special).values())).expand(2, -1))
        self.lm = lm
        self._partial_logits = "logits_to_keep" in inspect.signature(lm.forward).parameters

    def forward(
        self, ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], tokens: Int[Tensor, "B N"], keep: int = 0
    ) -> Float[Tensor, "B t vocab"]:
        """Logits after each of the last `keep` positions (0: after every position), in the language model's precision.

        Args:
            ids: token ids with N times <point_patch> in each row.
            mask: True at tokens, False at padding.
            codes: indices of the first N of each object's tokens.
            keep: t.

        Raises:
            ValueError: a row has not N times <point_patch>.
        """
        inputs = self.embed(ids, tokens)
        if self._partial_logits:
            logits: Tensor = self.lm(
                inputs_embeds=inputs, attention_mask=mask, logits_to_keep=keep, use_cache=False
            ).logits
            return logits
        logits = self.lm(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits
        return logits[:, -keep:]

    def embed(self, ids: Int[Tensor, "B T"], tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B T C"]:
        """Inputs of the language model: words, delimiters, and in the places of <point_patch> the projected codes, in
        their order. Arguments and errors as for `forward`.
        """
        special = self.special
        patch, start, end = ids == special.patch, ids == special.start, ids == special.end
        if not bool((patch.sum(1) == tokens.shape[1]).all()):
            raise ValueError(f"each row must have {tokens.shape[1]} times <point_patch>, one for each 3D token")
        words = self.lm.get_input_embeddings()(ids.masked_fill(patch | start | end, 0))
        delimiters = self.delimiters(end.long()).to(words.dtype)
        points = self.projector(self.codebook(tokens)).to(words.dtype)
        inputs = torch.where((start | end)[..., None], delimiters, words)
        return inputs.masked_scatter(patch[..., None], points)

    def coarse_tokens(self, tokens: Int[Tensor, "B L"]) -> Int[Tensor, "B N"]:
        """What the model reads of whole token sequences.

        Raises:
            UserError: they are not of this model's tokenizer.
        """
        config = self.config
        if tokens.ndim != 2 or tokens.shape[1] not in (config.num_tokens, config.tokens):
            raise UserError(
                f"tokens of shape {tuple(tokens.shape)} do not fit this model: an object has {config.tokens} of them, "
                f"of which the first {config.num_tokens} are read; use the VQVAE that the model was trained with"
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < config.codebook_size:
            raise UserError(
                f"there are tokens beyond the codebook of {config.codebook_size}: use the VQVAE of this model"
            )
        return tokens[:, : config.num_tokens].long()

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: Int[Tensor, "B N"],
        decoding: CaptionDecoding,
        together: bool = False,
    ) -> list[str]:
        """The answers to B prompts (see `Writer.prompt`) about B objects.

        Args:
            together: whether other processes, which hold parts of the weights, generate at the same time; then all
                go on until the last has ended.
        """
        device = self.codebook.vectors.device
        ids, mask = left_padded(prompts, self.lm.generation_config.pad_token_id, device)
        sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p} if decoding.temperature else {}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(decoding.seed)
            made = self.lm.generate(
                inputs_embeds=self.embed(ids, tokens.to(device)),
                attention_mask=mask.long(),
                max_new_tokens=decoding.max_new_tokens,
                do_sample=bool(decoding.temperature),
                suppress_tokens=sorted(vars(self.special).values()),
                synced_gpus=together,
                **sampling,
            )
        texts: list[str] = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in texts]


def left_padded(
    prompts: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Ids and mask of prompts that end together."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[padding] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts])
    return ids.to(device), mask.to(device)


def assemble(config: LLMConfig, codebook: Float[Tensor, "K D"], lm: Any, tokenizer: Any) -> SAR3DLM:
    """A new model around a language model that knows nothing of 3D tokens: the special tokens are added to its vocabulary.

    Their rows in its embeddings are the mean of the others, of input and output alike.

    Raises:
        UserError: the vocabulary clashes with the special tokens, or the parts do not fit.
    """
    add_special_tokens(tokenizer)
    known = min(vars(special_ids(tokenizer)).values())
    if lm.get_input_embeddings().weight.shape[0] < len(tokenizer):
        lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for table in {id(t): t for t in (lm.get_input_embeddings(), lm.get_output_embeddings())}.values():
            table.weight[known : len(tokenizer)] = mean_row(table.weight, known).to(table.weight.dtype)
    set_generation(lm, tokenizer)
    return SAR3DLM(config, codebook, lm, tokenizer)


def set_generation(lm: Any, tokenizer: Any) -> None:
    """Replace the generation settings that the language model came with by greedy defaults."""
    from transformers import GenerationConfig

    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    lm.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=padding
    )


def writer_of(model: SAR3DLM) -> Writer:
    """Writes conversations for a model."""
    return Writer(model.tokenizer, model.config.template, model.config.num_tokens)
