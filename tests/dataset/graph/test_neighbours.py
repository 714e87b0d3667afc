import numpy as np
import pytest

from attnrec.dataset import (
    Graph,
    NeighbourTable,
    graph_from_edges,
    item_transitions,
    sampled_neighbours,
    strongest_neighbours,
    user_item_edges,
)


def rows(table: NeighbourTable) -> list[list[int]]:
    """Return the neighbours of each target, without padding."""
    return [row[real].tolist() for row, real in zip(table.neighbours, table.real, strict=True)]


@pytest.fixture
def star() -> Graph:
    """Edges from rows 1, 2, 3, 4 into row 5 with weights 1, 3, 3, 9, and one from row 5 into row 1."""
    edges = [(1, 5, 1), (2, 5, 3), (3, 5, 3), (4, 5, 9), (5, 1, 2)]
    sources, targets, weights = zip(*edges, strict=True)
    columns = {"gap": [10, 20, 30, 40, 50]}
    return graph_from_edges(sources, targets, n_sources=6, n_targets=6, weights=weights, columns=columns)


@pytest.fixture
def crowd() -> Graph:
    """6,000 targets, each with edges of weights 1, 2 and 7 from rows 0, 1 and 2."""
    targets = np.repeat(np.arange(6000), 3)
    weights = np.tile([1, 2, 7], 6000)
    return graph_from_edges(
        np.tile(np.arange(3), 6000), targets, n_sources=3, n_targets=6000, weights=weights, node_types=("user", "item")
    )


# --- strongest neighbours


def test_neighbours_are_sorted_by_weight_then_row(star):
    table = strongest_neighbours(star, 2)
    assert rows(table) == [[], [5], [], [], [], [4, 2]]
    assert table.neighbours[5].tolist() == [4, 2]
    assert table.weights[5].tolist() == [9, 3]
    assert table.columns["gap"][5].tolist() == [40, 20]
    assert rows(strongest_neighbours(star, 3))[5] == [4, 2, 3]


def test_padding_is_0_and_not_real(star):
    table = strongest_neighbours(star, 7)
    assert rows(table) == [[], [5], [], [], [], [4, 2, 3, 1]]
    assert table.neighbours.shape == table.real.shape == table.weights.shape == (6, 7)
    assert table.neighbours.dtype == np.int64
    for values in (table.neighbours, table.weights, table.columns["gap"]):
        assert values[0].tolist() == [0] * 7
        assert values[1, 1:].tolist() == [0] * 6
    assert len(table) == 6


def test_weights_of_very_different_magnitudes_are_ordered():
    weights = [1e-38, 3e38, 1e-45, 1, np.nextafter(np.float32(1), np.float32(2))]
    graph = graph_from_edges([1, 2, 3, 4, 5], [0] * 5, n_sources=6, n_targets=6, weights=weights)
    assert rows(strongest_neighbours(graph, 5))[0] == [2, 5, 4, 1, 3]


def test_strongest_neighbours_of_users_and_of_items(make_histories):
    edges = user_item_edges(make_histories({"ann": "abb", "bob": "bbbc", "cid": "c"}))
    assert rows(strongest_neighbours(edges.by_user(), 1)) == [[2], [2], [3]]
    items = strongest_neighbours(edges.by_item(), 2)
    assert rows(items) == [[], [0], [1, 0], [1, 2]]  # user row 0 (ann) is a valid neighbour
    assert items.real[1].tolist() == [True, False]


def test_tensors_have_the_dtypes_and_values_of_graph_layer_inputs(star):
    tensors = strongest_neighbours(star, 2).tensors()
    assert {name: str(values.dtype) for name, values in tensors.items()} == {
        "neighbours": "torch.int64",
        "real": "torch.bool",
        "edge_features": "torch.float32",
    }
    assert tuple(tensors["edge_features"].shape) == (6, 2, 2)
    assert tensors["edge_features"][5].numpy() == pytest.approx(np.log1p(np.array([[9, 40], [3, 20]], np.float32)))
    assert tensors["edge_features"][1, 1].tolist() == [0, 0]


@pytest.mark.parametrize("k", [1, 4])
def test_strongest_neighbours_equal_a_full_sort(k):
    random = np.random.default_rng(0)
    sources, targets = random.integers(0, 40, 600), random.integers(0, 40, 600)
    graph = graph_from_edges(sources, targets, n_sources=40, n_targets=40, weights=random.integers(1, 4, 600))
    expected = []
    for target in range(40):
        edges = slice(graph.offsets[target], graph.offsets[target + 1])
        ranked = sorted(zip(-graph.weights[edges], graph.sources[edges], strict=True))
        expected.append([source for _, source in ranked[:k]])
    assert rows(strongest_neighbours(graph, k)) == expected
    assert max(graph.degrees) > 4


# --- sampled neighbours


def test_a_target_with_at_most_k_sources_gets_all_of_them(star):
    for weighted in (True, False):
        table = sampled_neighbours(star, 4, weighted=weighted)
        assert [sorted(row) for row in rows(table)] == [[], [5], [], [], [], [1, 2, 3, 4]]
        assert dict(zip(table.neighbours[5], table.weights[5], strict=True)) == {1: 1, 2: 3, 3: 3, 4: 9}
        assert dict(zip(table.neighbours[5], table.columns["gap"][5], strict=True)) == {1: 10, 2: 20, 3: 30, 4: 40}


def test_weighted_sampling_draws_by_weight_among_the_remaining_sources(crowd):
    table = sampled_neighbours(crowd, 2)
    first, second = table.neighbours.T
    assert table.real.all()
    assert (first != second).all()
    # standard errors are below 0.0065
    assert np.bincount(first) / 6000 == pytest.approx(np.array([0.1, 0.2, 0.7]), abs=0.02)
    after_2 = np.bincount(second[first == 2], minlength=3) / (first == 2).sum()
    assert after_2 == pytest.approx(np.array([1 / 3, 2 / 3, 0]), abs=0.025)
    after_0 = np.bincount(second[first == 0], minlength=3) / (first == 0).sum()
    assert after_0 == pytest.approx(np.array([0, 2 / 9, 7 / 9]), abs=0.06)


def test_unweighted_sampling_is_uniform(crowd):
    drawn = sampled_neighbours(crowd, 1, weighted=False).neighbours[:, 0]
    assert np.bincount(drawn) / 6000 == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    assert sampled_neighbours(crowd, 2, weighted=False).weights.max() == 7  # the table still contains the weights


def test_equal_seeds_give_equal_samples_and_a_generator_is_advanced(crowd):
    first, again, other = (sampled_neighbours(crowd, 1, seed=seed).neighbours for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    generator = np.random.default_rng(3)
    assert (sampled_neighbours(crowd, 1, seed=generator).neighbours == first).all()
    assert (sampled_neighbours(crowd, 1, seed=generator).neighbours != first).any()


def test_an_edge_of_negligible_weight_is_drawn_last():
    weights = [np.finfo(np.float32).tiny, 1e30, 1]
    graph = graph_from_edges([1, 2, 3], [0, 0, 0], n_sources=4, n_targets=4, weights=weights)
    assert rows(sampled_neighbours(graph, 3))[0] == [2, 3, 1]


# --- both


@pytest.mark.parametrize("choose", [strongest_neighbours, sampled_neighbours])
def test_k_below_1_is_refused(star, choose):
    with pytest.raises(ValueError, match="k must be at least 1, got 0; pass"):
        choose(star, 0)


@pytest.mark.parametrize("choose", [strongest_neighbours, sampled_neighbours])
def test_an_empty_graph_gives_padding_only(make_histories, choose):
    table = choose(item_transitions(make_histories({"ann": "a"})), 3)
    assert table.neighbours.tolist() == [[0, 0, 0]] * 2
    assert not table.real.any()
    assert tuple(table.tensors()["edge_features"].shape) == (2, 3, 3)  # weight, count, gap
