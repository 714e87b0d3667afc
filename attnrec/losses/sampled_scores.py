"""Scores of items that are each position's own, forward and backward without the vectors of all of them in memory.

Shapes: T positions, K items of each, N items (padding left out), D channels.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnrec.losses.full_softmax import chunk_size
from attnrec.precision import rounded_matmul, should_round

WHOLE = 24
"""Up to this many times K items, the product with all of them is cheaper than reading K vectors for each position:
4,096 positions, K = 256, D = 64, 3,416 items forward and backward 35 ms against 72, 20,000 items 215 against 90."""

BLOCK = {"cpu": 1 << 18, "cuda": 1 << 24}  # numbers of item vectors at a time: 1 MB, which stays in cache, and 64 MB


def drawn_scores(users: Tensor, items: Tensor, drawn: Tensor) -> Tensor:
    """Dot products with each position's own items, (T, K).

    Args:
        users: (T, D).
        items: (N, D).
        drawn: rows of `items` from 0, (T, K); the same may come more than once.
    """
    return _DrawnScores.apply(users.to(items.dtype), items, drawn)


class _DrawnScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, drawn: Tensor) -> Tensor:
        """By the cheaper way."""
        ctx.save_for_backward(users, items, drawn)
        ctx.rounded, ctx.whole = should_round(users), len(items) <= WHOLE * drawn.shape[1]
        return _from_products(users, items, drawn, rounded=ctx.rounded) if ctx.whole else _gathered(users, items, drawn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The users' gradient is each one's weighted sum of items; the items' is made by the way of the scores."""
        users, items, drawn = ctx.saved_tensors
        d_users = d_items = None
        if ctx.needs_input_grad[0]:
            d_users = F.embedding_bag(drawn, items, per_sample_weights=d_scores.contiguous(), mode="sum")
        if ctx.needs_input_grad[1] and ctx.whole:
            d_items = _by_products(d_scores, users, drawn, n_items=len(items), rounded=ctx.rounded)
        elif ctx.needs_input_grad[1]:
            d_items = _by_item(d_scores, users, drawn, n_items=len(items))
        return d_users, d_items, None


def _from_products(users: Tensor, items: Tensor, drawn: Tensor, *, rounded: bool) -> Tensor:
    """Pick the scores from those of all items."""
    scores = items.new_empty(drawn.shape)
    for positions, products, whole in _chunks(drawn, len(items), items):
        with rounded_matmul(rounded and whole):
            torch.mm(users[positions], items.mT, out=products)
        torch.gather(products, 1, drawn[positions], out=scores[positions])
    return scores


def _by_products(d_scores: Tensor, users: Tensor, drawn: Tensor, *, n_items: int, rounded: bool) -> Tensor:
    """The gradient of the items, from those of the scores of all items."""
    d_items = users.new_zeros(n_items, users.shape[1])
    for positions, d_products, whole in _chunks(drawn, n_items, users):
        d_products.zero_().scatter_add_(1, drawn[positions], d_scores[positions])
        with rounded_matmul(rounded and whole):
            d_items.addmm_(d_products.mT, users[positions])
    return d_items


def _chunks(drawn: Tensor, n_items: int, like: Tensor) -> Iterator[tuple[slice, Tensor, bool]]:
    """Positions, room for their scores of all items, and whether it is a whole chunk.

    Only whole chunks are rounded: each new shape would cost a new kernel.
    """
    chunk = chunk_size(n_items, like.device)
    room = like.new_empty(min(chunk, len(drawn)), n_items)
    for start in range(0, len(drawn), chunk):
        n = min(chunk, len(drawn) - start)
        yield slice(start, start + n), room[:n], n == chunk


def _gathered(users: Tensor, items: Tensor, drawn: Tensor) -> Tensor:
    """Gather item vectors and multiply, as many positions at a time as fit a block."""
    dim, (n_positions, n_drawn) = items.shape[1], drawn.shape
    chunk = max(1, BLOCK.get(items.device.type, BLOCK["cpu"]) // max(1, n_drawn * dim))
    scores = items.new_empty(n_positions, n_drawn)
    room = items.new_empty(min(chunk, n_positions) * n_drawn, dim)
    for start in range(0, n_positions, chunk):
        x, rows = users[start : start + chunk], drawn[start : start + chunk]
        vectors = torch.index_select(items, 0, rows.flatten(), out=room[: rows.numel()]).view(*rows.shape, dim)
        torch.bmm(vectors, x[:, :, None], out=scores[start : start + chunk, :, None])
    return scores


def _by_item(d_scores: Tensor, users: Tensor, drawn: Tensor, *, n_items: int) -> Tensor:
    """The gradient of the items: each one's weighted sum of the users who drew it."""
    by_item = drawn.flatten().int().argsort(stable=True)  # int32 sorts in half the time of int64
    counts = torch.bincount(drawn.flatten(), minlength=n_items)
    weights = d_scores.flatten()[by_item]
    starts = counts.cumsum(0) - counts
    return F.embedding_bag(by_item // drawn.shape[1], users, starts, per_sample_weights=weights, mode="sum")
