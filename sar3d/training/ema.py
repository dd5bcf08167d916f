"""Exponential moving average of the weights, in fp32."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """A moving average of a model's trainable parameters; buffers are not averaged."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        """Parameter name → averaged values."""

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` (from 0).

        The decay starts at 0.1 and approaches its final value as (1 + step) / (10 + step), so that the
        random initialization does not dominate the average of a short run.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(model.named_parameters())
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, [parameters[name].detach() for name in self.weights], 1 - decay)

    @torch.no_grad()
    def restart(self, model: nn.Module, replaced: Sequence[nn.Parameter]) -> None:
        """Begin the averages of these parameters anew at their present values."""
        wanted = {id(parameter) for parameter in replaced}
        for name, parameter in model.named_parameters():
            if id(parameter) in wanted and name in self.weights:
                self.weights[name].copy_(parameter)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights; its own are back afterwards, also after an exception."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name, average in self.weights.items():
            own = parameters[name].detach().clone()
            parameters[name].copy_(average)
            average.copy_(own)
