"""Starting from an earlier model: what is carried by item id, what new items start from, and what is refused."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import attnrec.fitting
from attnrec.dataset import Features, Histories, Vocabulary, features_from_frame, histories_from_frame, user_batches
from attnrec.fitting import fit
from attnrec.models import GATConfig, Model, SequenceConfig, build_model
from attnrec.recommender import Recommender, load_folder
from attnrec.sample import sample_log
from attnrec.training import TrainConfig, WarmStart, train
from attnrec.training.design_matrix import shared_designs
from attnrec.training.feature_rows import FeatureRows
from attnrec.training.processes import Processes
from attnrec.training.step import Stepper

TINY = {"dim": 8, "heads": 2, "pooling_heads": 2, "max_length": 8, "dropout": 0.3}
CONFIGS = {"attnrec": SequenceConfig(**TINY, layers=1), "gat": GATConfig(**TINY, edges_per_step=100)}
CONFIG = TrainConfig(
    epochs=2, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", seed=1, checkpoint_minutes=1e-9
)
OLD = {"ann": "mnopq", "bob": "nopqm", "cid": "pqmno", "dan": "qmnop"}
NEW = {"eve": "mAnBo", "fay": "AmBnz", "gus": "zmAn"}  # A and B come before m: every row moves; z comes last


class KilledError(Exception):
    """The machine is gone."""


@pytest.fixture
def old(make_histories) -> Histories:
    return make_histories(OLD)


@pytest.fixture
def larger(make_histories) -> Histories:
    """The old log and more, with items that are new and come first."""
    return make_histories(OLD | NEW)


@pytest.fixture
def start(old) -> WarmStart:
    return earlier(old)


def earlier(histories: Histories, kind: str = "attnrec") -> WarmStart:
    torch.manual_seed(0)
    model = build_model(CONFIGS[kind], histories.n_items)
    result = train(model, histories, config=CONFIG, progress_bar=False)
    return WarmStart(model, histories.item_ids, result.moments)


def untrained(init: WarmStart, histories: Histories, **settings) -> Model:
    torch.manual_seed(5)
    return build_model(init.model.config.model_copy(update=settings), histories.n_items)


def before_the_first_step(init: WarmStart, histories: Histories) -> Model:
    """The model that training would change now."""
    model = untrained(init, histories)

    def loss(batch):
        raise KilledError

    model.loss = loss
    with pytest.raises(KilledError):
        train(model, histories, config=CONFIG, init=init, progress_bar=False)
    model.refresh()
    return model.eval()


def stepper_of(model: Model) -> Stepper:
    return Stepper(model, CONFIG, n_steps=1, device=torch.device("cpu"), processes=Processes())


def rows_of(init: WarmStart, histories: Histories) -> torch.Tensor:
    """The old row of each new one, by hand."""
    places = {item: row for row, item in enumerate(init.item_ids.ids, start=1)}
    return torch.tensor([0, *(places.get(item, 0) for item in histories.item_ids.ids)])


def scores(model: Model, histories: Histories) -> torch.Tensor:
    """Of all items for all users, (n_users, N), in float64, so that the order of additions is no matter."""
    users = np.arange(histories.n_users)
    ((chosen, batch),) = user_batches(histories, users, max_length=model.max_length, batch_size=99)
    with torch.inference_mode():
        return deepcopy(model).double().score(batch)[np.argsort(chosen)]


def items_frame(ids, **columns) -> pd.DataFrame:
    return pd.DataFrame({"item_id": ids, **columns})


# --- what is carried


def test_old_items_score_the_same_before_the_first_step(start, old, larger):
    model = before_the_first_step(start, larger)
    carried = rows_of(start, larger)
    assert carried.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0], "A, B, m, n, o, p, q, z"
    expected = scores(start.model, old)
    found = scores(model, old.recode(larger.item_ids))
    torch.testing.assert_close(found[:, carried > 0], expected[:, 1:], atol=1e-6, rtol=0)


def test_a_graph_models_old_items_score_the_same_on_the_same_graph(old):
    init = earlier(old, "gat")
    catalogue = Vocabulary(["A", *old.item_ids.ids, "z"], first=1)
    model = before_the_first_step(init, old.recode(catalogue))
    found = scores(model, old.recode(catalogue))
    torch.testing.assert_close(found[:, 2:-1], scores(init.model, old)[:, 1:], atol=1e-6, rtol=0)


def test_moments_follow_the_ids_and_are_zero_for_new_items(start, larger):
    model = untrained(start, larger)
    stepper = stepper_of(model)
    start.apply(model, larger.item_ids, stepper)
    found, carried = stepper.moments(), rows_of(start, larger)
    assert found.keys() == start.moments.keys()
    for name, value in start.moments.items():
        if "catalogue" in name and value.ndim:
            assert torch.equal(found[name][carried > 0], value[1:])
            assert not found[name][carried == 0].any()
        else:
            assert torch.equal(found[name], value)
    assert found["item_scorer.embedding.weight/exp_avg"].any()
    assert found["item_scorer.embedding.weight/step"] == 2


def test_the_average_of_the_weights_starts_from_what_is_carried(start, larger):
    model = untrained(start, larger)
    stepper = stepper_of(model)
    start.apply(model, larger.item_ids, stepper)
    for name, parameter in model.named_parameters():
        assert torch.equal(stepper.average.tensors()[name], parameter)


def test_new_items_start_from_the_mean_of_the_items_that_had_events(start, larger):
    start.model.rankable[5] = False  # q
    model = before_the_first_step(start, larger)
    for name in ("embedding.weight", "bias"):
        rows = start.model.item_scorer.get_parameter(name)
        for new in (1, 2, 8):
            torch.testing.assert_close(model.item_scorer.get_parameter(name)[new], rows[1:5].mean(0))


def test_padding_stays_zero(start, larger):
    model = before_the_first_step(start, larger)
    assert not model.item_scorer.embedding.weight[0].any()
    assert model.item_scorer.bias[0] == 0


def test_the_first_step_goes_on_with_the_moments(start, old):
    # the same step after 2 epochs and in a run that starts from them: only the warm-up starts again
    losses = [
        train(untrained(init, old), old, config=CONFIG, init=init, progress_bar=False).epochs[0]["train/loss"]
        for init in (start, replace(start, moments={}))
    ]
    assert losses[0] == losses[1], "one batch is one epoch: the first loss is before any step"
    models = [untrained(start, old), untrained(start, old)]
    for model, init in zip(models, (start, replace(start, moments={})), strict=True):
        train(model, old, config=CONFIG.model_copy(update={"epochs": 1}), init=init, progress_bar=False)
    assert not torch.equal(models[0].item_scorer.embedding.weight, models[1].item_scorer.embedding.weight)


# --- retired items


def test_an_item_that_is_gone_is_never_recommended(old, make_histories):
    shrunk = make_histories({"eve": "mnomno", "fay": "onmonm"})
    model = before_the_first_step(earlier(old), shrunk)
    assert len(model.rankable) == 4, "p and q have no row"


def test_an_item_kept_without_an_event_is_read_but_not_recommended(start, old, make_histories):
    quiet = make_histories({"eve": "mnomno", "fay": "onmonm"}).recode(old.item_ids)  # p and q stay in the catalogue
    model = before_the_first_step(start, quiet)
    assert model.rankable.tolist() == [False, True, True, True, False, False]
    recommender = Recommender(model, old.item_ids, quiet)
    assert set(recommender.recommend(history=["p", "q"], k=9)["item_id"]) == {"m", "n", "o"}
    why = recommender.explain(history=["m", "p"], item_id="n").frame.set_index("item_id")
    assert why["weight"]["p"] > 0
    assert why["contribution"]["p"] != 0
    torch.testing.assert_close(scores(model, old), scores(start.model, old), atol=1e-6, rtol=0)


# --- new items from features

COLOURS = ["red", "green", "blue"]


def linear_world(n_items: int, *, seed: int = 0) -> tuple[pd.DataFrame, torch.Tensor]:
    """Items of which every number and both vectors' parts add to the row, and those rows, (n_items, 4)."""
    random = np.random.default_rng(seed)
    colours, price = random.integers(0, 3, n_items), random.uniform(1, 9, n_items)
    picture = random.normal(size=(n_items, 2)).astype(np.float32)
    frame = items_frame(
        [f"item-{seed}-{number:03d}" for number in range(n_items)],
        colour=pd.Categorical([COLOURS[colour] for colour in colours]),
        price=price,
        picture=list(picture),
    )
    of_colour = np.array([[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, -1, 2]])
    of_price, of_picture = np.array([0.1, -0.2, 0.3, 0]), np.array([[0.5, 0, 1, 0], [0, 0.25, 0, 0]])
    rows = of_colour[colours] + price[:, None] * of_price + picture @ of_picture
    return frame, torch.from_numpy(rows)


def features_of(frame: pd.DataFrame) -> Features:
    return features_from_frame(frame, Vocabulary(sorted(frame["item_id"]), first=1))


def known_rows(features: Features) -> np.ndarray:
    return np.arange(features.n_rows) > 0


def test_rows_that_are_linear_in_the_features_are_predicted():
    (before, learned), (after, expected) = linear_world(60), linear_world(20, seed=1)
    old = features_of(before)
    rows = FeatureRows(old, features_of(after), known=known_rows(old))
    values = torch.cat([torch.zeros(1, 4, dtype=torch.float64), learned])
    assert rows.predicted.tolist() == [False] + [True] * 20
    torch.testing.assert_close(rows.predict(values)[1:], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.predict(values[:, 1])[1:], expected[:, 1], atol=1e-4, rtol=0)


def test_features_that_say_nothing_predict_little_but_the_mean():
    random = np.random.default_rng(0)
    noise = [
        features_of(items_frame([f"{name}{i:02d}" for i in range(40)], x=list(random.normal(size=(40, 30)))))
        for name in "ab"
    ]
    values = torch.from_numpy(random.normal(size=(41, 8)))
    rows = FeatureRows(*noise, known=known_rows(noise[0])).predict(values)[1:]
    assert (rows - values[1:].mean(0)).std() < 0.3 * values.std()


def test_only_known_rows_are_learned_from():
    (before, learned), (after, expected) = linear_world(60), linear_world(20, seed=1)
    old = features_of(before)
    known, values = known_rows(old), torch.cat([torch.zeros(1, 4, dtype=torch.float64), learned])
    known[7], values[7] = False, 1e6
    found = FeatureRows(old, features_of(after), known=known).predict(values)[1:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_missing_numbers_and_vectors_are_the_mean():
    old = features_of(items_frame(list("abcd"), price=[1.0, 3.0, 5.0, None], picture=[[0, 2], [0, 4], [0, 6], None]))
    new = features_of(items_frame(["x", "y"], price=[3.0, None], picture=[None, [0, 4]]))
    before, after = shared_designs(old, new, known=known_rows(old))
    expected = np.array([-2, 0, 2, 0]) / np.sqrt(8 / 3)
    np.testing.assert_allclose(before.measures[1:, 2], expected, atol=1e-6)  # picture before price
    np.testing.assert_allclose(before.measures[1:, 1], np.array([-2, 0, 2, 0]) / np.sqrt(8 / 6), atol=1e-6)
    assert not after.measures[1:].any()
    assert before.has_value.tolist() == [False, True, True, True, False]


def test_the_most_frequent_shared_categories_are_columns(monkeypatch):
    monkeypatch.setattr("attnrec.training.design_matrix.MOST_CATEGORIES", 2)
    old = features_of(items_frame(list("abc"), kind=[["tea", "leaf"], ["tea", "cup"], ["cup", "old"]]))
    new = features_of(items_frame(list("xyz"), kind=[["leaf", "cup"], ["tea", "tea"], ["new"]]))
    before, after = shared_designs(old, new, known=known_rows(old))
    assert before.ones.tolist() == [[1, 1], [2, 0], [2, 1], [3, 0]], "cup, then tea; leaf has one item only"
    assert after.ones.tolist() == [[1, 0], [2, 1]]
    assert after.has_value.tolist() == [False, True, True, False]


def test_blocks_of_rows_add_up_to_the_same_prediction(monkeypatch):
    (before, learned), (after, _) = linear_world(60), linear_world(20, seed=1)
    old = features_of(before)
    values = torch.cat([torch.zeros(1, 4, dtype=torch.float64), learned])
    whole = FeatureRows(old, features_of(after), known=known_rows(old)).predict(values)
    monkeypatch.setattr("attnrec.training.design_matrix.BLOCK", 7)
    torch.testing.assert_close(FeatureRows(old, features_of(after), known=known_rows(old)).predict(values), whole)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"price": pd.Categorical(["low", "high"])}, "'price' as a category after a number"),
        ({"picture": [[1, 2, 3], [4, 5, 6]]}, "'picture' as a vector of width 3 after a vector of width 2"),
    ],
)
def test_a_column_of_another_kind_or_width_is_refused(column, words):
    old = features_of(items_frame(["a", "b"], price=[1.0, 2.0], picture=[[1, 2], [3, 4]], title=["A", "B"]))
    with pytest.raises(ValueError, match=words):
        FeatureRows(old, features_of(items_frame(["x", "y"], **column)), known=known_rows(old))
    assert not FeatureRows(old, features_of(items_frame(["x"], title=[1.0])), known=known_rows(old)).predicted.any()


def test_new_items_start_from_their_features_and_without_any_from_the_mean(start, old, larger):
    known = features_from_frame(items_frame(list("mnopq"), kind=[["x"], ["x"], ["y"], ["y"], ["y"]]), old.item_ids)
    new = features_from_frame(items_frame(list("AmB"), kind=[["x"], ["y"], ["never seen"]]), larger.item_ids)
    init = replace(start, features=known, new_features=new)
    model = before_the_first_step(init, larger)
    learned = start.model.item_scorer.embedding.weight.detach()
    found = model.item_scorer.embedding.weight.detach()
    assert torch.equal(found[3:8], learned[1:]), "old items keep their rows, whatever their features say"
    torch.testing.assert_close(found[[2, 8]], learned[1:].mean(0).expand(2, -1))
    expected = init.predictor.predict(learned)[1]
    torch.testing.assert_close(found[1], expected)
    toward = learned[1:3].mean(0) - learned[1:].mean(0)
    assert (found[1] - learned[1:].mean(0)) @ toward > 0, "A leans to the mean of m and n, which are of its kind"


# --- transfer


@pytest.fixture
def other_shop(make_histories) -> Histories:
    return make_histories({"eve": "STSTST", "fay": "TSTS", "gus": "USTU"})


def test_a_log_of_other_items_starts_from_features_alone(start, old, other_shop):
    known = features_from_frame(items_frame(list("mnopq"), kind=[["x"], ["x"], ["y"], ["y"], ["y"]]), old.item_ids)
    new = features_from_frame(items_frame(list("STU"), kind=[["x"], ["y"], ["z"]]), other_shop.item_ids)
    init = replace(start, features=known, new_features=new)
    model = before_the_first_step(init, other_shop)
    for name, parameter in model.named_parameters():
        if "catalogue" not in name:
            assert torch.equal(parameter, start.model.get_parameter(name)), "the encoder is carried"
    for name in ("item_scorer.embedding.weight", "item_scorer.bias"):
        rows = start.model.get_parameter(name).detach()
        predicted = init.predictor.predict(rows)
        torch.testing.assert_close(model.get_parameter(name)[1:3], predicted[1:3])
        torch.testing.assert_close(model.get_parameter(name)[3], rows[1:].mean(0))
    train(untrained(init, other_shop), other_shop, config=CONFIG, init=init, progress_bar=False)


def test_a_log_of_other_items_without_shared_features_is_refused(start, old, other_shop):
    words = r"init knows none of the items: 3 in the log, 5 of its own; give items="
    known = features_from_frame(items_frame(list("mnopq"), kind=[["x"], ["x"], ["y"], ["y"], ["y"]]), old.item_ids)
    new = features_from_frame(items_frame(list("STU"), sort=[["x"], ["y"], ["z"]]), other_shop.item_ids)
    for init in (start, replace(start, features=known), replace(start, features=known, new_features=new)):
        with pytest.raises(ValueError, match=words):
            train(untrained(start, other_shop), other_shop, config=CONFIG, init=init, progress_bar=False)


# --- refusals


@pytest.mark.parametrize("settings", [{"dim": 16}, {"max_length": 9}, {"layers": 2}, {"layers": 0}, {"heads": 4}])
def test_a_model_of_other_settings_is_refused(start, old, settings):
    with pytest.raises(ValueError, match="init must have the settings of the model it starts"):
        train(untrained(start, old, **settings), old, config=CONFIG, init=start, progress_bar=False)


def test_what_only_training_knows_may_change(start, old):
    result = train(untrained(start, old, dropout=0.0), old, config=CONFIG, init=start, progress_bar=False)
    assert len(result.epochs) == CONFIG.epochs


def test_a_model_of_another_kind_is_refused(start, old):
    model = build_model(CONFIGS["gat"], old.n_items)
    with pytest.raises(ValueError, match="a model of the same kind, got attnrec for gat"):
        train(model, old, config=CONFIG, init=start, progress_bar=False)


def test_a_model_that_only_counts_has_nothing_to_start_from(old):
    recommender = fit(frame_of(OLD), model="item_knn", progress_bar=False)
    with pytest.raises(ValueError, match="init needs a model that learns in steps, got item_knn"):
        fit(frame_of(OLD), init=recommender, progress_bar=False)


# --- killed and resumed


def test_a_killed_run_that_was_warm_started_goes_on_to_the_same_weights(start, larger, tmp_path):
    config = CONFIG.model_copy(update={"batch_size": 2})

    def run(checkpoint=None, *, kill_at=None, init=start):
        model = untrained(start, larger)
        calls, loss = iter(range(1, 10_000)), model.loss

        def counted(batch):
            if next(calls) == kill_at:
                raise KilledError
            return loss(batch)

        model.loss = counted
        train(model, larger, config=config, checkpoint=checkpoint, init=init, progress_bar=False)
        return model.state_dict()

    whole, path = run(), tmp_path / "run.safetensors"
    with pytest.raises(KilledError):
        run(path, kill_at=6)
    with pytest.raises(ValueError, match="belongs to another model, catalogue or setting"):
        run(path, init=None)
    with pytest.raises(ValueError, match="belongs to another model, catalogue or setting"):
        run(path, init=replace(start, moments={}))
    again = run(path)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_the_fingerprint_changes_with_everything_that_is_carried(start, old, larger):
    known = features_from_frame(items_frame(list("mn"), price=[1.0, 2.0]), old.item_ids)
    more = [features_from_frame(items_frame(list("AmB"), price=[1.0, p, 3.0]), larger.item_ids) for p in (2.0, 2.5)]
    renamed = Vocabulary(list("mnopr"), first=1)
    starts = [
        start,
        replace(start, moments={}),
        replace(start, item_ids=renamed),
        *(replace(start, features=known, new_features=new) for new in more),
    ]
    assert len({init.fingerprint() for init in starts}) == 5
    assert replace(start).fingerprint() == start.fingerprint()


# --- fit(init=...)

SMALL = {"dim": 8, "heads": 2, "pooling_heads": 2, "max_length": 10, "layers": 1}
QUICK = {"epochs": 2, "progress_bar": False, "device": "cpu"}


def frame_of(world: dict[str, str]) -> pd.DataFrame:
    rows = [(user, item, second) for user, items in world.items() for second, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])


@pytest.fixture
def yesterday() -> Recommender:
    items = items_frame(list("mnopq"), kind=pd.Categorical(list("xxyyy")), price=[1.0, 2.0, 3.0, 4.0, None])
    return fit(frame_of(OLD), items=items, settings=SMALL, **QUICK)


@pytest.fixture
def first_losses(monkeypatch):
    """The loss of the first epoch of every training that follows."""
    losses, train_ = [], attnrec.fitting.train

    def told(*args, **settings):
        result = train_(*args, **settings)
        losses.append(result.epochs[0]["train/loss"])
        return result

    monkeypatch.setattr(attnrec.fitting, "train", told)
    return losses


def test_fit_goes_on_with_the_model_and_its_settings(yesterday):
    today = fit(frame_of(OLD | NEW), init=yesterday, **QUICK)
    assert today.model.config == yesterday.model.config
    assert today.moments["item_scorer.embedding.weight/step"] == 4
    changed = fit(frame_of(OLD | NEW), init=yesterday, settings={"dropout": 0.5}, **QUICK)
    assert changed.model.config == yesterday.model.config.model_copy(update={"dropout": 0.5})


def test_fit_refuses_another_kind_or_shape_than_init_has(yesterday):
    with pytest.raises(ValueError, match="got attnrec for gat"):
        fit(frame_of(OLD), init=yesterday, model="gat", **QUICK)
    with pytest.raises(ValueError, match="init must have the settings"):
        fit(frame_of(OLD), init=yesterday, settings={"dim": 16}, **QUICK)


def test_a_saved_model_starts_the_same_run_as_the_one_in_memory(yesterday, tmp_path):
    folder = yesterday.save(tmp_path / "model")
    items = items_frame(list("ABmnz"), kind=pd.Categorical(list("xyxyy")), price=[1.0, 2.0, 3.0, 4.0, 5.0])
    found = [fit(frame_of(OLD | NEW), init=init, items=items, **QUICK) for init in (yesterday, folder, str(folder))]
    for other in found[1:]:
        for name, tensor in found[0].model.state_dict().items():
            assert torch.equal(other.model.state_dict()[name], tensor)


def test_a_saved_model_keeps_its_moments_and_features(yesterday, tmp_path, contains_pickle):
    folder = yesterday.save(tmp_path / "model")
    names = ["config.json", "items.parquet", "moments.safetensors", "vocabulary.parquet", "weights.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert not any(contains_pickle(path) for path in folder.iterdir())
    loaded = load_folder(folder)
    assert loaded.moments.keys() == load_file(folder / "moments.safetensors").keys() == yesterday.moments.keys()
    assert all(torch.equal(loaded.moments[name], tensor) for name, tensor in yesterday.moments.items())
    np.testing.assert_array_equal(loaded.features.numbers["price"], yesterday.features.numbers["price"])
    for one, other in zip(loaded.features.categories["kind"], yesterday.features.categories["kind"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_with_the_model_alone_starts_with_new_moments(yesterday, tmp_path):
    folder = replace(yesterday, moments={}, features=None).save(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "vocabulary.parquet",
        "weights.safetensors",
    ]
    assert (load_folder(folder).moments, load_folder(folder).features) == ({}, None)
    today = fit(frame_of(OLD | NEW), init=folder, **QUICK)
    assert today.moments["item_scorer.embedding.weight/step"] == 2


def test_whole_numbers_and_texts_are_the_same_items(make_histories):
    rows = [(user, 10 + ord(item), second) for user, items in OLD.items() for second, item in enumerate(items)]
    numbered = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    first = fit(numbered, settings=SMALL, **QUICK)
    again = fit(numbered.assign(item_id=numbered["item_id"].astype(str)), init=first, **QUICK)
    assert again.moments["item_scorer.embedding.weight/step"] == 4
    init = WarmStart(first.model, first.item_ids, first.moments)
    model = before_the_first_step(init, again.histories)
    assert torch.equal(model.item_scorer.embedding.weight, first.model.item_scorer.embedding.weight)


def test_a_warm_started_model_begins_with_a_lower_loss(first_losses):
    log = sample_log(n_users=150, n_items=60, n_pairs=10, mean_events=15).interactions
    settings = {"settings": SMALL, "learning_rate": 0.003, "batch_size": 32, "progress_bar": False, "device": "cpu"}
    first = fit(log[log["datetime"] < "2025-09-01"], epochs=6, **settings)
    fit(log, epochs=1, **settings)
    fit(log, epochs=1, init=first, **settings)
    before, scratch, warm = first_losses
    assert warm < scratch - 0.1
    assert before > warm


def test_a_model_moves_to_another_shop_by_the_features_of_its_items(first_losses):
    here = sample_log(n_users=150, n_items=60, n_pairs=0, mean_events=15)
    there = sample_log(n_users=150, n_items=60, n_pairs=0, mean_events=15)  # the same shop under other names
    names = {"item_id": lambda frame: "other " + frame["item_id"]}
    kinds = {"kind": lambda frame: pd.Categorical(frame["title"])}
    settings = {"settings": SMALL, "learning_rate": 0.003, "batch_size": 32, "progress_bar": False, "device": "cpu"}
    first = fit(here.interactions, items=here.items.assign(**kinds), epochs=6, **settings)
    fit(there.interactions.assign(**names), epochs=1, **settings)
    fit(
        there.interactions.assign(**names), items=there.items.assign(**names, **kinds), init=first, epochs=1, **settings
    )
    assert first_losses[2] < first_losses[1] - 0.1


def test_histories_of_the_started_model_are_todays(yesterday):
    today = fit(frame_of(OLD | NEW), init=yesterday, **QUICK)
    assert today.histories.content_hash == histories_from_frame(frame_of(OLD | NEW)).content_hash
    assert set(today.recommend("eve", filter_viewed=False, k=9)["item_id"]) <= set("ABmnopqz")


def test_types_of_events_follow_their_names_into_a_log_that_numbers_them_otherwise():
    rows = [
        ("ann", item, time, kind) for time, (item, kind) in enumerate(zip("abcd", ["buy", "view"] * 2, strict=True))
    ]
    rows += [
        ("bob", item, time, kind) for time, (item, kind) in enumerate(zip("cbad", ["view", "buy"] * 2, strict=True))
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime", "event"])
    settings = {"dim": 16, "pooling_heads": 2, "max_length": 8, "event_types": True}
    earlier = fit(log, settings=settings, epochs=1, progress_bar=False)
    init = WarmStart(earlier.model, earlier.item_ids, earlier.moments)
    later = histories_from_frame(pd.concat([log, log.assign(user_id="cid", event="add")]))
    assert (earlier.model.event_names, later.event_names) == (("buy", "view"), ("add", "buy", "view"))
    new = untrained(init, later).context.types.weight.detach().clone()
    found = before_the_first_step(init, later).context.types.weight
    old = earlier.model.context.types.weight
    assert torch.equal(found[[2, 3]], old[[1, 2]])
    assert torch.equal(found[1], new[1])
    carried = dict(init._moments(init.model.item_parameters(), rows_of(init, later), later.event_names))
    moment = earlier.moments["context.types.weight/exp_avg"]
    assert torch.equal(
        carried["context.types.weight/exp_avg"][:4], torch.stack([moment[0] * 0, moment[0] * 0, *moment[1:3]])
    )
    assert moment[1:3].abs().sum() > 0
