"""Random numbers that depend on the seed, the step and the sample, and never on who computes them."""

import hashlib
import random
from dataclasses import dataclass

import numpy as np
import torch


def derive(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for the stream named by `parts`; different names give unrelated streams."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """A CPU generator at the start of the stream named by `parts`."""
    return torch.Generator().manual_seed(derive(seed, *parts))


def seed_everything(seed: int, *parts: int | str) -> None:
    """Put the global generators of torch (CPU and CUDA), NumPy and Python at the start of a stream.

    The loops do this before every micro-batch, so that even a module that draws from a global generator (dropout)
    gives the same numbers after a resume. No generator state has to be stored for that: seed and step are enough.
    """
    value = derive(seed, *parts)
    # torch.manual_seed does the same for devices that are not there, at a millisecond a call.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)


@dataclass(frozen=True)
class SampleKey:
    """Names one sample of one step, whichever worker computes it."""

    seed: int
    """Seed of the run."""
    step: int
    """Optimizer step, from 0."""
    index: int
    """Position in the global batch."""

    def generator(self) -> torch.Generator:
        """A CPU generator for this sample's random choices: the same for any number of workers."""
        return generator(self.seed, "sample", self.step, self.index)
