"""Exponential moving average of the weights (Polyak & Juditsky 1992, doi:10.1137/0330046)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class ExponentialMovingAverage:
    """Exponential moving average of a model's parameters.

    Args:
        model: its parameters are averaged; its buffers are not.
        decay: weight of the old average in each update. The first updates use (1 + step) / (10 + step) where that is
            smaller, so that the initial weights are forgotten quickly.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = [parameter.data for parameter in model.parameters()]
        self.averages = [weight.clone() for weight in self.weights]

    def update(self, step: int) -> None:
        """Update the average with the weights after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.lerp_(weight, 1 - decay)

    def reset(self) -> None:
        """Set the average to the current weights."""
        _copy([weight.detach() for weight in self.weights], to=self.averages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block and restore its weights afterwards."""
        backup = [weight.clone() for weight in self.weights]
        _copy(self.averages, to=self.weights)
        try:
            yield
        finally:
            _copy(backup, to=self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by parameter name, for checkpoints."""
        return dict(zip(self.names, self.averages, strict=True))

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the averages that `tensors` returned."""
        _copy([tensors[name] for name in self.names], to=self.averages)


def _copy(tensors: list[Tensor], *, to: list[Tensor]) -> None:
    for source, target in zip(tensors, to, strict=True):
        target.copy_(source)
