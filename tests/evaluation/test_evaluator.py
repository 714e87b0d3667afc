"""Evaluation by hand on a small log: filtering, targets, catalogues, and results."""

import json
from math import log2

import numpy as np
import pytest
import torch

from attnrec.dataset import Holdout, Vocabulary, split_last
from attnrec.evaluation.evaluator import evaluate
from attnrec.models import PopularityConfig, SequenceConfig, build_model


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


def popularity(holdout: Holdout, item_ids: Vocabulary | None = None):
    histories = holdout.histories if item_ids is None else holdout.histories.recode(item_ids)
    model = build_model(PopularityConfig(), histories.n_items)
    model.observe(histories)
    return model


def test_popularity_by_hand_with_viewed_items_filtered(holdout):
    found = evaluate(popularity(holdout), holdout, ks=(2,))
    # ann's list is c and her target d; bob's list is c, his target; cid's target is in his history, so he is left out
    assert found.per_user["user_id"].tolist() == ["ann", "bob"]
    assert found.user_indices.tolist() == [0, 1]
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
        "coverage_at_2": 1 / 4,  # only c is recommended
        "gini_at_2": 1 - 1 / 4,  # one of four items has all recommendations
        "mean_popularity_at_2": 1,  # c has one event
    }


def test_popularity_by_hand_with_viewed_items_allowed(holdout):
    found = evaluate(popularity(holdout), holdout, ks=(2, 3), filter_viewed=False)
    # every list is a b c: d is missing, c is third, a first
    assert found.per_user["user_id"].tolist() == ["ann", "bob", "cid"]
    assert found.lists.tolist() == [[1, 2, 3]] * 3
    assert found.per_user["mrr_at_3"].tolist() == [0, pytest.approx(1 / 3), 1]
    assert found.per_user["ndcg_at_3"].tolist() == [0, pytest.approx(1 / log2(3 + 1)), 1]
    assert found.summary["ndcg_at_3"] == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert found.summary["hit_rate_at_2"] == pytest.approx(1 / 3)
    assert found.summary["coverage_at_3"] == 3 / 4
    assert found.summary["mean_popularity_at_2"] == (4 + 2) / 2


def test_repeated_targets_of_a_user_count_once(make_histories):
    histories = make_histories({"ann": "abcde", "bob": "baca", "cid": "abbcdee"})
    # counts of the histories: a 3, b 3, c 2, d 1, e 0; ann, who viewed a, has the targets c, e, c and b
    holdout = Holdout(
        histories=histories.up_to(np.array([1, 4, 5])),
        users=np.array([0]),
        targets=np.array([3, 5, 3, 2]),
        target_times=np.array([9, 9, 9, 9]),
        offsets=np.array([0, 4]),
    )
    found = evaluate(popularity(holdout), holdout, ks=(2,))
    assert found.per_user["n_relevant"].tolist() == [3]
    assert found.summary["recall_at_2"] == pytest.approx(2 / 3)  # of the targets b, c and e the list has b and c
    assert found.summary["precision_at_2"] == 1
    assert found.summary["ndcg_at_2"] == pytest.approx(1)


def test_targets_without_a_training_event_count_as_misses(holdout):
    found = evaluate(popularity(holdout), holdout.select(np.array([0])), ks=(4,), filter_viewed=False)
    assert found.per_user["n_relevant"].tolist() == [1]
    assert found.summary["recall_at_4"] == 0


@pytest.mark.parametrize("filter_viewed", [True, False])
def test_a_model_with_its_own_catalogue_gets_the_same_metrics(checkerboard, filter_viewed):
    holdout = split_last(checkerboard.histories).test
    own_ids = Vocabulary([99, *np.random.default_rng(0).permutation(12)], first=1)  # the holdout has no item 99
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
    assert found.lists.tolist() == expected.lists.tolist(), "lists have item rows of the holdout"
    assert 0 < found.summary["recall_at_3"] < 1


def test_targets_outside_the_models_catalogue_are_misses(holdout):
    item_ids = Vocabulary(["a", "b"], first=1)
    found = evaluate(popularity(holdout, item_ids), holdout, ks=(3,), item_ids=item_ids)
    assert found.per_user["user_id"].tolist() == ["ann", "bob"]
    assert found.per_user["recall_at_3"].tolist() == [0, 0]


def test_k_may_exceed_the_number_of_items(holdout):
    found = evaluate(popularity(holdout), holdout, ks=(50,), filter_viewed=False)
    assert found.summary["recall_at_50"] == pytest.approx(2 / 3)
    assert found.summary["precision_at_50"] == pytest.approx(2 / 3 / 50)


def test_a_holdout_without_remaining_targets_is_rejected(holdout):
    with pytest.raises(ValueError, match="needs a user with a target that is not in the user's history"):
        evaluate(popularity(holdout), holdout.select(np.array([2])))


def test_users_with_histories_of_different_lengths_get_their_own_lists(make_histories):
    # the counts are a 5, b 3, c 2, d 1: ann's list is d, bob's starts with a, cid's with b, dan's with b, c
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


def test_results_follow_the_order_of_the_users(holdout):
    swapped = holdout.select(np.array([2, 0, 1]))
    found = evaluate(popularity(holdout), swapped, ks=(3,), filter_viewed=False)
    assert found.per_user["user_id"].tolist() == ["cid", "ann", "bob"]
    assert found.user_indices.tolist() == [0, 1, 2]
    assert found.per_user["mrr_at_3"].tolist() == [1, 0, pytest.approx(1 / 3)]


def test_intervals_contain_the_mean_and_are_optional(checkerboard):
    holdout = split_last(checkerboard.histories).test
    model = build_model(PopularityConfig(), 12)
    model.observe(holdout.histories)
    found = evaluate(model, holdout, ks=(3,))
    assert found.intervals.keys() == {name for name in found.summary if not name.startswith(("cov", "gini", "mean"))}
    for name, (low, high) in found.intervals.items():
        assert low <= found.summary[name] <= high
    assert evaluate(model, holdout, ks=(3,), intervals=False).intervals == {}


def test_an_evaluation_can_be_written_as_json(holdout):
    found = evaluate(popularity(holdout), holdout, ks=(2,))
    content = json.loads(json.dumps(found.to_json()))
    assert content["n_users"] == 2
    assert content["metrics"] == found.summary
