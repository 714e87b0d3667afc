"""Graph attention over items: relations from a log and from attributes, layers, sampling, settings."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.attention.graph import GRAPH_LAYERS
from attnrec.config import SettingsError
from attnrec.dataset import features_from_frame, histories_from_frame, user_item_edges
from attnrec.dataset.graph import co_occurrence, item_co_occurrence
from attnrec.models.graph.item_encoder import ItemGraphEncoder
from attnrec.models.graph.relation_edges import RelationEdges
from attnrec.models.graph.settings import ItemGraphSettings

DIM = 8
RELATIONS = ["bipartite", "items", "transitions"]


def observed(histories, *relations: str, **settings) -> ItemGraphEncoder:
    """A graph encoder in evaluation mode with random weights and a residual scale of 1."""
    torch.manual_seed(0)
    checked = ItemGraphSettings.from_dict({"heads": 2} | settings)
    graph = ItemGraphEncoder(checked, DIM, relations=relations or ("transitions",))
    graph.observe(histories)
    with torch.no_grad():
        for name, parameter in graph.named_parameters():
            parameter.copy_(
                torch.ones(()) if name == "residual_scale" else parameter + 0.1 * torch.randn_like(parameter)
            )
    return graph.eval()


def vectors_of(histories) -> torch.Tensor:
    vectors = torch.randn(histories.n_items + 1, DIM, generator=torch.Generator().manual_seed(7))
    vectors[0] = 0
    return vectors


def dependencies(graph: ItemGraphEncoder, vectors: torch.Tensor) -> list[list[int]]:
    """Return, for each item, the rows whose vectors its enriched vector depends on."""
    vectors = vectors.clone().requires_grad_()
    enriched = graph(vectors)
    rows = []
    for row in range(len(vectors)):
        (gradient,) = torch.autograd.grad(enriched[row].square().sum(), vectors, retain_graph=True)
        rows.append((gradient != 0).any(1).nonzero()[:, 0].tolist())
    return rows


@pytest.fixture
def line(make_histories):
    """a -> b -> c three times, d -> c once; e and f have no neighbours."""
    return make_histories({"ann": "abc", "bob": "abc", "cid": "abc", "dan": "dc", "eve": "e", "fay": "ff"})


# --- neighbours


def test_transitions_connect_items_to_predecessors_and_successors(line):
    assert dependencies(observed(line), vectors_of(line)) == [[], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4], [5], [6]]


def test_two_layers_reach_neighbours_of_neighbours(line):
    found = dependencies(observed(line, layers=2), vectors_of(line))
    assert found == [[], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [5], [6]]


def test_reach_extends_transitions(line):
    assert dependencies(observed(line, reach=2), vectors_of(line))[1] == [1, 2, 3]


def test_items_with_a_common_user_are_connected(line):
    for relation in ("items", "bipartite"):
        found = dependencies(observed(line, relation), vectors_of(line))
        assert found == [[], [1, 2, 3], [1, 2, 3], [1, 2, 3, 4], [3, 4], [5], [6]]


def test_only_the_strongest_neighbours_are_kept(line):
    # c follows b three times and d once: c drops its neighbour d, and d keeps its neighbour c
    assert dependencies(observed(line, neighbours=1), vectors_of(line)) == [
        [],
        [1, 2],
        [1, 2, 3],
        [2, 3],
        [3, 4],
        [5],
        [6],
    ]
    # a, b and c have the same three users; ties are resolved by the smaller row
    assert dependencies(observed(line, "items", neighbours=1), vectors_of(line))[1:4] == [[1, 2], [1, 2], [1, 3]]


def test_neighbours_of_users_are_sampled_and_not_the_smallest_rows(make_histories):
    histories = make_histories({f"user-{n}": "abcdefghijkl" for n in range(20)})
    hops = observed(histories, "bipartite", neighbours=3).edges["by_bipartite"].scoring_edges(torch.device("cpu"))
    assert torch.bincount(hops[0].targets).tolist() == [3] * 20
    assert torch.bincount(hops[1].targets, minlength=13).tolist() == [0] + [3] * 12
    assert set(hops[0].sources.tolist()) == set(range(1, 13))


def test_a_limit_above_the_number_of_neighbours_has_no_effect(line):
    vectors = vectors_of(line)
    for relation in ("bipartite", "transitions"):
        limited, all_edges = (observed(line, relation, neighbours=k) for k in (20, None))
        torch.testing.assert_close(limited(vectors), all_edges(vectors))


def test_undirected_transitions_are_one_symmetric_relation(make_histories):
    histories = make_histories({"ann": "ab"})
    vectors = vectors_of(histories)
    swapped = vectors[[0, 2, 1]]
    one, two = observed(histories, directed=False), observed(histories)
    assert (len(one.kinds), len(two.kinds)) == (1, 2)
    torch.testing.assert_close(one(swapped), one(vectors)[[0, 2, 1]])
    assert not torch.allclose(two(swapped), two(vectors)[[0, 2, 1]])


def test_the_output_for_one_neighbour_is_its_projection(make_histories):
    # the attention weight of the only source is 1: b + W a + bias of by_earlier, and a + V b + bias of by_later
    histories = make_histories({"ann": "ab"})
    graph, vectors = observed(histories, layer="gat"), vectors_of(histories)
    (layer,) = graph.layers
    before, after = layer["by_earlier"].layer, layer["by_later"].layer
    expected = vectors.clone()
    expected[2] += before.project_source.weight @ vectors[1] + before.bias
    expected[1] += after.project_source.weight @ vectors[2] + after.bias
    torch.testing.assert_close(graph(vectors), expected)


def test_relations_are_summed(line):
    vectors, both = vectors_of(line), observed(line, "bipartite", "items")
    received = []
    for name in ("by_bipartite", "by_items"):
        alone = observed(line, name.removeprefix("by_"))
        alone.layers[0][name].load_state_dict(both.layers[0][name].state_dict())
        received.append(alone(vectors) - vectors)
    torch.testing.assert_close(both(vectors), vectors + received[0] + received[1])


def test_the_query_of_a_user_node_is_the_mean_of_its_items(make_histories):
    histories = make_histories({"ann": "ab", "bob": "cabb"})  # a repeat counts once
    graph, vectors, queries = observed(histories, "bipartite"), vectors_of(histories), []
    graph.layers[0]["by_bipartite"].to_nodes.register_forward_pre_hook(lambda module, inputs: queries.append(inputs[1]))
    graph(vectors)
    torch.testing.assert_close(queries[0], torch.stack([vectors[1:3].mean(0), vectors[1:4].mean(0)]))


def test_duplicate_users_do_not_change_the_vectors(make_histories):
    once, twice = (make_histories(dict.fromkeys(users, "ab")) for users in (["ann"], ["ann", "bob"]))
    vectors = vectors_of(once)
    torch.testing.assert_close(observed(once, "bipartite")(vectors), observed(twice, "bipartite")(vectors))


@pytest.mark.parametrize("features", [True, False])
def test_attention_reads_edge_features_only_if_set(features, make_histories):
    # b follows a twice or once, and c once: the same edges with different weights
    histories, other = (
        make_histories({"ann": "abab", "cid": "cb"}),
        make_histories({"ann": "ab", "bob": "ba", "cid": "cb"}),
    )
    vectors = vectors_of(histories)
    enriched = [observed(one, edge_features=features)(vectors) for one in (histories, other)]
    assert torch.allclose(*enriched) != features


# --- items without edges, no layers, initialisation


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("residual", ["learned", "sum", "none"])
@pytest.mark.parametrize("combine", ["last", "mean", "sum"])
def test_an_item_without_edges_keeps_its_own_vector(line, residual, combine, layers):
    vectors = vectors_of(line)
    enriched = observed(line, residual=residual, combine=combine, layers=layers)(vectors)
    assert torch.equal(enriched[5:], vectors[5:])
    assert (enriched[1:5] != vectors[1:5]).any(1).all()


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_padding_row_is_zero_for_any_input(line, relation):
    vectors = vectors_of(line)
    vectors[0] = 3
    assert not observed(line, relation)(vectors)[0].any()
    assert (
        dependencies(observed(line, relation), vectors)[1]
        == dependencies(observed(line, relation), vectors_of(line))[1]
    )


def test_without_layers_vectors_are_unchanged_and_there_are_no_parameters(line):
    graph, vectors = observed(line, layers=0), vectors_of(line)
    assert torch.equal(graph.train()(vectors), vectors)
    assert not list(graph.parameters())


@pytest.mark.parametrize("combine", ["last", "mean", "sum"])
def test_a_learned_residual_scale_starts_at_zero_and_has_a_gradient(line, combine):
    torch.manual_seed(0)
    graph = ItemGraphEncoder(ItemGraphSettings(heads=2, layers=2, combine=combine), DIM, relations=("transitions",))
    graph.observe(line)
    vectors = vectors_of(line)
    enriched = graph(vectors)
    assert torch.equal(enriched, vectors)
    (enriched * torch.randn(enriched.shape)).sum().backward()
    assert graph.residual_scale.grad.abs() > 1e-3


def test_layers_are_combined_by_the_setting_combine(line):
    vectors, reached = vectors_of(line), torch.tensor([0, 1, 1, 1, 1, 0, 0])[:, None] > 0
    graph = observed(line, layers=2, directed=False)
    hops = graph.edges["by_transitions"].scoring_edges(torch.device("cpu"))
    first = graph.layers[0]["by_transitions"](vectors, hops)
    states = {"learned": vectors + 0.5 * first, "sum": vectors + first, "none": torch.where(reached, first, vectors)}
    for residual, state in states.items():
        second = graph.layers[1]["by_transitions"](state, hops)
        for combine, received in {"last": second, "mean": (first + second) / 2, "sum": first + second}.items():
            other = observed(line, layers=2, directed=False, combine=combine, residual=residual)
            with torch.no_grad():
                other.residual_scale.fill_(0.5) if residual == "learned" else None
            ends = {"learned": vectors + 0.5 * received, "sum": vectors + received}
            expected = ends.get(residual, torch.where(reached, received, vectors))
            torch.testing.assert_close(other(vectors), expected)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("layer", GRAPH_LAYERS)
def test_every_weight_of_the_graph_has_a_gradient(layer, relation, checkerboard):
    histories = checkerboard.histories
    graph = observed(histories, relation, layer=layer, layers=2, reach=1 + (relation == "transitions"))
    enriched = graph.train()(vectors_of(histories))
    (enriched * torch.randn(enriched.shape)).sum().backward()
    without_gradient = [
        name for name, weight in graph.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert without_gradient == []


def test_empty_logs_and_users_without_events_are_accepted(make_histories):
    histories = make_histories({"ann": "ab", "bob": "ba"})
    vectors = vectors_of(histories)
    for relation in RELATIONS:
        nobody = observed(histories.up_to(np.array([0, 0])), relation)
        assert torch.equal(nobody(vectors), vectors)
        alone, both = (observed(histories.up_to(np.array([2, n])), relation)(vectors) for n in (0, 1))
        torch.testing.assert_close(alone, both) if relation != "bipartite" else None
        assert (alone[1:] != vectors[1:]).any(1).all()


# --- sampling in training


def crowd(n_users: int = 40):
    random = np.random.default_rng(0)
    rows = [(u, int(i), t) for u in range(n_users) for t, i in enumerate(random.integers(0, 12, 20))]
    return histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))


SAMPLING = {"sample": {"neighbours": 2, "sample": True}, "edges": {"neighbours": None, "edges_per_step": 30}}


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("settings", SAMPLING.values(), ids=SAMPLING)
def test_training_samples_edges_by_the_seed_and_scoring_does_not_sample(settings, relation):
    if relation == "items" and settings["neighbours"] is None:
        settings = settings | {"neighbours": 5}
    histories = crowd()
    graph, vectors = observed(histories, relation, dropout=0, **settings), vectors_of(histories)
    assert torch.equal(graph(vectors), graph(vectors))
    graph.train()
    torch.manual_seed(1)
    steps = [graph(vectors) for _ in range(2)]
    assert not torch.allclose(*steps)
    torch.manual_seed(1)
    assert torch.equal(graph(vectors), steps[0])


def test_scoring_uses_the_strongest_neighbours_of_those_training_samples_from(line):
    graph, vectors = observed(line, neighbours=1, sample=True), vectors_of(line)
    assert dependencies(graph, vectors)[3] == [2, 3]
    neighbours = {tuple(dependencies(graph.train(), vectors)[3]) for _ in range(40)}
    assert neighbours == {(2, 3), (3, 4)}


def test_a_step_uses_edges_per_step_edges_and_the_same_in_both_hops():
    histories = crowd()
    by_user = user_item_edges(histories).by_user()
    settings = ItemGraphSettings(neighbours=None, edges_per_step=50, edge_features=True)
    hops = RelationEdges((by_user, by_user.transposed()), settings, "bipartite")
    for _ in range(3):
        inward, outward = hops.training_edges(torch.device("cpu"))
        assert len(inward.sources) == len(outward.sources) == 50
        pairs = [set(zip(a.tolist(), b.tolist(), strict=True)) for a, b in _ends(inward, outward)]
        assert pairs[0] == pairs[1]
        assert len(pairs[0]) == 50
        users = [{item for item, user in pairs[0] if user == number} for number in range(inward.n_targets)]
        assert all(users)  # users without an edge in this step are dropped, the others are renumbered
        items_of = [set(histories.items_of(user).tolist()) for user in range(histories.n_users)]
        assert all(any(sampled <= items for items in items_of) for sampled in users)
        assert inward.edge_features.shape == (50, 2)
    assert len(hops.scoring_edges(torch.device("cpu"))[0].sources) == len(by_user) > 50


def test_dropping_nodes_without_edges_does_not_change_the_output(monkeypatch):
    histories = crowd()
    outputs = []
    for keep_isolated in (True, False):
        if keep_isolated:
            monkeypatch.setattr("attnrec.models.graph.relation_edges._without_isolated", lambda hops: hops)
        else:
            monkeypatch.undo()
        graph = observed(histories, "bipartite", dropout=0, neighbours=None, edges_per_step=30).train()
        torch.manual_seed(1)
        outputs.append(graph(vectors_of(histories)))
    torch.testing.assert_close(*outputs)


def _ends(inward, outward):
    return (inward.sources, inward.targets), (outward.targets, outward.sources)


def test_sampled_edges_keep_their_features(make_histories):
    histories = make_histories({"ann": "abab", "bob": "cb"})  # a -> b twice
    graph = observed(histories, neighbours=None, edges_per_step=1, edge_features=True)
    for _ in range(10):
        (hop,) = graph.edges["by_earlier"].training_edges(torch.device("cpu"))
        pair = (int(hop.sources), int(hop.targets))
        count = {(1, 2): 2, (2, 1): 1, (3, 2): 1}[pair]
        torch.testing.assert_close(hop.edge_features[0], torch.tensor([count, count, 1.0]).log1p())


# --- items by common users


def test_weights_of_common_users_are_cosines_of_user_sets(make_histories):
    # a: ann bob cid, b: ann bob, c: cid; a repeat counts once
    graph = item_co_occurrence(user_item_edges(make_histories({"ann": "aab", "bob": "ba", "cid": "ac"})), k=5)
    found = {
        (int(source), int(target)): (round(float(weight), 6), int(count))
        for source, target, weight, count in zip(
            graph.sources, graph.targets, graph.weights, graph.columns["count"], strict=True
        )
    }
    a_b, a_c = round(2 / (3 * 2) ** 0.5, 6), round(1 / 3**0.5, 6)
    assert found == {(2, 1): (a_b, 2), (3, 1): (a_c, 1), (1, 2): (a_b, 2), (1, 3): (a_c, 1)}
    nearest = item_co_occurrence(user_item_edges(make_histories({"ann": "aab", "bob": "ba", "cid": "ac"})), k=1)
    assert list(zip(nearest.sources.tolist(), nearest.targets.tolist(), strict=True)) == [(2, 1), (1, 2), (1, 3)]


def test_common_users_in_several_blocks_equal_those_in_one(monkeypatch):
    edges = user_item_edges(crowd())
    whole = item_co_occurrence(edges, k=3)
    monkeypatch.setattr(co_occurrence, "MAX_BLOCK_ENTRIES", 500)
    parts = item_co_occurrence(edges, k=3)
    for name in ("sources", "offsets", "weights"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


# --- attributes


@pytest.fixture
def shelf():
    """a and b are red, c is blue; new is red, odd is grey, and both have no training events."""
    log = pd.DataFrame({"user_id": list("xxxyy"), "item_id": list("abcab"), "datetime": [1, 2, 3, 1, 2]})
    late = pd.DataFrame({"user_id": ["z"] * 2, "item_id": ["new", "odd"], "datetime": [9, 10]})
    whole = histories_from_frame(pd.concat([log, late]))
    colours = pd.Categorical(["red", "red", "blue", "red", "grey"])
    items = pd.DataFrame({"item_id": ["a", "b", "c", "new", "odd"], "the.colour": colours})
    seen = whole.up_to(whole.lengths * (np.array(whole.user_ids.ids) != "z"))
    return seen, features_from_frame(items, whole.item_ids)


def with_attributes(shelf, *relations: str, **settings) -> ItemGraphEncoder:
    histories, features = shelf
    torch.manual_seed(0)
    checked = ItemGraphSettings(heads=2, attributes=("the.colour",), residual="sum", **settings)
    graph = ItemGraphEncoder(checked, DIM, relations=relations)
    graph.set_attributes(features)
    graph.observe(histories)
    return graph.eval()


def test_items_with_a_common_value_are_connected_and_new_items_are_only_targets(shelf):
    graph, vectors = with_attributes(shelf), vectors_of(shelf[0])
    # rows: a 1, b 2, c 3, new 4, odd 5
    assert dependencies(graph, vectors) == [[], [1, 2], [1, 2], [3], [1, 2], []]
    assert graph.has_attributes().tolist() == [False, True, True, True, True, False]
    enriched = graph(vectors)
    assert not enriched[5].any(), "an untrained own vector is not used"
    torch.testing.assert_close(enriched[4], (enriched - vectors)[1], msg="the red items, without an own vector")


def test_own_vectors_are_used_with_hide_untrained_false(shelf):
    graph, vectors = with_attributes(shelf), vectors_of(shelf[0])
    before = graph(vectors)
    graph.observe(shelf[0], hide_untrained=False)
    torch.testing.assert_close(graph(vectors)[4:], before[4:] + vectors[4:])


def test_attributes_are_combined_with_other_relations(shelf):
    graph = with_attributes(shelf, "transitions")
    assert list(graph.kinds) == ["by_earlier", "by_later", "of_the/colour"]
    assert dependencies(graph, vectors_of(shelf[0]))[1:5] == [[1, 2], [1, 2, 3], [2, 3], [1, 2]]


def test_missing_attributes_are_rejected(shelf, make_histories):
    histories, features = shelf
    graph = ItemGraphEncoder(ItemGraphSettings(attributes=("brand",)), DIM, relations=())
    with pytest.raises(
        ValueError, match=r"attributes must be category columns of the items, got 'brand'; there are the\.col"
    ):
        graph.set_attributes(features)
    with pytest.raises(ValueError, match=r"attributes = \['brand'\] needs item features, got none; add"):
        graph.observe(histories)


# --- invalid settings


def test_transitions_of_an_unordered_log_are_rejected():
    histories = histories_from_frame(pd.DataFrame({"user_id": list("aab"), "item_id": list("xyx")}))
    with pytest.raises(ValueError, match="transitions need ordered events, got an unordered log; use the relation"):
        observed(histories, "transitions")
    for relation in ("items", "bipartite"):
        assert observed(histories, relation)(vectors_of(histories)).isfinite().all()


@pytest.mark.parametrize(
    ("relations", "settings", "message"),
    [
        (("items",), {"reach": 3}, "reach is a setting of transitions, got reach = 3 with"),
        (("bipartite",), {"directed": False}, "directed is a setting of transitions, got directed = False"),
        (("items",), {"neighbours": None}, "the relation 'items' needs a number of neighbours, got none"),
        (("transitions",), {"neighbours": None, "sample": True}, "sample = true needs a number of neighbours"),
        (("transitions",), {"heads": 3}, "heads of the graph must divide dim, got heads=3 and dim=8"),
        (("transitions",), {"layer": "gcn"}, "layer must be one of gat, gatv2, .*, got 'gcn'"),
        (("transitions",), {"layers": 4}, "layers: Input should be less than or equal to 3, got 4"),
        (("transitions",), {"neigbours": 4}, r"neigbours: unknown key; did you mean neighbours\?"),
        ((), {}, r"relations must be distinct and not empty, got \[\]"),
        (("items", "items"), {}, r"relations must be distinct.*got \['items', 'items'\]"),
    ],
)
def test_invalid_settings_are_rejected(relations, settings, message):
    with pytest.raises((SettingsError, ValueError), match=message):
        ItemGraphEncoder(ItemGraphSettings.from_dict(settings), DIM, relations=relations)


def test_training_without_observe_raises():
    graph = ItemGraphEncoder(ItemGraphSettings(heads=2), DIM, relations=("transitions",))
    assert not graph.observed
    with pytest.raises(AssertionError, match="observed before training"):
        graph(torch.zeros(3, DIM))


def test_a_half_life_needs_times(line):
    with pytest.raises(ValueError, match="half_life_days needs timestamps"):
        observed(replace(line, time_kind="order"), half_life_days=3.0)
