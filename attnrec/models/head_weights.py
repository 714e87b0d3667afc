"""Weights of single attention heads: those that remove a head from the model when they are 0.

Shapes: D = H * C channels, C of them for each of H heads; weights of linear layers are (out, in).
"""

from collections.abc import Iterable
from typing import TypeAlias

from torch import Tensor, nn

from attnrec.attention import HSTUBlock, ItemValues, MultiHeadAttention
from attnrec.attention.memory import Memory

READOUT = "readout"

Head: TypeAlias = tuple[str, int]
"""Layer ("layer 1" is closest to the items, "readout" is the last) and number of the head in it, from 0."""


def encoder_head_weights(modules: Iterable[nn.Module]) -> dict[Head, list[Tensor]]:
    """Return views of the weights of each head of the attention layers among `modules`, by head."""
    weights: dict[Head, list[Tensor]] = {}
    layers = [module for module in modules if isinstance(module, MultiHeadAttention | HSTUBlock)]
    for number, layer in enumerate(layers, start=1):
        for head, channels in enumerate(_channels(layer.project_out.in_features, layer.heads)):
            output = layer.project_out.weight[:, channels]
            weights[f"layer {number}", head] = [output, *_weights_before_norm(layer, head, channels)]
    return weights


def readout_head_weights(values: ItemValues, heads: int) -> dict[Head, list[Tensor]]:
    """Return views of the weights of each head of attention pooling over `values`, by head."""
    last = values.network[-1]
    assert isinstance(last, nn.Linear), "the value network ends in a linear layer"
    return {
        (READOUT, head): [values.linear.weight[channels], last.weight[channels], last.bias[channels]]
        for head, channels in enumerate(_channels(last.out_features, heads))
    }


def _weights_before_norm(layer: MultiHeadAttention | HSTUBlock, head: int, channels: slice) -> list[Tensor]:
    """HSTU normalises over all heads after attention, so a removed head must also be 0 before that norm."""
    if not isinstance(layer, HSTUBlock):
        return []
    dim = layer.project_out.in_features
    values = slice(dim + channels.start, dim + channels.stop)  # after the gates u; silu(0) is 0
    weights = [layer.project_in.weight[values], layer.project_in.bias[values]]
    return [*weights, layer.kernel.slot_values[head]] if isinstance(layer.kernel, Memory) else weights


def _channels(dim: int, heads: int) -> list[slice]:
    return [slice(start, start + dim // heads) for start in range(0, dim, dim // heads)]
