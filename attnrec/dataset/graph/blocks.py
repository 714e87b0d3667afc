"""Neighbour sampling for mini-batches (GraphSAGE, Hamilton, Ying & Leskovec 2017, arXiv:1706.02216, algorithm 2).

Neighbours are drawn uniformly without replacement. The cost of a step depends on the seeds and fan-outs, not on the
size of the graph.
Shapes: n targets and m sources of a block, K fan-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnrec.dataset.graph.compressed import Graph, row_numbers
from attnrec.dataset.graph.neighbours import NeighbourTable, check_k, gather_edges


@dataclass(frozen=True, eq=False)
class Block:
    """The sampled bipartite graph of one layer, with local source numbers (the equivalent of a DGL block).

    Attributes:
        targets: graph rows of the nodes that the layer computes, (n,) int64.
        sources: graph rows of the nodes that the layer takes as input, distinct, at least one, (m,) int64.
        table: up to K neighbours of each target, as indices into `sources`, (n, K).
        target_indices: index of each target in `sources`, (n,) int64; None if sources and targets have different node
            types.
    """

    targets: NDArray[np.int64]
    sources: NDArray[np.int64]
    table: NeighbourTable
    target_indices: NDArray[np.int64] | None


def sample_blocks(
    graph: Graph | Sequence[Graph], seeds: ArrayLike, fanouts: Sequence[int], generator: np.random.Generator
) -> list[Block]:
    """Sample the neighbourhood of seed nodes, layer by layer from the seeds outward.

    Args:
        graph: one graph for all layers, or one per layer, starting with that of the seeds: [users -> items,
            items -> users] for two hops from items to items.
        seeds: rows of the first graph's targets, duplicates allowed, (n,).
        fanouts: neighbours per node and layer, at most; fanouts[0] applies to the seeds.
        generator: random number generator; every call advances it.

    Returns:
        Blocks in the order of computation. The sources of the first block are the input nodes, the targets of each
        block are the sources of the next one, and the targets of the last block are the seeds.

    Raises:
        ValueError: if consecutive graphs do not match, a fan-out is below 1, or a seed is not a row of the graph.
    """
    graphs = [graph] * len(fanouts) if isinstance(graph, Graph) else list(graph)
    _check(graphs, fanouts)
    targets = row_numbers(seeds, n_rows=graphs[0].n_targets, name="seeds")
    blocks: list[Block] = []
    for layer, fanout in zip(graphs, fanouts, strict=True):
        blocks.insert(0, _sample_block(layer, targets, fanout, generator))
        targets = blocks[0].sources
    return blocks


def _sample_block(graph: Graph, targets: NDArray[np.int64], fanout: int, generator: np.random.Generator) -> Block:
    first_edges = graph.offsets[targets]
    degrees = graph.offsets[targets + 1] - first_edges
    real = np.arange(fanout) < degrees[:, None]
    edges = (first_edges[:, None] + _draw_without_replacement(degrees, fanout, generator))[real]
    neighbours = graph.sources[edges].astype(np.int64)
    same_type = graph.node_types[0] == graph.node_types[1]
    sources, indices = _relabel(
        np.concatenate([targets, neighbours]) if same_type else neighbours, n_rows=graph.n_sources
    )
    return Block(
        targets=targets,
        sources=sources if len(sources) else np.zeros(1, np.int64),  # padding of an empty table indexes source 0
        table=gather_edges(graph, edges, real, neighbours=indices[len(indices) - len(neighbours) :]),
        target_indices=indices[: len(targets)] if same_type else None,
    )


def _draw_without_replacement(degrees: NDArray[np.int64], k: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw k distinct numbers below each of `degrees` (n,), (n, k); every set is equally likely.

    For a degree of k or less, the row is 0 to k - 1. Floyd's algorithm (Bentley & Floyd 1987,
    doi:10.1145/30401.315746) needs k draws for any degree: draw i is from 0 to degree - k + i, and is replaced by this
    upper bound, which no earlier draw can be, if it has been drawn before.
    """
    numbers = np.tile(np.arange(k), (len(degrees), 1))
    rows = np.flatnonzero(degrees > k)
    upper_bounds = (degrees[rows] - k)[:, None] + np.arange(k)
    drawn = generator.integers(0, upper_bounds, endpoint=True)
    for i in range(1, k):
        duplicate = (drawn[:, :i] == drawn[:, i, None]).any(1)
        drawn[duplicate, i] = upper_bounds[duplicate, i]
    numbers[rows] = drawn
    return numbers


def _relabel(rows: NDArray[np.int64], *, n_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct `rows` in order of first appearance, (m,), and the index of each row in them, (n,)."""
    index_of = np.empty(n_rows, dtype=np.int64)  # uninitialised: only entries at `rows` are written and read
    index_of[rows[::-1]] = np.arange(len(rows))[::-1]  # duplicates: the last write, the first appearance, stays
    first_appearances = np.flatnonzero(index_of[rows] == np.arange(len(rows)))
    distinct = rows[first_appearances]
    index_of[distinct] = np.arange(len(distinct))
    return distinct, index_of[rows]


def _check(graphs: list[Graph], fanouts: Sequence[int]) -> None:
    if not len(graphs) == len(fanouts) > 0:
        raise ValueError(
            f"each layer needs a graph and a fan-out, got {len(graphs)} graphs and {len(fanouts)} fan-outs; "
            "pass equally many"
        )
    for fanout in fanouts:
        check_k(fanout, name="a fan-out")
    for inner, outer in pairwise(graphs):
        if (inner.node_types[0], inner.n_sources) != (outer.node_types[1], outer.n_targets):
            raise ValueError(
                "the sources of each graph must be the targets of the next graph, got "
                f"{inner.n_sources} sources of type {inner.node_types[0]!r} and {outer.n_targets} targets of type "
                f"{outer.node_types[1]!r}; reverse the order of the graphs or transpose one"
            )
