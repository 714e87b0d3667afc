"""Exponential moving average of the weights (Polyak & Juditsky 1992, doi:10.1137/0330046): smoother, often better."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class ExponentialMovingAverage:
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
        for value, weight in zip(self.values, self.weights, strict=True):
            value.lerp_(weight, 1 - decay)

    def restart(self) -> None:
        """Begin from the weights as they are now."""
        _copy([weight.detach() for weight in self.weights], to=self.values)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        own = [weight.clone() for weight in self.weights]
        _copy(self.values, to=self.weights)
        try:
            yield
        finally:
            _copy(own, to=self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return dict(zip(self.names, self.values, strict=True))

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        _copy([tensors[name] for name in self.names], to=self.values)


def _copy(tensors: list[Tensor], *, to: list[Tensor]) -> None:
    for source, target in zip(tensors, to, strict=True):
        target.copy_(source)
