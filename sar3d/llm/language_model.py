"""Language models and their tokenizers: pretrained ones, and small ones from a random start."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sar3d.errors import UserError
from sar3d.llm.config import RandomLMConfig
from sar3d.quiet import quiet_transformers

END_OF_TEXT, PADDING = "</s>", "<pad>"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text into words. Transformers puts it into every tokenizer of that architecture that it loads."""
_WEIGHTS = "a safetensors file or several with an index"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A byte-level BPE tokenizer for `texts` as JSON; equal texts, in any order, give an equal one."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return str(tokenizer.to_str())


def tokenizer_of(described: str) -> Any:
    """The Hugging Face tokenizer of a description that `train_tokenizer` made."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(described),
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def random_lm(config: RandomLMConfig, tokenizer: Any) -> Any:
    """A causal language model for the tokenizer; its weights come from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    described, model = kinds[config.architecture]
    return model(
        described(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=round(config.width * config.mlp_ratio),
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.length,
            tie_word_embeddings=config.tied,
            # The default 0.02 suits thousands of channels; with a hundred, attention scores stay near zero for long.
            initializer_range=config.width**-0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a folder, or of a repository of the Hugging Face hub. Raises `UserError` if there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=Path(source).is_dir())
    except Exception as error:
        # Damaged files raise whatever their reader stumbles over.
        raise UserError(
            f"{source} holds no tokenizer that can be loaded ({_first_line(error)}): {_where(source)}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {source} has no end-of-sequence token, with which an answer ends: give another"
        )
    return tokenizer


def load_lm(source: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """The causal language model of a folder or of a repository of the hub; safetensors only, all of its tensors there.

    Raises:
        UserError: there is none, or it is damaged or incomplete.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"use_safetensors": True, "dtype": dtype, "output_loading_info": True}
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, local_files_only=Path(source).is_dir(), **options
            )
    except Exception as error:
        raise UserError(
            f"{source} holds no causal language model that can be loaded ({_first_line(error)}): {_where(source)}"
        ) from error
    model, info = loaded
    lacking = sorted([*info["missing_keys"], *(str(m[0]) for m in info["mismatched_keys"])])
    if lacking:
        raise UserError(f"{source} lacks the tensor {lacking[0]} of its language model: fetch it again")
    return model


def lm_width(source: str | Path) -> int:
    """Width of the inputs of a language model, of which only its configuration is read. Raises `UserError` if none."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=Path(source).is_dir())
    except Exception as error:
        raise UserError(f"{source} is no language model ({_first_line(error)}): {_where(source)}") from error
    return int(config.get_text_config().hidden_size)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(" .") if lines else type(error).__name__


def _where(source: str | Path) -> str:
    if Path(source).is_dir():
        return f"give a folder with config.json, tokenizer.json and {_WEIGHTS}"
    return "give the folder of a language model, or a repository of the Hugging Face hub that can be reached"
