"""Conditions to tokens: the fast decoding, its plain reference, and sampling settings."""

from sar3d.ar.decode import Decoder, generate
from sar3d.ar.decode_plain import generate_plain
from sar3d.ar.decoding_config import DECODINGS, Decoding, decoding
from sar3d.ar.generated import DecodedScale, Generated, Kept, OnScale, Precision

__all__ = [
    "DECODINGS",
    "DecodedScale",
    "Decoder",
    "Decoding",
    "Generated",
    "Kept",
    "OnScale",
    "Precision",
    "decoding",
    "generate",
    "generate_plain",
]
