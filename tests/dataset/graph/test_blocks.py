from itertools import combinations, pairwise

import numpy as np
import pytest

from attnrec.dataset import (
    Block,
    Graph,
    graph_from_edges,
    item_transitions,
    sample_blocks,
    user_item_edges,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def wide() -> Graph:
    """A graph of 60 rows with 1,000 edges between rows 1 to 59 and weights 1 to 1,000."""
    random = np.random.default_rng(1)
    keys = random.choice(59 * 59, 1000, replace=False)
    weights = np.arange(1, 1001)
    return graph_from_edges(keys % 59 + 1, keys // 59 + 1, n_sources=60, n_targets=60, weights=weights)


def edges_of(block: Block) -> list[tuple[int, int, int, float]]:
    """Return (target index, source row, target row, weight) of each edge of a block."""
    targets, columns = np.nonzero(block.table.real)
    sources = block.sources[block.table.neighbours[targets, columns]]
    weights = block.table.weights[targets, columns]
    return list(zip(*(x.tolist() for x in (targets, sources, block.targets[targets], weights)), strict=True))


def mean_of_neighbours(vectors, neighbours, real):
    return (vectors[neighbours] * real[..., None]).sum(1) / np.maximum(real.sum(1), 1)[:, None]


def test_block_edges_are_edges_of_the_graph(wide, generator):
    graph_weights = dict(zip(zip(wide.sources, wide.targets, strict=True), wide.weights, strict=True))
    blocks = sample_blocks(wide, [7, 3], [4, 5], generator)
    for block in blocks:
        for _, source, target, weight in edges_of(block):
            assert graph_weights[source, target] == weight
        assert len(np.unique(block.sources)) == len(block.sources)
        assert block.table.neighbours.max() < len(block.sources)
        assert not block.table.neighbours[~block.table.real].any()


def test_blocks_are_chained_and_the_last_targets_are_the_seeds(wide, generator):
    blocks = sample_blocks(wide, [7, 3, 7], [4, 5, 2], generator)
    assert [block.table.neighbours.shape[1] for block in blocks] == [2, 5, 4]
    assert blocks[-1].targets.tolist() == [7, 3, 7]
    for outer, inner in pairwise(blocks):
        assert outer.targets.tolist() == inner.sources.tolist()
    for block in blocks:
        assert (block.sources[block.target_indices] == block.targets).all()
        assert len(block.targets) <= len(block.sources)
    assert blocks[-1].target_indices.tolist() == [0, 1, 0]  # in order of first appearance


def test_neighbours_are_distinct_and_as_many_as_the_degree_up_to_the_fan_out(wide, generator):
    (block,) = sample_blocks(wide, np.arange(60), [17], generator)
    edges = [(target, source) for target, source, _, _ in edges_of(block)]
    assert len(set(edges)) == len(edges)
    assert np.bincount([target for target, _ in edges], minlength=60).tolist() == np.minimum(wide.degrees, 17).tolist()
    assert wide.degrees.min() == 0
    assert (wide.degrees[1:] > 17).any()
    assert (wide.degrees[1:] < 17).any()


@pytest.mark.parametrize(("k", "n_sets"), [(1, 5), (3, 10), (4, 5)])
def test_every_set_of_neighbours_is_equally_likely(k, n_sets, generator):
    graph = graph_from_edges(range(1, 6), [0] * 5, n_sources=6, n_targets=6, weights=[1, 1, 1, 1, 100])
    (block,) = sample_blocks(graph, np.zeros(10_000, int), [k], generator)
    drawn = np.sort(block.sources[block.table.neighbours], axis=1)
    shares = [(drawn == subset).all(1).mean() for subset in combinations(range(1, 6), k)]
    assert shares == pytest.approx([1 / n_sets] * n_sets, abs=0.016)  # four standard errors


def test_a_fan_out_of_all_neighbours_gives_the_result_of_the_whole_graph(wide, generator):
    vectors = np.random.default_rng(2).random((60, 3))
    adjacency = np.zeros((60, 60), bool)
    adjacency[wide.targets, wide.sources] = True
    neighbours = np.tile(np.arange(60), (60, 1))
    expected = mean_of_neighbours(mean_of_neighbours(vectors, neighbours, adjacency), neighbours, adjacency)
    seeds = [5, 0, 41, 5]
    hidden = vectors
    blocks = sample_blocks(wide, seeds, [60, 60], generator)
    hidden = vectors[blocks[0].sources]
    for block in blocks:
        hidden = mean_of_neighbours(hidden, block.table.neighbours, block.table.real)
    assert hidden == pytest.approx(expected[seeds])


def test_two_layers_go_from_items_over_users_to_items(make_histories, generator):
    edges = user_item_edges(make_histories({"ann": "abc", "bob": "cd", "cid": "e"}))
    outer, inner = sample_blocks([edges.by_item(), edges.by_user()], [3, 5], [9, 9], generator)
    assert inner.targets.tolist() == [3, 5]
    assert sorted(inner.sources.tolist()) == [0, 1, 2]  # c: ann and bob; e: cid
    assert outer.targets.tolist() == inner.sources.tolist()
    assert sorted(outer.sources.tolist()) == [1, 2, 3, 4, 5]
    assert inner.target_indices is outer.target_indices is None  # users and items are different node types
    assert {(source, target) for _, source, target, _ in edges_of(outer)} == {
        *[(1, 0), (2, 0), (3, 0)],
        *[(3, 1), (4, 1)],
        (5, 2),
    }


def test_seeds_without_neighbours_have_padding_rows_with_valid_indices(make_histories, generator):
    edges = user_item_edges(make_histories({"ann": "ab"}).up_to(np.array([0])))
    (block,) = sample_blocks([edges.by_item()], [0, 1], [3], generator)
    assert not block.table.real.any()
    assert len(block.sources) == 1
    (block,) = sample_blocks(item_transitions(make_histories({"ann": "a"})), [0, 1], [3], generator)
    assert block.sources.tolist() == [0, 1]
    assert block.table.neighbours.tolist() == [[0] * 3] * 2


def test_an_empty_list_of_seeds_is_allowed(wide, generator):
    blocks = sample_blocks(wide, [], [3, 2], generator)
    assert blocks[-1].table.neighbours.shape == (0, 3)
    assert blocks[-1].targets.tolist() == []


def test_equal_generators_give_equal_samples_and_the_next_call_differs(wide):
    def drawn(generator):
        return sample_blocks(wide, [7, 3, 9], [2], generator)[0].sources.tolist()

    generator = np.random.default_rng(5)
    assert drawn(np.random.default_rng(5)) == drawn(generator)
    assert len({tuple(drawn(generator)) for _ in range(20)}) > 10


def test_seeds_that_are_not_rows_are_refused(wide, generator):
    with pytest.raises(ValueError, match=r"seeds must be rows from 0 to 59, got 2 other values \(first: 60\); encode"):
        sample_blocks(wide, [3, 60, -1], [2], generator)
    with pytest.raises(ValueError, match="seeds must be row numbers, got values of type float64; encode"):
        sample_blocks(wide, [3.5], [2], generator)


@pytest.mark.parametrize("fanouts", [[2, 0], [-1]])
def test_a_fan_out_below_1_is_refused(wide, generator, fanouts):
    with pytest.raises(ValueError, match="a fan-out must be at least 1, got"):
        sample_blocks(wide, [3], fanouts, generator)


def test_each_layer_needs_a_graph_and_a_fan_out(wide, generator):
    with pytest.raises(ValueError, match="a graph and a fan-out, got 1 graphs and 2 fan-outs; pass equally many"):
        sample_blocks([wide], [3], [2, 2], generator)
    with pytest.raises(ValueError, match="got 0 graphs and 0 fan-outs"):
        sample_blocks(wide, [3], [], generator)


def test_graphs_that_do_not_match_are_refused(make_histories, generator):
    # as many users as item rows, so that only the node types differ
    graph = user_item_edges(make_histories({"ann": "ab", "bob": "cd", "cid": "a", "dan": "a", "eve": "b"})).by_user()
    with pytest.raises(ValueError, match="got 5 sources of type 'item' and 5 targets of type 'user'; reverse"):
        sample_blocks([graph, graph], [0], [2, 2], generator)


def test_the_number_of_draws_does_not_depend_on_the_degree(generator):
    n = 100_000
    hub = Graph(
        sources=np.arange(n, dtype=np.int32),
        offsets=np.concatenate([[0], np.full(n, n)]),
        weights=np.ones(n, np.float32),
        n_sources=n,
    )
    counting = CountingGenerator(generator)
    (block,) = sample_blocks(hub, np.zeros(50, int), [10], counting)
    assert counting.n_drawn == 50 * 10
    assert block.table.real.all()


class CountingGenerator:
    """Counts the numbers that a generator draws."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator, self.n_drawn = generator, 0

    def integers(self, *args, **kwargs):
        drawn = self.generator.integers(*args, **kwargs)
        self.n_drawn += drawn.size
        return drawn
