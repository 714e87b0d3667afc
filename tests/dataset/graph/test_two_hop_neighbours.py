"""Two-hop graphs, compared with products of dense matrices."""

import numpy as np
import pytest
import torch

from attnrec.dataset import graph_from_edges, two_hop_graph
from attnrec.dataset.graph import two_hop_neighbours
from attnrec.dataset.graph.sparse_products import row_blocks


def dense(graph):
    matrix = np.zeros((graph.n_targets, graph.n_sources))
    matrix[graph.targets, graph.sources] = graph.weights
    return matrix


def random_graph(n_rows=30, n_edges=150, seed=0):
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


def probabilities(graph, two_step_probability):
    steps = dense(graph)
    steps /= np.maximum(steps.sum(1, keepdims=True), 1e-30)
    return (1 - two_step_probability) * steps + two_step_probability * steps @ steps


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_weights_are_the_probabilities_of_one_or_two_steps(probability):
    graph = random_graph()
    actual = dense(two_hop_graph(graph, 30, two_step_probability=probability, self_loops=True))
    np.testing.assert_allclose(actual, probabilities(graph, probability), atol=1e-6)


def test_self_loops_are_excluded_by_default():
    graph = random_graph()
    actual, expected = dense(two_hop_graph(graph, 30, two_step_probability=0.5)), probabilities(graph, 0.5)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_only_the_strongest_edges_are_used_and_kept():
    # the strongest edge into 1 is from 2, the only edge into 2 is from 4: two steps from 1 reach 4
    graph = graph_from_edges([2, 3, 4], [1, 1, 2], n_sources=5, n_targets=5, weights=[3, 1, 1])
    actual = dense(two_hop_graph(graph, 1, two_step_probability=0.6))
    expected = np.zeros((5, 5))
    expected[1, 4], expected[2, 4] = 0.6, 0.4
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_first_k_limits_the_edges_of_the_first_step():
    # the strongest step from 1 goes to 2, another to 3; from there steps go to 4 and 5
    graph = graph_from_edges([2, 3, 4, 5], [1, 1, 2, 3], n_sources=6, n_targets=6, weights=[3, 1, 1, 1])
    actual = dense(two_hop_graph(graph, 2, two_step_probability=0.5, first_k=1))
    np.testing.assert_allclose(actual[1, 2:], [0.375, 0, 0.5, 0], atol=1e-6)  # 3 with 0.125 is only the third strongest


def test_columns_are_those_of_the_original_edge_or_zero():
    graph = graph_from_edges([2, 3], [1, 2], n_sources=4, n_targets=4, columns={"count": [5, 7]})
    actual = two_hop_graph(graph, 3, two_step_probability=0.5)
    edges = zip(actual.targets.tolist(), actual.sources.tolist(), actual.columns["count"].tolist(), strict=True)
    assert set(edges) == {(1, 2, 5.0), (1, 3, 0.0), (2, 3, 7.0)}


def test_the_result_does_not_depend_on_the_block_size(monkeypatch):
    in_one_block = two_hop_graph(random_graph(), 4, two_step_probability=0.7)
    monkeypatch.setattr(two_hop_neighbours, "MAX_BLOCK_ENTRIES", 40)
    in_blocks = two_hop_graph(random_graph(), 4, two_step_probability=0.7)
    for name in ("sources", "offsets", "weights"):
        np.testing.assert_array_equal(getattr(in_blocks, name), getattr(in_one_block, name))


def test_row_blocks_contain_every_row_once():
    blocks = row_blocks(torch.tensor([1.0, 5, 1, 1, 9, 0]), block_cost=3)
    assert torch.cat(blocks).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(blocks) > 2


def test_a_graph_without_edges_gives_an_empty_graph():
    graph = graph_from_edges([], [], n_sources=4, n_targets=4)
    assert len(two_hop_graph(graph, 3, two_step_probability=0.5)) == 0
