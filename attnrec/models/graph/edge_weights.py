"""Attention weights of a few items on their neighbours, without computing the layer for the whole graph.

Shapes: n requested items, N item rows, X intermediate nodes (users or attribute values), E edges, at most K neighbours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from attnrec.attention import AttentionOutput
from attnrec.attention.graph import SortedEdges
from attnrec.attention.graph.edges import counts_to_offsets
from attnrec.models.graph.neighbour_weights import NeighbourWeights


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode and without gradients; restore the mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference_mode: edges that are moved to the device here are reused in training
            yield
    finally:
        model.train(was_training)


def incoming_edges(hops: list[SortedEdges], items: Tensor) -> list[SortedEdges]:
    """Return the edges whose targets are the items (n,), renumbered 0 to n - 1.

    Attention weights of a target depend only on its own edges, so they equal those on the whole graph. With two hops,
    the first hop keeps the edges into the nodes that the second hop starts from, renumbered in the same way.
    """
    last = _into(hops[-1], items)
    if len(hops) == 1:
        return [last]
    nodes, sources = last.sources.unique(return_inverse=True)
    return [_into(hops[0], nodes), replace(last, sources=sources)]


def one_hop_weights(hop: SortedEdges, attended: AttentionOutput) -> NeighbourWeights:
    """Return the attention weights on neighbours one hop away, mean over heads."""
    return _padded(hop.targets, hop.sources, _mean_weights(attended), n=hop.n_targets)


def two_hop_weights(
    hops: list[SortedEdges], attended: tuple[AttentionOutput, AttentionOutput], *, n_rows: int
) -> NeighbourWeights:
    """Return the attention weights on neighbours two hops away: item a attends to nodes x, which attend to items b.

    weight(a, b) = sum over x of weight(a, x) * weight(x, b), each the mean over heads; b may be a.

    Args:
        hops: item -> node and node -> item, see `incoming_edges`.
        attended: output of both layers, with weights.
        n_rows: N.
    """
    (inward, outward), (node_weights, item_weights) = hops, map(_mean_weights, attended)
    indices = torch.stack([inward.sources, inward.targets])
    shape = (n_rows, inward.n_targets)
    items_to_nodes = torch.sparse_coo_tensor(indices, node_weights, shape, check_invariants=False)
    nodes_to_items = item_weights.new_zeros(inward.n_targets, outward.n_targets)
    nodes_to_items.index_put_((outward.sources, outward.targets), item_weights, accumulate=True)
    weights = torch.sparse.mm(items_to_nodes, nodes_to_items).mT  # (n, N)
    rows, neighbours = weights.nonzero(as_tuple=True)
    return _padded(rows, neighbours, weights[rows, neighbours], n=len(weights))


def _mean_weights(attended: AttentionOutput) -> Tensor:
    """Attention weights of the edges, mean over heads, (E,)."""
    assert attended.weights is not None, "computed with need_weights"
    return attended.weights.mean(1)


def _into(hop: SortedEdges, targets: Tensor) -> SortedEdges:
    """Select the edges into targets (R,), which are renumbered 0 to R - 1."""
    counts = hop.offsets.diff()[targets]
    offsets, rows = counts_to_offsets(counts), torch.repeat_interleave(counts)
    indices = torch.arange(len(rows), device=rows.device) - offsets[rows] + hop.offsets[targets][rows]
    features = None if hop.edge_features is None else hop.edge_features[indices]
    return SortedEdges(hop.sources[indices], rows, offsets, features)


def _padded(rows: Tensor, neighbours: Tensor, weights: Tensor, *, n: int) -> NeighbourWeights:
    """Arrange edges (E,), sorted by row, in a padded table with n rows."""
    counts = torch.bincount(rows, minlength=n)
    columns = torch.arange(len(rows), device=rows.device) - counts_to_offsets(counts)[rows]
    shape = (n, int(counts.max()) if n else 0)
    table = NeighbourWeights(neighbours.new_zeros(shape), weights.new_zeros(shape, dtype=torch.float32))
    table.neighbours[rows, columns] = neighbours
    table.weights[rows, columns] = weights.float()
    return table
