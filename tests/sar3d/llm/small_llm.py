"""Captions and a model's sizes that the tests share."""

from sar3d.llm.config import LLMConfig

CAPTIONS = ("a red apple", "a green pear", "a white and green open can", "a gray fire truck", "a crate of lettuce")
CONFIG = LLMConfig(codes=64, dim=8, scales=(1, 2, 3), used=2, projector=(16, 24), width=32, template="plain")
