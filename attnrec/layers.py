"""Drop-in replacements for torch's Linear and Dropout that train faster on a CPU.

torch's dropout draws one random number per element, which took 18 % of a training step (SASRec, d = 64), and its linear
layers do not use bfloat16 products. On other devices and in evaluation, torch's implementations are used.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnrec.precision import rounded_matmul, should_round

MAX_BLOCK_ROWS, MIN_BLOCK_ROWS = 1024, 64  # rows of one rounded product
LEVELS = 1 << 16  # resolution of the dropout rate: four elements share one 64-bit random number


class Linear(nn.Linear):
    """x W' + b; inside `precision.reduced_precision` with products rounded to bfloat16."""

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
    """Compute the product in blocks of few sizes, because the backend compiles a kernel for each new shape.

    Incomplete blocks are padded and rounded too, so that the result of a row does not depend on the other rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        out = x.new_empty(len(x), len(weight))
        with rounded_matmul():
            for rows in _blocks(len(x)):
                _product(_padded(x[rows]), weight.mT, out=out[rows])
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        with rounded_matmul():
            for rows in _blocks(len(x)):
                part = _padded(d_out[rows])
                _product(part, weight, out=d_x[rows])
                d_weight.addmm_(part.mT, _padded(x[rows]))
        return d_x, d_weight, d_out.sum(0) if ctx.has_bias else None


def _blocks(n_rows: int) -> Iterator[slice]:
    """Yield blocks of MAX_BLOCK_ROWS, then of decreasing powers of two; the last may have fewer than MIN_BLOCK_ROWS."""
    start = 0
    while start < n_rows:
        size = min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, 1 << ((n_rows - start).bit_length() - 1)))
        yield slice(start, min(n_rows, start + size))
        start += size


def _padded(block: Tensor) -> Tensor:
    """Pad with zero rows to at least MIN_BLOCK_ROWS."""
    missing = MIN_BLOCK_ROWS - len(block)
    return block if missing <= 0 else torch.cat([block, block.new_zeros(missing, block.shape[1])])


def _product(block: Tensor, matrix: Tensor, *, out: Tensor) -> None:
    if len(out) == len(block):
        torch.mm(block, matrix, out=out)
    else:
        out.copy_(torch.mm(block, matrix)[: len(out)])


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        threshold = min(LEVELS - 1, round(p * LEVELS))
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - threshold)
        return kept.to(x.dtype).mul_(ctx.scale).mul_(x)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return kept.to(d_out.dtype).mul_(ctx.scale).mul_(d_out), None
