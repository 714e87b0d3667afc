"""Attention of a few items to their neighbours, read off layers without going through the whole graph.

Shapes: n items asked for, N item rows, X nodes of the other kind (users, values), E edges, K neighbours at most.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from attnrec.attention import Attended
from attnrec.attention.graph import Segments
from attnrec.attention.graph.forms import offsets_of
from attnrec.models.graph.neighbour_shares import NeighbourShares


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation and without gradients, and afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference_mode: graphs moved to the device meanwhile are kept for training
            yield
    finally:
        model.train(was_training)


def leading_to(hops: list[Segments], items: Tensor) -> list[Segments]:
    """The edges by which items (n,) hear of others; the items are targets 0 to n - 1.

    Shares of a target depend on its own edges alone, so they are those of the whole graph. Of two hops the first one
    leads to the nodes that the second one starts from, which are numbered anew.
    """
    last = _into(hops[-1], items)
    if len(hops) == 1:
        return [last]
    nodes, sources = last.sources.unique(return_inverse=True)
    return [_into(hops[0], nodes), replace(last, sources=sources)]


def direct_shares(hop: Segments, attended: Attended) -> NeighbourShares:
    """Shares of neighbours one hop away, the mean over heads."""
    return _padded(hop.targets, hop.sources, _of_heads(attended), n=hop.n_targets)


def through_shares(hops: list[Segments], attended: tuple[Attended, Attended], *, n_rows: int) -> NeighbourShares:
    """Shares of neighbours two hops away: item a listens to nodes x, which listen to items b.

    step(a -> b) = sum over x of share(a listens to x) * share(x listens to b), each the mean over heads; b may be a.

    Args:
        hops: item -> node and node -> item, see `leading_to`.
        attended: over both, with weights.
        n_rows: N.
    """
    (inward, outward), (of_nodes, of_items) = hops, map(_of_heads, attended)
    places = torch.stack([inward.sources, inward.targets])
    shape = (n_rows, inward.n_targets)
    heard = torch.sparse_coo_tensor(places, of_nodes, shape, check_invariants=False)
    hearing = of_items.new_zeros(inward.n_targets, outward.n_targets)
    hearing.index_put_((outward.sources, outward.targets), of_items, accumulate=True)
    steps = torch.sparse.mm(heard, hearing).mT  # (n, N)
    rows, neighbours = steps.nonzero(as_tuple=True)
    return _padded(rows, neighbours, steps[rows, neighbours], n=len(steps))


def _of_heads(attended: Attended) -> Tensor:
    """Mean weights of the edges, (E,)."""
    assert attended.weights is not None, "asked for with need_weights"
    return attended.weights.mean(1)


def _into(hop: Segments, targets: Tensor) -> Segments:
    """The edges into some targets, (R,), which become targets 0 to R - 1."""
    counts = hop.offsets.diff()[targets]
    offsets, rows = offsets_of(counts), torch.repeat_interleave(counts)
    places = torch.arange(len(rows), device=rows.device) - offsets[rows] + hop.offsets[targets][rows]
    edges = None if hop.edges is None else hop.edges[places]
    return Segments(hop.sources[places], rows, offsets, edges)


def _padded(rows: Tensor, neighbours: Tensor, shares: Tensor, *, n: int) -> NeighbourShares:
    """Edges (E,), row after row of n, as a table."""
    counts = torch.bincount(rows, minlength=n)
    columns = torch.arange(len(rows), device=rows.device) - offsets_of(counts)[rows]
    shape = (n, int(counts.max()) if n else 0)
    table = NeighbourShares(neighbours.new_zeros(shape), shares.new_zeros(shape, dtype=torch.float32))
    table.neighbours[rows, columns] = neighbours
    table.shares[rows, columns] = shares.float()
    return table
