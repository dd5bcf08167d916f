"""Captions, a model's sizes, and small language models with a tokenizer trained on captions in place."""

from typing import Any

import pytest
import torch

from sar3d.llm.config import LLMConfig, RandomLMConfig
from sar3d.llm.language_model import random_lm, tokenizer_of, train_tokenizer
from sar3d.llm.model import SAR3DLM, assemble
from sar3d.tasks.llm.instructions import QUESTIONS

CAPTIONS = ("a red apple", "a green pear", "a white and green open can", "a gray fire truck", "a crate of lettuce")
CONFIG = LLMConfig(
    codebook_size=64, code_dim=8, scales=(1, 2, 3), num_scales=2, projector=(16, 24), width=32, template="plain"
)


@pytest.fixture(scope="session")
def described() -> str:
    """A tokenizer as JSON."""
    return train_tokenizer([*CAPTIONS, *(q for questions in QUESTIONS.values() for q in questions)], 480)


@pytest.fixture(scope="session")
def codebook() -> torch.Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["llama", "qwen2"])
def architecture(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def model(architecture: Any, described: str, codebook: torch.Tensor) -> SAR3DLM:
    """A model around a real LlamaForCausalLM or Qwen2ForCausalLM of random weights."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(described)
    lm = random_lm(RandomLMConfig(architecture, width=32, layers=2, heads=2), tokenizer)
    return assemble(CONFIG, codebook, lm, tokenizer).eval()
