import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import (
    LeakageError,
    attribute_edges,
    audit_split,
    features_from_frame,
    from_hetero_data,
    histories_from_frame,
    item_co_occurrence,
    item_transitions,
    split_last,
    to_hetero_data,
    user_item_edges,
)

INTERACTS, FOLLOWED_BY = ("user", "interacts", "item"), ("item", "followed_by", "item")
DAY = 86_400


@pytest.fixture
def log():
    """ann: a, b, a; bob: c, a; eve has no visible event. With event types."""
    rows = [
        ("ann", "a", 0, "view"),
        ("ann", "b", 1, "view"),
        ("ann", "a", 2, "purchase"),
        ("bob", "c", 10, "cart"),
        ("bob", "a", 12, "view"),
        ("eve", "c", 20, "view"),
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime", "event"])
    return histories_from_frame(frame.assign(datetime=frame["datetime"] * DAY)).up_to(np.array([3, 2, 0]))


@pytest.fixture
def graphs(log):
    """Arguments of `to_hetero_data`: every kind of graph."""
    items = pd.DataFrame({"item_id": list("abc"), "look": [["red"], ["red", "blue"], []], "item": [["x"], ["y"], []]})
    edges = user_item_edges(log)
    return {
        "edges": edges,
        "transitions": item_transitions(log, reach=2, directed=False, age_half_life_days=3),
        "co_occurrence": item_co_occurrence(edges, k=2),
        "attributes": attribute_edges(features_from_frame(items, log.item_ids), log.n_items),
    }


def assert_equal(actual, expected):
    """Compare graphs field by field, dtypes included."""
    assert type(actual) is type(expected)
    for field in fields(expected):
        one, other = getattr(actual, field.name), getattr(expected, field.name)
        if isinstance(other, dict):
            assert list(one) == list(other)
            for name in other:
                np.testing.assert_array_equal(one[name], other[name], strict=True)
        elif isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other, strict=True)
        else:
            assert one == other


def shuffled(data):
    """Permute the edges of every type."""
    for store in data.edge_stores:
        order = torch.randperm(store.num_edges, generator=torch.Generator().manual_seed(0))
        for name, values in store.items():
            store[name] = values[:, order] if name == "edge_index" else values[order]
    return data


@pytest.mark.parametrize("change", [lambda data: data, shuffled])
def test_round_trip_is_equal_for_any_order_of_edges(graphs, change):
    converted = from_hetero_data(change(to_hetero_data(**graphs)))
    for name in ("edges", "transitions", "co_occurrence"):
        assert_equal(getattr(converted, name), graphs[name])
    assert list(converted.attributes) == ["look", "item"]
    for name, graph in graphs["attributes"].items():
        assert_equal(converted.attributes[name], graph)


def test_round_trip_after_save_and_load(graphs, tmp_path):
    torch.save(to_hetero_data(**graphs), tmp_path / "data.pt")
    assert_equal(from_hetero_data(torch.load(tmp_path / "data.pt", weights_only=False)).edges, graphs["edges"])


def test_nodes_and_edges_have_the_documented_rows(graphs):
    data = to_hetero_data(**graphs)
    assert data.validate(raise_on_error=True)
    assert {node_type: data[node_type].num_nodes for node_type in data.node_types} == {
        "item": 1 + 3,  # row 0 is padding
        "user": 3,
        "attribute_look": 2,
        "attribute_item": 2,
    }
    assert data[INTERACTS].edge_index.tolist() == [[0, 0, 1, 1], [1, 2, 1, 3]]
    assert data[INTERACTS].edge_index.dtype == torch.int64
    assert data[INTERACTS].time.tolist() == [2 * DAY, 1 * DAY, 12 * DAY, 10 * DAY]
    assert data.attnrec["edge_attr"][INTERACTS] == ["count", "share_cart", "share_purchase", "share_view"]
    assert data[INTERACTS].edge_attr.tolist() == [[2, 0, 1 / 2, 1 / 2], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0]]
    assert data["item", "has", "attribute_look"].edge_index.tolist() == [[2, 1, 2], [0, 1, 1]]  # blue: b; red: a, b


def test_a_directed_transition_goes_from_the_earlier_to_the_later_item(log):
    data = to_hetero_data(transitions=item_transitions(log))
    assert sorted(data[FOLLOWED_BY].edge_index.T.tolist()) == [[1, 2], [2, 1], [3, 1]]
    assert data.attnrec["edge_attr"][FOLLOWED_BY] == ["weight", "count", "gap_seconds"]
    converted = from_hetero_data(data)
    assert converted.edges is converted.co_occurrence is None
    assert converted.attributes == {}


def test_logs_without_timestamps_and_event_types_have_no_time_and_only_counts():
    edges = user_item_edges(histories_from_frame(pd.DataFrame({"user_id": ["ann", "ann"], "item_id": ["a", "b"]})))
    data = to_hetero_data(edges)
    assert "time" not in data[INTERACTS]
    assert data[INTERACTS].edge_attr.tolist() == [[1], [1]]
    assert_equal(from_hetero_data(data).edges, edges)


def test_graphs_without_edges_round_trip(make_histories):
    empty = make_histories({"ann": "ab"}).up_to(np.array([0]))
    edges, transitions = user_item_edges(empty), item_transitions(empty)
    converted = from_hetero_data(to_hetero_data(edges, transitions=transitions))
    assert_equal(converted.edges, edges)
    assert_equal(converted.transitions, transitions)


def test_converted_graphs_can_be_audited(make_histories):
    split = split_last(make_histories({"ann": "abcde", "bob": "eda"}))
    data = to_hetero_data(user_item_edges(split.train), transitions=item_transitions(split.train, reach=2))
    converted = from_hetero_data(data)
    audit_split(split, edges=converted.edges, transitions=converted.transitions)
    leaking = from_hetero_data(to_hetero_data(user_item_edges(split.test.histories)))
    with pytest.raises(LeakageError, match="graph edges must be training events"):
        audit_split(split, edges=leaking.edges)


def test_a_heterogeneous_gnn_runs_on_the_data(graphs):
    from torch_geometric.nn import HeteroConv, SAGEConv
    from torch_geometric.transforms import ToUndirected

    data = ToUndirected()(to_hetero_data(**graphs))
    assert data["item", "rev_interacts", "user"].edge_index.tolist() == [[1, 2, 1, 3], [0, 0, 1, 1]]
    inputs = {node_type: torch.ones(data[node_type].num_nodes, 4) for node_type in data.node_types}
    layer = HeteroConv({edge_type: SAGEConv((4, 4), 8) for edge_type in data.edge_types})
    outputs = layer(inputs, data.edge_index_dict)
    assert {node_type: tuple(rows.shape) for node_type, rows in outputs.items()} == {
        node_type: (data[node_type].num_nodes, 8) for node_type in data.node_types
    }


def test_hetero_data_of_another_source_is_converted_with_counts_and_weights_of_1():
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 2, 4
    data[INTERACTS].edge_index = torch.tensor([[1, 0], [3, 2]])
    data[FOLLOWED_BY].edge_index = torch.tensor([[1], [2]])
    data["user", "follows", "user"].edge_index = torch.tensor([[0], [1]])  # ignored
    converted = from_hetero_data(data)
    edges = converted.edges
    assert list(zip(edges.users, edges.items, edges.counts, strict=True)) == [(0, 2, 1), (1, 3, 1)]
    assert (edges.n_users, edges.n_items, edges.event_names) == (2, 3, ())
    assert converted.transitions.targets.tolist() == [2]
    assert converted.transitions.counts.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": torch.tensor([[0, 0], [1, 1]])}, r"unique, got 1 duplicates \(first: user row 0, item row 1\)"),
        ({"edge_index": torch.tensor([[0, 1], [0, 1]])}, r"items of .* must be rows from 1 to 2, got 1 other values"),
        ({"edge_index": torch.tensor([[0, 2], [1, 1]])}, r"users of .* must be rows from 0 to 1, got 1 other values"),
        ({"edge_attr": torch.ones(2, 3)}, r"must have the columns \['count'\], got 3 columns; set the names"),
    ],
)
def test_invalid_hetero_data_is_refused(make_histories, change, message):
    data = to_hetero_data(user_item_edges(make_histories({"ann": "a", "bob": "b"})))
    for name, values in change.items():
        data[INTERACTS][name] = values
    with pytest.raises(ValueError, match=message):
        from_hetero_data(data)


def test_graphs_of_different_catalogues_and_no_graphs_are_refused(graphs, make_histories):
    other = item_transitions(make_histories({"ann": "abcde"}))
    with pytest.raises(ValueError, match=r"item rows, got {'followed_by': 6, 'interacts': 4}; build all of them"):
        to_hetero_data(graphs["edges"], transitions=other)
    with pytest.raises(ValueError, match="needs one or more graphs"):
        to_hetero_data()


def test_importing_attnrec_dataset_does_not_import_torch_geometric():
    code = "import attnrec.dataset, sys; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arrays_are_copies(graphs):
    edges = replace(graphs["edges"], counts=graphs["edges"].counts.copy())
    to_hetero_data(edges)[INTERACTS].edge_attr.zero_()
    assert edges.counts.min() > 0
