import json

import pytest
from pydantic import ValidationError

from attnrec.evaluation.promotion import Candidate, PromoteConfig, decide

RULE = PromoteConfig(metric="ndcg_at_10", tolerance=0.02)


def candidate(name: str, value: float) -> Candidate:
    return Candidate(name, {"ndcg_at_10": value, "recall_at_10": 1 - value})


def test_the_first_model_is_promoted():
    decision = decide(candidate("new", 0.3), None, baselines=[], rule=RULE)
    assert decision.promoted
    assert decision.reason == "the first champion; ndcg_at_10 0.3000"
    assert decision.numbers == {"new": 0.3}


def test_a_better_model_is_promoted():
    decision = decide(candidate("new", 0.31), candidate("old", 0.30), baselines=[], rule=RULE)
    assert decision.promoted
    assert decision.reason == "ndcg_at_10 0.3100 against the champion's 0.3000"


@pytest.mark.parametrize(("value", "promoted"), [(0.30 * 0.9801, True), (0.30 * 0.9799, False)])
def test_a_model_may_be_worse_by_the_tolerance_and_no_more(value, promoted):
    assert decide(candidate("new", value), candidate("old", 0.30), baselines=[], rule=RULE).promoted == promoted


def test_a_model_exactly_at_the_tolerance_is_promoted():
    rule = PromoteConfig(tolerance=0.5)
    assert decide(candidate("new", 0.25), candidate("old", 0.5), baselines=[], rule=rule).promoted


def test_the_reason_says_how_much_worse_and_than_whom():
    decision = decide(candidate("new", 0.20), candidate("old", 0.30), baselines=[], rule=RULE)
    assert decision.reason == "ndcg_at_10 0.2000 is more than 2% below the champion's 0.3000"


def test_a_model_below_the_best_baseline_is_not_promoted_even_over_a_worse_champion():
    baselines = [candidate("popularity", 0.15), candidate("item_knn", 0.25)]
    decision = decide(candidate("new", 0.2), candidate("old", 0.1), baselines=baselines, rule=RULE)
    assert not decision.promoted
    assert decision.reason == "ndcg_at_10 0.2000 is below item_knn's 0.2500"
    assert decision.numbers == {"new": 0.2, "old": 0.1, "popularity": 0.15, "item_knn": 0.25}


def test_the_first_model_is_promoted_even_below_a_baseline_and_the_reason_says_so():
    decision = decide(candidate("new", 0.2), None, baselines=[candidate("item_knn", 0.25)], rule=RULE)
    assert decision.promoted
    assert decision.reason == "the first champion; ndcg_at_10 0.2000 is below item_knn's 0.2500"


def test_a_model_whose_reasons_are_not_true_is_not_promoted_however_good():
    untrue = Candidate("new", {"ndcg_at_10": 0.9}, unfaithful="recency tells more")
    decision = decide(untrue, candidate("old", 0.1), baselines=[candidate("item_knn", 0.05)], rule=RULE)
    assert (decision.promoted, decision.reason) == (False, "recency tells more")
    decision = decide(untrue, candidate("old", 0.1), baselines=[candidate("item_knn", 0.95)], rule=RULE)
    assert decision.reason == "ndcg_at_10 0.9000 is below item_knn's 0.9500 and recency tells more"


def test_reasons_that_are_not_true_are_said_of_the_first_champion_too():
    untrue = Candidate("new", {"ndcg_at_10": 0.9}, unfaithful="recency tells more")
    decision = decide(untrue, None, baselines=[], rule=RULE)
    assert (decision.promoted, decision.reason) == (True, "the first champion; recency tells more")


def test_whether_reasons_are_true_may_be_left_out_of_the_rule():
    untrue = Candidate("new", {"ndcg_at_10": 0.9}, unfaithful="recency tells more")
    rule = PromoteConfig(faithful=False)
    assert decide(untrue, candidate("old", 0.1), baselines=[], rule=rule).promoted


def test_a_model_as_good_as_the_best_baseline_is_promoted():
    baselines = [candidate("item_knn", 0.25)]
    assert decide(candidate("new", 0.25), candidate("old", 0.2), baselines=baselines, rule=RULE).promoted


def test_the_rules_metric_is_the_one_compared():
    rule = PromoteConfig(metric="recall_at_10")
    assert not decide(candidate("new", 0.9), candidate("old", 0.1), baselines=[], rule=rule).promoted


def test_a_model_whose_metric_is_not_a_number_does_not_take_the_champions_place():
    assert not decide(candidate("new", float("nan")), candidate("old", 0.1), baselines=[], rule=RULE).promoted


def test_a_decision_can_be_written_down():
    decision = decide(candidate("new", 0.3), candidate("old", 0.2), baselines=[], rule=RULE)
    assert json.loads(json.dumps(decision.to_json())) == {
        "promoted": True,
        "reason": decision.reason,
        "numbers": {"new": 0.3, "old": 0.2},
    }


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_a_tolerance_that_makes_no_sense_is_refused(tolerance):
    with pytest.raises(ValidationError):
        PromoteConfig(tolerance=tolerance)
