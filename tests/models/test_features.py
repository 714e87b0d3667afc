"""Models with item features: training, scoring, items without training events, files, warm starts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import attnrec
from attnrec.config import SettingsError
from attnrec.dataset import features_from_frame, histories_from_frame, last_events, split_last
from attnrec.models import build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, load_with_warm_start, save_model
from attnrec.training import TrainConfig, train

ROOT = Path(__file__).parents[2]
ML1M = ROOT.parent / "shared" / "data" / "ml-1m"
SMALL = {"dim": 16, "pooling_heads": 2, "heads": 2, "layers": 1, "max_length": 10, "dropout": 0.1}
TRAINING = {"epochs": 25, "batch_size": 16, "learning_rate": 1e-2, "device": "cpu", "progress_bar": False}


@pytest.fixture(scope="module")
def shop() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each user has items of one colour; red-9 and blue-9 are in the items table and not in the log."""
    random = np.random.default_rng(0)
    rows = [
        (f"user-{user}", f"{('red', 'blue')[user % 2]}-{item}", time)
        for user in range(60)
        for time, item in enumerate(random.permutation(9)[:6])
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    log["datetime"] = pd.to_datetime(log["datetime"], unit="D", utc=True)
    names = [f"{colour}-{number}" for colour in ("red", "blue") for number in range(10)]
    items = pd.DataFrame({"item_id": names, "title": [f"a {name.split('-')[0]} thing" for name in names]})
    items["colour"] = pd.Categorical([name.split("-")[0] for name in names])
    return log, items


def with_new_items(log: pd.DataFrame) -> pd.DataFrame:
    """The log plus one user with the new items, so that they are in the catalogue."""
    late = pd.DataFrame({"user_id": ["late"] * 2, "item_id": ["red-9", "blue-9"]})
    return pd.concat([log, late.assign(datetime=pd.Timestamp("2030-01-01", tz="UTC"))], ignore_index=True)


def trained(log: pd.DataFrame, items: pd.DataFrame, **settings):
    """A model trained on all users except the late one, in a catalogue with the new items."""
    histories = histories_from_frame(with_new_items(log))
    late = histories.user_ids.row("late")
    lengths = histories.lengths.copy()
    lengths[late] = 0
    seen = histories.up_to(lengths)
    features = features_from_frame(items, histories.item_ids)
    torch.manual_seed(0)
    model = build_model(model_config("attnrec", SMALL | settings), histories.n_items, features)
    config = {key: value for key, value in TRAINING.items() if key != "progress_bar"}
    train(model, seen, config=TrainConfig(**config), progress_bar=False)
    return model.eval(), seen, features


@pytest.fixture(scope="module", params=[("colour",), ("title",), ("colour", "title")])
def with_features(request, shop):
    return *trained(*shop, features=request.param), shop


def test_items_without_training_events_are_ranked_by_their_features(with_features):
    model, seen, _, _ = with_features
    new = {colour: seen.item_ids.row(f"{colour}-9") for colour in ("red", "blue")}
    assert model.rankable[list(new.values())].all()
    users = np.array([seen.user_ids.row(f"user-{number}") for number in range(60)])
    scores = model.score(last_events(seen, users, max_length=10))
    likes_red = torch.arange(60) % 2 == 0
    assert ((scores[:, new["red"]] > scores[:, new["blue"]]) == likes_red).float().mean() > 0.95


def test_contributions_sum_to_the_score_for_new_items(with_features):
    model, seen, _, _ = with_features
    items = torch.arange(1, seen.n_items + 1).expand(8, -1)
    batch = last_events(seen, np.arange(8), max_length=10)
    with torch.inference_mode():
        parts = model.contributions(batch, items)
        torch.testing.assert_close(
            parts.sum(1) + model.item_bias()[items], model.score(batch, items), rtol=1e-4, atol=1e-4
        )


def test_without_features_items_without_training_events_are_not_rankable(shop):
    model, seen, _ = trained(*shop)
    assert not model.rankable[seen.item_ids.row("red-9")]


def test_a_saved_model_scores_without_features_and_can_be_trained_with_them(with_features, tmp_path):
    model, seen, features, _ = with_features
    save_model(SavedModel(model, seen.item_ids, {}, {}, features), tmp_path)
    batch = last_events(seen, np.arange(8), max_length=10)
    expected = model.score(batch)
    (tmp_path / "items.parquet").rename(tmp_path / "elsewhere.parquet")
    without_features = load_model(tmp_path).model
    assert torch.equal(without_features.score(batch), expected)
    with pytest.raises(ValueError, match=r"needs item features, got none; add a table \[items\]"):
        without_features.observe(seen)
    (tmp_path / "elsewhere.parquet").rename(tmp_path / "items.parquet")
    complete = load_with_warm_start(tmp_path)
    assert torch.equal(complete.model.score(batch), expected)
    complete.model.refresh()
    torch.testing.assert_close(complete.model.score(batch), expected)
    assert complete.model.feature_fusion is not None


def test_a_warm_start_keeps_the_vectors_of_items_with_features(shop):
    log, items = shop
    settings = SMALL | {"features": ["colour", "title"]}
    first = attnrec.fit(log, items=items.query("not item_id.str.endswith('-9')"), settings=settings, **TRAINING)
    more = with_new_items(log)
    second = attnrec.fit(more, items=items, init=first, **TRAINING | {"epochs": 1, "learning_rate": 1e-6})
    kept = first.item_ids.ids.tolist()
    before, after = (r.item_vectors().loc[kept].to_numpy() for r in (first, second))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert set(second.recommend(["user-0"], k=3)["item_id"].str.split("-").str[0]) == {"red"}


def test_missing_features_are_rejected_before_training(shop):
    log, items = shop
    with pytest.raises(ValueError, match=r"must be an item column, got 'brand'; available columns: colour, title"):
        attnrec.fit(log, items=items, settings=SMALL | {"features": ["brand"]}, **TRAINING)
    with pytest.raises(ValueError, match=r"features = \['colour'\] needs item features, got none"):
        attnrec.fit(log, settings=SMALL | {"features": ["colour"]}, **TRAINING)
    wide = items.assign(image=[[1.0, 2.0]] + [[1.0, 2.0, 3.0]] * (len(items) - 1))
    with pytest.raises(ValueError, match="all vectors of a column must have the same width, got 2 and 3 in 'image'"):
        attnrec.fit(log, items=wide, settings=SMALL | {"features": ["image"]}, **TRAINING)
    with pytest.raises(SettingsError, match="features: unknown key"):
        attnrec.fit(log, items=items, model="gat", settings={"features": ["colour"]}, **TRAINING)


@pytest.mark.skipif(not ML1M.exists(), reason="needs ../shared/data/ml-1m")
def test_items_without_training_events_are_ranked_by_title_and_genres_on_ml_1m():
    """10 % of the movies are hidden from training, and ranked among themselves for users whose last movie is one."""
    ratings = pd.read_parquet(ML1M / "ratings.parquet").rename(columns={"timestamp": "datetime"})
    ratings = ratings[ratings["item_id"].map(ratings["item_id"].value_counts()) >= 5]
    ratings = ratings[ratings["user_id"] % 6 == 0]
    items = pd.read_csv(ML1M / "items.csv")[["item_id", "title", "genres"]]
    items["genres"] = items["genres"].str.split("|")
    ratings["datetime"] = pd.to_datetime(ratings["datetime"], unit="s", utc=True)
    known = np.sort(ratings["item_id"].unique())
    hidden = set(np.random.default_rng(0).choice(known, len(known) // 10, replace=False).tolist())
    whole = histories_from_frame(ratings[["user_id", "item_id", "datetime"]])
    rows = torch.from_numpy(whole.item_ids.encode(sorted(hidden)))
    without = histories_from_frame(ratings.loc[~ratings["item_id"].isin(hidden), ["user_id", "item_id", "datetime"]])
    seen = without.recode(whole.item_ids)
    features = features_from_frame(items[items["item_id"].isin(known)], whole.item_ids)
    settings = {"dim": 32, "heads": 2, "max_length": 100, "features": ("title", "genres"), "id_dropout": 0.3}
    torch.manual_seed(0)
    model = build_model(model_config("attnrec", settings), whole.n_items, features)
    train(
        model, seen, config=TrainConfig(epochs=4, batch_size=16, learning_rate=2e-3, device="cpu"), progress_bar=False
    )
    split = split_last(whole)
    last = torch.from_numpy(split.test.targets)
    tested = torch.isin(last, rows).nonzero()[:, 0]
    assert len(tested) > 50
    histories = seen  # without the hidden items
    users = histories.user_ids.encode(split.test.histories.user_ids.decode(split.test.users[tested.numpy()]).tolist())
    scores = model.score(last_events(histories, users, max_length=100))[:, rows]
    target_scores = scores[torch.arange(len(tested)), torch.searchsorted(rows, last[tested])]
    below = (scores < target_scores[:, None]).float().mean(1)
    # chance is .5 with a standard error of .29 / sqrt(n)
    assert below.mean().item() > 0.5 + 4 * 0.29 / len(tested) ** 0.5
