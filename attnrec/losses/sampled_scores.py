"""Scores of K sampled items per position, without all T x K item vectors in memory, forward and backward.

Shapes: T positions, K sampled items per position, N items (padding left out), D channels.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnrec.losses.full_softmax import chunk_size
from attnrec.precision import rounded_matmul, should_round

MAX_DENSE_RATIO = 24
"""With at most MAX_DENSE_RATIO * K items, scoring all items is faster than gathering K vectors per position: 4,096
positions, K = 256, D = 64, 3,416 items forward and backward 35 ms against 72, 20,000 items 215 against 90."""

BLOCK = {
    "cpu": 1 << 18,
    "cuda": 1 << 24,
}  # elements of item vectors per block: 1 MB, which fits into the cache, and 64 MB


def score_samples(users: Tensor, items: Tensor, sampled: Tensor) -> Tensor:
    """Compute the dot products of each position with its sampled items, (T, K).

    Args:
        users: (T, D).
        items: (N, D).
        sampled: rows of `items` from 0, (T, K); a row may occur more than once.
    """
    return _SampleScores.apply(users.to(items.dtype), items, sampled)


class _SampleScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, sampled: Tensor) -> Tensor:
        """Choose the faster of two methods: score all items, or gather the sampled vectors."""
        ctx.save_for_backward(users, items, sampled)
        ctx.rounded, ctx.dense = should_round(users), len(items) <= MAX_DENSE_RATIO * sampled.shape[1]
        return (
            _pick_scores(users, items, sampled, rounded=ctx.rounded)
            if ctx.dense
            else _gather_scores(users, items, sampled)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Compute the gradient of the users as weighted sums of items, that of the items by the method of `forward`."""
        users, items, sampled = ctx.saved_tensors
        d_users = d_items = None
        if ctx.needs_input_grad[0]:
            d_users = F.embedding_bag(sampled, items, per_sample_weights=d_scores.contiguous(), mode="sum")
        if ctx.needs_input_grad[1] and ctx.dense:
            d_items = _dense_item_gradient(d_scores, users, sampled, n_items=len(items), rounded=ctx.rounded)
        elif ctx.needs_input_grad[1]:
            d_items = _sparse_item_gradient(d_scores, users, sampled, n_items=len(items))
        return d_users, d_items, None


def _pick_scores(users: Tensor, items: Tensor, sampled: Tensor, *, rounded: bool) -> Tensor:
    """Score all items and pick the sampled ones."""
    scores = items.new_empty(sampled.shape)
    for positions, products, full in _chunks(sampled, len(items), items):
        with rounded_matmul(rounded and full):
            torch.mm(users[positions], items.mT, out=products)
        torch.gather(products, 1, sampled[positions], out=scores[positions])
    return scores


def _dense_item_gradient(d_scores: Tensor, users: Tensor, sampled: Tensor, *, n_items: int, rounded: bool) -> Tensor:
    """Compute the gradient of the items from a dense gradient of the scores."""
    d_items = users.new_zeros(n_items, users.shape[1])
    for positions, d_products, full in _chunks(sampled, n_items, users):
        d_products.zero_().scatter_add_(1, sampled[positions], d_scores[positions])
        with rounded_matmul(rounded and full):
            d_items.addmm_(d_products.mT, users[positions])
    return d_items


def _chunks(sampled: Tensor, n_items: int, like: Tensor) -> Iterator[tuple[slice, Tensor, bool]]:
    """Yield each chunk's positions, a buffer for their scores of all items, and whether the chunk is full.

    Only full chunks are rounded: each new shape would compile a new kernel.
    """
    chunk = chunk_size(n_items, like.device)
    buffer = like.new_empty(min(chunk, len(sampled)), n_items)
    for start in range(0, len(sampled), chunk):
        n = min(chunk, len(sampled) - start)
        yield slice(start, start + n), buffer[:n], n == chunk


def _gather_scores(users: Tensor, items: Tensor, sampled: Tensor) -> Tensor:
    """Gather the item vectors of as many positions as fit into a block, and multiply."""
    dim, (n_positions, n_sampled) = items.shape[1], sampled.shape
    chunk = max(1, BLOCK.get(items.device.type, BLOCK["cpu"]) // max(1, n_sampled * dim))
    scores = items.new_empty(n_positions, n_sampled)
    buffer = items.new_empty(min(chunk, n_positions) * n_sampled, dim)
    for start in range(0, n_positions, chunk):
        x, rows = users[start : start + chunk], sampled[start : start + chunk]
        vectors = torch.index_select(items, 0, rows.flatten(), out=buffer[: rows.numel()]).view(*rows.shape, dim)
        torch.bmm(vectors, x[:, :, None], out=scores[start : start + chunk, :, None])
    return scores


def _sparse_item_gradient(d_scores: Tensor, users: Tensor, sampled: Tensor, *, n_items: int) -> Tensor:
    """Compute the gradient of each item as the weighted sum of the users that sampled it."""
    order = sampled.flatten().int().argsort(stable=True)  # int32 sorts in half the time of int64
    counts = torch.bincount(sampled.flatten(), minlength=n_items)
    weights = d_scores.flatten()[order]
    starts = counts.cumsum(0) - counts
    return F.embedding_bag(order // sampled.shape[1], users, starts, per_sample_weights=weights, mode="sum")
