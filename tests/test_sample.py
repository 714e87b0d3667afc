"""The synthetic shop log matches its ground truth, and a trained model recovers the cause-effect pairs."""

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


def test_the_same_seed_gives_the_same_log_and_another_seed_another_log(small):
    again, other = (sample_log(n_users=100, n_items=60, n_pairs=10, seed=seed) for seed in (3, 4))
    for name in ("interactions", "items", "effects", "truth"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(small, name))
    assert not other.interactions.equals(small.interactions)


def test_the_log_has_about_n_users_times_mean_events_sorted_by_time(shop):
    assert len(shop.interactions) == pytest.approx(1200 * 30, rel=0.02)
    assert shop.interactions["datetime"].is_monotonic_increasing
    assert str(shop.interactions["datetime"].dt.tz) == "UTC"
    assert shop.interactions["user_id"].nunique() == 1200
    check_interactions(shop.interactions)


def test_every_purchased_item_is_in_the_items_table(shop):
    assert shop.items["item_id"].is_unique
    assert len(shop.items) == 200
    assert set(shop.interactions["item_id"]) <= set(shop.items["item_id"])
    assert (shop.items["price"] >= 0).all()


def test_no_item_is_in_two_pairs_and_none_is_the_distractor(shop):
    members = [*shop.effects["cause"], *shop.effects["effect"]]
    assert len(set(members)) == 2 * 40
    assert DISTRACTOR not in members


def test_the_distractor_is_the_most_frequent_item(shop):
    counts = shop.interactions["item_id"].value_counts()
    assert counts.idxmax() == shop.distractor == DISTRACTOR
    assert counts.iloc[0] > 2 * counts.iloc[1]


def test_the_ground_truth_contains_only_pairs_and_events_of_the_log(shop):
    pairs = dict(zip(shop.effects["effect"], shop.effects["cause"], strict=True))
    assert (shop.truth["item_id"].map(pairs) == shop.truth["cause"]).all()
    keys = ["user_id", "datetime", "item_id"]
    assert len(shop.truth[keys].merge(shop.interactions, on=keys)) >= len(shop.truth) > 3000


def test_a_cause_comes_before_its_effect_within_the_next_few_events(small):
    # one of the next three events; later when several effects are pending
    log = small.interactions.assign(position=small.interactions.groupby("user_id").cumcount())
    events_by_user = dict(iter(log.groupby("user_id")))
    distances = []
    for row in small.truth.itertuples():
        events = events_by_user[row.user_id]
        is_effect = (events["item_id"] == row.item_id) & (events["datetime"] == row.datetime)
        effect = events.loc[is_effect, "position"].iloc[0]
        causes = events.loc[(events["item_id"] == row.cause) & (events["position"] < effect), "position"]
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
        for position, item in enumerate(items[:-6]):
            if item in effect_of:
                followed.append(effect_of[item] in items[position + 1 : position + 7])
    assert np.mean(followed) == pytest.approx(0.75, abs=0.05)


def test_effects_are_rarely_bought_without_their_cause(shop):
    n_effects = shop.interactions["item_id"].isin(shop.effects["effect"]).sum()
    assert len(shop.truth) / n_effects > 0.8


def test_too_few_items_for_the_pairs_raise():
    with pytest.raises(ValueError, match=r"n_items must be at least 2 \* n_pairs \+ 1, got n_items=20 and n_pairs=10"):
        sample_log(n_items=20, n_pairs=10)


# --- a model trained on the shop log


@pytest.fixture(scope="module")
def first_reasons(shop, shop_recommender) -> pd.DataFrame:
    """One row per user whose last event is an effect that the model, trained without this event, ranks in the top 10.

    Columns: cause (ground truth), reason (first reason of the model), last (last item of the history), n_distinct
    (number of distinct items of the history).
    """
    histories = shop_recommender.histories
    test = split_last(histories).test
    decode = histories.item_ids.decode
    targets = pd.DataFrame(
        {
            "user_id": histories.user_ids.decode(test.users),
            "datetime": pd.to_datetime(test.target_times, unit="s", utc=True),
            "item_id": decode(test.targets),
            "row": np.arange(len(test.users)),
        }
    )
    effects = targets.merge(shop.truth, on=["user_id", "datetime", "item_id"])
    result = recommend(
        shop_recommender.model, test.histories, test.users, config=ScoreConfig(k=10, filter_viewed=False, n_reasons=1)
    )
    rows = []
    for row in effects.itertuples():
        ranks = np.flatnonzero(result.items[row.row] == histories.item_ids.row(row.item_id))
        if len(ranks):
            history = test.histories.items_of(test.users[row.row])
            reason = result.reason_items[row.row, ranks[0], 0]
            rows.append((row.cause, decode(reason) if reason else "", decode(history[-1]), len(set(history.tolist()))))
    return pd.DataFrame(rows, columns=["cause", "reason", "last", "n_distinct"])


def test_the_model_ranks_the_effects_in_the_top_10(shop, shop_recommender, first_reasons):
    # the last event of 175 users is an effect; the popularity model ranks none of these in the top 10
    assert len(first_reasons) > 100


def test_the_first_reason_is_the_cause(first_reasons):
    accuracy = (first_reasons["reason"] == first_reasons["cause"]).mean()
    uniform = (1 / first_reasons["n_distinct"]).mean()
    recency = (first_reasons["last"] == first_reasons["cause"]).mean()
    assert uniform < 0.1
    assert accuracy > 0.9
    assert accuracy > 2 * recency, "naming the last event must not be enough"


def test_the_distractor_is_rarely_the_first_reason(first_reasons):
    assert (first_reasons["reason"] == DISTRACTOR).mean() < 0.05


def test_the_effect_is_in_the_top_10_for_a_history_of_only_the_cause(shop, shop_recommender):
    n_hits = 0
    for cause, effect in shop.effects.itertuples(index=False):
        frame = shop_recommender.recommend(history=[cause], k=10)
        hit = frame[frame["item_id"] == effect]
        if len(hit):
            n_hits += 1
            assert [reason["item_id"] for reason in hit["reasons"].iloc[0]] == [cause]
    assert n_hits > 30  # of 40


def test_scores_of_the_shop_are_the_sums_of_their_contributions(shop_recommender):
    frame = shop_recommender.recommend(["user-0000", "user-0500"], k=5)
    for row in frame.itertuples():
        explanation = shop_recommender.explain(row.user_id, row.item_id)
        assert row.score == pytest.approx(explanation.score, abs=1e-3)
        assert explanation.frame["weight"].sum() == pytest.approx(1, abs=1e-4)
