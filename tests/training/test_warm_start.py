"""Warm start: rows copied by item id, initial rows of new items, and rejected models and catalogues."""

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
from attnrec.training.design_matrix import shared_design_matrices
from attnrec.training.feature_regression import FeatureRegression
from attnrec.training.processes import ProcessGroup
from attnrec.training.step import Stepper

TINY = {"dim": 8, "heads": 2, "pooling_heads": 2, "max_length": 8, "dropout": 0.3}
CONFIGS = {"attnrec": SequenceConfig(**TINY, layers=1), "gat": GATConfig(**TINY, edges_per_step=100)}
CONFIG = TrainConfig(
    epochs=2, batch_size=16, learning_rate=1e-2, warmup_steps=3, device="cpu", seed=1, checkpoint_minutes=1e-9
)
OLD = {"ann": "mnopq", "bob": "nopqm", "cid": "pqmno", "dan": "qmnop"}
NEW = {
    "eve": "mAnBo",
    "fay": "AmBnz",
    "gus": "zmAn",
}  # A and B sort before m, so that every row number changes; z is last


class KilledError(Exception):
    """Simulates a kill of the process."""


@pytest.fixture
def old(make_histories) -> Histories:
    return make_histories(OLD)


@pytest.fixture
def larger(make_histories) -> Histories:
    """The old log and more users, with new items that change all row numbers."""
    return make_histories(OLD | NEW)


@pytest.fixture
def start(old) -> WarmStart:
    return warm_start_from(old)


def warm_start_from(histories: Histories, kind: str = "attnrec") -> WarmStart:
    torch.manual_seed(0)
    model = build_model(CONFIGS[kind], histories.n_items)
    result = train(model, histories, config=CONFIG, progress_bar=False)
    return WarmStart(model, histories.item_ids, result.moments)


def untrained(init: WarmStart, histories: Histories, **settings) -> Model:
    torch.manual_seed(5)
    return build_model(init.model.config.model_copy(update=settings), histories.n_items)


def before_the_first_step(init: WarmStart, histories: Histories) -> Model:
    """The model as `train` has initialised it, before its first step."""
    model = untrained(init, histories)

    def loss(batch):
        raise KilledError

    model.loss = loss
    with pytest.raises(KilledError):
        train(model, histories, config=CONFIG, init=init, progress_bar=False)
    model.refresh()
    return model.eval()


def stepper_of(model: Model) -> Stepper:
    return Stepper(model, CONFIG, n_steps=1, device=torch.device("cpu"), processes=ProcessGroup())


def rows_of(init: WarmStart, histories: Histories) -> torch.Tensor:
    """The old row of each new row, by hand."""
    rows = {item: row for row, item in enumerate(init.item_ids.ids, start=1)}
    return torch.tensor([0, *(rows.get(item, 0) for item in histories.item_ids.ids)])


def scores(model: Model, histories: Histories) -> torch.Tensor:
    """Scores of all items for all users, (n_users, N), in float64, so that the order of additions does not matter."""
    users = np.arange(histories.n_users)
    ((chosen, batch),) = user_batches(histories, users, max_length=model.max_length, batch_size=99)
    with torch.inference_mode():
        return deepcopy(model).double().score(batch)[np.argsort(chosen)]


def items_frame(ids, **columns) -> pd.DataFrame:
    return pd.DataFrame({"item_id": ids, **columns})


# --- copied rows and moments


def test_old_items_score_the_same_before_the_first_step(start, old, larger):
    model = before_the_first_step(start, larger)
    old_rows = rows_of(start, larger)
    assert old_rows.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0], "A, B, m, n, o, p, q, z"
    expected = scores(start.model, old)
    new_scores = scores(model, old.recode(larger.item_ids))
    torch.testing.assert_close(new_scores[:, old_rows > 0], expected[:, 1:], atol=1e-6, rtol=0)


def test_old_items_of_a_graph_model_score_the_same_on_the_same_graph(old):
    init = warm_start_from(old, "gat")
    catalogue = Vocabulary(["A", *old.item_ids.ids, "z"], first=1)
    model = before_the_first_step(init, old.recode(catalogue))
    new_scores = scores(model, old.recode(catalogue))
    torch.testing.assert_close(new_scores[:, 2:-1], scores(init.model, old)[:, 1:], atol=1e-6, rtol=0)


def test_moments_are_copied_by_item_id_and_zero_for_new_items(start, larger):
    model = untrained(start, larger)
    stepper = stepper_of(model)
    start.apply(model, larger.item_ids, stepper)
    moments, old_rows = stepper.moments(), rows_of(start, larger)
    assert moments.keys() == start.moments.keys()
    for name, value in start.moments.items():
        if "item_scorer" in name and value.ndim:
            assert torch.equal(moments[name][old_rows > 0], value[1:])
            assert not moments[name][old_rows == 0].any()
        else:
            assert torch.equal(moments[name], value)
    assert moments["item_scorer.embedding.weight/exp_avg"].any()
    assert moments["item_scorer.embedding.weight/step"] == 2


def test_the_moving_average_starts_from_the_copied_weights(start, larger):
    model = untrained(start, larger)
    stepper = stepper_of(model)
    start.apply(model, larger.item_ids, stepper)
    for name, parameter in model.named_parameters():
        assert torch.equal(stepper.ema.tensors()[name], parameter)


def test_new_items_start_from_the_mean_of_the_old_items_with_training_events(start, larger):
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


def test_the_first_step_uses_the_copied_moments(start, old):
    losses = [
        train(untrained(init, old), old, config=CONFIG, init=init, progress_bar=False).epochs[0]["train/loss"]
        for init in (start, replace(start, moments={}))
    ]
    assert losses[0] == losses[1], "an epoch is one batch: its loss is computed before the first step"
    models = [untrained(start, old), untrained(start, old)]
    for model, init in zip(models, (start, replace(start, moments={})), strict=True):
        train(model, old, config=CONFIG.model_copy(update={"epochs": 1}), init=init, progress_bar=False)
    assert not torch.equal(models[0].item_scorer.embedding.weight, models[1].item_scorer.embedding.weight)


# --- removed items


def test_a_removed_item_has_no_row(old, make_histories):
    shrunk = make_histories({"eve": "mnomno", "fay": "onmonm"})
    model = before_the_first_step(warm_start_from(old), shrunk)
    assert len(model.rankable) == 4, "p and q have no row"


def test_an_item_without_an_event_in_the_new_log_is_used_in_histories_but_not_recommended(start, old, make_histories):
    quiet = make_histories({"eve": "mnomno", "fay": "onmonm"}).recode(old.item_ids)  # p and q stay in the catalogue
    model = before_the_first_step(start, quiet)
    assert model.rankable.tolist() == [False, True, True, True, False, False]
    recommender = Recommender(model, old.item_ids, quiet)
    assert set(recommender.recommend(history=["p", "q"], k=9)["item_id"]) == {"m", "n", "o"}
    explanation = recommender.explain(history=["m", "p"], item_id="n").frame.set_index("item_id")
    assert explanation["weight"]["p"] > 0
    assert explanation["contribution"]["p"] != 0
    torch.testing.assert_close(scores(model, old), scores(start.model, old), atol=1e-6, rtol=0)


# --- new items from features

COLOURS = ["red", "green", "blue"]


def linear_world(n_items: int, *, seed: int = 0) -> tuple[pd.DataFrame, torch.Tensor]:
    """Items with random features, and rows that are linear in the features, (n_items, 4)."""
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


def item_rows(features: Features) -> np.ndarray:
    return np.arange(features.n_rows) > 0


def test_rows_that_are_linear_in_the_features_are_predicted():
    (before, old_rows), (after, expected) = linear_world(60), linear_world(20, seed=1)
    old = features_of(before)
    regression = FeatureRegression(old, features_of(after), train_rows=item_rows(old))
    values = torch.cat([torch.zeros(1, 4, dtype=torch.float64), old_rows])
    assert regression.has_prediction.tolist() == [False] + [True] * 20
    torch.testing.assert_close(regression.predict(values)[1:], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(regression.predict(values[:, 1])[1:], expected[:, 1], atol=1e-4, rtol=0)


def test_uninformative_features_predict_values_close_to_the_mean():
    random = np.random.default_rng(0)
    noise = [
        features_of(items_frame([f"{name}{i:02d}" for i in range(40)], x=list(random.normal(size=(40, 30)))))
        for name in "ab"
    ]
    values = torch.from_numpy(random.normal(size=(41, 8)))
    rows = FeatureRegression(*noise, train_rows=item_rows(noise[0])).predict(values)[1:]
    assert (rows - values[1:].mean(0)).std() < 0.3 * values.std()


def test_the_regression_is_fitted_on_the_training_rows_only():
    (before, old_rows), (after, expected) = linear_world(60), linear_world(20, seed=1)
    old = features_of(before)
    train_rows, values = item_rows(old), torch.cat([torch.zeros(1, 4, dtype=torch.float64), old_rows])
    train_rows[7], values[7] = False, 1e6
    predicted = FeatureRegression(old, features_of(after), train_rows=train_rows).predict(values)[1:]
    torch.testing.assert_close(predicted, expected, atol=1e-4, rtol=0)


def test_missing_numbers_and_vectors_become_the_mean():
    old = features_of(items_frame(list("abcd"), price=[1.0, 3.0, 5.0, None], picture=[[0, 2], [0, 4], [0, 6], None]))
    new = features_of(items_frame(["x", "y"], price=[3.0, None], picture=[None, [0, 4]]))
    before, after = shared_design_matrices(old, new, train_rows=item_rows(old))
    expected = np.array([-2, 0, 2, 0]) / np.sqrt(8 / 3)
    np.testing.assert_allclose(before.numeric[1:, 2], expected, atol=1e-6)  # columns are sorted: picture, price
    np.testing.assert_allclose(before.numeric[1:, 1], np.array([-2, 0, 2, 0]) / np.sqrt(8 / 6), atol=1e-6)
    assert not after.numeric[1:].any()
    assert before.has_value.tolist() == [False, True, True, True, False]


def test_one_hot_columns_are_the_most_frequent_shared_categories(monkeypatch):
    monkeypatch.setattr("attnrec.training.design_matrix.MAX_CATEGORIES", 2)
    old = features_of(items_frame(list("abc"), kind=[["tea", "leaf"], ["tea", "cup"], ["cup", "old"]]))
    new = features_of(items_frame(list("xyz"), kind=[["leaf", "cup"], ["tea", "tea"], ["new"]]))
    before, after = shared_design_matrices(old, new, train_rows=item_rows(old))
    assert before.ones.tolist() == [[1, 1], [2, 0], [2, 1], [3, 0]], "cup and tea have two items each, leaf has one"
    assert after.ones.tolist() == [[1, 0], [2, 1]]
    assert after.has_value.tolist() == [False, True, True, False]


def test_the_prediction_does_not_depend_on_the_block_size(monkeypatch):
    (before, old_rows), (after, _) = linear_world(60), linear_world(20, seed=1)
    old = features_of(before)
    values = torch.cat([torch.zeros(1, 4, dtype=torch.float64), old_rows])
    whole = FeatureRegression(old, features_of(after), train_rows=item_rows(old)).predict(values)
    monkeypatch.setattr("attnrec.training.design_matrix.BLOCK", 7)
    torch.testing.assert_close(
        FeatureRegression(old, features_of(after), train_rows=item_rows(old)).predict(values), whole
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"price": pd.Categorical(["low", "high"])}, "'price' as a category, in init as a number"),
        ({"picture": [[1, 2, 3], [4, 5, 6]]}, "'picture' as a vector of width 3, in init as a vector of width 2"),
    ],
)
def test_a_column_of_another_type_or_width_is_rejected(column, message):
    old = features_of(items_frame(["a", "b"], price=[1.0, 2.0], picture=[[1, 2], [3, 4]], title=["A", "B"]))
    with pytest.raises(ValueError, match=message):
        FeatureRegression(old, features_of(items_frame(["x", "y"], **column)), train_rows=item_rows(old))
    assert not FeatureRegression(
        old, features_of(items_frame(["x"], title=[1.0])), train_rows=item_rows(old)
    ).has_prediction.any()


def test_new_items_start_from_their_features_or_without_features_from_the_mean(start, old, larger):
    old_features = features_from_frame(
        items_frame(list("mnopq"), kind=[["x"], ["x"], ["y"], ["y"], ["y"]]), old.item_ids
    )
    new_features = features_from_frame(items_frame(list("AmB"), kind=[["x"], ["y"], ["never seen"]]), larger.item_ids)
    init = replace(start, features=old_features, new_features=new_features)
    model = before_the_first_step(init, larger)
    old_weight = start.model.item_scorer.embedding.weight.detach()
    new_weight = model.item_scorer.embedding.weight.detach()
    assert torch.equal(new_weight[3:8], old_weight[1:]), "old items keep their rows, whatever their features"
    torch.testing.assert_close(new_weight[[2, 8]], old_weight[1:].mean(0).expand(2, -1))
    torch.testing.assert_close(new_weight[1], init.regression.predict(old_weight)[1])
    mean = old_weight[1:].mean(0)
    assert (new_weight[1] - mean) @ (old_weight[1:3].mean(0) - mean) > 0, "A is closer to m and n, which share its kind"


# --- transfer


@pytest.fixture
def other_shop(make_histories) -> Histories:
    return make_histories({"eve": "STSTST", "fay": "TSTS", "gus": "USTU"})


def test_a_log_of_other_items_starts_from_features(start, old, other_shop):
    old_features = features_from_frame(
        items_frame(list("mnopq"), kind=[["x"], ["x"], ["y"], ["y"], ["y"]]), old.item_ids
    )
    new_features = features_from_frame(items_frame(list("STU"), kind=[["x"], ["y"], ["z"]]), other_shop.item_ids)
    init = replace(start, features=old_features, new_features=new_features)
    model = before_the_first_step(init, other_shop)
    for name, parameter in model.named_parameters():
        if "item_scorer" not in name:
            assert torch.equal(parameter, start.model.get_parameter(name)), "the encoder is copied"
    for name in ("item_scorer.embedding.weight", "item_scorer.bias"):
        rows = start.model.get_parameter(name).detach()
        predicted = init.regression.predict(rows)
        torch.testing.assert_close(model.get_parameter(name)[1:3], predicted[1:3])
        torch.testing.assert_close(model.get_parameter(name)[3], rows[1:].mean(0))
    train(untrained(init, other_shop), other_shop, config=CONFIG, init=init, progress_bar=False)


def test_a_log_that_shares_neither_items_nor_features_is_rejected(start, old, other_shop):
    message = r"got 5 items in init, 3 in the log and none in both; pass items="
    old_features = features_from_frame(
        items_frame(list("mnopq"), kind=[["x"], ["x"], ["y"], ["y"], ["y"]]), old.item_ids
    )
    new_features = features_from_frame(items_frame(list("STU"), sort=[["x"], ["y"], ["z"]]), other_shop.item_ids)
    for init in (
        start,
        replace(start, features=old_features),
        replace(start, features=old_features, new_features=new_features),
    ):
        with pytest.raises(ValueError, match=message):
            train(untrained(start, other_shop), other_shop, config=CONFIG, init=init, progress_bar=False)


# --- rejected inputs


@pytest.mark.parametrize("settings", [{"dim": 16}, {"max_length": 9}, {"layers": 2}, {"layers": 0}, {"heads": 4}])
def test_a_model_with_other_settings_is_rejected(start, old, settings):
    with pytest.raises(ValueError, match="init must have the same settings as the new model"):
        train(untrained(start, old, **settings), old, config=CONFIG, init=start, progress_bar=False)


def test_settings_that_only_affect_training_may_change(start, old):
    result = train(untrained(start, old, dropout=0.0), old, config=CONFIG, init=start, progress_bar=False)
    assert len(result.epochs) == CONFIG.epochs


def test_a_model_of_another_kind_is_rejected(start, old):
    model = build_model(CONFIGS["gat"], old.n_items)
    with pytest.raises(ValueError, match="a model of the same kind, got attnrec for gat"):
        train(model, old, config=CONFIG, init=start, progress_bar=False)


def test_a_model_without_gradient_training_cannot_be_started_from(old):
    recommender = fit(frame_of(OLD), model="item_knn", progress_bar=False)
    with pytest.raises(ValueError, match="init needs a model with gradient training, got item_knn"):
        fit(frame_of(OLD), init=recommender, progress_bar=False)


# --- kill and resume


def test_a_killed_warm_started_run_resumes_to_the_same_weights(start, larger, tmp_path):
    config = CONFIG.model_copy(update={"batch_size": 2})

    def run(checkpoint=None, *, kill_at=None, init=start):
        model = untrained(start, larger)
        calls, loss = iter(range(1, 10_000)), model.loss

        def killing_loss(batch):
            if next(calls) == kill_at:
                raise KilledError
            return loss(batch)

        model.loss = killing_loss
        train(model, larger, config=config, checkpoint=checkpoint, init=init, progress_bar=False)
        return model.state_dict()

    whole, path = run(), tmp_path / "run.safetensors"
    with pytest.raises(KilledError):
        run(path, kill_at=6)
    with pytest.raises(ValueError, match="must come from the same model, data and settings"):
        run(path, init=None)
    with pytest.raises(ValueError, match="must come from the same model, data and settings"):
        run(path, init=replace(start, moments={}))
    resumed = run(path)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_fingerprint_depends_on_everything_that_is_copied(start, old, larger):
    old_features = features_from_frame(items_frame(list("mn"), price=[1.0, 2.0]), old.item_ids)
    new_features = [
        features_from_frame(items_frame(list("AmB"), price=[1.0, p, 3.0]), larger.item_ids) for p in (2.0, 2.5)
    ]
    renamed = Vocabulary(list("mnopr"), first=1)
    starts = [
        start,
        replace(start, moments={}),
        replace(start, item_ids=renamed),
        *(replace(start, features=old_features, new_features=new) for new in new_features),
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
    """The loss of the first epoch of every later call of `fit`."""
    losses, train_ = [], attnrec.fitting.train

    def recording_train(*args, **settings):
        result = train_(*args, **settings)
        losses.append(result.epochs[0]["train/loss"])
        return result

    monkeypatch.setattr(attnrec.fitting, "train", recording_train)
    return losses


def test_fit_with_init_keeps_the_settings_and_the_optimizer_state(yesterday):
    today = fit(frame_of(OLD | NEW), init=yesterday, **QUICK)
    assert today.model.config == yesterday.model.config
    assert today.moments["item_scorer.embedding.weight/step"] == 4
    changed = fit(frame_of(OLD | NEW), init=yesterday, settings={"dropout": 0.5}, **QUICK)
    assert changed.model.config == yesterday.model.config.model_copy(update={"dropout": 0.5})


def test_fit_rejects_another_kind_or_shape_than_init(yesterday):
    with pytest.raises(ValueError, match="got attnrec for gat"):
        fit(frame_of(OLD), init=yesterday, model="gat", **QUICK)
    with pytest.raises(ValueError, match="init must have the same settings"):
        fit(frame_of(OLD), init=yesterday, settings={"dim": 16}, **QUICK)


def test_a_saved_model_gives_the_same_warm_start_as_the_model_in_memory(yesterday, tmp_path):
    folder = yesterday.save(tmp_path / "model")
    items = items_frame(list("ABmnz"), kind=pd.Categorical(list("xyxyy")), price=[1.0, 2.0, 3.0, 4.0, 5.0])
    recommenders = [
        fit(frame_of(OLD | NEW), init=init, items=items, **QUICK) for init in (yesterday, folder, str(folder))
    ]
    for other in recommenders[1:]:
        for name, tensor in recommenders[0].model.state_dict().items():
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


def test_a_folder_without_moments_starts_with_a_new_optimizer_state(yesterday, tmp_path):
    folder = replace(yesterday, moments={}, features=None).save(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "vocabulary.parquet",
        "weights.safetensors",
    ]
    assert (load_folder(folder).moments, load_folder(folder).features) == ({}, None)
    today = fit(frame_of(OLD | NEW), init=folder, **QUICK)
    assert today.moments["item_scorer.embedding.weight/step"] == 2


def test_integer_and_string_ids_are_the_same_items(make_histories):
    rows = [(user, 10 + ord(item), second) for user, items in OLD.items() for second, item in enumerate(items)]
    numbered = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    first = fit(numbered, settings=SMALL, **QUICK)
    second = fit(numbered.assign(item_id=numbered["item_id"].astype(str)), init=first, **QUICK)
    assert second.moments["item_scorer.embedding.weight/step"] == 4
    init = WarmStart(first.model, first.item_ids, first.moments)
    model = before_the_first_step(init, second.histories)
    assert torch.equal(model.item_scorer.embedding.weight, first.model.item_scorer.embedding.weight)


def test_a_warm_start_lowers_the_first_loss(first_losses):
    log = sample_log(n_users=150, n_items=60, n_pairs=10, mean_events=15).interactions
    settings = {"settings": SMALL, "learning_rate": 0.003, "batch_size": 32, "progress_bar": False, "device": "cpu"}
    first = fit(log[log["datetime"] < "2025-09-01"], epochs=6, **settings)
    fit(log, epochs=1, **settings)
    fit(log, epochs=1, init=first, **settings)
    before, scratch, warm = first_losses
    assert warm < scratch - 0.1
    assert before > warm


def test_a_model_transfers_to_another_shop_by_item_features(first_losses):
    first_shop = sample_log(n_users=150, n_items=60, n_pairs=0, mean_events=15)
    second_shop = sample_log(
        n_users=150, n_items=60, n_pairs=0, mean_events=15
    )  # the same log, with other item ids below
    names = {"item_id": lambda frame: "other " + frame["item_id"]}
    kinds = {"kind": lambda frame: pd.Categorical(frame["title"])}
    settings = {"settings": SMALL, "learning_rate": 0.003, "batch_size": 32, "progress_bar": False, "device": "cpu"}
    first = fit(first_shop.interactions, items=first_shop.items.assign(**kinds), epochs=6, **settings)
    fit(second_shop.interactions.assign(**names), epochs=1, **settings)
    fit(
        second_shop.interactions.assign(**names),
        items=second_shop.items.assign(**names, **kinds),
        init=first,
        epochs=1,
        **settings,
    )
    assert first_losses[2] < first_losses[1] - 0.1


def test_a_warm_started_recommender_has_the_new_histories(yesterday):
    today = fit(frame_of(OLD | NEW), init=yesterday, **QUICK)
    assert today.histories.content_hash == histories_from_frame(frame_of(OLD | NEW)).content_hash
    assert set(today.recommend("eve", filter_viewed=False, k=9)["item_id"]) <= set("ABmnopqz")


def test_event_types_are_copied_by_name_into_a_log_with_other_numbers():
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
    initial = untrained(init, later).context.types.weight.detach().clone()
    started = before_the_first_step(init, later).context.types.weight
    old = earlier.model.context.types.weight
    assert torch.equal(started[[2, 3]], old[[1, 2]])
    assert torch.equal(started[1], initial[1])
    moments = dict(init._new_moments(init.model.item_parameters(), rows_of(init, later), later.event_names))
    moment = earlier.moments["context.types.weight/exp_avg"]
    assert torch.equal(
        moments["context.types.weight/exp_avg"][:4], torch.stack([moment[0] * 0, moment[0] * 0, *moment[1:3]])
    )
    assert moment[1:3].abs().sum() > 0
