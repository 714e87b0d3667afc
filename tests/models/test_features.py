"""Items described by more than their id: training, scoring, new items, files, warm starts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import attnrec
from attnrec.config import SettingsError
from attnrec.dataset import features_from_frame, histories_from_frame, last_events, split_last
from attnrec.models import build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, load_whole, save_model
from attnrec.training import TrainConfig, train

ROOT = Path(__file__).parents[2]
ML1M = ROOT.parent / "shared" / "data" / "ml-1m"
SMALL = {"dim": 16, "pooling_heads": 2, "heads": 2, "layers": 1, "max_length": 10, "dropout": 0.1}
TRAINING = {"epochs": 25, "batch_size": 16, "learning_rate": 1e-2, "device": "cpu", "progress_bar": False}


@pytest.fixture(scope="module")
def shop() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Users stay with one of two colours; red-9 and blue-9 are in the table of items and never in the log."""
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
    """The log and somebody who had the new items once, so that the catalogue knows them."""
    late = pd.DataFrame({"user_id": ["late"] * 2, "item_id": ["red-9", "blue-9"]})
    return pd.concat([log, late.assign(datetime=pd.Timestamp("2030-01-01", tz="UTC"))], ignore_index=True)


def trained(log: pd.DataFrame, items: pd.DataFrame, **settings):
    """A model trained on all users but the late one, in a catalogue that has the new items."""
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
def fused(request, shop):
    return *trained(*shop, features=request.param), shop


def test_an_item_without_history_is_recommended_to_those_who_like_what_it_is_like(fused):
    model, seen, _, _ = fused
    new = {colour: seen.item_ids.row(f"{colour}-9") for colour in ("red", "blue")}
    assert model.rankable[list(new.values())].all()
    users = np.array([seen.user_ids.row(f"user-{number}") for number in range(60)])
    scores = model.score(last_events(seen, users, max_length=10))
    likes_red = torch.arange(60) % 2 == 0
    assert ((scores[:, new["red"]] > scores[:, new["blue"]]) == likes_red).float().mean() > 0.95


def test_contributions_sum_to_the_score_for_new_items_too(fused):
    model, seen, _, _ = fused
    items = torch.arange(1, seen.n_items + 1).expand(8, -1)
    batch = last_events(seen, np.arange(8), max_length=10)
    with torch.inference_mode():
        parts = model.contributions(batch, items)
        torch.testing.assert_close(
            parts.sum(1) + model.item_bias()[items], model.score(batch, items), rtol=1e-4, atol=1e-4
        )


def test_a_model_without_features_never_recommends_an_item_without_history(shop):
    model, seen, _ = trained(*shop)
    assert not model.rankable[seen.item_ids.row("red-9")]


def test_a_saved_model_scores_without_the_features_and_goes_on_with_them(fused, tmp_path):
    model, seen, features, _ = fused
    save_model(SavedModel(model, seen.item_ids, {}, {}, features), tmp_path)
    batch = last_events(seen, np.arange(8), max_length=10)
    expected = model.score(batch)
    (tmp_path / "items.parquet").rename(tmp_path / "elsewhere.parquet")
    lean = load_model(tmp_path).model
    assert torch.equal(lean.score(batch), expected)
    with pytest.raises(ValueError, match=r"needs the items' features, got none; give the experiment a table \[items\]"):
        lean.observe(seen)
    (tmp_path / "elsewhere.parquet").rename(tmp_path / "items.parquet")
    whole = load_whole(tmp_path)
    assert torch.equal(whole.model.score(batch), expected)
    whole.model.refresh()
    torch.testing.assert_close(whole.model.score(batch), expected)
    assert whole.model.fused is not None


def test_fit_reads_the_items_and_a_warm_start_keeps_their_meaning(shop):
    log, items = shop
    settings = SMALL | {"features": ["colour", "title"]}
    first = attnrec.fit(log, items=items.query("not item_id.str.endswith('-9')"), settings=settings, **TRAINING)
    more = with_new_items(log)
    second = attnrec.fit(more, items=items, init=first, **TRAINING | {"epochs": 1, "learning_rate": 1e-6})
    kept = first.item_ids.ids.tolist()
    before, after = (r.item_vectors().loc[kept].to_numpy() for r in (first, second))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert set(second.recommend(["user-0"], k=3)["item_id"].str.split("-").str[0]) == {"red"}


def test_features_that_are_not_there_are_refused_before_training(shop):
    log, items = shop
    with pytest.raises(ValueError, match=r"must be a column of the items, got 'brand'; there are colour, title"):
        attnrec.fit(log, items=items, settings=SMALL | {"features": ["brand"]}, **TRAINING)
    with pytest.raises(ValueError, match=r"features = \['colour'\] needs the items' features, got none"):
        attnrec.fit(log, settings=SMALL | {"features": ["colour"]}, **TRAINING)
    wide = items.assign(image=[[1.0, 2.0]] + [[1.0, 2.0, 3.0]] * (len(items) - 1))
    with pytest.raises(ValueError, match="all vectors of a column must have one width, got 2 and 3 in 'image'"):
        attnrec.fit(log, items=wide, settings=SMALL | {"features": ["image"]}, **TRAINING)
    with pytest.raises(SettingsError, match="features: unknown key"):
        attnrec.fit(log, items=items, model="gat", settings={"features": ["colour"]}, **TRAINING)


@pytest.mark.skipif(not ML1M.exists(), reason="needs ../shared/data/ml-1m")
def test_hidden_movies_are_found_by_title_and_genres_alone():
    """10 % of ML-1M's movies are hidden from training; among themselves they are ranked for those who saw one next."""
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
    asked = torch.isin(last, rows).nonzero()[:, 0]
    assert len(asked) > 50
    histories = seen  # none of the hidden items is in what the model reads
    users = histories.user_ids.encode(split.test.histories.user_ids.decode(split.test.users[asked.numpy()]).tolist())
    scores = model.score(last_events(histories, users, max_length=100))[:, rows]
    own = scores[torch.arange(len(asked)), torch.searchsorted(rows, last[asked])]
    below = (scores < own[:, None]).float().mean(1)
    # chance is .5 with a standard error of .29 / sqrt(n)
    assert below.mean().item() > 0.5 + 4 * 0.29 / len(asked) ** 0.5
