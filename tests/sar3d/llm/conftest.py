"""Fixtures of small language models."""

from small_llm import architecture, codebook, described, model

__all__ = ["architecture", "codebook", "described", "model"]
