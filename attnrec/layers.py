"""Linear layers and dropout with torch's meaning and parameters, faster in training on a CPU.

torch's dropout draws one random number per element and was 18 % of a training step (SASRec, d = 64); its products
are float32 where the processor could do bfloat16. On other devices and in evaluation both are torch's own.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnrec.precision import rounded_matmul, should_round

LARGEST, SMALLEST = 1024, 64  # rows of a rounded product
LEVELS = 1 << 16  # of a dropout rate: four elements share one 64-bit draw


class Linear(nn.Linear):
    """x W' + b, with rounded products where `precision.reduced_precision` asks for them."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if input.device.type != "cpu" or not should_round(input):
            return super().forward(input)
        flat = _RoundedLinear.apply(input.reshape(-1, self.in_features), self.weight, self.bias)
        return flat.view(*input.shape[:-1], self.out_features)


class Dropout(nn.Dropout):
    """Each element is 0 with probability p, rounded to 1 / 65,536; the others are divided by 1 - p."""

    def forward(self, input: Tensor) -> Tensor:
        """(...) -> (...)."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        return _Dropout.apply(input, self.p)


class _RoundedLinear(torch.autograd.Function):
    """Products in blocks of few sizes, since each new shape costs the processor's library a new kernel.

    All rows are rounded, so that a row's result does not depend on the rows beside it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        out = x.new_empty(len(x), len(weight))
        with rounded_matmul():
            for rows in _blocks(len(x)):
                _product(_filled(x[rows]), weight.mT, out=out[rows])
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        with rounded_matmul():
            for rows in _blocks(len(x)):
                part = _filled(d_out[rows])
                _product(part, weight, out=d_x[rows])
                d_weight.addmm_(part.mT, _filled(x[rows]))
        return d_x, d_weight, d_out.sum(0) if ctx.has_bias else None


def _blocks(n_rows: int) -> Iterator[slice]:
    """Of LARGEST rows, then of powers of two; the last one may have fewer than SMALLEST."""
    start = 0
    while start < n_rows:
        size = min(LARGEST, max(SMALLEST, 1 << ((n_rows - start).bit_length() - 1)))
        yield slice(start, min(n_rows, start + size))
        start += size


def _filled(block: Tensor) -> Tensor:
    """At least SMALLEST rows, zeros behind the last."""
    missing = SMALLEST - len(block)
    return block if missing <= 0 else torch.cat([block, block.new_zeros(missing, block.shape[1])])


def _product(block: Tensor, matrix: Tensor, *, out: Tensor) -> None:
    if len(out) == len(block):
        torch.mm(block, matrix, out=out)
    else:
        out.copy_(torch.mm(block, matrix)[: len(out)])


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        dropped = min(LEVELS - 1, round(p * LEVELS))
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return kept.to(x.dtype).mul_(ctx.scale).mul_(x)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return kept.to(d_out.dtype).mul_(ctx.scale).mul_(d_out), None
