"""The contract of every model in MODELS, and what single models promise beyond it."""

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
    "attnrec_known": SMALL | {"kind": "attnrec", "layers": 1, "time_gaps": True, "positions": "rotary"},
    "attnrec_projected": SMALL | {"kind": "attnrec", "layers": 1, "pooling_projection": True},
    "core_next": SMALL | {"kind": "core", "objective": "next_item", "layers": 1},
    "narm_next": SMALL | {"kind": "narm", "objective": "next_item"},
    "attnrec_last_item": SMALL | {"kind": "attnrec", "objective": "last_item", "layers": 1},
    "plain": SMALL | {"kind": "attnrec", "encoder": "none"},
    "gat": SMALL,
    "gat_sampled": SMALL | {"kind": "gat", "loss": "sampled_softmax", "negatives": "popularity"},
    "gat_bpr": SMALL | {"kind": "gat", "loss": "bpr", "n_negatives": 30},
    "gat_deep": SMALL | {"kind": "gat", "layer": "gat", "layers": 2, "combine": "mean", "residual": "sum"},
    "gat_bounded": SMALL | {"kind": "gat", "relations": ("bipartite", "items"), "neighbours": 3, "edge_features": True},
    "gat_drawn": SMALL | {"kind": "gat", "neighbours": 2, "sample": True},
    "random_walk": WALK,
    "graph_walk_next": WALK | {"kind": "random_walk", "relation": "transitions", "heads": 2},
    "sasrec_walk": SMALL | {"kind": "sasrec", "random_walk": "transitions", "random_walk_settings": {"neighbours": 8, "dim": 4}},
    "narm_walk": SMALL | {"kind": "narm", "random_walk": "items", "random_walk_settings": {"neighbours": 8, "dim": 4}},
    "attnrec_graph": SMALL | {"kind": "attnrec", "layers": 1, "graph": "transitions"},
    "attnrec_items": SMALL | {"kind": "attnrec", "layers": 1, "graph": "items", "graph_settings": {"residual": "sum"}},
    "sasrec_graph": SMALL | {"kind": "sasrec", "graph": "transitions", "graph_settings": UNDIRECTED},
}
VARIANTS = [*MODELS, *(name for name in SETTINGS if name not in MODELS)]
LEARNING = [name for name in VARIANTS if MODELS[SETTINGS.get(name, {}).get("kind", name)][0].learns]
CATALOGUED = [name for name in LEARNING if not name.startswith("random_walk")]  # whose scores are of item vectors
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
def shaken(request, checkerboard) -> Trained:
    """Each model with large random weights and item biases: nothing is small by training."""
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
        pytest.skip("popularity gives everyone the same and cannot tell the colours apart")
    scores = all_scores(trained.model, checkerboard.histories, checkerboard.users).clone()
    scores[:, 0] = -torch.inf
    for user in checkerboard.users:
        scores[user, checkerboard.histories.items_of(user)] = -torch.inf
    assert (scores.argmax(1).numpy() == checkerboard.targets).all()


@pytest.mark.parametrize("trained", [name for name in VARIANTS if name.startswith("attnrec")], indirect=True)
def test_sequence_models_know_what_comes_next_without_a_filter(trained, checkerboard):
    scores = all_scores(trained.model, checkerboard.histories, checkerboard.users)
    assert (scores.argmax(1).numpy() == checkerboard.targets).all()


@pytest.mark.parametrize("name", LEARNING)
def test_the_same_seed_twice_gives_identical_weights(name, checkerboard):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_model(config_of(name), checkerboard.histories.n_items)
        train(model, checkerboard.histories, config=TRAINING.model_copy(update={"epochs": 2}), progress_bar=False)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", LEARNING)
def test_every_weight_learns(name, checkerboard):
    torch.manual_seed(3)
    model = build_model(config_of(name), checkerboard.histories.n_items)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    train(model, checkerboard.histories, config=TRAINING.model_copy(update={"epochs": 2}), progress_bar=False)
    still = {key for key, parameter in model.named_parameters() if torch.equal(parameter, before[key])}
    assert still == set()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_user_is_a_history_and_never_a_row(name, checkerboard):
    model = build_model(config_of(name), checkerboard.histories.n_items)
    model.observe(checkerboard.histories)
    model.refresh()
    assert checkerboard.histories.n_users == 72
    assert {key for key, tensor in model.state_dict().items() if {71, 72, 73} & set(tensor.shape)} == set()


@pytest.mark.parametrize("name", VARIANTS)
def test_sequence_models_refuse_unordered_sets_and_others_take_them(name):
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


@pytest.mark.parametrize("name", set(VARIANTS) - set(LEARNING))
def test_models_that_only_count_have_no_loss(name, make_batch):
    with pytest.raises(TypeError, match="not trained by gradient steps"):
        build_model(config_of(name), 4).loss(make_batch([1, 2]))


@pytest.mark.parametrize("name", LEARNING)
def test_the_loss_of_a_batch_without_anything_to_ask_is_finite(name, make_histories):
    # users with one event: a set model has no other item to tell it from
    histories = make_histories({"ann": "a", "bob": "b", "cid": "abc"})
    model = build_model(config_of(name), histories.n_items)
    model.observe(histories)
    batch = last_events(histories, np.array([0, 1]), max_length=8)
    batch = replace(batch, targets=torch.zeros_like(batch.items))
    loss = model.loss(batch)
    loss.backward()
    assert loss.isfinite()


# --- scores


def test_scores_cover_the_catalogue_and_single_items_agree(shaken):
    scores = all_scores(shaken.model, shaken.histories, [0, 7, 30])
    assert scores.shape == (3, shaken.histories.n_items + 1)
    items = torch.tensor([[1, 12, 5], [3, 3, 2], [4, 1, 9]])
    batch = last_events(shaken.histories, np.array([0, 7, 30]), max_length=shaken.model.max_length)
    with torch.inference_mode():
        torch.testing.assert_close(shaken.model.score(batch, items), scores.gather(1, items), rtol=1e-4, atol=1e-4)


def test_padding_never_changes_a_score(shaken, make_batch):
    tight, wide = make_batch([1, 3, 5]), make_batch([1, 3, 5], length=8)
    with torch.inference_mode():
        torch.testing.assert_close(shaken.model.score(wide), shaken.model.score(tight), rtol=1e-4, atol=1e-4)
        contributions = shaken.model.encode(wide).contributions if shaken.model.exact_reasons else None
        if contributions is not None:
            assert (contributions(torch.tensor([[7, 2]]))[:, 3:] == 0).all()


def test_a_score_does_not_depend_on_the_company(shaken, make_batch):
    together = shaken.model.score(make_batch([1, 3, 5], [2], [], [7, 6, 5, 4, 3, 2]))
    for place, history in enumerate([[1, 3, 5], [2], [], [7, 6, 5, 4, 3, 2]]):
        torch.testing.assert_close(shaken.model.score(make_batch(history))[0], together[place], rtol=1e-4, atol=1e-4)


def test_an_empty_history_is_scored_by_the_items_alone(shaken, make_batch):
    with torch.inference_mode():
        torch.testing.assert_close(shaken.model.score(make_batch([]))[0], shaken.model.item_bias())


def test_no_shares_for_an_empty_history_and_one_for_a_single_event(shaken, make_batch):
    with torch.inference_mode():
        weights = shaken.model.encode(make_batch([], [4])).weights
    if weights is not None:
        assert weights[0].tolist() == [0]
        assert weights[1].sum().item() == pytest.approx(1)


def test_what_training_did_not_see_is_not_rankable(make_histories):
    # d and e are in the catalogue, but lie behind what training sees
    view = make_histories({"ann": "abcd", "bob": "bcae"}).up_to(np.array([3, 3]))
    for name in VARIANTS:
        model = build_model(config_of(name), view.n_items)
        model.observe(view)
        assert model.rankable.tolist() == [False, True, True, True, False, False]


# --- reasons


def test_contributions_and_item_bias_sum_to_the_score(shaken, make_batch):
    if not shaken.model.exact_reasons:
        pytest.skip("this readout has no contributions, and says so (see below)")
    batch = make_batch([1, 3, 5, 5], [2], [], [7, 6, 5, 4, 3, 2, 1, 9])
    items = torch.arange(13).expand(4, 13)
    with torch.inference_mode():
        parts, scores = shaken.model.contributions(batch, items), shaken.model.score(batch)
    assert parts.shape == (4, 8, 13)
    torch.testing.assert_close(parts.sum(1) + shaken.model.item_bias(), scores, rtol=1e-4, atol=1e-4)


def test_contributions_sum_to_the_score_after_training(trained):
    if not trained.model.exact_reasons:
        pytest.skip("this readout has no contributions, and says so (see below)")
    batch = last_events(trained.histories, np.arange(60), max_length=trained.model.max_length)
    items = torch.arange(1, 13).expand(60, 12)
    with torch.inference_mode():
        parts, scores = trained.model.contributions(batch, items), trained.model.score(batch, items)
    torch.testing.assert_close(parts.sum(1) + trained.model.item_bias()[items], scores, rtol=1e-4, atol=1e-4)


def test_padding_adds_nothing(shaken, make_batch):
    if shaken.model.exact_reasons:
        batch = make_batch([1, 3, 5], [2], [], [7, 6, 5, 4])
        with torch.inference_mode():
            parts = shaken.model.contributions(batch, torch.arange(13).expand(4, 13))
        assert (parts[~batch.real] == 0).all()


def test_reasons_are_exact_where_the_readout_is_a_sum_over_the_history():
    exact = {name for name in MODELS if build_model(config_of(name), 4).exact_reasons}
    assert exact == {"popularity", "item_knn", "ease", "v_sknn", "gat", "random_walk", "attnrec", "core"}
    assert not build_model(config_of("attnrec_last"), 4).exact_reasons


def test_the_last_state_has_no_reasons_and_says_why(make_batch):
    model = build_model(config_of("attnrec_last"), 4)
    with pytest.raises(ReasonsError, match=r"got readout='last', whose state mixes all events.*readout='pooling'"):
        model.contributions(make_batch([1, 2]), torch.tensor([[3]]))


# --- the future


NEXT_ITEM = [
    name
    for name in LEARNING
    if build_model(config_of(name), 4).objective == "next_item"
    and not getattr(config_of(name), "n_drawn", 1)  # the walk has tests of its own, as has what is mixed with it
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


def test_training_and_scoring_see_the_same_user_vector(checkerboard):
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
    facts = {"epoch": 3, "data": "abc"}
    save_model(SavedModel(trained.model, trained.histories.item_ids, facts), tmp_path)
    loaded = load_model(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "vocabulary.parquet",
        "weights.safetensors",
    ]
    assert not any(contains_pickle(path) for path in tmp_path.iterdir())
    assert loaded.facts == facts
    assert loaded.model.config == trained.model.config
    assert loaded.item_ids.ids.tolist() == trained.histories.item_ids.ids.tolist()
    assert torch.equal(loaded.model.rankable, trained.model.rankable)
    users = list(range(60))
    assert torch.equal(
        all_scores(loaded.model, trained.histories, users), all_scores(trained.model, trained.histories, users)
    )


def test_the_search_for_pickles_finds_them(tmp_path, contains_pickle):
    pd.DataFrame({"a": [1]}).to_pickle(tmp_path / "frame.bin")
    torch.save({"a": torch.zeros(2)}, tmp_path / "tensors.bin")
    assert all(contains_pickle(path) for path in tmp_path.iterdir())


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs config\.json"):
        load_model(tmp_path)


def test_a_model_of_a_later_format_is_refused(tmp_path, checkerboard):
    model = build_model(config_of("popularity"), checkerboard.histories.n_items)
    save_model(SavedModel(model, checkerboard.histories.item_ids), tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"format": 2', '"format": 99'))
    with pytest.raises(ValueError, match="format 99"):
        load_model(tmp_path)


# --- settings


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("attnrec", {"dim": 10, "heads": 3}), ("attnrec", {"dim": 10, "pooling_heads": 4}),
     ("attnrec", {"attention": "psychic"}),
     ("gat", {"dim": 10, "heads": 3}), ("attnrec", {"layer": 2})],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(kind, setting):
    with pytest.raises(ValueError, match=r"multiple of|attention must be one of|Extra inputs"):
        MODELS[kind][1](kind=kind, **setting)


@pytest.mark.parametrize("kind", ["attnrec", "gat"])
def test_a_trained_model_takes_the_settings_of_its_loss_and_still_checks_its_own(kind):
    assert model_config(kind, {"loss": "gbce", "n_negatives": 64, "gbce_t": 0.5}).n_drawn == 64
    with pytest.raises(SettingsError, match=r"with loss = 'softmax'; set loss = 'sampled_softmax'"):
        model_config(kind, {"n_negatives": 64})
    with pytest.raises(SettingsError, match="multiple of heads"):
        model_config(kind, {"loss": "bpr", "dim": 12, "heads": 5})


@pytest.mark.parametrize("kind", ["popularity", "item_knn", "ease", "v_sknn"])
def test_a_model_that_only_counts_takes_no_loss_and_says_so_in_one_line(kind):
    with pytest.raises(SettingsError, match=r"^loss: unknown key; known are .*max_length") as caught:
        model_config(kind, {"loss": "gbce"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["attnrec", "gat"])
def test_counts_are_kept_where_negatives_are_drawn_by_them_and_never_saved(kind, make_histories):
    histories = make_histories({"ann": "aab", "bob": "ac"})
    for negatives, expected in {"uniform": None, "popularity": [0, 3, 1, 1]}.items():
        model = build_model(model_config(kind, {"loss": "bpr", "negatives": negatives}), 3)
        model.observe(histories)
        counts = model.item_scorer.counts
        assert (None if counts is None else counts.tolist()) == expected
        assert "catalogue.counts" not in model.state_dict()


def test_item_biases_start_at_the_base_score_of_the_loss():
    for name in CATALOGUED:
        config = config_of(name)
        bias = build_model(config, 12).item_scorer.bias
        assert bias.tolist() == pytest.approx([base_score(config, 12)] * 13)


def test_a_model_says_what_it_is():
    for name in VARIANTS:
        model = build_model(config_of(name), 4)
        assert model.kind in model.description
        assert model.paper


def test_vectors_of_items_or_a_word_why_not():
    for name in VARIANTS:
        model = build_model(config_of(name), 4)
        if name in CATALOGUED:
            assert model.item_vectors().shape == (5, 16)
        else:
            with pytest.raises(TypeError, match="has no item vectors"):
                model.item_vectors()


# --- single models


def test_popularity_is_the_log_of_the_count(make_histories, make_batch):
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


def test_gat_scores_without_its_graph_once_it_is_refreshed(checkerboard):
    torch.manual_seed(0)
    model = build_model(config_of("gat"), checkerboard.histories.n_items)
    model.observe(checkerboard.histories)
    with torch.no_grad():
        model.graph.share.fill_(1.0)
    model.refresh()
    with_graph = all_scores(model.eval(), checkerboard.histories, [0, 1])
    alone = build_model(config_of("gat"), checkerboard.histories.n_items).eval()
    alone.load_state_dict(model.state_dict())
    alone.refresh()
    assert not alone.graph.observed
    assert torch.equal(all_scores(alone, checkerboard.histories, [0, 1]), with_graph)


def test_refreshing_brings_the_table_up_to_date_and_leaves_the_mode(checkerboard):
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
def test_gat_asks_nothing_of_users_with_a_single_event(checkerboard, make_batch, name):
    torch.manual_seed(0)
    model = build_model(config_of(name), checkerboard.histories.n_items).eval()
    model.observe(checkerboard.histories)
    losses = []
    for batch in (make_batch([1, 3, 5]), make_batch([1, 3, 5], [7], [])):
        torch.manual_seed(1)
        losses.append(model.loss(batch))
    torch.testing.assert_close(*losses)


def test_gat_is_blind_to_order(checkerboard, make_batch):
    torch.manual_seed(0)
    model = build_model(config_of("gat"), checkerboard.histories.n_items).eval()
    model.observe(checkerboard.histories)
    model.refresh()
    torch.testing.assert_close(model.score(make_batch([1, 5, 9])), model.score(make_batch([9, 1, 5])))


def test_a_graph_item_hears_of_its_users_other_items_only(make_histories):
    # ann joins a and b; c is bob's alone: what happens to c must not reach a
    histories = make_histories({"ann": "ab", "bob": "cc"})
    torch.manual_seed(0)
    model = build_model(config_of("gat"), histories.n_items).eval()
    model.observe(histories)
    tables = []
    for item in (None, 2, 3):
        with torch.no_grad():
            model.graph.share.fill_(1.0)
            if item:
                model.item_scorer.embedding.weight[item] += 1
        model.refresh()
        tables.append(model.table.clone())
    assert not torch.allclose(tables[1][1], tables[0][1])
    torch.testing.assert_close(tables[2][1], tables[1][1])


@pytest.mark.parametrize("position", [0, 2, 4])
def test_left_out_events_have_no_part_in_what_is_pooled(position):
    torch.manual_seed(0)
    pooling = SetPooling(8, heads=2)
    states, values, lengths = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.tensor([5, 5])
    before = pooling.leave_one_out(states, values, lengths=lengths)
    states[:, position], values[:, position] = 3 * torch.randn(2, 8), 3 * torch.randn(2, 8)
    after = pooling.leave_one_out(states, values, lengths=lengths)
    torch.testing.assert_close(after[:, position], before[:, position], rtol=1e-4, atol=1e-5)
    others = [place for place in range(5) if place != position]
    assert not torch.allclose(after[:, others], before[:, others], rtol=1e-2)


@pytest.mark.parametrize("lead", [0.0, 5.0, 10.0, 15.0])
def test_leaving_out_the_event_with_nearly_all_attention_leaves_the_mean_of_the_others(lead):
    torch.manual_seed(0)
    pooling = SetPooling(8, heads=2)
    # the energy of event 2 leads by `lead`, the others are equal
    pooling.energy.forward = lambda states: torch.tensor([0.0, 0, lead, 0, 0])[None, :, None].expand(1, 5, 2)
    values = torch.randn(1, 5, 8)
    found = pooling.leave_one_out(torch.zeros(1, 5, 8), values, lengths=torch.tensor([5]))
    torch.testing.assert_close(found[0, 2], values[0, [0, 1, 3, 4]].mean(0), rtol=0, atol=1e-3)


def test_leaving_one_out_equals_pooling_the_others():
    torch.manual_seed(0)
    pooling = SetPooling(8, heads=2)
    states, values = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    found = pooling.leave_one_out(states, values, lengths=torch.tensor([5, 5, 5]))
    energy = pooling.energy(states)
    for position in range(5):
        others = [place for place in range(5) if place != position]
        shares = energy[:, others].softmax(1).repeat_interleave(8 // 2, dim=2)
        torch.testing.assert_close(found[:, position], (shares * values[:, others]).sum(1))


def test_leaving_the_only_event_out_leaves_nothing():
    pooling = SetPooling(8, heads=2)
    states, values = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    assert (pooling.leave_one_out(states, values, lengths=torch.tensor([1, 0]))[:, 0] == 0).all()


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_scores_contributions_and_loss_on_cuda_equal_the_cpu(shaken):
    if getattr(config_of(shaken.name), "n_drawn", 0):
        pytest.skip("draws differ between devices")
    model, cuda = shaken.model, torch.device("cuda")
    (batch, *_) = Windows(shaken.histories, max_length=8, batch_size=16, next_item=model.needs_order).epoch(0)
    items = torch.arange(1, 13).expand(len(batch.items), 12)

    def look(device: torch.device) -> list[torch.Tensor]:
        model.to(device).zero_grad()
        found = [model.score(batch.to(device)).detach()]
        if model.exact_reasons:
            found.append(model.contributions(batch.to(device), items.to(device)).detach())
        if model.learns:
            model.loss(batch.to(device)).backward()
            found += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return [tensor.cpu().clone() for tensor in found]

    for on_cpu, on_cuda in zip(look(torch.device("cpu")), look(cuda), strict=True):
        torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-3, atol=1e-4)
