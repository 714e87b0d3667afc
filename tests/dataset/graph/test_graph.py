import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import (
    Graph,
    attribute_edges,
    features_from_frame,
    graph_from_edges,
    histories_from_frame,
    user_item_edges,
)
from attnrec.dataset.graph import grouping

DAY = 86_400


def pairs(graph: Graph) -> list[tuple[int, int, float]]:
    """Return (source, target, weight) of each edge."""
    return list(zip(graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist(), strict=True))


@pytest.fixture
def shop():
    """ann has a, b, a and bob has b, with day and event type. The events of eve are not visible."""
    rows = [
        ("ann", "a", 0, "view"),
        ("ann", "b", 1, "view"),
        ("ann", "a", 2, "purchase"),
        ("bob", "b", 10, "cart"),
        ("eve", "c", 20, "view"),
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime", "event"])
    return histories_from_frame(frame.assign(datetime=frame["datetime"] * DAY)).up_to(np.array([3, 1, 0]))


# --- user-item edges


def test_each_user_item_pair_is_one_edge_with_its_count(make_histories):
    edges = user_item_edges(make_histories({"ann": "abaa", "bob": "cb"}))
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [
        (0, 1, 3),
        (0, 2, 1),
        (1, 2, 1),
        (1, 3, 1),
    ]
    assert len(edges) == 4
    assert edges.users.dtype == edges.items.dtype == np.int64


def test_edges_have_the_last_time_and_event_shares_of_their_events(shop):
    edges = user_item_edges(shop)
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [(0, 1, 2), (0, 2, 1), (1, 2, 1)]
    assert edges.last_times.tolist() == [2 * DAY, 1 * DAY, 10 * DAY]
    assert edges.latest == 10 * DAY  # not day 20: the event of eve is not visible
    assert edges.event_names == ("cart", "purchase", "view")
    assert edges.event_shares.tolist() == [[0, 1 / 2, 1 / 2], [0, 0, 1], [1, 0, 0]]


def test_logs_without_event_types_or_timestamps_have_no_such_columns(make_histories):
    log = pd.DataFrame({"user_id": ["ann", "ann"], "item_id": ["a", "b"]})
    edges = user_item_edges(histories_from_frame(log))
    assert edges.last_times is edges.latest is edges.event_shares is None
    assert edges.by_user().columns == {}
    assert list(user_item_edges(make_histories({"ann": "ab"})).by_user().columns) == ["age_days"]


def test_events_outside_a_view_are_not_edges(make_histories):
    edges = user_item_edges(make_histories({"ann": "abaa", "bob": "cb"}).up_to(np.array([1, 0])))
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [(0, 1, 1)]
    assert edges.last_times.tolist() == [0]


def test_a_log_without_visible_events_has_no_edges(make_histories):
    edges = user_item_edges(make_histories({"ann": "ab"}).up_to(np.array([0])))
    assert len(edges) == 0
    assert edges.latest is None
    assert edges.by_user().offsets.tolist() == [0, 0]
    assert edges.by_item().offsets.tolist() == [0, 0, 0, 0]


def test_by_user_and_by_item_have_the_same_edges(shop):
    edges = user_item_edges(shop)
    users, items = edges.by_user(), edges.by_item()
    assert (users.node_types, items.node_types) == (("item", "user"), ("user", "item"))
    assert pairs(users) == [(1, 0, 2), (2, 0, 1), (2, 1, 1)]
    assert users.offsets.tolist() == [0, 2, 3, 3]  # eve has no visible events
    assert pairs(items) == [(0, 1, 2), (0, 2, 1), (1, 2, 1)]
    assert items.offsets.tolist() == [0, 0, 1, 3, 3]  # row 0 and c have no edges
    assert users.columns["age_days"].tolist() == items.columns["age_days"].tolist() == [8, 9, 0]
    assert items.columns["share_view"].tolist() == [1 / 2, 1, 0]
    assert users.latest == items.latest == 10 * DAY


def test_one_user_with_one_item_is_one_edge(make_histories):
    graph = user_item_edges(make_histories({"ann": "aa"})).by_item()
    assert pairs(graph) == [(0, 1, 2)]
    assert graph.n_targets == 2


# --- graph_from_edges


def test_edges_are_sorted_by_target():
    graph = graph_from_edges([3, 1, 2, 1], [1, 2, 2, 1], n_sources=4, n_targets=4, weights=[1, 2, 3, 4])
    assert pairs(graph) == [(1, 1, 4), (3, 1, 1), (1, 2, 2), (2, 2, 3)]
    assert graph.offsets.tolist() == [0, 0, 2, 4, 4]
    assert graph.degrees.tolist() == [0, 2, 2, 0]
    assert graph.sources.dtype == np.int32


def test_weights_of_duplicate_edges_are_summed_and_columns_averaged():
    graph = graph_from_edges([1, 2, 1], [2, 1, 2], n_sources=3, n_targets=3, columns={"price": [5, 7, 8]})
    assert pairs(graph) == [(2, 1, 1), (1, 2, 2)]
    assert graph.columns["price"].tolist() == [7, (5 + 8) / 2]


def test_transposed_twice_is_the_same_graph():
    sources, targets, weights = [0, 0, 2, 1, 4], [3, 1, 1, 0, 3], [1, 2, 3, 4, 5]
    columns = {"n": range(5)}
    graph = graph_from_edges(
        sources, targets, n_sources=5, n_targets=6, weights=weights, columns=columns, node_types=("user", "item")
    )
    transposed = graph.transposed()
    assert pairs(transposed) == [(1, 0, 2), (3, 0, 1), (0, 1, 4), (1, 2, 3), (3, 4, 5)]
    assert transposed.columns["n"].tolist() == [1, 0, 3, 2, 4]
    assert (transposed.n_sources, transposed.n_targets, transposed.node_types) == (6, 5, ("item", "user"))
    twice = transposed.transposed()
    assert pairs(twice) == pairs(graph)
    assert twice.columns["n"].tolist() == graph.columns["n"].tolist()
    assert twice.offsets.tolist() == graph.offsets.tolist()


def test_tensors_have_the_dtypes_and_values_of_graph_layer_inputs():
    graph = graph_from_edges([1, 2], [2, 2], n_sources=3, n_targets=3, weights=[1, 3], columns={"gap": [0, -1]})
    tensors = graph.tensors()
    assert tensors["sources"].tolist() == [1, 2]
    assert tensors["targets"].tolist() == [2, 2]
    assert tensors["offsets"].tolist() == [0, 0, 0, 2]
    assert {str(tensors[name].dtype) for name in ("sources", "targets", "offsets")} == {"torch.int64"}
    log_2, log_4 = np.log(2), np.log(4)  # log(1 + 1), log(1 + 3); negative values keep their sign
    assert tensors["edge_features"].numpy() == pytest.approx(np.array([[log_2, 0], [log_4, -log_2]], np.float32))
    assert str(tensors["edge_features"].dtype) == "torch.float32"


def test_a_graph_may_have_no_edges():
    graph = graph_from_edges([], [], n_sources=3, n_targets=3)
    assert len(graph) == len(graph.transposed()) == 0
    assert graph.offsets.tolist() == [0, 0, 0, 0]
    assert tuple(graph.tensors()["edge_features"].shape) == (0, 1)


@pytest.mark.parametrize("row", [-1, 4])
def test_edges_of_rows_that_do_not_exist_are_refused(row):
    with pytest.raises(ValueError, match=rf"targets must be rows from 0 to 3, got 1 other values \(first: {row}\)"):
        graph_from_edges([1, 2], [2, row], n_sources=4, n_targets=4)
    with pytest.raises(ValueError, match="sources must be rows from 0 to 3"):
        graph_from_edges([row], [1], n_sources=4, n_targets=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1, 0]}, r"weights must be finite and above 0, got 1 other values \(first: 0.0\); drop"),
        ({"weights": [np.nan, 1]}, "weights must be finite and above 0, got 1"),
        ({"columns": {"gap": [np.inf, 1]}}, "gap must be finite, got 1"),
        ({"columns": {"weights": [1, 1]}}, r"must not be named weights, got columns\['weights'\]; pass"),
        ({"weights": [1, 2, 3]}, "the same length, got {'sources': 2, 'targets': 2, 'weights': 3}; pass"),
        ({"n_targets": 5}, "must be equal for nodes of one type, got 4 and 5 for 'item'; pass"),
    ],
)
def test_invalid_edges_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        graph_from_edges([1, 2], [2, 1], **{"n_sources": 4, "n_targets": 4} | settings)


def test_rows_must_be_integers():
    with pytest.raises(ValueError, match="sources must be row numbers, got values of type float64; encode"):
        graph_from_edges([1.5], [1], n_sources=4, n_targets=4)


# --- attributes


@pytest.fixture
def attributes(make_histories):
    """a: red and small, b: red, c: no value; the catalogue has three items."""
    frame = pd.DataFrame(
        {"item_id": ["c", "b", "a"], "look": [[], ["red"], ["red", "small"]], "price": [1.0, 2.0, 3.0]}
    )
    frame["item"] = pd.Categorical(["x", "y", "y"])
    return features_from_frame(frame, make_histories({"ann": "abc"}).item_ids)


def test_each_category_column_becomes_one_graph(attributes):
    graphs = attribute_edges(attributes, 3)
    assert sorted(graphs) == ["item", "look"]
    look = graphs["look"]
    assert pairs(look) == [(1, 0, 1), (2, 0, 1), (1, 1, 1)]  # red: a, b; small: a
    assert (look.n_sources, look.n_targets, look.node_types) == (4, 2, ("item", "attribute_look"))
    assert look.transposed().offsets.tolist() == [0, 0, 2, 3, 3]  # row 0 and c have no edges
    # a column may be named item
    assert pairs(graphs["item"]) == [(3, 0, 1), (1, 1, 1), (2, 1, 1)]


def test_a_duplicate_value_of_an_item_is_one_edge(make_histories):
    frame = pd.DataFrame({"item_id": ["a"], "look": [["red", "red"]]})
    features = features_from_frame(frame, make_histories({"ann": "a"}).item_ids)
    assert pairs(attribute_edges(features, 1)["look"]) == [(1, 0, 2)]


def test_features_of_another_catalogue_are_refused(attributes):
    with pytest.raises(ValueError, match=r"n_items \+ 1 = 8 rows, padding included, got 4; load"):
        attribute_edges(attributes, 7)


def test_features_without_categories_give_no_graphs(make_histories):
    features = features_from_frame(
        pd.DataFrame({"item_id": ["a"], "price": [1.0]}), make_histories({"ann": "a"}).item_ids
    )
    assert attribute_edges(features, 1) == {}


# --- sorting and blocks of users


@pytest.mark.parametrize(
    ("block", "users"),
    [
        (1, [[0, 1], [2], [3, 4]]),  # users 0 and 3 have no events
        (2, [[0, 1], [2, 3, 4]]),
        (3, [[0, 1, 2], [3, 4]]),
        (99, [[0, 1, 2, 3, 4]]),
    ],
)
def test_user_blocks_have_about_the_given_number_of_events(block, users, monkeypatch):
    monkeypatch.setattr(grouping, "BLOCK_EVENTS", block)
    assert [part.tolist() for part in grouping.user_blocks(np.array([0, 2, 1, 0, 2]))] == users
    assert [part.tolist() for part in grouping.user_blocks(np.array([0]))] == [[0]]


@pytest.mark.parametrize("block", [1, 2, 3])
def test_edges_do_not_depend_on_the_size_of_blocks(shop, block, monkeypatch):
    in_one_block = user_item_edges(shop)
    monkeypatch.setattr(grouping, "BLOCK_EVENTS", block)
    in_blocks = user_item_edges(shop)
    for name in ("users", "items", "counts", "last_times", "event_shares"):
        assert getattr(in_blocks, name).tolist() == getattr(in_one_block, name).tolist()


@pytest.mark.parametrize("limit", [2**63, 1])
def test_equal_keys_keep_their_input_order(limit, monkeypatch):
    monkeypatch.setattr(grouping, "INT64_LIMIT", limit)  # 1: keys cannot be packed
    keys = np.array([5, 1, 5, 0, 1, 5])
    ordered, positions = grouping.stable_sort(keys, n_keys=6)
    assert ordered.tolist() == [0, 1, 1, 5, 5, 5]
    assert positions.tolist() == [3, 1, 4, 0, 2, 5]
    assert keys.tolist() == [5, 1, 5, 0, 1, 5]


def test_keys_that_are_too_large_to_pack_are_sorted():
    largest = 2**60  # with 3 bits for four positions, one bit too many
    keys = np.array([largest, 0, largest - 1, 0])
    ordered, positions = grouping.stable_sort(keys, n_keys=largest + 1)
    assert ordered.tolist() == [0, 0, largest - 1, largest]
    assert positions.tolist() == [1, 3, 2, 0]
    # the largest keys that can be packed
    keys = np.array([2**60 - 1, 0, 2**60 - 1, 7])
    ordered, positions = grouping.stable_sort(keys, n_keys=2**60)
    assert ordered.tolist() == [0, 7, 2**60 - 1, 2**60 - 1]
    assert positions.tolist() == [1, 3, 0, 2]
