"""Models with a graph: sequence models, GAT and session graphs; training, files, warm starts, leakage."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import attnrec
from attnrec.attribution import METHODS, attribute
from attnrec.config import SettingsError
from attnrec.dataset import LeakageError, Windows, features_from_frame, histories_from_frame, last_events, split_last
from attnrec.dataset.graph import item_transitions, user_item_edges
from attnrec.models import build_model, model_config, observed_graphs
from attnrec.models.graph import relations as item_relations
from attnrec.models.saved_model import SavedModel, load_model, load_with_warm_start, save_model
from attnrec.training import TrainConfig, train

SMALL = {"dim": 16, "pooling_heads": 2, "max_length": 8, "dropout": 0.0}
KINDS = {
    "attnrec": ("attnrec", SMALL | {"layers": 1, "graph": "transitions"}),
    "sasrec": ("sasrec", SMALL | {"layers": 1, "graph": "items"}),
    "gru4rec": ("gru4rec", SMALL | {"graph": "transitions", "graph_settings": {"layer": "gat", "layers": 2}}),
    "core": ("core", SMALL | {"layers": 1, "graph": "transitions", "graph_settings": {"directed": False}}),
    "bert4rec": ("bert4rec", SMALL | {"layers": 1, "graph": "transitions"}),
    "gce_gnn": ("gce_gnn", SMALL),
    "gat": ("gat", SMALL | {"heads": 2}),
    "gat_relations": ("gat", SMALL | {"relations": ("bipartite", "transitions"), "neighbours": 4, "combine": "sum"}),
}
SEQUENCES = [name for name in KINDS if not name.startswith("gat")]
QUICK = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "device": "cpu", "progress_bar": False}
TRAINING = TrainConfig(epochs=2, batch_size=16, learning_rate=1e-2, warmup_steps=0, device="cpu", seed=1)


def build(name: str, n_items: int, **settings):
    kind, defaults = KINDS[name]
    torch.manual_seed(5)
    return build_model(model_config(kind, defaults | settings), n_items)


def randomised(name: str, histories, **settings):
    """A model with large random weights and a residual scale of 1."""
    model = build(name, histories.n_items, **settings)
    model.observe(histories)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.0 if "norm" in key else 0.3))
        if model.graph.residual_scale is not None:
            model.graph.residual_scale.fill_(1.0)
    model.refresh()
    return model.eval()


def training_batch(model, histories):
    (batch, *_) = Windows(histories, max_length=8, batch_size=16, next_item=model.next_item_objective).epoch(0)
    torch.manual_seed(2)
    return model.make_targets(batch)


@pytest.fixture(params=KINDS)
def name(request) -> str:
    return request.param


# --- the model without a graph, and initialisation


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_graph_without_layers_equals_the_model_without_a_graph(name, checkerboard):
    histories = checkerboard.histories
    no_layers = {"graph_settings": {"layers": 0}, "graph": "transitions"}
    plain, flat = (
        build(name, histories.n_items, graph="none", graph_settings={}),
        build(name, histories.n_items, **no_layers),
    )
    losses = [train(one, histories, config=TRAINING, progress_bar=False).epochs[-1] for one in (plain, flat)]
    assert losses[0]["train/loss"] == losses[1]["train/loss"]
    for key, weight in plain.named_parameters():
        assert torch.equal(flat.get_parameter(key), weight), key
    batch = last_events(histories, np.arange(9), max_length=8)
    assert torch.equal(flat.eval().score(batch), plain.eval().score(batch))


@pytest.mark.parametrize("name", SEQUENCES)
def test_training_starts_from_the_model_without_a_graph(name, checkerboard):
    histories = checkerboard.histories
    plain, graph = build(name, histories.n_items, graph="none", graph_settings={}), build(name, histories.n_items)
    graph.observe(histories)
    batch = training_batch(plain, histories)
    assert graph.eval().loss(batch).item() == plain.eval().loss(batch).item()


def test_the_graph_has_gradients_and_changes_the_loss(name, checkerboard):
    model = randomised(name, checkerboard.histories).train()
    batch = training_batch(model, checkerboard.histories)
    loss = model.loss(batch)
    loss.backward()
    layers = [weight.grad for key, weight in model.graph.named_parameters() if "project_source.weight" in key]
    assert layers
    assert all(gradient.abs().max() > 0 for gradient in layers)
    assert model.graph.residual_scale.grad != 0
    with torch.no_grad():
        model.graph.residual_scale.fill_(0.0)
    assert model.loss(batch).item() != pytest.approx(loss.item(), abs=1e-4)


def test_the_description_names_the_graph():
    names = {
        "sasrec-graph-transitions-last-d64-L200": ("sasrec", {"graph": "transitions"}),
        "gru4rec-graph-items-last-d64-L200": ("gru4rec", {"graph": "items"}),
        "gce_gnn-global_local-d64-L200": ("gce_gnn", {}),
        "gce_gnn-graph-none-global_local-d64-L200": ("gce_gnn", {"graph": "none"}),
        "gat-d64-h4": ("gat", {}),
        "gat-bipartite-items-d64-h4": ("gat", {"relations": ["bipartite", "items"], "neighbours": 10}),
    }
    for name, (kind, settings) in names.items():
        assert build_model(model_config(kind, settings), 3).description == name


# --- users, scores, contributions


def test_users_with_the_same_history_have_equal_scores_whether_in_the_graph_or_not(name, checkerboard):
    model, seen = randomised(name, checkerboard.histories), checkerboard.histories
    user = last_events(seen, np.array([0]), max_length=8)
    new_user = replace(user, items=user.items.clone(), times=user.times + 5)
    assert torch.equal(model.score(new_user), model.score(user))


def test_scores_are_sums_of_contributions_over_enriched_items(name, checkerboard):
    model = randomised(name, checkerboard.histories)
    if not model.exact_reasons:
        pytest.skip("this model has no exact contributions")
    batch = last_events(checkerboard.histories, np.arange(5), max_length=8)
    items = torch.arange(13).expand(5, -1)
    with torch.inference_mode():
        parts, scores = model.contributions(batch, items), model.score(batch)
        readout = model.readout_weights(batch)
        torch.testing.assert_close(readout.parts(readout.weights).sum(1), model.encode(batch).users)
    torch.testing.assert_close(parts.sum(1) + model.item_bias(), scores, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.item_vectors(), model.item_scorer.embedding.weight, atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_every_attribution_method_works_with_a_graph(method, name, checkerboard):
    model = randomised(name, checkerboard.histories)
    if not METHODS[method].works_for(model):
        pytest.skip("the method does not support the model")
    batch, items = (
        last_events(checkerboard.histories, np.arange(3), max_length=8),
        torch.tensor([[1, 2], [3, 4], [5, 6]]),
    )
    values = attribute(
        model, batch, items, method=method, counts=torch.from_numpy(checkerboard.histories.item_counts())
    )
    assert values.shape == (3, batch.items.shape[1], 2)
    assert values.isfinite().all()
    assert values.any()


# --- files and warm starts


@pytest.mark.parametrize("name", ["attnrec", "gce_gnn", "gat_relations"])
def test_a_loaded_model_scores_without_the_graph_and_can_observe_it_again(name, checkerboard, tmp_path):
    model, seen = randomised(name, checkerboard.histories), checkerboard.histories
    save_model(SavedModel(model, seen.item_ids), tmp_path)
    batch = last_events(seen, np.arange(8), max_length=8)
    for loaded in (load_model(tmp_path).model, load_with_warm_start(tmp_path).model):
        loaded.refresh()
        assert not loaded.graph.observed
        assert torch.equal(loaded.score(batch), model.score(batch))
        loaded.observe(seen)
        loaded.refresh()
        torch.testing.assert_close(loaded.score(batch), model.score(batch))


def log_of(world: dict[str, str]) -> pd.DataFrame:
    rows = [(user, item, second) for user, items in world.items() for second, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])


OLD = {
    f"{user}{n}": items for n in range(3) for user, items in {"ann": "mnopq", "bob": "nopqm", "cid": "pqmno"}.items()
}
MORE = OLD | {"eve": "mAnBo", "fay": "AmBnz", "gus": "zmAn"}


@pytest.mark.parametrize("name", ["attnrec", "gce_gnn", "gat"])
def test_a_warm_start_keeps_the_graph_weights_in_a_larger_catalogue(name):
    kind, settings = KINDS[name]
    settings = settings if kind == "gat" else settings | {"graph": "transitions"}
    first = attnrec.fit(log_of(OLD), model=kind, settings=settings, **QUICK)
    second = attnrec.fit(log_of(MORE), init=first, **QUICK | {"epochs": 1, "learning_rate": 1e-9})
    for key, weight in first.model.named_parameters():
        if key.startswith("graph."):
            torch.testing.assert_close(second.model.get_parameter(key), weight)
    rows = second.item_ids.encode(list("mnopq"))
    own = second.model.item_scorer.embedding.weight[torch.from_numpy(rows)]
    torch.testing.assert_close(own, first.model.item_scorer.embedding.weight[1:])
    assert set(second.recommend(history=["m", "A"], k=2)) >= {"item_id", "reasons"}
    other = {"relations": ["items"], "neighbours": 3} if kind == "gat" else {"graph": "items", "graph_settings": {}}
    with pytest.raises(ValueError, match="init must have the same settings as the new model"):
        attnrec.fit(log_of(MORE), init=first, settings=other, **QUICK)


# --- attributes and features


@pytest.fixture(scope="module")
def shop():
    """Each user has items of one colour; red-9 and blue-9 are in the catalogue without training events."""
    random = np.random.default_rng(0)
    rows = [
        (f"user-{user}", f"{('red', 'blue')[user % 2]}-{item}", time)
        for user in range(60)
        for time, item in enumerate(random.permutation(9)[:6])
    ]
    rows += [("late", "red-9", 99), ("late", "blue-9", 99)]
    whole = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    seen = whole.up_to(whole.lengths * (np.array(whole.user_ids.ids) != "late"))
    colours = pd.Categorical([name.split("-")[0] for name in whole.item_ids.ids])
    items = pd.DataFrame({"item_id": whole.item_ids.ids, "colour": colours})
    return seen, features_from_frame(items, whole.item_ids)


ATTRIBUTES = {
    "gat": ("gat", {"heads": 2, "relations": ("bipartite",), "attributes": ("colour",), "residual": "sum"}),
    "gat alone": ("gat", {"heads": 2, "relations": (), "attributes": ("colour",), "residual": "sum"}),
    "attnrec": (
        "attnrec",
        {"layers": 1, "graph": "transitions", "graph_settings": {"attributes": ("colour",), "residual": "sum"}},
    ),
    "attnrec, fused": (
        "attnrec",
        {"layers": 1, "graph": "items", "features": ("colour",), "graph_settings": {"attributes": ("colour",)}},
    ),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_items_without_training_events_are_scored_through_items_with_the_same_attribute(case, shop, tmp_path):
    (seen, features), (kind, settings) = shop, ATTRIBUTES[case]
    torch.manual_seed(0)
    model = build_model(model_config(kind, SMALL | {"dropout": 0.1} | settings), seen.n_items, features)
    train(model, seen, config=TRAINING.model_copy(update={"epochs": 25}), progress_bar=False)
    model.eval()
    new = {colour: seen.item_ids.row(f"{colour}-9") for colour in ("red", "blue")}
    assert model.rankable[list(new.values())].all()
    users = seen.user_ids.encode([f"user-{n}" for n in range(60)])
    batch = last_events(seen, users, max_length=8)
    scores = model.score(batch)
    likes_red = torch.arange(60) % 2 == 0
    assert ((scores[:, new["red"]] > scores[:, new["blue"]]) == likes_red).float().mean() > 0.95
    save_model(SavedModel(model, seen.item_ids, {}, {}, features), tmp_path)
    assert torch.equal(load_model(tmp_path).model.score(batch), scores)
    whole = load_with_warm_start(tmp_path).model
    whole.observe(seen)
    whole.refresh()
    torch.testing.assert_close(whole.score(batch), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["gat", "attnrec"])
def test_attributes_without_item_features_are_rejected(case, shop):
    (seen, features), (kind, settings) = shop, ATTRIBUTES[case]
    model = build_model(model_config(kind, SMALL | settings), seen.n_items)
    with pytest.raises(ValueError, match=r"attributes = \['colour'\] needs item features, got none; add a table"):
        train(model, seen, config=TRAINING, progress_bar=False)
    brand = {"attributes": ("brand",)}
    other = settings | (brand if kind == "gat" else {"graph_settings": brand})
    with pytest.raises(
        ValueError, match="attributes must be category columns of the items, got 'brand'; there are colour"
    ):
        build_model(model_config(kind, SMALL | other), seen.n_items, features)


# --- leakage


def all_events(histories):
    """All events of a log, including those that a view hides: the source of a leaking graph."""
    return histories.up_to(np.diff(histories.offsets))


LEAKS = {
    "transitions": ("item_transitions", lambda histories, **made: item_transitions(all_events(histories), **made)),
    "edges": ("user_item_edges", lambda histories: user_item_edges(all_events(histories))),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("leak", LEAKS)
def test_fit_rejects_a_graph_with_test_events_before_training(leak, name, monkeypatch):
    kind, settings = KINDS[name]
    function, leaking = LEAKS[leak]
    sources = observed_graphs(build(name, 5), histories_from_frame(log_of(OLD)))
    monkeypatch.setattr(item_relations, function, leaking)
    monkeypatch.setattr(attnrec.fitting, "train", None)
    # the last events of the users create edges that the training part does not have
    log = log_of({f"{user}{n}": f"{path}{n}" for n in range(4) for user, path in (("a", "mno"), ("b", "pqm"))})
    if sources[leak] is None:
        with pytest.raises(
            TypeError, match="not callable"
        ):  # this graph is not made of the leaking source, so training starts
            attnrec.fit(log, model=kind, settings=settings, **QUICK)
    else:
        with pytest.raises(LeakageError, match=r"graph edges must be training events|between training events"):
            attnrec.fit(log, model=kind, settings=settings, **QUICK)


def test_observed_graphs_contain_the_given_histories_only(make_histories):
    split = split_last(make_histories({"ann": "abcde", "bob": "edcba"}))
    graphs = observed_graphs(build("gat_relations", 5), split.train)
    assert graphs["edges"].items.tolist() == [1, 2, 3, 3, 4, 5]
    edges = zip(graphs["transitions"].sources.tolist(), graphs["transitions"].targets.tolist(), strict=True)
    assert set(edges) == {(1, 2), (2, 3), (5, 4), (4, 3)}
    assert observed_graphs(build_model(model_config("attnrec", SMALL), 5), split.train) == {}
    assert observed_graphs(build_model(model_config("ease", {}), 5), split.train) == {}


# --- settings


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("sasrec", {"graph": "friends"}, "graph: Input should be 'none', 'transitions' or 'items', got 'friends'"),
        ("sasrec", {"graph_settings": {"layers": 2}}, "graph_settings need a graph, got .* set graph = 'transitions'"),
        ("sasrec", {"graph": "items", "graph_settings": {"reach": 2}}, "reach is a setting of transitions"),
        ("sasrec", {"graph": "items", "graph_settings": {"lyers": 2}}, r"lyers: unknown key; did you mean layers\?"),
        ("sasrec", {"graph": "items", "dim": 18}, "heads of the graph must divide dim, got heads=4 and dim=18"),
        ("gat", {"relations": ["items"]}, "the relation 'items' needs a number of neighbours"),
        ("gat", {"relations": ["friends"]}, "relations.0: Input should be 'bipartite', 'items' or 'transitions'"),
        ("gat", {"sample": True}, "sample = true needs a number of neighbours"),
        ("gce_gnn", {"objective": "next_item"}, "session_graph can't be causal, .*; set objective = 'last_item'"),
        (
            "gce_gnn",
            {"memory_events": 9},
            "memory_events need an encoder of vectors, got encoder = 'session_graph'",
        ),
        ("gce_gnn", {"layers": 3}, "layers is a setting of encoders with attention kernels, .*use encoder_settings"),
    ],
)
def test_invalid_settings_are_rejected_in_one_line(kind, settings, message):
    with pytest.raises(SettingsError, match=message) as caught:
        model_config(kind, settings)
    assert "\n" not in str(caught.value)


def test_the_graph_settings_of_a_preset_apply_to_its_graph_only():
    assert model_config("gce_gnn", {}).graph_settings["reach"] == 3
    assert model_config("gce_gnn", {"graph": "items"}).graph_settings == {}
    assert model_config("gce_gnn", {"graph": "transitions"}).graph_settings["reach"] == 3
    config = model_config("gce_gnn", {"graph": "none"})
    assert type(config)(**config.model_dump()) == config


def test_a_repeated_item_is_one_node_of_a_session_graph(make_batch, checkerboard):
    # without positions, a, b, a, b has the same graph as a, b, a: two nodes and two edges
    model = randomised("gce_gnn", checkerboard.histories, readout="item_sum")
    with torch.no_grad():
        model.encoder.embedding.weight.zero_()
    vectors = model.item_vectors()
    one, two = make_batch([3, 5, 3]), make_batch([3, 5, 3, 5])
    states = [model.states(vectors[batch.items], batch, vectors)[0] for batch in (one, two)]
    torch.testing.assert_close(states[1][:3], states[0])
    torch.testing.assert_close(states[1][3], states[1][1])


@pytest.mark.parametrize(("layer", "packages"), [("gatv2", []), ("pyg_gatv2", ["torch-geometric"])])
def test_a_model_requires_torch_geometric_only_for_its_layers(layer, packages):
    model = build_model(model_config("gat", {"layer": layer}), 5)
    assert model.package_requirements == packages
