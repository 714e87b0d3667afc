"""Exponential moving average of the weights (Polyak & Juditsky 1992, doi:10.1137/0330046): smoother, often better."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """A running average beside a model's weights.

    Args:
        model: whose parameters are averaged; buffers are not.
        decay: how much of the average stays at each step; it starts lower, so that the first steps fade soon.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = [parameter.data for parameter in model.parameters()]
        self.values = [weight.clone() for weight in self.weights]

    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, self.weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        own = [weight.clone() for weight in self.weights]
        torch._foreach_copy_(self.weights, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(self.weights, own)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return dict(zip(self.names, self.values, strict=True))

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        torch._foreach_copy_(self.values, [tensors[name].to(self.values[0].device) for name in self.names])
