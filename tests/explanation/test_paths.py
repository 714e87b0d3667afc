"""Paths over a graph, with uniform attention, so that every weight is a fraction that can be checked by hand."""

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from unittest import mock

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.dataset import features_from_frame, histories_from_frame, split_last
from attnrec.explanation import Explanation, Explanations, explain_items, one_history
from attnrec.explanation.graph_drawing import EXACT, ILLUSTRATION, NO_PATH, graph_of, layout_of
from attnrec.explanation.neighbourhood import Neighbourhood
from attnrec.models import build_model, model_config
from attnrec.models.graph.item_encoder import ItemGraphEncoder
from attnrec.models.saved_model import SavedModel, load_with_warm_start, save_model
from attnrec.tracking.figures import item_graph

mpl.use("Agg")

from matplotlib import pyplot

SEQUENCE = {"dim": 16, "heads": 2, "pooling_heads": 2}
TRANSITIONS = SEQUENCE | {"graph": "transitions"}
UNIFORM = ("graph.layers", "pooling.logits", "pooling.query")


def uniform(kind: str, histories, features=None, **settings):
    """A model with uniform attention over graph neighbours and over the history."""
    torch.manual_seed(3)
    model = build_model(model_config(kind, settings), histories.n_items, features)
    model.observe(histories)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in UNIFORM):
                parameter.zero_()
    model.refresh()
    return model.eval()


def explain_letters(model, histories, history: str, *items: str, method: str = "contribution") -> Explanations:
    """Explain items for a history of letters."""
    rows = [histories.item_ids.row(item) for item in items]
    return explain_items(model, one_history(list(history), histories.item_ids), user=0, items=rows, method=method)


def summary(paths: pd.DataFrame) -> list[tuple]:
    return [
        (path.item_id, path.through, path.attending_item, pytest.approx(path.product))
        for path in paths.itertuples()
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


@pytest.fixture
def pairs(make_histories):
    """ann has a and b, bob has b and c, eve has only e: a - b - c through two users.

    Uniform weights: a attends to ann only, who attends to a and b: a -> b 1/2. b attends to both users: b -> a 1/4,
    b -> c 1/4. c -> b 1/2. The remaining weight returns to the item itself.
    """
    return make_histories({"ann": "ab", "bob": "bc", "eve": "e"})


@pytest.fixture
def line(make_histories):
    """a and d come before b, b comes before c twice.

    To the previous item: b -> a 1/2, b -> d 1/2, c -> b 1. To the next item: a -> b 1, d -> b 1, b -> c 1. Only b has
    both relations, each with half of its attention.
    """
    return make_histories({"ann": "abc", "bob": "dbc", "eve": "e"})


# --- attention weights of neighbours


def weights_of(model, items: list[int]) -> dict[str, list[dict[int, float]]]:
    found = model.neighbour_weights(torch.tensor(items, dtype=torch.long))
    return {
        name: [
            {item: share for item, share in zip(row, weights, strict=True) if item}
            for row, weights in zip(of.neighbours.tolist(), of.weights.tolist(), strict=True)
        ]
        for name, of in found.items()
    }


def test_steps_through_users_are_summed_over_the_users(pairs):
    model = uniform("gat", pairs, dim=16)
    # rows a 1, b 2, c 3, e 4
    assert weights_of(model, [2, 1, 4, 2]) == {
        "by_bipartite": [{1: 0.25, 2: 0.5, 3: 0.25}, {1: 0.5, 2: 0.5}, {4: 1.0}, {1: 0.25, 2: 0.5, 3: 0.25}]
    }
    table = model.neighbour_weights(torch.tensor([1, 4]))["by_bipartite"]
    assert table.neighbours.tolist() == [[1, 2], [4, 0]]  # as wide as the largest neighbourhood of the request
    assert table.weights.tolist() == [[0.5, 0.5], [1, 0]]
    assert (table.neighbours.dtype, table.weights.dtype) == (torch.int64, torch.float32)


def test_each_relation_has_its_own_weights(line):
    model = uniform("attnrec", line, **TRANSITIONS)
    # rows a 1, b 2, c 3, d 4, e 5
    assert weights_of(model, [2, 1, 3, 5]) == {
        "by_earlier": [{1: 0.5, 4: 0.5}, {}, {2: 1.0}, {}],
        "by_later": [{3: 1.0}, {2: 1.0}, {}, {}],
    }
    assert weights_of(model, []) == {"by_earlier": [], "by_later": []}
    nobody = model.neighbour_weights(torch.tensor([5]))["by_later"]
    assert nobody.neighbours.shape == nobody.weights.shape == (1, 0)


def test_steps_through_a_category_lead_from_items_without_events_to_items_with_events():
    log = pd.DataFrame({"user_id": list("xxxz"), "item_id": ["a", "b", "c", "new"], "datetime": [1, 2, 3, 4]})
    whole = histories_from_frame(log)
    features = features_from_frame(
        pd.DataFrame({"item_id": ["a", "b", "c", "new"], "colour": pd.Categorical(["red", "red", "blue", "red"])}),
        whole.item_ids,
    )
    seen = whole.up_to(np.array([3, 0]))
    model = uniform("gat", seen, features, dim=16, relations=[], attributes=["colour"])
    assert weights_of(model, [4, 3, 1]) == {"of_colour": [{1: 0.5, 2: 0.5}, {3: 1.0}, {1: 0.5, 2: 0.5}]}
    assert summary(explain_letters(model, seen, "a", "new")[0].paths()) == [
        ("a", None, "recommended", 1 / 2),
        ("a", "b", "both", 1 / 4),  # a -> b 1/2, new -> b 1/2
    ]


@pytest.mark.parametrize("attention", ["gat", "gatv2"])
@pytest.mark.parametrize("relation", ["bipartite", "items", "transitions"])
def test_weights_are_those_of_the_first_layer_on_the_whole_graph(
    checkerboard, with_random_weights, relation, attention
):
    settings = {"dim": 16, "heads": 2, "relations": [relation], "neighbours": 3, "layer": attention, "layers": 2}
    histories = checkerboard.histories
    model = with_random_weights(build_model(model_config("gat", settings), histories.n_items), histories)
    rows = torch.tensor([7, 2, 12])
    found = model.neighbour_weights(rows)
    for name, hop in model.graph.edges.items():
        layer, hops, items = (
            model.graph.layers[0][name],
            hop.scoring_edges(torch.device("cpu")),
            model.item_scorer.embedding.weight,
        )
        if len(hops) == 1:
            steps = dense(hops[0], layer.layer(items, graph=hops[0], need_weights=True), n_sources=13)
        else:
            nodes, outward = layer._attend(items, items, hops, need_weights=True)
            steps = dense(hops[1], outward, n_sources=hops[0].n_targets) @ dense(hops[0], nodes, n_sources=13)
        weights = torch.zeros(3, 13).scatter_add_(1, found[name].neighbours, found[name].weights)
        torch.testing.assert_close(weights, steps[rows].detach())
        assert weights.std() > 0.01  # not uniform, so that weights of another item would be noticed


def dense(hop, attended, *, n_sources: int) -> torch.Tensor:
    """Return the weights averaged over heads, (targets, sources)."""
    matrix = torch.zeros(hop.n_targets, n_sources)
    return matrix.index_put_((hop.targets, hop.sources), attended.weights.mean(1), accumulate=True)


def test_neighbour_weights_do_not_change_a_model_in_training(line, make_batch):
    model = uniform("attnrec", line, **TRANSITIONS | {"graph_settings": {"layer": "gat"}}).train()
    model.observe(line)  # edges are moved to the device on first use and cached
    found = model.neighbour_weights(torch.tensor([2]))
    assert model.training
    assert all(not of.weights.requires_grad for of in found.values())
    batch = replace(make_batch([1, 2]), targets=torch.tensor([[2, 3]]))
    model.loss(batch).backward()
    assert model.graph.residual_scale.grad is not None


def test_the_weights_of_a_random_walk_are_its_transition_probabilities(pairs):
    model = uniform("random_walk", pairs, heads=2)
    # a and c share no user
    found = weights_of(model, [1, 2, 4])["items"]
    assert [set(shares) for shares in found] == [{2}, {1, 3}, set()]
    assert found[1][1] == pytest.approx(float(model.step_probabilities[2, 0].mean()))
    assert sum(found[1].values()) == pytest.approx(1)


def test_a_model_without_a_graph_has_no_neighbours(pairs):
    for kind, settings in (("item_knn", {}), ("attnrec", SEQUENCE)):
        model = build_model(model_config(kind, settings), pairs.n_items)
        with pytest.raises(TypeError, match=r"neighbour weights need a graph, got .*, which has none; use gat"):
            model.neighbour_weights(torch.tensor([1]))


def test_a_graph_without_layers_has_no_neighbours(pairs):
    model = uniform("gat", pairs, dim=16, layers=0)
    assert model.neighbour_weights(torch.tensor([1, 2])) == {}
    assert explain_letters(model, pairs, "ab", "c")[0].paths().empty


# --- paths


def test_a_product_is_start_times_steps(pairs):
    paths = explain_letters(uniform("gat", pairs, dim=16), pairs, "ab", "c")[0].paths()
    assert summary(paths) == [
        ("b", None, "recommended", 1 / 2 * 1 / 2),
        ("a", "b", "both", 1 / 2 * 1 / 2 * 1 / 2),  # as strong as the next one, but of the older item
        ("b", None, "history", 1 / 2 * 1 / 4),
    ]
    assert list(paths.columns) == [
        "item_id", "through", "length", "attending_item", "relation", "recommended_relation", "start", "step",
        "recommended_step", "product", "exact",
    ]  # fmt: skip
    assert paths["length"].tolist() == [1, 2, 1]
    assert paths["start"].tolist() == [0.5] * 3
    np.testing.assert_allclose(paths["step"], [np.nan, 1 / 2, 1 / 4])
    np.testing.assert_allclose(paths["recommended_step"], [1 / 2, 1 / 2, np.nan])
    assert paths["relation"].tolist() == [None, "by_bipartite", "by_bipartite"]
    assert paths["recommended_relation"].tolist() == ["by_bipartite", "by_bipartite", None]
    assert not paths["exact"].any()
    assert paths.index.tolist() == [0, 1, 2]


def test_a_step_by_one_of_two_relations_has_half_the_weight(line):
    model = uniform("attnrec", line, **TRANSITIONS)
    paths = explain_letters(model, line, "b", "c")[0].paths()
    assert summary(paths) == [("b", None, "recommended", 1), ("b", None, "history", 1 / 2)]
    # c has one relation, which has all of its attention
    assert paths["recommended_relation"].tolist() == ["by_earlier", None]
    assert paths["relation"].tolist() == [None, "by_later"]


def test_both_items_can_attend_by_different_relations(line):
    paths = explain_letters(uniform("attnrec", line, **TRANSITIONS), line, "ad", "c")[0].paths()
    assert summary(paths) == [("a", "b", "both", 1 / 2), ("d", "b", "both", 1 / 2)]
    assert paths[["relation", "recommended_relation"]].to_numpy().tolist() == [["by_later", "by_earlier"]] * 2


def test_a_step_by_two_relations_names_both(make_histories):
    # b is a previous and a next item of a; c is only a next item
    histories = make_histories({"ann": "aba", "bob": "ac"})
    paths = explain_letters(uniform("attnrec", histories, **TRANSITIONS), histories, "a", "b")[0].paths()
    # a -> b: all of the previous items, half of the next items; b -> a: all of both
    assert summary(paths) == [("a", None, "recommended", 1), ("a", None, "history", 3 / 4)]
    assert paths["recommended_relation"][0] == paths["relation"][1] == "by_earlier, by_later"


def test_a_repeated_item_has_one_start_with_its_summed_attention(line):
    paths = explain_letters(uniform("attnrec", line, **TRANSITIONS), line, "ada", "c")[0].paths()
    assert summary(paths) == [("a", "b", "both", 2 / 3), ("d", "b", "both", 1 / 3)]
    assert paths["start"].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_paths_to_an_item_of_the_history(pairs):
    paths = explain_letters(uniform("gat", pairs, dim=16), pairs, "a", "a")[0].paths()
    assert summary(paths) == [("a", "b", "both", 1 / 2 * 1 / 2)]  # no step to itself


def test_an_item_without_edges_has_no_path(line):
    model = uniform("attnrec", line, **TRANSITIONS)
    assert summary(explain_letters(model, line, "ea", "c")[0].paths()) == [("a", "b", "both", 1 / 2)]
    assert explain_letters(model, line, "e", "c")[0].paths().empty
    assert explain_letters(model, line, "a", "e")[0].paths().empty


@pytest.mark.parametrize("kind", ["gat", "random_walk"])
def test_an_empty_history_has_no_paths(pairs, kind):
    found = explain_letters(uniform(kind, pairs, dim=16), pairs, "", "c")[0]
    assert found.paths().empty
    assert list(found.paths().columns) == list(
        explain_letters(uniform("gat", pairs, dim=16), pairs, "a", "c")[0].paths().columns
    )


def test_at_most_n_paths_strongest_first(pairs):
    found = explain_letters(uniform("gat", pairs, dim=16), pairs, "ab", "c")[0]
    pd.testing.assert_frame_equal(found.paths(2), found.paths().head(2))
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"n must be 1 or more paths, got {n}; the default is 10"):
            found.paths(n)


def test_equal_paths_are_in_history_order(make_histories):
    # nine items that each share one user with the recommended item
    histories = make_histories({f"user-{letter}": f"{letter}z" for letter in "abcdefghi"})
    paths = explain_letters(uniform("gat", histories, dim=16), histories, "hgfedcbai", "z")[0].paths(9)
    assert paths["item_id"].tolist() == list("hgfedcbai")
    assert set(paths["attending_item"]) == {"history"}
    assert paths["product"].tolist() == pytest.approx([1 / 9 * 1 / 2] * 9)


def test_integer_ids_stay_integers():
    frame = pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [70, 80, 80, 90], "datetime": [1, 2, 1, 2]})
    histories = histories_from_frame(frame)
    model = uniform("gat", histories, dim=16)
    paths = explain_items(model, one_history([70], histories.item_ids), user=0, items=[3])[0].paths()
    assert summary(paths) == [(70, 80, "both", 1 / 4)]


def test_paths_do_not_depend_on_the_method(pairs):
    model = uniform("gat", pairs, dim=16)
    one, other = (
        explain_letters(model, pairs, "ab", "c", method=method)[0] for method in ("contribution", "leave_one_out")
    )
    pd.testing.assert_frame_equal(one.paths(), other.paths())


def test_the_neighbourhood_is_computed_on_the_first_call_and_cached(pairs):
    model = uniform("gat", pairs, dim=16)
    with mock.patch.object(
        type(model), "neighbour_weights", autospec=True, side_effect=type(model).neighbour_weights
    ) as computed:
        found = explain_letters(model, pairs, "ab", "c", "a")
        assert computed.call_count == 0
        for each in [*found, *found]:
            each.paths()
        found.with_titles({"a": "Tea"})[0].paths()
    assert computed.call_count == 1


# --- random walks


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("relation", ["items", "transitions"])
def test_products_of_a_random_walk_times_the_number_of_items_are_the_contributions(
    checkerboard, with_random_weights, relation, heads
):
    histories = checkerboard.histories
    config = model_config("random_walk", {"relation": relation, "heads": heads, "neighbours": 4})
    model = with_random_weights(build_model(config, histories.n_items), histories)
    view = one_history([0, 2, 4, 2], histories.item_ids)
    asked = histories.item_ids.encode([6, 2, 5])
    for found in explain_items(model, view, user=0, items=asked.tolist()):
        paths = found.paths(100)
        by_item = found.frame.groupby("item_id")["contribution"].sum()
        by_path = paths.set_index("item_id")["product"].reindex(by_item.index, fill_value=0.0)
        np.testing.assert_allclose(12 * by_path, by_item, atol=1e-6)
        np.testing.assert_allclose(paths["start"] * paths["step"], paths["product"])
        assert paths["exact"].all()
        stays = (paths["length"] == 0) & (paths["item_id"] == found.item_id)  # no edge to itself
        assert ((paths["length"] == 1) | stays).all()
        assert set(paths["relation"][~stays]) <= {relation}
        assert found.score == pytest.approx(found.item_bias + 12 * paths["product"].sum(), abs=1e-5)


def test_paths_of_a_random_walk_are_exact_for_every_method(pairs):
    model = uniform("random_walk", pairs)
    one, other = (
        explain_letters(model, pairs, "aca", "b", method=method)[0] for method in ("contribution", "leave_one_out")
    )
    assert sorted(one.paths()["item_id"]) == ["a", "c"]
    assert 4 * one.paths()["product"].sum() == pytest.approx(one.values.sum())  # of 4 items
    pd.testing.assert_frame_equal(other.paths(), one.paths())


def test_a_random_walk_steps_only_from_items_with_neighbours(pairs):
    paths = explain_letters(uniform("random_walk", pairs), pairs, "ea", "b")[0].paths()
    assert paths["item_id"].tolist() == ["a"]
    assert paths["attending_item"].tolist() == ["history"]
    assert paths["through"].tolist() == paths["recommended_relation"].tolist() == [None]
    assert paths["step"].tolist() == pytest.approx([1])  # b is a's only neighbour
    assert explain_letters(uniform("random_walk", pairs), pairs, "a", "c")[0].paths().empty  # a walk has one step


def test_paths_of_a_sequence_model_with_a_random_walk_are_not_exact(pairs):
    model = uniform("attnrec", pairs, **SEQUENCE, random_walk="items")
    paths = explain_letters(model, pairs, "a", "b", method="leave_one_out")[0].paths()
    assert paths["attending_item"].tolist() == ["history", "recommended"]
    assert paths["step"][0] == 1  # b is a's only neighbour
    assert not paths["exact"].any()


# --- models without paths


@pytest.mark.parametrize(("kind", "settings"), [("item_knn", {}), ("attnrec", SEQUENCE)])
def test_paths_without_a_graph_raise_an_error_that_names_graph_models(pairs, kind, settings):
    found = explain_letters(uniform(kind, pairs, **settings), pairs, "ab", "c")[0]
    assert found.neighbourhood is None
    for method in (found.paths, found.draw_graph, found.graph_figure):
        with pytest.raises(ValueError, match=r"paths need a model with a graph, got .*; fit model='gat' or"):
            method()


def test_paths_need_a_readout_with_attention_weights(line):
    model = uniform("attnrec", line, **TRANSITIONS | {"readout": "last"})
    found = explain_letters(model, line, "ab", "c", method="leave_one_out")[0]
    with pytest.raises(ValueError, match=r"attention weights over the history, got .*, which has none; fit with"):
        found.paths()


def save_and_load(model, histories, folder) -> SavedModel:
    folder.mkdir()
    save_model(SavedModel(model, histories.item_ids), folder)
    return load_with_warm_start(folder)


@pytest.mark.parametrize(("kind", "settings"), [("gat", {"dim": 16}), ("attnrec", TRANSITIONS)])
def test_a_loaded_model_has_no_graph_until_it_observes_the_log(pairs, tmp_path, kind, settings):
    model = uniform(kind, pairs, **settings)
    again = save_and_load(model, pairs, tmp_path / "model").model
    found = explain_letters(again, pairs, "ab", "c")[0]
    with pytest.raises(
        ValueError, match="neighbour weights need the training graph, which a saved model does not contain"
    ):
        found.paths()
    again.observe(pairs)
    pd.testing.assert_frame_equal(found.paths(), explain_letters(model, pairs, "ab", "c")[0].paths())


def test_a_loaded_random_walk_has_its_graph(pairs, tmp_path):
    model = uniform("random_walk", pairs)
    again = save_and_load(model, pairs, tmp_path / "model").model
    assert len(explain_letters(again, pairs, "ab", "c")[0].paths()) == 1
    pd.testing.assert_frame_equal(
        explain_letters(again, pairs, "ab", "c")[0].paths(), explain_letters(model, pairs, "ab", "c")[0].paths()
    )


# --- drawings


def edges_of(graph) -> dict[tuple, float]:
    return {edge: pytest.approx(product) for *edge, product in graph.edges(data="product") for edge in [tuple(edge)]}


def test_edges_point_from_the_attending_item_to_its_neighbour(pairs):
    graph = graph_of(explain_letters(uniform("gat", pairs, dim=16), pairs, "ab", "c")[0], n=10)
    a, b, end, middle = ("history", "a"), ("history", "b"), ("recommended", "c"), ("neighbour", "b")
    assert set(graph.nodes) == {a, b, end, middle}
    assert edges_of(graph) == {
        (end, b): 1 / 4,
        (a, middle): 1 / 8,
        (end, middle): 1 / 8,
        (b, end): 1 / 8,
    }
    assert graph.edges[end, middle]["step"] == pytest.approx(1 / 2)
    assert graph.edges[end, middle]["relation"] == "by_bipartite"
    assert graph.nodes[a]["start"] == pytest.approx(1 / 2)
    assert "start" not in graph.nodes[middle]
    assert not graph.graph["exact"]
    assert set(graph_of(explain_letters(uniform("gat", pairs, dim=16), pairs, "ab", "c")[0], n=1).nodes) == {b, end}


def test_the_product_of_an_edge_is_summed_over_its_paths(line):
    graph = graph_of(explain_letters(uniform("attnrec", line, **TRANSITIONS), line, "ada", "c")[0], n=10)
    a, d, end, b = ("history", "a"), ("history", "d"), ("recommended", "c"), ("neighbour", "b")
    assert edges_of(graph) == {(a, b): 2 / 3, (d, b): 1 / 3, (end, b): 1}


def test_the_layout_has_three_columns_and_positions_for_edges_past_the_middle(pairs):
    graph = graph_of(explain_letters(uniform("gat", pairs, dim=16), pairs, "ab", "c")[0], n=10)
    places = layout_of(graph)
    a, b, end, middle = ("history", "a"), ("history", "b"), ("recommended", "c"), ("neighbour", "b")
    bends = [("bend", (end, b)), ("bend", (b, end))]
    assert {node: x for node, (x, _) in places.items()} == {a: 0, b: 0, end: 2, middle: 1} | dict.fromkeys(bends, 1)
    assert places[b][1] - places[a][1] == pytest.approx(1)  # the item of the strongest path is on top
    assert sorted(places[node][1] for node in [middle, *bends]) == pytest.approx([-1, 0, 1])
    assert places[middle][1] == pytest.approx(-1)  # below, like a, so that no edges cross
    walk = graph_of(explain_letters(uniform("random_walk", pairs), pairs, "ac", "b")[0], n=10)
    assert {column for column, _ in layout_of(walk)} == {"history", "recommended"}


def long_titles(n: int = 10) -> Explanation:
    """An explanation with one path through a separate neighbour from each of n history items, with long titles."""
    history, middle = [f"item {number}" for number in range(n)], [f"middle {number}" for number in range(n)]
    steps = [(item, other, 0.5, 0.0) for item, other in zip(history, middle, strict=True)]
    steps += [("hat", other, 0.0, 0.25 / n) for other in middle] + [
        ("hat", "item 0", 0.0, 0.5),
        ("item 0", "hat", 0.5, 0.0),
    ]
    frame = pd.DataFrame({"item_id": history, "contribution": 1.0, "weight": 1 / n})
    graph = Neighbourhood(pd.DataFrame(steps, columns=["item_id", "neighbour", "by_earlier", "of_the/kind"]))
    titles = {name: f"{name} has a very long $ title of many many words" for name in [*history, *middle, "hat"]}
    return Explanation("hat", 1.0, 0.0, frame, titles=titles, neighbourhood=lambda: graph)


def test_labels_do_not_overlap():
    axes = long_titles().draw_graph(n=12)
    figure = axes.figure
    figure.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in [*axes.texts, axes.xaxis.label]}
    boxes |= {"title": axes._left_title.get_window_extent(), "legend": axes.get_legend().get_window_extent()}
    assert len(boxes) == 10 + 10 + 1 + 2 + 1 + 2  # history, neighbours, hat, column headers, caption, title and legend
    for (name, one), (other_name, other) in combinations(boxes.items(), 2):
        assert not (one.overlaps(other) and one.width and other.width), (name, other_name)
    whole = figure.bbox
    for name, box in boxes.items():
        assert min(box.x0 - whole.x0, whole.x1 - box.x1, box.y0 - whole.y0, whole.y1 - box.y1) >= 0, name


def test_the_caption_says_whether_paths_are_exact(pairs):
    view = explain_letters(uniform("gat", pairs, dim=16), pairs, "ab", "c")[0].draw_graph()
    # b and c are the strongest: half of the history, half of c's attention
    assert view.get_xlabel().split("\n") == [
        ILLUSTRATION,
        "arrow: from the attending item to its neighbour; width: product of attention weights, up to 25 %",
    ]
    assert view.get_title(loc="left") == "paths to c"
    assert [text.get_text() for text in view.texts] == ["c", "b  50%", "a  50%", "b", "history", "common neighbour"]
    assert view.get_legend() is None  # one relation needs no legend
    walk = explain_letters(uniform("random_walk", pairs), pairs, "ab", "c")[0].draw_graph()
    assert walk.get_xlabel().split("\n")[0] == EXACT
    assert len(walk.patches) == 1


def test_the_caption_says_if_there_is_no_path(line, pairs):
    nowhere = explain_letters(uniform("attnrec", line, **TRANSITIONS), line, "e", "c")[0].draw_graph()
    assert nowhere.get_xlabel() == NO_PATH
    assert [text.get_text() for text in nowhere.texts] == ["c"]
    nobody = explain_letters(uniform("gat", pairs, dim=16), pairs, "", "c")[0].draw_graph()
    assert nobody.get_xlabel() == "no history: ranked by popularity"


def test_relations_have_different_colours(line):
    axes = explain_letters(uniform("attnrec", line, **TRANSITIONS), line, "ab", "c")[0].draw_graph()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["to the previous item", "to the next item"]
    assert len({patch.get_edgecolor() for patch in axes.patches}) == 2


def test_titles_are_used_for_neighbours_outside_the_history(pairs):
    found = explain_letters(uniform("gat", pairs, dim=16), pairs, "a", "c").with_titles(
        {"a": "Tea", "b": "Cup", "c": "Pot"}
    )[0]
    titles = dict(graph_of(found, n=10).nodes(data="title"))
    assert titles == {("history", "a"): "Tea", ("neighbour", "b"): "Cup", ("recommended", "c"): "Pot"}
    axes = found.draw_graph()
    assert [text.get_text() for text in axes.texts] == ["Pot", "Tea  100%", "Cup", "history", "common neighbour"]
    assert axes.get_title(loc="left") == "paths to Pot"
    assert found.paths()["through"].tolist() == ["b"]  # the frame has ids
    renamed = replace(found, titles={"c": "Hat"})
    assert graph_of(renamed, n=10).nodes["recommended", "c"]["title"] == "Hat"


def test_axes_can_be_given_and_a_figure_for_saving_is_not_registered_with_pyplot(pairs, tmp_path):
    found = explain_letters(uniform("gat", pairs, dim=16), pairs, "ab", "c")[0]
    _, axes = pyplot.subplots()
    assert found.draw_graph(ax=axes) is axes
    assert len(axes.patches) == 4
    pyplot.close("all")
    figure = found.graph_figure(n=1)
    figure.savefig(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []
    assert len(figure.axes[0].patches) == 1


# --- the figure of a run


@pytest.fixture
def asked(make_histories):
    """ann's visible history has 3 events, bob's 4, cid's 2."""
    return split_last(make_histories({"ann": "abcd", "bob": "bcdea", "cid": "dea", "dan": "e"}))


@pytest.mark.parametrize(
    ("kind", "settings"), [("gat", {"dim": 16}), ("attnrec", TRANSITIONS), ("random_walk", {})], ids=str
)
def test_a_run_has_the_graph_of_the_best_item_for_the_longest_history_within_the_limit(
    asked, tmp_path, monkeypatch, kind, settings
):
    saved = save_and_load(uniform(kind, asked.train, **settings), asked.train, tmp_path / "model")
    drawn = []
    monkeypatch.setattr(Explanation, "graph_figure", lambda self: drawn.append(self) or self.draw_graph().figure)
    assert item_graph.item_graph_figure(saved, asked) is not None
    assert drawn[0].frame["item_id"].tolist() == list("bcde")  # bob's
    assert drawn[0].item_id == "a"  # the only item that bob has not seen
    monkeypatch.setattr(item_graph, "MAX_EVENTS", 4)
    item_graph.item_graph_figure(saved, asked)
    assert drawn[1].frame["item_id"].tolist() == list("abc")  # ann's


def test_a_run_without_such_a_user_or_graph_has_no_figure(asked, tmp_path, monkeypatch, make_histories):
    plain = SavedModel(uniform("attnrec", asked.train, **SEQUENCE), asked.train.item_ids)
    assert item_graph.item_graph_figure(plain, asked) is None
    no_reasons = SavedModel(uniform("attnrec", asked.train, **TRANSITIONS | {"readout": "last"}), asked.train.item_ids)
    assert item_graph.item_graph_figure(no_reasons, asked) is None
    all_seen = split_last(make_histories({"ann": "abab", "bob": "ab"}))
    assert (
        item_graph.item_graph_figure(
            SavedModel(uniform("gat", all_seen.train, dim=16), all_seen.train.item_ids), all_seen
        )
        is None
    )
    monkeypatch.setattr(item_graph, "MAX_EVENTS", 2)
    saved = save_and_load(uniform("gat", asked.train, dim=16), asked.train, tmp_path / "model")
    assert item_graph.item_graph_figure(saved, asked) is None


def test_a_loaded_graph_of_attributes_uses_the_saved_features(asked, tmp_path):
    kinds = pd.DataFrame({"item_id": list("abcde"), "kind": pd.Categorical(list("xyxyx")), "title": list("ABCDE")})
    features = features_from_frame(kinds, asked.train.item_ids)
    model = uniform("gat", asked.train, features, dim=16, relations=[], attributes=["kind"])
    (tmp_path / "model").mkdir()
    save_model(SavedModel(model, asked.train.item_ids, features=features), tmp_path / "model")
    figure = item_graph.item_graph_figure(load_with_warm_start(tmp_path / "model"), asked)
    assert figure.axes[0].get_title(loc="left") == "paths to A"


def test_neighbour_weights_need_an_observed_graph(pairs):
    graph = ItemGraphEncoder(model_config("gat", {"dim": 16}), 16, relations=("bipartite",))
    with pytest.raises(ValueError, match="neighbour weights need the training graph"):
        graph.neighbour_weights(torch.zeros(5, 16), torch.tensor([1]))


# --- docs/graphs.md


def test_the_code_of_the_graphs_page_runs(monkeypatch, capsys):
    root = Path(__file__).parents[2]
    blocks = re.findall(r"^```python\n(.*?)^```", (root / "docs" / "graphs.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    monkeypatch.chdir(root)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "graphs.md", "exec"), names)
    output = capsys.readouterr().out
    added, bias, score = map(
        float, re.search(r"^([\d.e-]+) \+ ([\d.e-]+) = ([\d.e-]+)$", output, re.MULTILINE).groups()
    )
    assert added + bias == pytest.approx(score)
    assert added > 0
