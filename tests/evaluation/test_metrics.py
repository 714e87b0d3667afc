"""Ranking and catalogue metrics by hand, and bootstrap intervals."""

from math import inf, log2

import numpy as np
import pytest

from attnrec.evaluation.metrics import (
    RANK_METRICS,
    average_precision,
    bootstrap_interval,
    bootstrap_intervals,
    coverage,
    f1,
    gini,
    hit_rate,
    mean_popularity,
    metric_label,
    metric_name,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)


def test_ndcg_with_the_hit_at_rank_three():
    assert ndcg([3], 1, k=5) == pytest.approx(1 / log2(3 + 1))


def test_ndcg_of_several_relevant_items_is_relative_to_the_ideal_list():
    gain = 1 / log2(1 + 1) + 1 / log2(4 + 1)
    ideal = 1 / log2(1 + 1) + 1 / log2(2 + 1) + 1 / log2(3 + 1)
    assert ndcg([4, 1, inf], 3, k=5) == pytest.approx(gain / ideal)


def test_ndcg_is_one_when_all_ranks_have_relevant_items():
    assert ndcg([1, 2, 3], 9, k=3) == pytest.approx(1)


def test_recall_is_the_fraction_of_the_relevant_items_in_the_list():
    assert recall([2, 5, 11, inf], 4, k=10) == 2 / 4


def test_precision_is_the_fraction_of_ranks_with_relevant_items():
    assert precision([2, 5, 11, inf], 4, k=10) == 2 / 10


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    # precision 2/10, recall 2/4
    assert f1([2, 5, 11, inf], 4, k=10) == pytest.approx(2 * (0.2 * 0.5) / (0.2 + 0.5))


def test_f1_without_a_hit_is_zero():
    assert f1([inf, 11], 2, k=10) == 0


def test_average_precision_is_the_mean_precision_at_the_relevant_ranks():
    # hits at rank 2 (precision 1 / 2) and 5 (2 / 5); the third relevant item is not in the list
    assert average_precision([5, 2, inf], 3, k=5) == pytest.approx((1 / 2 + 2 / 5) / 3)


def test_average_precision_can_be_one_with_more_relevant_items_than_ranks():
    assert average_precision([1, 2], 7, k=2) == pytest.approx(1)


def test_reciprocal_rank_counts_only_the_first_hit():
    assert reciprocal_rank([7, 4, inf], 3, k=10) == 1 / 4
    assert reciprocal_rank([7, 4, inf], 3, k=3) == 0


def test_hit_rate_is_one_with_any_hit():
    assert hit_rate([7, 4, inf], 3, k=4) == 1
    assert hit_rate([7, 4, inf], 3, k=3) == 0


@pytest.mark.parametrize("name", RANK_METRICS)
def test_every_metric_returns_one_value_per_user_between_zero_and_one(name):
    ranks = np.array([[1, 2, inf], [3, inf, inf], [inf, inf, inf], [9, 1, 2]])
    values = RANK_METRICS[name](ranks, np.array([2, 1, 1, 3]), 3)
    assert values.shape == (4,)
    assert ((values >= 0) & (values <= 1)).all()
    assert values[2] == 0


@pytest.mark.parametrize("name", RANK_METRICS)
def test_every_metric_counts_a_hit_at_rank_k_and_none_after_it(name):
    assert RANK_METRICS[name]([5], 1, 5) > 0
    assert RANK_METRICS[name]([6], 1, 5) == 0


@pytest.mark.parametrize("name", RANK_METRICS)
def test_the_order_of_the_ranks_does_not_matter(name):
    metric = RANK_METRICS[name]
    assert metric([4, 1, inf, 2], 5, 4) == metric([inf, 1, 2, 4], 5, 4)


@pytest.mark.parametrize("name", sorted(set(RANK_METRICS) - {"precision", "f1"}))
def test_the_metrics_of_a_perfect_list_are_one(name):
    assert RANK_METRICS[name]([1, 2], 2, 5) == pytest.approx(1)


def test_metric_names_are_valid_in_mlflow_and_labels_are_readable():
    assert metric_name("ndcg", 10) == "ndcg_at_10"
    assert metric_label("hit_rate_at_5") == "hit_rate@5"


def test_coverage_counts_distinct_items_and_ignores_empty_ranks():
    assert coverage(np.array([[1, 2], [2, 0], [0, 0]]), n_items=8) == 2 / 8


def test_gini_is_zero_when_all_items_are_recommended_equally_often():
    assert gini(np.array([[1, 2], [3, 4]]), n_items=4) == 0


def test_gini_when_only_one_item_is_recommended():
    assert gini(np.array([[3], [3], [3]]), n_items=4) == pytest.approx(1 - 1 / 4)


def test_gini_is_half_the_relative_mean_difference():
    # exposures 0, 1, 3: mean absolute difference of all 9 ordered pairs, divided by twice the mean
    differences = 2 * (1 + 3 + 2) / 9
    assert gini(np.array([[2, 3], [3, 3]]), n_items=3) == pytest.approx(differences / (2 * 4 / 3))


def test_gini_of_empty_lists_is_zero():
    assert gini(np.array([[0, 0]]), n_items=4) == 0


def test_mean_popularity_ignores_empty_ranks():
    counts = np.array([100, 7, 1, 4])
    assert mean_popularity(np.array([[1, 3], [1, 0]]), counts) == (7 + 4 + 7) / 3
    assert mean_popularity(np.array([[0]]), counts) == 0


def test_the_bootstrap_interval_approximates_the_normal_interval():
    values = np.repeat([0.0, 1.0], 500)  # mean .5, standard error .5 / sqrt(1000)
    low, high = bootstrap_interval(values, n_resamples=4000)
    error = 0.5 / 1000**0.5
    assert low == pytest.approx(0.5 - 1.96 * error, abs=error / 5)
    assert high == pytest.approx(0.5 + 1.96 * error, abs=error / 5)


def test_a_lower_level_gives_a_narrower_interval():
    values = np.arange(50.0)
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, level=0.5)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_the_bootstrap_depends_only_on_its_seed():
    values = np.arange(20.0)
    assert (
        bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    )


def test_the_interval_of_equal_values_is_a_point():
    assert bootstrap_interval(np.full(9, 0.25)) == (0.25, 0.25)


def test_intervals_of_several_metrics_equal_those_of_each_metric():
    values = np.stack([np.arange(20.0), np.arange(20.0) ** 2], axis=1)
    both = bootstrap_intervals(values, seed=3)
    assert both.shape == (2, 2)
    assert tuple(both[0]) == pytest.approx(bootstrap_interval(values[:, 0], seed=3))
    assert tuple(both[1]) == pytest.approx(bootstrap_interval(values[:, 1], seed=3))
