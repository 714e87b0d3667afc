"""The promotion rule: champion, baselines, tolerance and faithfulness, and the reasons of decisions."""

import json

import pytest
from pydantic import ValidationError

from attnrec.evaluation.promotion import Candidate, PromoteConfig, decide

RULE = PromoteConfig(metric="ndcg_at_10", tolerance=0.02)


def candidate(name: str, value: float) -> Candidate:
    return Candidate(name, {"ndcg_at_10": value, "recall_at_10": 1 - value})


def test_the_first_champion_is_promoted():
    decision = decide(candidate("new", 0.3), None, baselines=[], rule=RULE)
    assert decision.promoted
    assert decision.reason == "first champion: ndcg@10 is 0.3000"
    assert decision.values == {"new": 0.3}


def test_a_better_model_is_promoted():
    decision = decide(candidate("new", 0.31), candidate("old", 0.30), baselines=[], rule=RULE)
    assert decision.promoted
    assert decision.reason == "ndcg@10 is 0.3100, the champion has 0.3000"


@pytest.mark.parametrize(("value", "promoted"), [(0.30 * 0.9801, True), (0.30 * 0.9799, False)])
def test_a_model_may_be_worse_than_the_champion_by_the_tolerance(value, promoted):
    assert decide(candidate("new", value), candidate("old", 0.30), baselines=[], rule=RULE).promoted == promoted


def test_a_model_exactly_at_the_tolerance_is_promoted():
    rule = PromoteConfig(tolerance=0.5)
    assert decide(candidate("new", 0.25), candidate("old", 0.5), baselines=[], rule=rule).promoted


def test_the_reason_of_a_rejection_has_both_values():
    decision = decide(candidate("new", 0.20), candidate("old", 0.30), baselines=[], rule=RULE)
    assert decision.reason == "ndcg@10 is 0.2000, more than 2% below the champion (0.3000)"


def test_a_model_below_the_best_baseline_is_not_promoted_even_over_a_worse_champion():
    baselines = [candidate("popularity", 0.15), candidate("item_knn", 0.25)]
    decision = decide(candidate("new", 0.2), candidate("old", 0.1), baselines=baselines, rule=RULE)
    assert not decision.promoted
    assert decision.reason == "ndcg@10 is 0.2000, below the baseline item_knn (0.2500)"
    assert decision.values == {"new": 0.2, "old": 0.1, "popularity": 0.15, "item_knn": 0.25}


def test_the_first_champion_is_promoted_even_below_a_baseline_and_the_reason_reports_it():
    decision = decide(candidate("new", 0.2), None, baselines=[candidate("item_knn", 0.25)], rule=RULE)
    assert decision.promoted
    assert decision.reason == "first champion: ndcg@10 is 0.2000, below the baseline item_knn (0.2500)"


def test_an_unfaithful_model_is_not_promoted_whatever_its_metric():
    unfaithful_model = Candidate("new", {"ndcg_at_10": 0.9}, unfaithful="recency is more faithful")
    decision = decide(unfaithful_model, candidate("old", 0.1), baselines=[candidate("item_knn", 0.05)], rule=RULE)
    assert (decision.promoted, decision.reason) == (False, "recency is more faithful")
    decision = decide(unfaithful_model, candidate("old", 0.1), baselines=[candidate("item_knn", 0.95)], rule=RULE)
    assert decision.reason == "ndcg@10 is 0.9000, below the baseline item_knn (0.9500) and recency is more faithful"


def test_the_reason_reports_that_the_first_champion_is_unfaithful():
    unfaithful_model = Candidate("new", {"ndcg_at_10": 0.9}, unfaithful="recency is more faithful")
    decision = decide(unfaithful_model, None, baselines=[], rule=RULE)
    assert (decision.promoted, decision.reason) == (True, "first champion: recency is more faithful")


def test_the_rule_can_ignore_faithfulness():
    unfaithful_model = Candidate("new", {"ndcg_at_10": 0.9}, unfaithful="recency is more faithful")
    rule = PromoteConfig(faithful=False)
    assert decide(unfaithful_model, candidate("old", 0.1), baselines=[], rule=rule).promoted


def test_a_model_as_good_as_the_best_baseline_is_promoted():
    baselines = [candidate("item_knn", 0.25)]
    assert decide(candidate("new", 0.25), candidate("old", 0.2), baselines=baselines, rule=RULE).promoted


def test_the_metric_of_the_rule_is_compared():
    rule = PromoteConfig(metric="recall_at_10")
    assert not decide(candidate("new", 0.9), candidate("old", 0.1), baselines=[], rule=rule).promoted


def test_a_model_with_a_nan_metric_is_not_promoted():
    assert not decide(candidate("new", float("nan")), candidate("old", 0.1), baselines=[], rule=RULE).promoted


def test_a_decision_can_be_written_as_json():
    decision = decide(candidate("new", 0.3), candidate("old", 0.2), baselines=[], rule=RULE)
    assert json.loads(json.dumps(decision.to_json())) == {
        "promoted": True,
        "reason": decision.reason,
        "values": {"new": 0.3, "old": 0.2},
    }


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_an_invalid_tolerance_is_rejected(tolerance):
    with pytest.raises(ValidationError):
        PromoteConfig(tolerance=tolerance)
