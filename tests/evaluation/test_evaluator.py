import json
from math import log2

import numpy as np
import pytest
import torch

from attnrec.dataset import Holdout, Vocabulary, split_last
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import PopularityConfig, SequenceConfig, build_model


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


def popularity(holdout: Holdout, item_ids: Vocabulary | None = None):
    histories = holdout.histories if item_ids is None else holdout.histories.recode(item_ids)
    model = build_model(PopularityConfig(), histories.n_items)
    model.observe(histories)
    return model


def test_popularity_by_hand_when_seen_items_are_filtered(questions):
    found = evaluate(popularity(questions), questions, ks=(2,))
    # ann is shown c and asked for d; bob is shown c, which is right; cid's answer is seen already, so not asked for
    assert found.per_user["user_id"].tolist() == ["ann", "bob"]
    assert found.asked.tolist() == [0, 1]
    assert found.lists.tolist() == [[3, 0], [3, 0]]
    assert found.per_user["hit_rate_at_2"].tolist() == [0, 1]
    assert found.summary == {
        "recall_at_2": 1 / 2,
        "precision_at_2": (0 + 1 / 2) / 2,
        "f1_at_2": pytest.approx((0 + 2 * (1 / 2 * 1) / (1 / 2 + 1)) / 2),
        "map_at_2": 1 / 2,
        "ndcg_at_2": 1 / 2,
        "mrr_at_2": 1 / 2,
        "hit_rate_at_2": 1 / 2,
        "coverage_at_2": 1 / 4,  # c alone is ever shown
        "gini_at_2": 1 - 1 / 4,  # one of four items takes all
        "mean_popularity_at_2": 1,  # c has one event
    }


def test_popularity_by_hand_when_seen_items_may_come_again(questions):
    found = evaluate(popularity(questions), questions, ks=(2, 3), filter_viewed=False)
    # everyone is shown a b c: d is nowhere, c third, a first
    assert found.per_user["user_id"].tolist() == ["ann", "bob", "cid"]
    assert found.lists.tolist() == [[1, 2, 3]] * 3
    assert found.per_user["mrr_at_3"].tolist() == [0, pytest.approx(1 / 3), 1]
    assert found.per_user["ndcg_at_3"].tolist() == [0, pytest.approx(1 / log2(3 + 1)), 1]
    assert found.summary["ndcg_at_3"] == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert found.summary["hit_rate_at_2"] == pytest.approx(1 / 3)
    assert found.summary["coverage_at_3"] == 3 / 4
    assert found.summary["mean_popularity_at_2"] == (4 + 2) / 2


def test_several_answers_of_a_user_count_once_each(make_histories):
    histories = make_histories({"ann": "abcde", "bob": "baca", "cid": "abbcdee"})
    # counts of what is seen: a 3, b 3, c 2, d 1, e 0; ann, who saw a, is asked for c, e, c and b
    holdout = Holdout(
        histories=histories.up_to(np.array([1, 4, 5])),
        users=np.array([0]),
        targets=np.array([3, 5, 3, 2]),
        target_times=np.array([9, 9, 9, 9]),
        offsets=np.array([0, 4]),
    )
    found = evaluate(popularity(holdout), holdout, ks=(2,))
    assert found.per_user["n_relevant"].tolist() == [3]
    assert found.summary["recall_at_2"] == pytest.approx(2 / 3)  # b and c of b, c and e
    assert found.summary["precision_at_2"] == 1
    assert found.summary["ndcg_at_2"] == pytest.approx(1)


def test_answers_without_a_training_event_are_misses_and_still_counted(questions):
    found = evaluate(popularity(questions), questions.select(np.array([0])), ks=(4,), filter_viewed=False)
    assert found.per_user["n_relevant"].tolist() == [1]
    assert found.summary["recall_at_4"] == 0


@pytest.mark.parametrize("filter_viewed", [True, False])
def test_a_model_with_its_own_catalogue_gets_the_same_metrics(checkerboard, filter_viewed):
    holdout = split_last(checkerboard.histories).test
    own_ids = Vocabulary([99, *np.random.default_rng(0).permutation(12)], first=1)  # the holdout knows no item 99
    rows = holdout.histories.item_ids.rows_for(own_ids)
    config = SequenceConfig(dim=16, heads=2, pooling_heads=2, layers=1, max_length=8)
    torch.manual_seed(0)
    model, own = build_model(config, 12), build_model(config, 13)
    with torch.no_grad():
        own.load_state_dict({name: x for name, x in model.state_dict().items() if len(x) != 13} | {
            name: x[rows] for name, x in model.state_dict().items() if len(x) == 13
        })  # fmt: skip
    model.observe(holdout.histories)
    own.observe(holdout.histories.recode(own_ids))
    expected = evaluate(model, holdout, ks=(1, 3), filter_viewed=filter_viewed)
    found = evaluate(own, holdout, ks=(1, 3), filter_viewed=filter_viewed, item_ids=own_ids)
    assert found.summary == expected.summary
    assert found.per_user.equals(expected.per_user)
    assert found.lists.tolist() == expected.lists.tolist(), "in the rows of the holdout"
    assert 0 < found.summary["recall_at_3"] < 1


def test_answers_that_the_model_does_not_know_are_misses(questions):
    item_ids = Vocabulary(["a", "b"], first=1)
    found = evaluate(popularity(questions, item_ids), questions, ks=(3,), item_ids=item_ids)
    assert found.per_user["user_id"].tolist() == ["ann", "bob"]
    assert found.per_user["recall_at_3"].tolist() == [0, 0]


def test_more_places_than_items_do_no_harm(questions):
    found = evaluate(popularity(questions), questions, ks=(50,), filter_viewed=False)
    assert found.summary["recall_at_50"] == pytest.approx(2 / 3)
    assert found.summary["precision_at_50"] == pytest.approx(2 / 3 / 50)


def test_when_nobody_is_left_to_ask_it_is_said(questions):
    with pytest.raises(ValueError, match="needs a user with an unseen answer"):
        evaluate(popularity(questions), questions.select(np.array([2])))


def test_users_with_longer_and_shorter_histories_keep_their_own_lists(make_histories):
    # the counts are a 5, b 3, c 2, d 1: ann has only d left, bob a first, cid b first, dan b and then c
    histories = make_histories({"ann": "abcd", "bob": "ba", "cid": "dab", "dan": "ac", "eve": "abca"})
    holdout = Holdout(
        histories=histories.up_to(np.array([3, 1, 2, 1, 4])),
        users=np.array([0, 1, 2, 3]),
        targets=np.array([4, 1, 2, 3]),
        target_times=np.array([9, 9, 9, 9]),
        offsets=np.array([0, 1, 2, 3, 4]),
    )
    found = evaluate(popularity(holdout), holdout, ks=(3,))
    assert found.per_user["mrr_at_3"].tolist() == [1, 1, 1, 1 / 2]


def test_users_are_told_apart_in_any_order(questions):
    swapped = questions.select(np.array([2, 0, 1]))
    found = evaluate(popularity(questions), swapped, ks=(3,), filter_viewed=False)
    assert found.per_user["user_id"].tolist() == ["cid", "ann", "bob"]
    assert found.asked.tolist() == [0, 1, 2]
    assert found.per_user["mrr_at_3"].tolist() == [1, 0, pytest.approx(1 / 3)]


def test_intervals_hold_the_mean_and_can_be_left_out(checkerboard):
    holdout = split_last(checkerboard.histories).test
    model = build_model(PopularityConfig(), 12)
    model.observe(holdout.histories)
    found = evaluate(model, holdout, ks=(3,))
    assert found.intervals.keys() == {name for name in found.summary if not name.startswith(("cov", "gini", "mean"))}
    for name, (low, high) in found.intervals.items():
        assert low <= found.summary[name] <= high
    assert evaluate(model, holdout, ks=(3,), intervals=False).intervals == {}


def test_an_evaluation_can_be_written_down(questions):
    found = evaluate(popularity(questions), questions, ks=(2,))
    content = json.loads(json.dumps(found.to_json()))
    assert content["n_users"] == 2
    assert content["metrics"] == found.summary
