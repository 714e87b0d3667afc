"""Neighbours of neighbours: chances of one step or two, against products of dense tables."""

import numpy as np
import pytest
import torch

from attnrec.dataset import graph_from_edges, two_hop_graph
from attnrec.dataset.graph import two_hop_neighbours
from attnrec.dataset.graph.sparse_products import row_blocks


def dense(graph):
    table = np.zeros((graph.n_targets, graph.n_sources))
    table[graph.targets, graph.sources] = graph.weights
    return table


def crowd(n_rows=30, n_edges=150, seed=0):
    random = np.random.default_rng(seed)
    pairs = np.unique(random.integers(1, n_rows, (n_edges, 2)), axis=0)
    return graph_from_edges(
        pairs[:, 0],
        pairs[:, 1],
        n_sources=n_rows,
        n_targets=n_rows,
        weights=random.random(len(pairs)) + 0.1,
        columns={"count": np.arange(1, len(pairs) + 1)},
    )


def chances(graph, second):
    steps = dense(graph)
    steps /= np.maximum(steps.sum(1, keepdims=True), 1e-30)
    return (1 - second) * steps + second * steps @ steps


@pytest.mark.parametrize("second", [0.0, 0.3, 1.0])
def test_weights_are_chances_of_one_step_or_two(second):
    graph = crowd()
    found = dense(two_hop_graph(graph, 30, two_step_probability=second, self_loops=True))
    np.testing.assert_allclose(found, chances(graph, second), atol=1e-6)


def test_nobody_comes_back_unless_asked():
    graph = crowd()
    found, expected = dense(two_hop_graph(graph, 30, two_step_probability=0.5)), chances(graph, 0.5)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_strongest_stay_before_and_after():
    # 1 hears of 2 more than of 3, and 2 only of 4; through 2 the walk comes to 4
    graph = graph_from_edges([2, 3, 4], [1, 1, 2], n_sources=5, n_targets=5, weights=[3, 1, 1])
    found = dense(two_hop_graph(graph, 1, two_step_probability=0.6))
    expected = np.zeros((5, 5))
    expected[1, 4], expected[2, 4] = 0.6, 0.4
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_first_of_two_steps_can_take_fewer_edges():
    # from 1 the strongest edge leads to 2, another to 3; from there to 4 and 5
    graph = graph_from_edges([2, 3, 4, 5], [1, 1, 2, 3], n_sources=6, n_targets=6, weights=[3, 1, 1, 1])
    found = dense(two_hop_graph(graph, 2, two_step_probability=0.5, first_k=1))
    np.testing.assert_allclose(found[1, 2:], [0.375, 0, 0.5, 0], atol=1e-6)  # 3 is the third strongest: 0.125


def test_columns_are_those_of_the_edge_and_zero_where_there_is_none():
    graph = graph_from_edges([2, 3], [1, 2], n_sources=4, n_targets=4, columns={"count": [5, 7]})
    found = two_hop_graph(graph, 3, two_step_probability=0.5)
    edges = zip(found.targets.tolist(), found.sources.tolist(), found.columns["count"].tolist(), strict=True)
    assert set(edges) == {(1, 2, 5.0), (1, 3, 0.0), (2, 3, 7.0)}


def test_blocks_do_not_change_it(monkeypatch):
    whole = two_hop_graph(crowd(), 4, two_step_probability=0.7)
    monkeypatch.setattr(two_hop_neighbours, "MAX_BLOCK_ENTRIES", 40)
    parts = two_hop_graph(crowd(), 4, two_step_probability=0.7)
    for name in ("sources", "offsets", "weights"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_blocks_hold_every_row_once():
    blocks = row_blocks(torch.tensor([1.0, 5, 1, 1, 9, 0]), at_once=3)
    assert torch.cat(blocks).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(blocks) > 2


def test_a_graph_without_edges_leads_nowhere():
    graph = graph_from_edges([], [], n_sources=4, n_targets=4)
    assert len(two_hop_graph(graph, 3, two_step_probability=0.5)) == 0
