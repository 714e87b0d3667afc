"""Tests of every registered model, and further tests of single models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.config import SettingsError
from attnrec.dataset import Histories, Windows, histories_from_frame, last_events
from attnrec.losses import base_score
from attnrec.models import MODELS, PRESETS, Model, ModelConfig, ReasonsError, build_model, model_config
from attnrec.models.gat import SetPooling
from attnrec.models.saved_model import SavedModel, load_model, save_model
from attnrec.training import TrainConfig, train

SMALL = {"dim": 16, "heads": 2, "pooling_heads": 2, "max_length": 8, "dropout": 0.1}
UNDIRECTED = {"directed": False, "reach": 2, "neighbours": 3, "sample": True, "edge_features": True}
WALK = {"neighbours": 8, "dim": 4, "channels": 4, "folds": 2, "max_length": 8, "dropout": 0.1}
PRODUCT = {"neighbours": 8, "dim": 4}
SETTINGS = {
    "attnrec": SMALL | {"layers": 1},
    "attnrec_last": SMALL | {"layers": 1, "kind": "attnrec", "readout": "last"},
    "attnrec_dot": SMALL | {"layers": 2, "kind": "attnrec", "scores": "dot"},
    "attnrec_sampled": SMALL | {"layers": 1, "kind": "attnrec", "loss": "sampled_softmax", "n_negatives": 30},
    "attnrec_smoothed": SMALL | {"layers": 1, "kind": "attnrec", "label_smoothing": 0.1},
    "attnrec_gbce": SMALL | {"layers": 1, "kind": "attnrec", "loss": "gbce", "negatives": "popularity"},
    "attnrec_bce": SMALL | {"layers": 1, "kind": "attnrec", "loss": "bce", "n_negatives": 30},
    "ease_light": {"kind": "ease", "regularization": 1.0, "max_length": 8},
    "v_sknn_few": {"kind": "v_sknn", "n_neighbours": 5, "sample_size": 20, "max_length": 8},
    **{kind: SMALL for kind in PRESETS if kind != "attnrec"},
    "attnrec_time_gaps": SMALL | {"kind": "attnrec", "layers": 1, "time_gaps": True, "positions": "rotary"},
    "attnrec_projected": SMALL | {"kind": "attnrec", "layers": 1, "pooling_projection": True},
    "core_next": SMALL | {"kind": "core", "objective": "next_item", "layers": 1},
    "narm_next": SMALL | {"kind": "narm", "objective": "next_item"},
    "attnrec_last_item": SMALL | {"kind": "attnrec", "objective": "last_item", "layers": 1},
    "attnrec_no_encoder": SMALL | {"kind": "attnrec", "encoder": "none"},
    "gat": SMALL,
    "gat_sampled": SMALL | {"kind": "gat", "loss": "sampled_softmax", "negatives": "popularity"},
    "gat_bpr": SMALL | {"kind": "gat", "loss": "bpr", "n_negatives": 30},
    "gat_deep": SMALL | {"kind": "gat", "layer": "gat", "layers": 2, "combine": "mean", "residual": "sum"},
    "gat_pyg": SMALL | {"kind": "gat", "layer": "pyg_gatv2"},
    "gat_edges": SMALL | {"kind": "gat", "relations": ("bipartite", "items"), "neighbours": 3, "edge_features": True},
    "gat_neighbours_sampled": SMALL | {"kind": "gat", "neighbours": 2, "sample": True},
    "random_walk": WALK,
    "random_walk_next": WALK | {"kind": "random_walk", "relation": "transitions", "heads": 2},
    "sasrec_walk": SMALL | {"kind": "sasrec", "random_walk": "transitions", "random_walk_settings": PRODUCT},
    "narm_walk": SMALL | {"kind": "narm", "random_walk": "items", "random_walk_settings": PRODUCT},
    "attnrec_graph": SMALL | {"kind": "attnrec", "layers": 1, "graph": "transitions"},
    "attnrec_items": SMALL | {"kind": "attnrec", "layers": 1, "graph": "items", "graph_settings": {"residual": "sum"}},
    "sasrec_graph": SMALL | {"kind": "sasrec", "graph": "transitions", "graph_settings": UNDIRECTED},
}
VARIANTS = [*MODELS, *(name for name in SETTINGS if name not in MODELS)]
TRAINABLE = [name for name in VARIANTS if MODELS[SETTINGS.get(name, {}).get("kind", name)][0].trainable]
WITH_VECTORS = [name for name in TRAINABLE if not name.startswith("random_walk")]  # scores come from item vectors
TRAINING = TrainConfig(epochs=25, batch_size=16, learning_rate=1e-2, warmup_steps=0, device="cpu", seed=1)


def config_of(name: str) -> ModelConfig:
    settings = {"kind": name} | SETTINGS.get(name, {})
    return MODELS[settings["kind"]][1](**settings)


@dataclass(frozen=True, eq=False)
class Trained:
    name: str
    model: Model
    histories: Histories


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request, checkerboard) -> Trained:
    """Each model after short training on the checkerboard."""
    torch.manual_seed(0)
    model = build_model(config_of(request.param), checkerboard.histories.n_items)
    train(model, checkerboard.histories, config=TRAINING, progress_bar=False)
    return Trained(request.param, model.eval(), checkerboard.histories)


@pytest.fixture(params=VARIANTS)
def randomised(request, checkerboard) -> Trained:
    """Each model with large random weights and item biases."""
    torch.manual_seed(5)
    model = build_model(config_of(request.param), checkerboard.histories.n_items)
    model.observe(checkerboard.histories)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.0 if "norm" in name else 0.3))
    model.refresh()
    return Trained(request.param, model.eval(), checkerboard.histories)


def all_scores(model: Model, histories: Histories, users: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.score(last_events(histories, np.asarray(users), max_length=model.max_length))


# --- learning


def test_the_held_out_item_ranks_first_on_the_checkerboard(trained, checkerboard):
    if trained.name == "popularity":
        pytest.skip("popularity has the same scores for all users")
    scores = all_scores(trained.model, checkerboard.histories, checkerboard.users).clone()
    scores[:, 0] = -torch.inf
    for user in checkerboard.users:
        scores[user, checkerboard.histories.items_of(user)] = -torch.inf
    assert (scores.argmax(1).numpy() == checkerboard.targets).all()


@pytest.mark.parametrize("trained", [name for name in VARIANTS if name.startswith("attnrec")], indirect=True)
def test_sequence_models_rank_the_next_item_first_among_all_items(trained, checkerboard):
    scores = all_scores(trained.model, checkerboard.histories, checkerboard.users)
    assert (scores.argmax(1).numpy() == checkerboard.targets).all()


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_same_seed_twice_gives_identical_weights(name, checkerboard):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_model(config_of(name), checkerboard.histories.n_items)
        train(model, checkerboard.histories, config=TRAINING.model_copy(update={"epochs": 2}), progress_bar=False)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", TRAINABLE)
def test_training_changes_every_weight(name, checkerboard):
    torch.manual_seed(3)
    model = build_model(config_of(name), checkerboard.histories.n_items)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    train(model, checkerboard.histories, config=TRAINING.model_copy(update={"epochs": 2}), progress_bar=False)
    unchanged = {key for key, parameter in model.named_parameters() if torch.equal(parameter, before[key])}
    assert unchanged == set()


@pytest.mark.parametrize("name", VARIANTS)
def test_no_weight_has_one_row_per_user(name, checkerboard):
    model = build_model(config_of(name), checkerboard.histories.n_items)
    model.observe(checkerboard.histories)
    model.refresh()
    assert checkerboard.histories.n_users == 72
    assert {key for key, tensor in model.state_dict().items() if {71, 72, 73} & set(tensor.shape)} == set()


@pytest.mark.parametrize("name", VARIANTS)
def test_sequence_models_reject_unordered_logs_and_other_models_accept_them(name):
    frame = pd.DataFrame({"user_id": list("aaabbb"), "item_id": list("xyzxyw")})
    histories = histories_from_frame(frame)
    model = build_model(config_of(name), histories.n_items)
    config = TRAINING.model_copy(update={"epochs": 1})
    if model.needs_order:
        with pytest.raises(ValueError, match="needs ordered histories"):
            train(model, histories, config=config, progress_bar=False)
    else:
        train(model, histories, config=config, progress_bar=False)
        assert all_scores(model, histories, [0, 1]).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - set(TRAINABLE)))
def test_models_without_gradient_training_have_no_loss(name, make_batch):
    with pytest.raises(TypeError, match="not trained by gradient descent"):
        build_model(config_of(name), 4).loss(make_batch([1, 2]))


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_loss_of_a_batch_without_targets_is_finite(name, make_histories):
    # users with one event: a model of sets has no other item to predict it from
    histories = make_histories({"ann": "a", "bob": "b", "cid": "abc"})
    model = build_model(config_of(name), histories.n_items)
    model.observe(histories)
    batch = last_events(histories, np.array([0, 1]), max_length=8)
    batch = replace(batch, targets=torch.zeros_like(batch.items))
    loss = model.loss(batch)
    loss.backward()
    assert loss.isfinite()


# --- scores


def test_scores_of_selected_items_equal_those_of_the_whole_catalogue(randomised):
    scores = all_scores(randomised.model, randomised.histories, [0, 7, 30])
    assert scores.shape == (3, randomised.histories.n_items + 1)
    items = torch.tensor([[1, 12, 5], [3, 3, 2], [4, 1, 9]])
    batch = last_events(randomised.histories, np.array([0, 7, 30]), max_length=randomised.model.max_length)
    with torch.inference_mode():
        torch.testing.assert_close(randomised.model.score(batch, items), scores.gather(1, items), rtol=1e-4, atol=1e-4)


def test_padding_never_changes_a_score(randomised, make_batch):
    tight, wide = make_batch([1, 3, 5]), make_batch([1, 3, 5], length=8)
    with torch.inference_mode():
        torch.testing.assert_close(randomised.model.score(wide), randomised.model.score(tight), rtol=1e-4, atol=1e-4)
        contributions = randomised.model.encode(wide).contributions if randomised.model.exact_reasons else None
        if contributions is not None:
            assert (contributions(torch.tensor([[7, 2]]))[:, 3:] == 0).all()


def test_a_score_does_not_depend_on_the_other_users_of_the_batch(randomised, make_batch):
    together = randomised.model.score(make_batch([1, 3, 5], [2], [], [7, 6, 5, 4, 3, 2]))
    for row, history in enumerate([[1, 3, 5], [2], [], [7, 6, 5, 4, 3, 2]]):
        torch.testing.assert_close(randomised.model.score(make_batch(history))[0], together[row], rtol=1e-4, atol=1e-4)


def test_the_scores_of_an_empty_history_are_the_item_biases(randomised, make_batch):
    with torch.inference_mode():
        torch.testing.assert_close(randomised.model.score(make_batch([]))[0], randomised.model.item_bias())


def test_attention_weights_are_zero_for_an_empty_history_and_one_for_a_single_event(randomised, make_batch):
    with torch.inference_mode():
        weights = randomised.model.encode(make_batch([], [4])).weights
    if weights is not None:
        assert weights[0].tolist() == [0]
        assert weights[1].sum().item() == pytest.approx(1)


def test_items_without_training_events_are_not_rankable(make_histories):
    # d and e are in the catalogue, but not in the visible training part
    view = make_histories({"ann": "abcd", "bob": "bcae"}).up_to(np.array([3, 3]))
    for name in VARIANTS:
        model = build_model(config_of(name), view.n_items)
        model.observe(view)
        assert model.rankable.tolist() == [False, True, True, True, False, False]


# --- reasons


def test_contributions_and_item_bias_sum_to_the_score(randomised, make_batch):
    if not randomised.model.exact_reasons:
        pytest.skip("this model has no exact contributions")
    batch = make_batch([1, 3, 5, 5], [2], [], [7, 6, 5, 4, 3, 2, 1, 9])
    items = torch.arange(13).expand(4, 13)
    with torch.inference_mode():
        parts, scores = randomised.model.contributions(batch, items), randomised.model.score(batch)
    assert parts.shape == (4, 8, 13)
    torch.testing.assert_close(parts.sum(1) + randomised.model.item_bias(), scores, rtol=1e-4, atol=1e-4)


def test_contributions_sum_to_the_score_after_training(trained):
    if not trained.model.exact_reasons:
        pytest.skip("this model has no exact contributions")
    batch = last_events(trained.histories, np.arange(60), max_length=trained.model.max_length)
    items = torch.arange(1, 13).expand(60, 12)
    with torch.inference_mode():
        parts, scores = trained.model.contributions(batch, items), trained.model.score(batch, items)
    torch.testing.assert_close(parts.sum(1) + trained.model.item_bias()[items], scores, rtol=1e-4, atol=1e-4)


def test_contributions_are_zero_at_padding(randomised, make_batch):
    if randomised.model.exact_reasons:
        batch = make_batch([1, 3, 5], [2], [], [7, 6, 5, 4])
        with torch.inference_mode():
            parts = randomised.model.contributions(batch, torch.arange(13).expand(4, 13))
        assert (parts[~batch.real] == 0).all()


def test_contributions_are_exact_if_the_user_vector_is_a_sum_over_the_history():
    exact = {name for name in MODELS if build_model(config_of(name), 4).exact_reasons}
    assert exact == {"popularity", "item_knn", "ease", "v_sknn", "gat", "random_walk", "attnrec", "core"}
    assert not build_model(config_of("attnrec_last"), 4).exact_reasons


def test_the_readout_last_has_no_contributions_and_the_error_says_why(make_batch):
    model = build_model(config_of("attnrec_last"), 4)
    with pytest.raises(ReasonsError, match=r"got readout = 'last', whose user vector.*readout = 'pooling'"):
        model.contributions(make_batch([1, 2]), torch.tensor([[3]]))


# --- no leakage from later events


NEXT_ITEM = [
    name
    for name in TRAINABLE
    if build_model(config_of(name), 4).objective == "next_item"
    and not getattr(config_of(name), "n_sampled", 1)  # walks are tested in random_walk/ and sequence/
    and config_of(name).random_walk == "none"
]


@pytest.mark.parametrize("name", NEXT_ITEM)
def test_the_loss_at_a_position_does_not_depend_on_later_items(name, checkerboard):
    torch.manual_seed(5)
    model = build_model(config_of(name), checkerboard.histories.n_items).eval()
    model.observe(checkerboard.histories)
    with torch.no_grad():
        model.item_scorer.embedding.weight.normal_()
    (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=4).epoch(0)
    assert batch.items.shape == (4, 4)
    for position in range(3):
        only = torch.zeros_like(batch.targets)
        only[:, position] = batch.targets[:, position]
        earlier, later = batch.items.clone(), batch.items.clone()
        later[:, position + 1 :] = batch.items[:, position + 1 :] % 12 + 1
        earlier[:, position] = batch.items[:, position] % 12 + 1
        loss = model.loss(replace(batch, targets=only)).item()
        assert model.loss(replace(batch, targets=only, items=later)).item() == pytest.approx(loss, abs=1e-6)
        assert model.loss(replace(batch, targets=only, items=earlier)).item() != pytest.approx(loss, abs=1e-4)


def test_states_do_not_depend_on_later_items(checkerboard):
    torch.manual_seed(5)
    model = build_model(config_of("attnrec"), checkerboard.histories.n_items).eval()
    items = torch.randint(1, 13, (3, 8))
    other = items.clone()
    other[:, 5:] = torch.randint(1, 13, (3, 3))
    with torch.inference_mode():
        lengths = torch.full((3,), 8)
        before, after = (model.encoder(model.item_scorer(x), lengths=lengths) for x in (items, other))
    torch.testing.assert_close(after[:, :5], before[:, :5])


def test_training_and_scoring_use_the_same_user_vector(checkerboard):
    # the loss at the last position of a prefix is the cross-entropy of the scores of that prefix
    torch.manual_seed(5)
    for name in set(NEXT_ITEM) - {"attnrec_smoothed"}:
        model = build_model(config_of(name), checkerboard.histories.n_items).eval()
        model.observe(checkerboard.histories)
        with torch.no_grad():
            model.item_scorer.embedding.weight[1:].normal_()
            model.item_scorer.bias.normal_()
        model.refresh()
        (batch, *_) = Windows(checkerboard.histories, max_length=8, batch_size=4).epoch(0)
        only = torch.zeros_like(batch.targets)
        only[:, -1] = batch.targets[:, -1]
        scores = model.score(batch)[:, 1:]
        expected = torch.nn.functional.cross_entropy(scores, batch.targets[:, -1] - 1)
        torch.testing.assert_close(model.loss(replace(batch, targets=only)), expected)


# --- files


def test_a_saved_model_gives_equal_scores(trained, tmp_path, contains_pickle):
    metadata = {"epoch": 3, "data": "abc"}
    save_model(SavedModel(trained.model, trained.histories.item_ids, metadata), tmp_path)
    loaded = load_model(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "vocabulary.parquet",
        "weights.safetensors",
    ]
    assert not any(contains_pickle(path) for path in tmp_path.iterdir())
    assert loaded.metadata == metadata
    assert loaded.model.config == trained.model.config
    assert loaded.item_ids.ids.tolist() == trained.histories.item_ids.ids.tolist()
    assert torch.equal(loaded.model.rankable, trained.model.rankable)
    users = list(range(60))
    assert torch.equal(
        all_scores(loaded.model, trained.histories, users), all_scores(trained.model, trained.histories, users)
    )


def test_contains_pickle_finds_pickles(tmp_path, contains_pickle):
    pd.DataFrame({"a": [1]}).to_pickle(tmp_path / "frame.bin")
    torch.save({"a": torch.zeros(2)}, tmp_path / "tensors.bin")
    assert all(contains_pickle(path) for path in tmp_path.iterdir())


def test_a_folder_without_a_model_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs config\.json"):
        load_model(tmp_path)


def test_a_model_of_another_format_is_rejected(tmp_path, checkerboard):
    model = build_model(config_of("popularity"), checkerboard.histories.n_items)
    save_model(SavedModel(model, checkerboard.histories.item_ids), tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"format": 3', '"format": 99'))
    with pytest.raises(ValueError, match="must be 3, got 99"):
        load_model(tmp_path)


# --- settings


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("attnrec", {"dim": 10, "heads": 3}), ("attnrec", {"dim": 10, "pooling_heads": 4}),
     ("attnrec", {"attention": "psychic"}),
     ("gat", {"dim": 10, "heads": 3}), ("attnrec", {"layer": 2})],
)  # fmt: skip
def test_invalid_settings_are_rejected(kind, setting):
    with pytest.raises(ValueError, match=r"must divide dim|multiple of|attention must be one of|Extra inputs"):
        MODELS[kind][1](kind=kind, **setting)


@pytest.mark.parametrize("kind", ["attnrec", "gat"])
def test_trainable_models_accept_and_check_the_settings_of_the_loss(kind):
    assert model_config(kind, {"loss": "gbce", "n_negatives": 64, "gbce_t": 0.5}).n_sampled == 64
    with pytest.raises(SettingsError, match=r"with loss = 'softmax'; set loss = 'sampled_softmax'"):
        model_config(kind, {"n_negatives": 64})
    with pytest.raises(SettingsError, match="heads"):
        model_config(kind, {"loss": "bpr", "dim": 12, "heads": 5})


@pytest.mark.parametrize("kind", ["popularity", "item_knn", "ease", "v_sknn"])
def test_models_without_gradient_training_reject_a_loss_in_one_line(kind):
    with pytest.raises(SettingsError, match=r"^loss: unknown key; valid keys are .*max_length") as caught:
        model_config(kind, {"loss": "gbce"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["attnrec", "gat"])
def test_item_counts_are_kept_for_negatives_by_popularity_and_not_saved(kind, make_histories):
    histories = make_histories({"ann": "aab", "bob": "ac"})
    for negatives, expected in {"uniform": None, "popularity": [0, 3, 1, 1]}.items():
        model = build_model(model_config(kind, {"loss": "bpr", "negatives": negatives}), 3)
        model.observe(histories)
        counts = model.item_scorer.counts
        assert (None if counts is None else counts.tolist()) == expected
        assert "item_scorer.counts" not in model.state_dict()


def test_item_biases_start_at_the_base_score_of_the_loss():
    for name in WITH_VECTORS:
        config = config_of(name)
        bias = build_model(config, 12).item_scorer.bias
        assert bias.tolist() == pytest.approx([base_score(config, 12)] * 13)


def test_every_model_has_a_description_and_a_paper():
    for name in VARIANTS:
        model = build_model(config_of(name), 4)
        assert model.kind in model.description
        assert model.paper


def test_models_without_item_vectors_raise():
    for name in VARIANTS:
        model = build_model(config_of(name), 4)
        if name in WITH_VECTORS:
            assert model.item_vectors().shape == (5, 16)
        else:
            with pytest.raises(TypeError, match="has no item vectors"):
                model.item_vectors()


# --- single models


def test_popularity_is_the_log_of_the_event_count(make_histories, make_batch):
    histories = make_histories({"ann": "aab", "bob": "a"})
    model = build_model(config_of("popularity"), 2)
    model.observe(histories)
    np.testing.assert_allclose(model.score(make_batch([2]))[0].numpy(), np.log([1 + 0, 1 + 3, 1 + 1]), rtol=1e-6)


def test_item_knn_is_the_cosine_of_user_sets_with_shrinkage(make_histories, make_batch):
    # a: ann bob cid; b: ann bob; c: cid; repeats count once
    histories = make_histories({"ann": "aab", "bob": "ba", "cid": "ac"})
    model = build_model(MODELS["item_knn"][1](shrinkage=10.0), 3)
    model.observe(histories)
    a_b, a_c = 2 / ((3 * 2) ** 0.5 + 10), 1 / ((3 * 1) ** 0.5 + 10)
    expected = [[0, 0, a_b, a_c], [0, a_b, 0, 0], [0, 2 * a_b, a_b, a_c]]
    np.testing.assert_allclose(model.score(make_batch([1], [2], [2, 2, 1])).numpy(), expected, rtol=1e-6)


def test_item_knn_keeps_the_nearest_neighbours_only(make_histories, make_batch):
    histories = make_histories({"ann": "abc", "bob": "ab", "cid": "ab"})
    model = build_model(MODELS["item_knn"][1](n_neighbours=1), 3)
    model.observe(histories)
    scores = model.score(make_batch([1]))[0]
    assert scores[2] > 0
    assert scores[3] == 0


def test_item_knn_in_several_blocks_equals_one(monkeypatch, checkerboard):
    def similarities(block: int) -> torch.Tensor:
        monkeypatch.setattr("attnrec.models.distinct_items.BLOCK", block)
        model = build_model(config_of("item_knn"), checkerboard.histories.n_items)
        model.observe(checkerboard.histories)
        return all_scores(model, checkerboard.histories, list(range(60)))

    torch.testing.assert_close(similarities(5), similarities(256))


def test_gat_scores_without_its_graph_after_refresh(checkerboard):
    torch.manual_seed(0)
    model = build_model(config_of("gat"), checkerboard.histories.n_items)
    model.observe(checkerboard.histories)
    with torch.no_grad():
        model.graph.residual_scale.fill_(1.0)
    model.refresh()
    with_graph = all_scores(model.eval(), checkerboard.histories, [0, 1])
    alone = build_model(config_of("gat"), checkerboard.histories.n_items).eval()
    alone.load_state_dict(model.state_dict())
    alone.refresh()
    assert not alone.graph.observed
    assert torch.equal(all_scores(alone, checkerboard.histories, [0, 1]), with_graph)


def test_refresh_updates_the_item_table_and_keeps_the_training_mode(checkerboard):
    model = build_model(config_of("gat"), checkerboard.histories.n_items).train()
    model.observe(checkerboard.histories)
    model.refresh()
    before = model.table.clone()
    with torch.no_grad():
        model.item_scorer.embedding.weight.mul_(2)
    assert torch.equal(model.table, before)
    model.refresh()
    assert not torch.equal(model.table, before)
    assert model.training
    assert (model.table[0] == 0).all()


@pytest.mark.parametrize("name", ["gat", "gat_sampled", "gat_bpr"])
def test_the_loss_of_gat_ignores_users_with_a_single_event(checkerboard, make_batch, name):
    torch.manual_seed(0)
    model = build_model(config_of(name), checkerboard.histories.n_items).eval()
    model.observe(checkerboard.histories)
    losses = []
    for batch in (make_batch([1, 3, 5]), make_batch([1, 3, 5], [7], [])):
        torch.manual_seed(1)
        losses.append(model.loss(batch))
    torch.testing.assert_close(*losses)


def test_scores_of_gat_do_not_depend_on_the_order_of_events(checkerboard, make_batch):
    torch.manual_seed(0)
    model = build_model(config_of("gat"), checkerboard.histories.n_items).eval()
    model.observe(checkerboard.histories)
    model.refresh()
    torch.testing.assert_close(model.score(make_batch([1, 5, 9])), model.score(make_batch([9, 1, 5])))


def test_the_vector_of_an_item_depends_on_the_other_items_of_its_users_only(make_histories):
    # ann connects a and b; only bob has c: a change of c must not change a
    histories = make_histories({"ann": "ab", "bob": "cc"})
    torch.manual_seed(0)
    model = build_model(config_of("gat"), histories.n_items).eval()
    model.observe(histories)
    tables = []
    for item in (None, 2, 3):
        with torch.no_grad():
            model.graph.residual_scale.fill_(1.0)
            if item:
                model.item_scorer.embedding.weight[item] += 1
        model.refresh()
        tables.append(model.table.clone())
    assert not torch.allclose(tables[1][1], tables[0][1])
    torch.testing.assert_close(tables[2][1], tables[1][1])


@pytest.mark.parametrize("position", [0, 2, 4])
def test_leave_one_out_pooling_does_not_depend_on_the_left_out_event(position):
    torch.manual_seed(0)
    pooling = SetPooling(8, heads=2)
    states, values, lengths = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.tensor([5, 5])
    before = pooling.leave_one_out(states, values, lengths=lengths)
    states[:, position], values[:, position] = 3 * torch.randn(2, 8), 3 * torch.randn(2, 8)
    after = pooling.leave_one_out(states, values, lengths=lengths)
    torch.testing.assert_close(after[:, position], before[:, position], rtol=1e-4, atol=1e-5)
    others = [other for other in range(5) if other != position]
    assert not torch.allclose(after[:, others], before[:, others], rtol=1e-2)


@pytest.mark.parametrize("lead", [0.0, 5.0, 10.0, 15.0])
def test_leaving_out_the_event_with_nearly_all_attention_gives_the_mean_of_the_others(lead):
    torch.manual_seed(0)
    pooling = SetPooling(8, heads=2)
    # the logit of event 2 is larger by `lead`, the others are equal
    pooling.logits.forward = lambda states: torch.tensor([0.0, 0, lead, 0, 0])[None, :, None].expand(1, 5, 2)
    values = torch.randn(1, 5, 8)
    found = pooling.leave_one_out(torch.zeros(1, 5, 8), values, lengths=torch.tensor([5]))
    torch.testing.assert_close(found[0, 2], values[0, [0, 1, 3, 4]].mean(0), rtol=0, atol=1e-3)


def test_leave_one_out_pooling_equals_pooling_of_the_others():
    torch.manual_seed(0)
    pooling = SetPooling(8, heads=2)
    states, values = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    found = pooling.leave_one_out(states, values, lengths=torch.tensor([5, 5, 5]))
    logits = pooling.logits(states)
    for position in range(5):
        others = [other for other in range(5) if other != position]
        weights = logits[:, others].softmax(1).repeat_interleave(8 // 2, dim=2)
        torch.testing.assert_close(found[:, position], (weights * values[:, others]).sum(1))


def test_leaving_the_only_event_out_gives_zeros():
    pooling = SetPooling(8, heads=2)
    states, values = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    assert (pooling.leave_one_out(states, values, lengths=torch.tensor([1, 0]))[:, 0] == 0).all()


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_scores_contributions_and_loss_on_cuda_equal_the_cpu(randomised):
    if getattr(config_of(randomised.name), "n_sampled", 0):
        pytest.skip("random draws differ between devices")
    model, cuda = randomised.model, torch.device("cuda")
    (batch, *_) = Windows(randomised.histories, max_length=8, batch_size=16, next_item=model.needs_order).epoch(0)
    items = torch.arange(1, 13).expand(len(batch.items), 12)

    def run(device: torch.device) -> list[torch.Tensor]:
        model.to(device).zero_grad()
        results = [model.score(batch.to(device)).detach()]
        if model.exact_reasons:
            results.append(model.contributions(batch.to(device), items.to(device)).detach())
        if model.trainable:
            model.loss(batch.to(device)).backward()
            results += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return [tensor.cpu().clone() for tensor in results]

    for on_cpu, on_cuda in zip(run(torch.device("cpu")), run(cuda), strict=True):
        torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-3, atol=1e-4)
