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
    """(source, target, weight) of each edge."""
    return list(zip(graph.sources.tolist(), graph.targets.tolist(), graph.weights.tolist(), strict=True))


@pytest.fixture
def shop():
    """ann: a twice, then b; bob: b; with the day and the kind of each event. c belongs to a user who is not shown."""
    rows = [
        ("ann", "a", 0, "view"),
        ("ann", "b", 1, "view"),
        ("ann", "a", 2, "purchase"),
        ("bob", "b", 10, "cart"),
        ("eve", "c", 20, "view"),
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime", "event"])
    return histories_from_frame(frame.assign(datetime=frame["datetime"] * DAY)).up_to(np.array([3, 1, 0]))


# --- users and items


def test_each_pair_is_one_edge_with_its_count(make_histories):
    edges = user_item_edges(make_histories({"ann": "abaa", "bob": "cb"}))
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [
        (0, 1, 3),
        (0, 2, 1),
        (1, 2, 1),
        (1, 3, 1),
    ]
    assert len(edges) == 4
    assert edges.users.dtype == edges.items.dtype == np.int64


def test_an_edge_knows_its_last_time_and_its_shares_of_events(shop):
    edges = user_item_edges(shop)
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [(0, 1, 2), (0, 2, 1), (1, 2, 1)]
    assert edges.last_times.tolist() == [2 * DAY, 1 * DAY, 10 * DAY]
    assert edges.latest == 10 * DAY  # not day 20: what eve did is not shown
    assert edges.event_names == ("cart", "purchase", "view")
    assert edges.event_shares.tolist() == [[0, 1 / 2, 1 / 2], [0, 0, 1], [1, 0, 0]]


def test_a_log_without_kinds_of_event_or_clock_has_no_such_columns(make_histories):
    log = pd.DataFrame({"user_id": ["ann", "ann"], "item_id": ["a", "b"]})
    edges = user_item_edges(histories_from_frame(log))
    assert edges.last_times is edges.latest is edges.event_shares is None
    assert edges.by_user().columns == {}
    assert list(user_item_edges(make_histories({"ann": "ab"})).by_user().columns) == ["age_days"]


def test_what_lies_behind_a_view_is_no_edge(make_histories):
    edges = user_item_edges(make_histories({"ann": "abaa", "bob": "cb"}).up_to(np.array([1, 0])))
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [(0, 1, 1)]
    assert edges.last_times.tolist() == [0]


def test_a_log_of_which_nothing_is_visible_has_no_edges(make_histories):
    edges = user_item_edges(make_histories({"ann": "ab"}).up_to(np.array([0])))
    assert len(edges) == 0
    assert edges.latest is None
    assert edges.by_user().offsets.tolist() == [0, 0]
    assert edges.by_item().offsets.tolist() == [0, 0, 0, 0]


def test_edges_into_users_and_edges_into_items_are_the_same_edges(shop):
    edges = user_item_edges(shop)
    users, items = edges.by_user(), edges.by_item()
    assert (users.kinds, items.kinds) == (("item", "user"), ("user", "item"))
    assert pairs(users) == [(1, 0, 2), (2, 0, 1), (2, 1, 1)]
    assert users.offsets.tolist() == [0, 2, 3, 3]  # eve, who is not shown, has none
    assert pairs(items) == [(0, 1, 2), (0, 2, 1), (1, 2, 1)]
    assert items.offsets.tolist() == [0, 0, 1, 3, 3]  # neither has row 0, nor c
    assert users.columns["age_days"].tolist() == items.columns["age_days"].tolist() == [8, 9, 0]
    assert items.columns["share_view"].tolist() == [1 / 2, 1, 0]
    assert users.latest == items.latest == 10 * DAY


def test_one_user_with_one_item_is_one_edge(make_histories):
    graph = user_item_edges(make_histories({"ann": "aa"})).by_item()
    assert pairs(graph) == [(0, 1, 2)]
    assert graph.n_targets == 2


# --- any edges


def test_edges_in_any_order_come_out_target_after_target():
    graph = graph_from_edges([3, 1, 2, 1], [1, 2, 2, 1], n_sources=4, n_targets=4, weights=[1, 2, 3, 4])
    assert pairs(graph) == [(1, 1, 4), (3, 1, 1), (1, 2, 2), (2, 2, 3)]
    assert graph.offsets.tolist() == [0, 0, 2, 4, 4]
    assert graph.degrees.tolist() == [0, 2, 2, 0]
    assert graph.sources.dtype == np.int32


def test_of_an_edge_that_comes_twice_weights_add_up_and_columns_are_averaged():
    graph = graph_from_edges([1, 2, 1], [2, 1, 2], n_sources=3, n_targets=3, columns={"price": [5, 7, 8]})
    assert pairs(graph) == [(2, 1, 1), (1, 2, 2)]
    assert graph.columns["price"].tolist() == [7, (5 + 8) / 2]


def test_transposed_twice_is_the_same_graph():
    sources, targets, weights = [0, 0, 2, 1, 4], [3, 1, 1, 0, 3], [1, 2, 3, 4, 5]
    columns = {"n": range(5)}
    graph = graph_from_edges(
        sources, targets, n_sources=5, n_targets=6, weights=weights, columns=columns, kinds=("user", "item")
    )
    there = graph.transposed()
    assert pairs(there) == [(1, 0, 2), (3, 0, 1), (0, 1, 4), (1, 2, 3), (3, 4, 5)]
    assert there.columns["n"].tolist() == [1, 0, 3, 2, 4]
    assert (there.n_sources, there.n_targets, there.kinds) == (6, 5, ("item", "user"))
    back = there.transposed()
    assert pairs(back) == pairs(graph)
    assert back.columns["n"].tolist() == graph.columns["n"].tolist()
    assert back.offsets.tolist() == graph.offsets.tolist()


def test_tensors_are_what_a_graph_layer_reads():
    graph = graph_from_edges([1, 2], [2, 2], n_sources=3, n_targets=3, weights=[1, 3], columns={"gap": [0, -1]})
    tensors = graph.tensors()
    assert tensors["sources"].tolist() == [1, 2]
    assert tensors["targets"].tolist() == [2, 2]
    assert tensors["offsets"].tolist() == [0, 0, 0, 2]
    assert {str(tensors[name].dtype) for name in ("sources", "targets", "offsets")} == {"torch.int64"}
    log_2, log_4 = np.log(2), np.log(4)  # 1 + 1, 1 + 3; a column below 0 keeps its sign
    assert tensors["edges"].numpy() == pytest.approx(np.array([[log_2, 0], [log_4, -log_2]], np.float32))
    assert str(tensors["edges"].dtype) == "torch.float32"


def test_no_edges_at_all_are_a_graph_too():
    graph = graph_from_edges([], [], n_sources=3, n_targets=3)
    assert len(graph) == len(graph.transposed()) == 0
    assert graph.offsets.tolist() == [0, 0, 0, 0]
    assert tuple(graph.tensors()["edges"].shape) == (0, 1)


@pytest.mark.parametrize("row", [-1, 4])
def test_an_edge_to_a_row_that_does_not_exist_is_refused(row):
    with pytest.raises(ValueError, match=rf"targets must be rows from 0 to 3, got 1 that are not \(first: {row}\)"):
        graph_from_edges([1, 2], [2, row], n_sources=4, n_targets=4)
    with pytest.raises(ValueError, match="sources must be rows from 0 to 3"):
        graph_from_edges([row], [1], n_sources=4, n_targets=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1, 0]}, r"weights must be finite and above 0, got 1 that are not \(first: 0.0\); leave"),
        ({"weights": [np.nan, 1]}, "weights must be finite and above 0, got 1"),
        ({"columns": {"gap": [np.inf, 1]}}, "gap must be finite, got 1"),
        ({"columns": {"weights": [1, 1]}}, "any name but weights, got that; give"),
        ({"weights": [1, 2, 3]}, "one length, got {'sources': 2, 'targets': 2, 'weights': 3}; give"),
        ({"n_targets": 5}, "need as many sources as targets, got 4 and 5 of 'item'; give"),
    ],
)
def test_edges_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        graph_from_edges([1, 2], [2, 1], **{"n_sources": 4, "n_targets": 4} | settings)


def test_rows_must_be_whole_numbers():
    with pytest.raises(ValueError, match="sources must be row numbers, got values of type float64; encode"):
        graph_from_edges([1.5], [1], n_sources=4, n_targets=4)


# --- attributes


@pytest.fixture
def attributes(make_histories):
    """a: red and small, b: red, c: nothing; the catalogue has three items."""
    frame = pd.DataFrame(
        {"item_id": ["c", "b", "a"], "look": [[], ["red"], ["red", "small"]], "price": [1.0, 2.0, 3.0]}
    )
    frame["item"] = pd.Categorical(["x", "y", "y"])
    return features_from_frame(frame, make_histories({"ann": "abc"}).item_ids)


def test_each_category_column_is_a_relation_of_its_own(attributes):
    graphs = attribute_edges(attributes, 3)
    assert sorted(graphs) == ["item", "look"]
    look = graphs["look"]
    assert pairs(look) == [(1, 0, 1), (2, 0, 1), (1, 1, 1)]  # red: a, b; small: a
    assert (look.n_sources, look.n_targets, look.kinds) == (4, 2, ("item", "value of look"))
    assert look.transposed().offsets.tolist() == [0, 0, 2, 3, 3]  # from row 0 and from c no edge
    # a column may be called as it likes
    assert pairs(graphs["item"]) == [(3, 0, 1), (1, 1, 1), (2, 1, 1)]


def test_a_value_that_an_item_has_twice_is_one_edge(make_histories):
    frame = pd.DataFrame({"item_id": ["a"], "look": [["red", "red"]]})
    features = features_from_frame(frame, make_histories({"ann": "a"}).item_ids)
    assert pairs(attribute_edges(features, 1)["look"]) == [(1, 0, 2)]


def test_attributes_of_another_catalogue_are_refused(attributes):
    with pytest.raises(ValueError, match="padding and each of 7 items, got 4 rows; read"):
        attribute_edges(attributes, 7)


def test_features_without_categories_make_no_graphs(make_histories):
    features = features_from_frame(
        pd.DataFrame({"item_id": ["a"], "price": [1.0]}), make_histories({"ann": "a"}).item_ids
    )
    assert attribute_edges(features, 1) == {}


# --- the sort, and blocks of users


@pytest.mark.parametrize(
    ("block", "users"),
    [
        (1, [[0, 1], [2], [3, 4]]),  # 0 and 3 did nothing
        (2, [[0, 1], [2, 3, 4]]),
        (3, [[0, 1, 2], [3, 4]]),
        (99, [[0, 1, 2, 3, 4]]),
    ],
)
def test_users_come_in_blocks_of_about_so_many_events(block, users, monkeypatch):
    monkeypatch.setattr(grouping, "BLOCK", block)
    assert [part.tolist() for part in grouping.user_blocks(np.array([0, 2, 1, 0, 2]))] == users
    assert [part.tolist() for part in grouping.user_blocks(np.array([0]))] == [[0]]


@pytest.mark.parametrize("block", [1, 2, 3])
def test_edges_do_not_depend_on_the_size_of_blocks(shop, block, monkeypatch):
    at_once = user_item_edges(shop)
    monkeypatch.setattr(grouping, "BLOCK", block)
    in_blocks = user_item_edges(shop)
    for name in ("users", "items", "counts", "last_times", "event_shares"):
        assert getattr(in_blocks, name).tolist() == getattr(at_once, name).tolist()


@pytest.mark.parametrize("word", [2**63, 1])
def test_equal_keys_stay_in_the_order_in_which_they_came(word, monkeypatch):
    monkeypatch.setattr(grouping, "WORD", word)  # 1: no key and place fit into one number
    keys = np.array([5, 1, 5, 0, 1, 5])
    ordered, places = grouping.stable_order(keys, n_keys=6)
    assert ordered.tolist() == [0, 1, 1, 5, 5, 5]
    assert places.tolist() == [3, 1, 4, 0, 2, 5]
    assert keys.tolist() == [5, 1, 5, 0, 1, 5]


def test_keys_too_large_to_be_packed_are_sorted_all_the_same():
    largest = 2**60  # beside the 3 bits of four places one bit too many
    keys = np.array([largest, 0, largest - 1, 0])
    ordered, places = grouping.stable_order(keys, n_keys=largest + 1)
    assert ordered.tolist() == [0, 0, largest - 1, largest]
    assert places.tolist() == [1, 3, 2, 0]
    # the largest keys that are packed
    keys = np.array([2**60 - 1, 0, 2**60 - 1, 7])
    ordered, places = grouping.stable_order(keys, n_keys=2**60)
    assert ordered.tolist() == [0, 7, 2**60 - 1, 2**60 - 1]
    assert places.tolist() == [1, 3, 0, 2]
