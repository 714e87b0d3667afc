"""SortedEdges and PaddedNeighbours: construction, layout, validation; softmax and sums over their edges."""

from dataclasses import replace

import pytest
import torch

from attnrec.attention.graph import PaddedNeighbours, SortedEdges
from attnrec.attention.graph.segment_softmax import segment_logsumexp, segment_softmax
from attnrec.attention.graph.weighted_sum import weighted_sum

SOURCES, TARGETS = torch.tensor([5, 1, 1, 4, 0, 1]), torch.tensor([2, 0, 2, 0, 3, 0])


@pytest.fixture
def graph() -> SortedEdges:
    """Four targets: 0 has three edges, 1 none, 2 two, 3 one. The feature of an edge is its index in SOURCES."""
    return SortedEdges.from_edges(SOURCES, TARGETS, n_targets=4, edge_features=torch.arange(6.0)[:, None])


def test_edges_are_sorted_by_target_and_keep_their_order_within_a_target(graph):
    assert graph.sources.tolist() == [1, 4, 1, 5, 1, 0]
    assert graph.targets.tolist() == [0, 0, 0, 2, 2, 3]
    assert graph.offsets.tolist() == [0, 3, 3, 5, 6]
    assert graph.edge_features.flatten().tolist() == [1, 3, 5, 0, 2, 4]
    assert graph.n_targets == 4


def test_targets_after_the_last_edge_count():
    assert SortedEdges.from_edges(SOURCES, TARGETS, n_targets=6).offsets.tolist() == [0, 3, 3, 5, 6, 6, 6]


def test_a_padded_table_converts_to_sorted_edges_without_padding():
    neighbours, real = (
        torch.tensor([[7, 3], [9, 9], [4, 8]]),
        torch.tensor([[True, True], [False, False], [False, True]]),
    )
    table = PaddedNeighbours(neighbours, real, edge_features=torch.arange(6.0).view(3, 2, 1))
    edges = table.as_sorted_edges
    assert edges.sources.tolist() == [7, 3, 8]
    assert edges.targets.tolist() == [0, 0, 2]
    assert edges.offsets.tolist() == [0, 2, 2, 3]
    assert edges.edge_features.flatten().tolist() == [0, 1, 5]
    assert table.align(torch.tensor([[1.0], [2.0], [3.0]])).tolist() == [[[1], [2]], [[0], [0]], [[0], [3]]]
    assert table.as_sorted_edges is edges, "cached"


def test_each_target_gets_one_self_loop_last_with_the_mean_of_the_other_features(graph):
    looped = SortedEdges.from_edges(
        torch.cat([SOURCES, torch.tensor([3, 3])]),
        torch.cat([TARGETS, torch.tensor([3, 3])]),
        n_targets=4,
        edge_features=torch.tensor([0.0, 1, 2, 3, 4, 5, 100, 100])[:, None],
    ).add_self_loops()
    assert looped.sources.tolist() == [1, 4, 1, 0, 1, 5, 1, 2, 0, 3]
    assert looped.targets.tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 3, 3]
    assert looped.edge_features.flatten().tolist() == [1, 3, 5, (1 + 3 + 5) / 3, 0, 0, 2, (0 + 2) / 2, 4, 4 / 1]
    assert replace(graph, edge_features=None).add_self_loops().edge_features is None


def test_softmax_by_hand(graph):
    logits = torch.tensor([0.0, 0, 0, 1, 1, -5])[:, None].log1p().nan_to_num(-100)
    weights = segment_softmax(logits, graph)  # exp(log(1 + e)): 1, 1, 1 | 2, 2 | alone
    torch.testing.assert_close(weights.flatten(), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1]))


@pytest.mark.parametrize("shift", [0.0, 1e30, -1e30])
def test_softmax_is_stable_for_logits_of_any_size(graph, shift):
    logits = torch.full((6, 1), shift, requires_grad=True)
    weights = segment_softmax(logits, graph)
    torch.testing.assert_close(weights.flatten(), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1]))
    weights[0].backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([2 / 9, -1 / 9, -1 / 9, 0, 0, 0]))


def test_logsumexp_by_hand_and_0_without_edges():
    graph = SortedEdges.from_edges(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 2]), n_targets=3)
    logits = torch.tensor([[1.0], [3.0], [2000.0]], dtype=torch.double, requires_grad=True)
    log_sums = segment_logsumexp(logits, graph)
    assert log_sums.tolist() == [[pytest.approx(torch.tensor([1.0, 3.0]).logsumexp(0).item())], [0.0], [2000.0]]
    assert torch.autograd.gradcheck(lambda x: segment_logsumexp(x, graph), (logits,))


def test_weighted_sums_by_hand(graph):
    values = torch.tensor([[1.0, 10], [2, 20], [0, 0], [0, 0], [4, 40], [5, 50]])  # two heads of one channel
    weights = torch.tensor([[1.0, 0], [2, 1], [3, 0], [1, 1], [0, 2], [7, 0]])
    expected = [[1 * 2 + 2 * 4 + 3 * 2, 1 * 40], [0, 0], [1 * 5, 1 * 50 + 2 * 20], [7 * 1, 0]]
    assert weighted_sum(values, weights, graph).tolist() == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sources": SOURCES.int()}, r"must be int64 of one axis, got .*'sources': 'torch.int32 \(6,\)'.*; convert"),
        ({"targets": TARGETS[:, None]}, r"int64 of one axis"),
        ({"targets": torch.tensor([0, 0, 0, 2, 2])}, "got 5 targets and 6 rows for 6 sources; pass"),
        ({"edge_features": torch.zeros(4, 1)}, "got 6 targets and 4 rows for 6 sources"),
        ({"edge_features": torch.zeros(6)}, r"pass edge_features as \(E, F\)"),
        ({"offsets": torch.tensor([0, 3, 3, 5])}, r"rise from 0 to the 6 edges, got \[0, 5\]; use"),
        ({"offsets": torch.tensor([1, 3, 3, 5, 6])}, r"got \[1, 6\]"),
        ({"offsets": torch.tensor([0, 5, 3, 5, 6])}, "offsets must rise"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, r"got \[\]"),
        ({"targets": torch.tensor([0, 0, 2, 0, 2, 3])}, "targets must agree with offsets"),
        ({"targets": torch.tensor([0, 0, 0, 1, 1, 3])}, "targets must agree with offsets"),
    ],
)
def test_inconsistent_sorted_edges_are_rejected(graph, changed, message):
    with pytest.raises(ValueError, match=message):
        replace(graph, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"real": torch.ones(3, 1, dtype=torch.bool)}, r"got \[\(3, 2\), \(3, 1\), \(3, 2\)\]"),
        ({"real": torch.ones(3, 2)}, "torch.float32; pass"),
        ({"edge_features": torch.zeros(3, 3, 1)}, r"\(3, 3\)\]"),
        ({"edge_features": torch.zeros(3, 2)}, r"\(3,\)\]"),
        ({"neighbours": torch.zeros(6, dtype=torch.int64)}, r"got \[\(6,\)"),
    ],
)
def test_padded_neighbours_of_different_shapes_are_rejected(changed, message):
    table = PaddedNeighbours(
        torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, 2, 1)
    )
    with pytest.raises(ValueError, match=message):
        replace(table, **changed)
