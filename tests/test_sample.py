"""The synthetic shop tells the truth about itself, and a model trained on it finds that truth."""

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import split_last
from attnrec.sample import DISTRACTOR, sample_log
from attnrec.schema import check_interactions
from attnrec.scoring.recommendations import ScoreConfig, recommend


@pytest.fixture(scope="module")
def small():
    return sample_log(n_users=100, n_items=60, n_pairs=10, seed=3)


def test_the_same_seed_gives_the_same_log_and_another_another(small):
    again, other = (sample_log(n_users=100, n_items=60, n_pairs=10, seed=seed) for seed in (3, 4))
    for name in ("interactions", "items", "effects", "truth"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(small, name))
    assert not other.interactions.equals(small.interactions)


def test_the_log_has_about_as_many_events_as_asked_for_sorted_by_time(shop):
    assert len(shop.interactions) == pytest.approx(1200 * 30, rel=0.02)
    assert shop.interactions["datetime"].is_monotonic_increasing
    assert str(shop.interactions["datetime"].dt.tz) == "UTC"
    assert shop.interactions["user_id"].nunique() == 1200
    check_interactions(shop.interactions)


def test_every_item_bought_is_described(shop):
    assert shop.items["item_id"].is_unique
    assert len(shop.items) == 200
    assert set(shop.interactions["item_id"]) <= set(shop.items["item_id"])
    assert (shop.items["price"] >= 0).all()


def test_no_item_is_in_two_planted_pairs_and_none_is_the_distractor(shop):
    members = [*shop.effects["cause"], *shop.effects["effect"]]
    assert len(set(members)) == 2 * 40
    assert DISTRACTOR not in members


def test_the_distractor_is_the_most_frequent_item(shop):
    counts = shop.interactions["item_id"].value_counts()
    assert counts.idxmax() == shop.distractor == DISTRACTOR
    assert counts.iloc[0] > 2 * counts.iloc[1]


def test_the_truth_tells_of_planted_pairs_and_of_events_in_the_log(shop):
    pairs = dict(zip(shop.effects["effect"], shop.effects["cause"], strict=True))
    assert (shop.truth["item_id"].map(pairs) == shop.truth["cause"]).all()
    keys = ["user_id", "datetime", "item_id"]
    assert len(shop.truth[keys].merge(shop.interactions, on=keys)) >= len(shop.truth) > 3000


def test_a_cause_comes_before_its_effect_within_the_next_few_events(small):
    # one of the next three events; when effects queue up, a few later
    log = small.interactions.assign(place=small.interactions.groupby("user_id").cumcount())
    of_user = dict(iter(log.groupby("user_id")))
    distances = []
    for row in small.truth.itertuples():
        events = of_user[row.user_id]
        effect = events.loc[(events["item_id"] == row.item_id) & (events["datetime"] == row.datetime), "place"].iloc[0]
        causes = events.loc[(events["item_id"] == row.cause) & (events["place"] < effect), "place"]
        distances.append(effect - causes.max() if len(causes) else np.inf)
    distances = np.array(distances)
    assert len(distances) > 200
    assert np.isfinite(distances).all()
    assert (distances <= 3).mean() > 0.9
    assert distances.max() <= 12


def test_most_buyers_of_a_cause_buy_its_effect_soon(shop):
    effect_of = dict(zip(shop.effects["cause"], shop.effects["effect"], strict=True))
    log = shop.interactions
    followed = []
    for _, items in log.groupby("user_id")["item_id"]:
        items = items.tolist()
        for place, item in enumerate(items[:-6]):
            if item in effect_of:
                followed.append(effect_of[item] in items[place + 1 : place + 7])
    assert np.mean(followed) == pytest.approx(0.75, abs=0.05)


def test_effects_are_rarely_bought_without_their_cause(shop):
    bought = shop.interactions["item_id"].isin(shop.effects["effect"]).sum()
    assert len(shop.truth) / bought > 0.8


def test_pairs_that_need_more_items_than_there_are_are_refused():
    with pytest.raises(ValueError, match="pairs need 2 items each"):
        sample_log(n_items=20, n_pairs=10)


# --- what a model makes of it


@pytest.fixture(scope="module")
def first_reasons(shop, shop_recommender) -> pd.DataFrame:
    """Users whose last event is a planted effect that the model, fitted without it, ranks in the top 10.

    One row each: the planted cause, the first reason given, the last item seen, distinct items seen.
    """
    histories = shop_recommender.histories
    test = split_last(histories).test
    decode = histories.item_ids.decode
    asked = pd.DataFrame(
        {
            "user_id": histories.user_ids.decode(test.users),
            "datetime": pd.to_datetime(test.target_times, unit="s", utc=True),
            "item_id": decode(test.targets),
            "question": np.arange(len(test.users)),
        }
    )
    planted = asked.merge(shop.truth, on=["user_id", "datetime", "item_id"])
    found = recommend(
        shop_recommender.model, test.histories, test.users, config=ScoreConfig(k=10, filter_viewed=False, n_reasons=1)
    )
    rows = []
    for row in planted.itertuples():
        place = np.flatnonzero(found.items[row.question] == histories.item_ids.row(row.item_id))
        if len(place):
            seen = test.histories.items_of(test.users[row.question])
            first = found.reason_items[row.question, place[0], 0]
            rows.append((row.cause, decode(first) if first else "", decode(seen[-1]), len(set(seen.tolist()))))
    return pd.DataFrame(rows, columns=["cause", "reason", "last", "n_seen"])


def test_the_model_finds_the_planted_effects(shop, shop_recommender, first_reasons):
    # 175 users end with a planted effect; by popularity none of these would be in the top 10
    assert len(first_reasons) > 100


def test_the_first_reason_is_the_planted_cause(first_reasons):
    found = (first_reasons["reason"] == first_reasons["cause"]).mean()
    chance = (1 / first_reasons["n_seen"]).mean()
    recency = (first_reasons["last"] == first_reasons["cause"]).mean()
    assert chance < 0.1
    assert found > 0.9
    assert found > 2 * recency, "the cause is named because it is the cause, not because it is the latest"


def test_the_distractor_is_hardly_ever_the_first_reason(first_reasons):
    assert (first_reasons["reason"] == DISTRACTOR).mean() < 0.05


def test_a_cause_alone_brings_its_effect_to_the_top(shop, shop_recommender):
    """A visitor who bought nothing but the cause: its effect is among the first ten, and the cause is why."""
    found = 0
    for cause, effect in shop.effects.itertuples(index=False):
        frame = shop_recommender.recommend(history=[cause], k=10)
        hit = frame[frame["item_id"] == effect]
        if len(hit):
            found += 1
            assert [reason["item_id"] for reason in hit["reasons"].iloc[0]] == [cause]
    assert found > 30  # of 40


def test_scores_of_the_shop_are_the_sums_of_their_contributions(shop_recommender):
    frame = shop_recommender.recommend(["user-0000", "user-0500"], k=5)
    for row in frame.itertuples():
        explanation = shop_recommender.explain(row.user_id, row.item_id)
        assert row.score == pytest.approx(explanation.score, abs=1e-3)
        assert explanation.frame["weight"].sum() == pytest.approx(1, abs=1e-4)
