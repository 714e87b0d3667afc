from dataclasses import replace
from math import log, log2

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import Holdout, Vocabulary, features_from_frame, split_last
from attnrec.evaluation.comparison import compare
from attnrec.evaluation.evaluator import Evaluation, evaluate, mean_intervals
from attnrec.evaluation.list_quality import MOST_CATEGORIES, measure_beyond_accuracy
from attnrec.evaluation.segments import segments_of
from attnrec.models import PopularityConfig, build_model

EVENTS = 4 + 2 + 1
NEW = ("novelty", "popularity_lift", "diversity", "miscalibration")


@pytest.fixture
def questions(make_histories) -> Holdout:
    """Seen: ann ab, bob ab, cid ac, dan a, so the counts are a 4, b 2, c 1, d 0. Asked: ann d, bob c, cid a."""
    histories = make_histories({"ann": "abd", "bob": "abc", "cid": "aca", "dan": "a"})
    return Holdout(
        histories=histories.up_to(np.array([2, 2, 2, 1])),
        users=np.array([0, 1, 2]),
        targets=np.array([4, 3, 1]),
        target_times=np.array([2, 2, 2]),
        offsets=np.array([0, 1, 2, 3]),
    )


@pytest.fixture
def by_popularity(questions) -> Evaluation:
    """Everyone is shown a, b and c, seen or not."""
    return judged(questions, filter_viewed=False)


def judged(holdout: Holdout, item_ids: Vocabulary | None = None, **settings) -> Evaluation:
    histories = holdout.histories if item_ids is None else holdout.histories.recode(item_ids)
    model = build_model(PopularityConfig(), histories.n_items)
    model.observe(histories)
    return evaluate(model, holdout, ks=(2, 3), item_ids=item_ids, **settings)


def described(holdout: Holdout, **columns):
    """Columns of the items a, b, c and d."""
    return features_from_frame(pd.DataFrame({"item_id": [*"abcd"]} | columns), holdout.histories.item_ids)


def added(found, before: Evaluation) -> list[str]:
    return [name for name in found.evaluation.per_user if name not in before.per_user]


# --- what every log has ---------------------------------------------------------------------------------


def test_novelty_and_popularity_by_hand(questions, by_popularity):
    found = measure_beyond_accuracy(by_popularity, questions, k=2)
    assert found.evaluation.per_user["novelty_at_2"].tolist() == pytest.approx(
        [(log2(EVENTS / 4) + log2(EVENTS / 2)) / 2] * 3
    )
    # a and b have 3 events each on average; so have ann's and bob's items, and cid's a and c (4 + 1) / 2
    lifts = [0, 0, 3 / 2.5 - 1]
    assert found.evaluation.per_user["popularity_lift_at_2"].tolist() == pytest.approx(lifts)
    assert found.evaluation.summary["popularity_lift_at_2"] == pytest.approx(sum(lifts) / 3)
    low, high = found.evaluation.intervals["popularity_lift_at_2"]
    assert 0 <= low < sum(lifts) / 3 < high <= 3 / 2.5 - 1


def test_only_the_first_places_count(questions, by_popularity):
    found = measure_beyond_accuracy(by_popularity, questions, k=1).evaluation
    assert found.per_user["novelty_at_1"].tolist() == pytest.approx([log2(EVENTS / 4)] * 3)
    assert "novelty_at_3" not in found.per_user


def test_what_the_evaluation_had_is_kept(questions, by_popularity):
    found = measure_beyond_accuracy(by_popularity, questions, k=2).evaluation
    assert found.per_user[by_popularity.per_user.columns].equals(by_popularity.per_user)
    assert found.summary.items() >= by_popularity.summary.items()
    assert found.intervals.items() >= by_popularity.intervals.items()
    assert not [name for name in by_popularity.per_user if name.startswith(NEW)], "nothing is changed in place"
    assert found.to_json()["metrics"]["novelty_at_2"] == found.summary["novelty_at_2"]


def test_exposure_by_hand(questions, by_popularity):
    exposure = measure_beyond_accuracy(by_popularity, questions, k=1).exposure
    # of 7 events c has the first, b the next two and a the last four: a's are 3 / 7 to 1, the last 4 / 7
    assert exposure["decile"].tolist() == [*range(1, 11)]
    inside = [max(0, (place + 1) / 10 - max(place / 10, 3 / 7)) / (4 / 7) for place in range(10)]
    assert exposure["share"].tolist() == pytest.approx(inside)
    assert exposure[["low", "high"]].to_numpy() == pytest.approx(np.stack([inside, inside], axis=1))
    assert exposure["n_items"].sum() == pytest.approx(4)  # d, which nobody used, is in the first
    assert exposure["n_items"][0] == pytest.approx(1 + 0.1 * 7)


def test_exposure_is_the_mean_over_users(make_histories):
    histories = make_histories({"ann": "ab", "bob": "b", "cid": "aab"})
    questions = Holdout(histories, np.array([0, 1]), np.array([2, 1]), np.array([9, 9]), np.array([0, 1, 2]))
    lists = np.array([[1, 0], [2, 1]])
    table = measure_beyond_accuracy(evaluated(questions, lists), questions, k=2).exposure
    # three events each: equally popular, so that every place is a tenth in every decile
    assert table["share"].tolist() == pytest.approx([0.1] * 10)


def evaluated(holdout: Holdout, lists, asked=None) -> Evaluation:
    """An evaluation that made these lists."""
    asked = np.arange(len(holdout.users)) if asked is None else np.array(asked)
    users = pd.DataFrame({"user_id": holdout.histories.user_ids.decode(holdout.users[asked])})
    return Evaluation(per_user=users, summary={}, intervals={}, asked=asked, lists=np.array(lists))


def test_groups_of_users_are_those_of_the_segments_whoever_was_left_without_an_answer(make_histories):
    # a is the head of five items; the shares are ann 1, bob 1/2, cid 0 and dan 1/4
    world = {"ann": "aaaa", "bob": "abac", "cid": "bcde", "dan": "abcd"}
    histories = make_histories(world)
    users, nothing = np.array([3, 2, 1, 0]), np.zeros(0, dtype=np.int64)
    questions = Holdout(histories, users, nothing, nothing, np.zeros(5, dtype=np.int64))
    groups = dict(segments_of(questions)[["user_id", "popularity_group"]].to_numpy())
    assert groups == {"dan": "mixed", "cid": "niche", "bob": "mixed", "ann": "blockbuster"}
    found = measure_beyond_accuracy(evaluated(questions, [[1], [1], [2]], asked=[0, 1, 2]), questions, k=1).popularity_groups
    assert found[["group", "n_users"]].to_numpy().tolist() == [["niche", 1], ["mixed", 2]]
    # dan is shown a (counts a 7, b 3, c 3, d 2, e 1), bob b
    profiles = [(7 + 3 + 3 + 2) / 4, (7 + 3 + 7 + 3) / 4]
    assert found["in_profiles"][1] == pytest.approx(sum(profiles) / 2)
    assert found["lift"][1] == pytest.approx((7 + 3) / sum(profiles) - 1)


def test_two_models_compare_user_by_user(questions, by_popularity):
    one = measure_beyond_accuracy(by_popularity, questions, k=2).evaluation
    other = measure_beyond_accuracy(evaluated(questions, [[1, 0], [2, 0], [3, 0]]), questions, k=2).evaluation
    found = compare(one.per_user, other.per_user, metric="novelty_at_2")
    both = (log2(EVENTS / 4) + log2(EVENTS / 2)) / 2
    assert found.mean == pytest.approx(both - (log2(EVENTS / 4) + log2(EVENTS / 2) + log2(EVENTS / 1)) / 3)
    assert (found.n_better, found.n_worse) == (1, 2)  # than a, and than b and c


def test_logs_without_times_are_no_different(questions, by_popularity):
    histories = questions.histories
    untimed = replace(histories, times=np.zeros_like(histories.times), time_kind="none")
    found = measure_beyond_accuracy(by_popularity, replace(questions, histories=untimed), k=2)
    timed = measure_beyond_accuracy(by_popularity, questions, k=2)
    assert found.exposure.equals(timed.exposure)
    assert found.popularity_groups.equals(timed.popularity_groups)
    assert found.evaluation.summary == timed.evaluation.summary


# --- columns of items -----------------------------------------------------------------------------------


def test_categories_give_diversity_and_miscalibration(questions, by_popularity):
    items = described(questions, kind=[["x"], ["y"], ["x"], ["x"]])
    found = measure_beyond_accuracy(by_popularity, questions, k=3, features=items)
    assert added(found, by_popularity) == [
        "novelty_at_3", "popularity_lift_at_3", "diversity_kind_at_3", "miscalibration_kind_at_3",
    ]  # fmt: skip
    per_user = found.evaluation.per_user
    assert per_user["diversity_kind_at_3"].tolist() == pytest.approx([2 / 3] * 3)  # of a, b and c one pair is alike
    # ann and bob had x and y alike, cid x alone; the list is x to two thirds
    halves = sum(0.5 * log(0.5 / (0.99 * share + 0.01 * 0.5)) for share in (2 / 3, 1 / 3))
    alone = log(1 / (0.99 * 2 / 3 + 0.01))
    assert per_user["miscalibration_kind_at_3"].tolist() == pytest.approx([halves, halves, alone])
    assert found.evaluation.summary["miscalibration_kind_at_3"] == pytest.approx((2 * halves + alone) / 3)


def test_vectors_give_diversity(questions, by_popularity):
    items = described(questions, place=[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    vectors = np.array([[0, 0], [1, 0], [1, 0], [-1, 0], [1, 0]])
    found = measure_beyond_accuracy(by_popularity, questions, k=3, features=items, vectors=vectors)
    assert found.evaluation.summary["diversity_place_at_3"] == pytest.approx(1 - (0 + 1 + 0) / 3)
    assert found.evaluation.summary["diversity_at_3"] == pytest.approx(1 - (1 - 1 - 1) / 3)


def test_numbers_and_texts_say_nothing_of_lists(questions, by_popularity):
    items = described(questions, price=[1, 2, 3, 4], title=["an a", "a b", "a c", "a d"])
    found = measure_beyond_accuracy(by_popularity, questions, k=2, features=items)
    assert added(found, by_popularity) == ["novelty_at_2", "popularity_lift_at_2"]


def test_users_without_a_value_are_left_out_of_the_mean(questions, by_popularity):
    # b alone has a category: of cid, who saw a and c, nothing is known
    items = described(questions, kind=[None, ["y"], None, None])
    found = measure_beyond_accuracy(by_popularity, questions, k=2, features=items).evaluation
    assert found.per_user["miscalibration_kind_at_2"].tolist() == pytest.approx([0, 0, np.nan], nan_ok=True)
    assert found.summary["miscalibration_kind_at_2"] == 0
    assert found.intervals["miscalibration_kind_at_2"] == (0, 0)
    assert "diversity_kind_at_2" not in found.per_user, "a single item makes no pair"


def test_a_column_of_too_many_categories_is_no_taste(questions, by_popularity):
    names = [[f"n{number:04}" for number in range(start, start + MOST_CATEGORIES // 2)] for start in (0, 500)]
    full = described(questions, kind=[*names, None, None])
    assert len(added(measure_beyond_accuracy(by_popularity, questions, k=2, features=full), by_popularity)) == 4
    more = described(questions, kind=[*names, ["one more"], None])
    assert len(added(measure_beyond_accuracy(by_popularity, questions, k=2, features=more), by_popularity)) == 2


# --- edges ----------------------------------------------------------------------------------------------


def test_when_nobody_is_recommended_anything_there_is_nothing_to_say(questions):
    found = judged(questions, item_ids=Vocabulary(["a", "b"], first=1))  # which ann and bob have seen
    assert not found.lists.any()
    empty = measure_beyond_accuracy(found, questions, k=2, features=described(questions, kind=[["x"]] * 4))
    assert added(empty, found) == []
    assert len(empty.exposure) == len(empty.popularity_groups) == 0
    assert empty.exposure.columns.tolist() == ["decile", "n_items", "share", "low", "high"]


def test_one_user_with_one_item(make_histories):
    histories = make_histories({"ann": "aaa"})
    found = measure_beyond_accuracy(judged(split_last(histories).test, filter_viewed=False), split_last(histories).test, k=2)
    assert found.evaluation.summary["novelty_at_2"] == 0  # log2(1): all events are of this item
    assert found.evaluation.summary["popularity_lift_at_2"] == 0
    assert found.exposure["share"].tolist() == pytest.approx([0.1] * 10)
    assert found.popularity_groups["group"].tolist() == ["mixed"]


def test_the_same_seed_gives_the_same_intervals(make_histories):
    random = np.random.default_rng(0)
    histories = make_histories({f"u{n:02}": "".join(random.choice([*"aaaabbcdefgh"], 8)) for n in range(40)})
    nothing = np.zeros(0, dtype=np.int64)
    questions = Holdout(histories, np.arange(40), nothing, nothing, np.zeros(41, dtype=np.int64))
    before = evaluated(questions, random.integers(1, histories.n_items + 1, size=(40, 3)))
    one, two, other = (measure_beyond_accuracy(before, questions, k=3, seed=seed) for seed in (0, 0, 1))
    assert one.exposure.equals(two.exposure)
    assert one.popularity_groups.equals(two.popularity_groups)
    assert one.evaluation.intervals == two.evaluation.intervals
    assert not one.exposure["low"].equals(other.exposure["low"])
    assert not one.popularity_groups["low"].equals(other.popularity_groups["low"])
    assert one.evaluation.intervals != other.evaluation.intervals


def test_intervals_are_over_the_users_who_have_a_value():
    values = np.random.default_rng(0).random((40, 2))
    frame = pd.DataFrame({"all": values[:, 0], "some": values[:, 1], "too": values[:, 0]})
    frame.loc[25:, ["some", "too"]] = np.nan
    found = mean_intervals(frame)
    assert list(found) == ["all", "some", "too"]
    assert found["some"] == pytest.approx(mean_intervals(frame[["some"]].iloc[:25])["some"])
    assert found["too"] == pytest.approx(mean_intervals(frame[["all"]].iloc[:25])["all"])
    assert found["all"] == pytest.approx(mean_intervals(frame[["all"]])["all"])
    assert found["all"] != pytest.approx(found["too"])


def test_what_does_not_fit_is_refused(questions, by_popularity, make_histories):
    with pytest.raises(ValueError, match="k must be 1 to 3, the places that were evaluated, got 10"):
        measure_beyond_accuracy(by_popularity, questions)
    with pytest.raises(ValueError, match="k must be 1 to 3, the places that were evaluated, got 0"):
        measure_beyond_accuracy(by_popularity, questions, k=0)
    with pytest.raises(ValueError, match="vectors must have a row per item row of the holdout, got 4 for 5"):
        measure_beyond_accuracy(by_popularity, questions, k=2, vectors=np.ones((4, 2)))
    other = make_histories({"ann": "ab"}).item_ids
    features = features_from_frame(pd.DataFrame({"item_id": ["a"], "kind": [["x"]]}), other)
    with pytest.raises(ValueError, match="features must have a row per item row of the holdout, got 3 for 5"):
        measure_beyond_accuracy(by_popularity, questions, k=2, features=features)
