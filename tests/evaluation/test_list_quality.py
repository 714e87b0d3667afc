"""Beyond-accuracy metrics of an evaluation: added columns, exposure, popularity groups, and rejected inputs."""

from dataclasses import replace
from math import log, log2

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import Holdout, Vocabulary, features_from_frame, split_last
from attnrec.evaluation.comparison import compare
from attnrec.evaluation.evaluator import Evaluation, evaluate, mean_intervals
from attnrec.evaluation.list_quality import MAX_CATEGORIES, measure_beyond_accuracy
from attnrec.evaluation.segments import segments_of
from attnrec.models import PopularityConfig, build_model

N_EVENTS = 4 + 2 + 1
ADDED = ("novelty", "popularity_lift", "diversity", "miscalibration")


@pytest.fixture
def holdout(make_histories) -> Holdout:
    """Histories: ann ab, bob ab, cid ac, dan a, so the counts are a 4, b 2, c 1, d 0. Targets: ann d, bob c, cid a."""
    histories = make_histories({"ann": "abd", "bob": "abc", "cid": "aca", "dan": "a"})
    return Holdout(
        histories=histories.up_to(np.array([2, 2, 2, 1])),
        users=np.array([0, 1, 2]),
        targets=np.array([4, 3, 1]),
        target_times=np.array([2, 2, 2]),
        offsets=np.array([0, 1, 2, 3]),
    )


@pytest.fixture
def by_popularity(holdout) -> Evaluation:
    """Every list is a, b, c."""
    return evaluate_popularity(holdout, filter_viewed=False)


def evaluate_popularity(holdout: Holdout, item_ids: Vocabulary | None = None, **settings) -> Evaluation:
    histories = holdout.histories if item_ids is None else holdout.histories.recode(item_ids)
    model = build_model(PopularityConfig(), histories.n_items)
    model.observe(histories)
    return evaluate(model, holdout, ks=(2, 3), item_ids=item_ids, **settings)


def item_features(holdout: Holdout, **columns):
    """Features of the items a, b, c and d."""
    return features_from_frame(pd.DataFrame({"item_id": [*"abcd"]} | columns), holdout.histories.item_ids)


def added_columns(result, before: Evaluation) -> list[str]:
    return [name for name in result.evaluation.per_user if name not in before.per_user]


# --- metrics of every log ---------------------------------------------------------------------------------


def test_novelty_and_popularity_by_hand(holdout, by_popularity):
    result = measure_beyond_accuracy(by_popularity, holdout, k=2)
    assert result.evaluation.per_user["novelty_at_2"].tolist() == pytest.approx(
        [(log2(N_EVENTS / 4) + log2(N_EVENTS / 2)) / 2] * 3
    )
    # the list a, b has 3 events per item; the histories of ann and bob 3, that of cid, a and c, (4 + 1) / 2
    lifts = [0, 0, 3 / 2.5 - 1]
    assert result.evaluation.per_user["popularity_lift_at_2"].tolist() == pytest.approx(lifts)
    assert result.evaluation.summary["popularity_lift_at_2"] == pytest.approx(sum(lifts) / 3)
    low, high = result.evaluation.intervals["popularity_lift_at_2"]
    assert 0 <= low < sum(lifts) / 3 < high <= 3 / 2.5 - 1


def test_only_the_first_k_items_count(holdout, by_popularity):
    result = measure_beyond_accuracy(by_popularity, holdout, k=1).evaluation
    assert result.per_user["novelty_at_1"].tolist() == pytest.approx([log2(N_EVENTS / 4)] * 3)
    assert "novelty_at_3" not in result.per_user


def test_existing_metrics_are_kept(holdout, by_popularity):
    result = measure_beyond_accuracy(by_popularity, holdout, k=2).evaluation
    assert result.per_user[by_popularity.per_user.columns].equals(by_popularity.per_user)
    assert result.summary.items() >= by_popularity.summary.items()
    assert result.intervals.items() >= by_popularity.intervals.items()
    assert not [name for name in by_popularity.per_user if name.startswith(ADDED)], "not changed in place"
    assert result.to_json()["metrics"]["novelty_at_2"] == result.summary["novelty_at_2"]


def test_exposure_by_hand(holdout, by_popularity):
    exposure = measure_beyond_accuracy(by_popularity, holdout, k=1).exposure
    # ordered by popularity c has the first of 7 events, b the next two and a the last four, 3 / 7 to 1
    assert exposure["decile"].tolist() == [*range(1, 11)]
    shares = [max(0, (decile + 1) / 10 - max(decile / 10, 3 / 7)) / (4 / 7) for decile in range(10)]
    assert exposure["share"].tolist() == pytest.approx(shares)
    assert exposure[["low", "high"]].to_numpy() == pytest.approx(np.stack([shares, shares], axis=1))
    assert exposure["n_items"].sum() == pytest.approx(4)  # d, without events, is in the first decile
    assert exposure["n_items"][0] == pytest.approx(1 + 0.1 * 7)


def test_exposure_is_the_mean_over_users(make_histories):
    histories = make_histories({"ann": "ab", "bob": "b", "cid": "aab"})
    holdout = Holdout(histories, np.array([0, 1]), np.array([2, 1]), np.array([9, 9]), np.array([0, 1, 2]))
    lists = np.array([[1, 0], [2, 1]])
    table = measure_beyond_accuracy(evaluation_of(holdout, lists), holdout, k=2).exposure
    # a and b have three events each, so that every item is a tenth in every decile
    assert table["share"].tolist() == pytest.approx([0.1] * 10)


def evaluation_of(holdout: Holdout, lists, user_indices=None) -> Evaluation:
    """An evaluation with the given lists and without metrics."""
    user_indices = np.arange(len(holdout.users)) if user_indices is None else np.array(user_indices)
    users = pd.DataFrame({"user_id": holdout.histories.user_ids.decode(holdout.users[user_indices])})
    return Evaluation(per_user=users, summary={}, intervals={}, user_indices=user_indices, lists=np.array(lists))


def test_popularity_groups_equal_the_segments_if_some_users_were_not_evaluated(make_histories):
    # a is the head of five items; the shares are ann 1, bob 1/2, cid 0 and dan 1/4
    log = {"ann": "aaaa", "bob": "abac", "cid": "bcde", "dan": "abcd"}
    histories = make_histories(log)
    users, empty = np.array([3, 2, 1, 0]), np.zeros(0, dtype=np.int64)
    holdout = Holdout(histories, users, empty, empty, np.zeros(5, dtype=np.int64))
    groups = dict(segments_of(holdout)[["user_id", "popularity_group"]].to_numpy())
    assert groups == {"dan": "mixed", "cid": "niche", "bob": "mixed", "ann": "blockbuster"}
    result = measure_beyond_accuracy(
        evaluation_of(holdout, [[1], [1], [2]], user_indices=[0, 1, 2]), holdout, k=1
    ).popularity_groups
    assert result[["group", "n_users"]].to_numpy().tolist() == [["niche", 1], ["mixed", 2]]
    # the lists of dan and bob are a and b; the counts are a 7, b 3, c 3, d 2, e 1
    profiles = [(7 + 3 + 3 + 2) / 4, (7 + 3 + 7 + 3) / 4]
    assert result["in_profiles"][1] == pytest.approx(sum(profiles) / 2)
    assert result["lift"][1] == pytest.approx((7 + 3) / sum(profiles) - 1)


def test_added_metrics_can_be_compared_between_models(holdout, by_popularity):
    one = measure_beyond_accuracy(by_popularity, holdout, k=2).evaluation
    other = measure_beyond_accuracy(evaluation_of(holdout, [[1, 0], [2, 0], [3, 0]]), holdout, k=2).evaluation
    result = compare(one.per_user, other.per_user, metric="novelty_at_2")
    both = (log2(N_EVENTS / 4) + log2(N_EVENTS / 2)) / 2
    assert result.mean == pytest.approx(both - (log2(N_EVENTS / 4) + log2(N_EVENTS / 2) + log2(N_EVENTS / 1)) / 3)
    assert (result.n_better, result.n_worse) == (1, 2)  # better than a, worse than b and c


def test_results_do_not_depend_on_timestamps(holdout, by_popularity):
    histories = holdout.histories
    untimed = replace(histories, times=np.zeros_like(histories.times), time_kind="none")
    result = measure_beyond_accuracy(by_popularity, replace(holdout, histories=untimed), k=2)
    timed = measure_beyond_accuracy(by_popularity, holdout, k=2)
    assert result.exposure.equals(timed.exposure)
    assert result.popularity_groups.equals(timed.popularity_groups)
    assert result.evaluation.summary == timed.evaluation.summary


# --- item features --------------------------------------------------------------------------------------


def test_categories_give_diversity_and_miscalibration(holdout, by_popularity):
    items = item_features(holdout, kind=[["x"], ["y"], ["x"], ["x"]])
    result = measure_beyond_accuracy(by_popularity, holdout, k=3, features=items)
    assert added_columns(result, by_popularity) == [
        "novelty_at_3", "popularity_lift_at_3", "diversity_kind_at_3", "miscalibration_kind_at_3",
    ]  # fmt: skip
    per_user = result.evaluation.per_user
    assert per_user["diversity_kind_at_3"].tolist() == pytest.approx([2 / 3] * 3)  # of 3 pairs 1 is equal
    # the histories of ann and bob are half x and half y, that of cid is x; two thirds of the list are x
    halves = sum(0.5 * log(0.5 / (0.99 * share + 0.01 * 0.5)) for share in (2 / 3, 1 / 3))
    alone = log(1 / (0.99 * 2 / 3 + 0.01))
    assert per_user["miscalibration_kind_at_3"].tolist() == pytest.approx([halves, halves, alone])
    assert result.evaluation.summary["miscalibration_kind_at_3"] == pytest.approx((2 * halves + alone) / 3)


def test_vectors_give_diversity(holdout, by_popularity):
    items = item_features(holdout, place=[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    vectors = np.array([[0, 0], [1, 0], [1, 0], [-1, 0], [1, 0]])
    result = measure_beyond_accuracy(by_popularity, holdout, k=3, features=items, vectors=vectors)
    assert result.evaluation.summary["diversity_place_at_3"] == pytest.approx(1 - (0 + 1 + 0) / 3)
    assert result.evaluation.summary["diversity_at_3"] == pytest.approx(1 - (1 - 1 - 1) / 3)


def test_numbers_and_texts_add_no_metrics(holdout, by_popularity):
    items = item_features(holdout, price=[1, 2, 3, 4], title=["an a", "a b", "a c", "a d"])
    result = measure_beyond_accuracy(by_popularity, holdout, k=2, features=items)
    assert added_columns(result, by_popularity) == ["novelty_at_2", "popularity_lift_at_2"]


def test_users_without_a_value_are_left_out_of_the_mean(holdout, by_popularity):
    # only b has a category; the history of cid, a and c, has none
    items = item_features(holdout, kind=[None, ["y"], None, None])
    result = measure_beyond_accuracy(by_popularity, holdout, k=2, features=items).evaluation
    assert result.per_user["miscalibration_kind_at_2"].tolist() == pytest.approx([0, 0, np.nan], nan_ok=True)
    assert result.summary["miscalibration_kind_at_2"] == 0
    assert result.intervals["miscalibration_kind_at_2"] == (0, 0)
    assert "diversity_kind_at_2" not in result.per_user, "one item has no pair"


def test_a_column_with_too_many_categories_is_ignored(holdout, by_popularity):
    names = [[f"n{number:04}" for number in range(start, start + MAX_CATEGORIES // 2)] for start in (0, 500)]
    for kinds, n_added in (([*names, None, None], 4), ([*names, ["one more"], None], 2)):
        features = item_features(holdout, kind=kinds)
        result = measure_beyond_accuracy(by_popularity, holdout, k=2, features=features)
        assert len(added_columns(result, by_popularity)) == n_added


# --- edge cases ----------------------------------------------------------------------------------------------


def test_empty_lists_add_no_metrics(holdout):
    result = evaluate_popularity(
        holdout, item_ids=Vocabulary(["a", "b"], first=1)
    )  # both are in the histories of ann and bob
    assert not result.lists.any()
    empty = measure_beyond_accuracy(result, holdout, k=2, features=item_features(holdout, kind=[["x"]] * 4))
    assert added_columns(empty, result) == []
    assert len(empty.exposure) == len(empty.popularity_groups) == 0
    assert empty.exposure.columns.tolist() == ["decile", "n_items", "share", "low", "high"]


def test_one_user_with_one_item(make_histories):
    histories = make_histories({"ann": "aaa"})
    result = measure_beyond_accuracy(
        evaluate_popularity(split_last(histories).test, filter_viewed=False), split_last(histories).test, k=2
    )
    assert result.evaluation.summary["novelty_at_2"] == 0  # log2(1): all events are of this item
    assert result.evaluation.summary["popularity_lift_at_2"] == 0
    assert result.exposure["share"].tolist() == pytest.approx([0.1] * 10)
    assert result.popularity_groups["group"].tolist() == ["mixed"]


def test_the_same_seed_gives_the_same_intervals(make_histories):
    random = np.random.default_rng(0)
    histories = make_histories({f"u{n:02}": "".join(random.choice([*"aaaabbcdefgh"], 8)) for n in range(40)})
    empty = np.zeros(0, dtype=np.int64)
    holdout = Holdout(histories, np.arange(40), empty, empty, np.zeros(41, dtype=np.int64))
    before = evaluation_of(holdout, random.integers(1, histories.n_items + 1, size=(40, 3)))
    one, two, other = (measure_beyond_accuracy(before, holdout, k=3, seed=seed) for seed in (0, 0, 1))
    assert one.exposure.equals(two.exposure)
    assert one.popularity_groups.equals(two.popularity_groups)
    assert one.evaluation.intervals == two.evaluation.intervals
    assert not one.exposure["low"].equals(other.exposure["low"])
    assert not one.popularity_groups["low"].equals(other.popularity_groups["low"])
    assert one.evaluation.intervals != other.evaluation.intervals


def test_intervals_are_over_the_users_with_a_value():
    values = np.random.default_rng(0).random((40, 2))
    frame = pd.DataFrame({"all": values[:, 0], "some": values[:, 1], "all_masked": values[:, 0]})
    frame.loc[25:, ["some", "all_masked"]] = np.nan
    result = mean_intervals(frame)
    assert list(result) == ["all", "some", "all_masked"]
    assert result["some"] == pytest.approx(mean_intervals(frame[["some"]].iloc[:25])["some"])
    assert result["all_masked"] == pytest.approx(mean_intervals(frame[["all"]].iloc[:25])["all"])
    assert result["all"] == pytest.approx(mean_intervals(frame[["all"]])["all"])
    assert result["all"] != pytest.approx(result["all_masked"])


def test_invalid_inputs_are_rejected(holdout, by_popularity, make_histories):
    with pytest.raises(ValueError, match="k must be between 1 and the evaluated list length 3, got 10"):
        measure_beyond_accuracy(by_popularity, holdout)
    with pytest.raises(ValueError, match="k must be between 1 and the evaluated list length 3, got 0"):
        measure_beyond_accuracy(by_popularity, holdout, k=0)
    with pytest.raises(ValueError, match="vectors must have a row per item row of the holdout, got 4 for 5"):
        measure_beyond_accuracy(by_popularity, holdout, k=2, vectors=np.ones((4, 2)))
    other = make_histories({"ann": "ab"}).item_ids
    features = features_from_frame(pd.DataFrame({"item_id": ["a"], "kind": [["x"]]}), other)
    with pytest.raises(ValueError, match="features must have a row per item row of the holdout, got 3 for 5"):
        measure_beyond_accuracy(by_popularity, holdout, k=2, features=features)
