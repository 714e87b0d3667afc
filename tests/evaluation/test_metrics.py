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
    metric_name,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)


def test_ndcg_with_the_hit_at_rank_three():
    assert ndcg([3], 1, k=5) == pytest.approx(1 / log2(3 + 1))


def test_ndcg_of_several_relevant_items_is_relative_to_the_best_order():
    gained = 1 / log2(1 + 1) + 1 / log2(4 + 1)
    best = 1 / log2(1 + 1) + 1 / log2(2 + 1) + 1 / log2(3 + 1)
    assert ndcg([4, 1, inf], 3, k=5) == pytest.approx(gained / best)


def test_ndcg_is_one_when_the_relevant_items_fill_all_places():
    assert ndcg([1, 2, 3], 9, k=3) == pytest.approx(1)


def test_recall_is_the_share_of_the_relevant_that_is_found():
    assert recall([2, 5, 11, inf], 4, k=10) == 2 / 4


def test_precision_is_the_share_of_places_that_are_relevant():
    assert precision([2, 5, 11, inf], 4, k=10) == 2 / 10


def test_f1_is_the_harmonic_mean_of_both():
    # precision 2/10, recall 2/4
    assert f1([2, 5, 11, inf], 4, k=10) == pytest.approx(2 * (0.2 * 0.5) / (0.2 + 0.5))


def test_f1_of_no_hit_is_zero():
    assert f1([inf, 11], 2, k=10) == 0


def test_average_precision_is_the_mean_precision_at_the_relevant_ranks():
    # found at 2 (1 of 2) and at 5 (2 of 5); a third relevant item is missing
    assert average_precision([5, 2, inf], 3, k=5) == pytest.approx((1 / 2 + 2 / 5) / 3)


def test_average_precision_can_be_one_with_more_relevant_items_than_places():
    assert average_precision([1, 2], 7, k=2) == pytest.approx(1)


def test_reciprocal_rank_counts_the_first_hit_alone():
    assert reciprocal_rank([7, 4, inf], 3, k=10) == 1 / 4
    assert reciprocal_rank([7, 4, inf], 3, k=3) == 0


def test_hit_rate_asks_for_any_hit():
    assert hit_rate([7, 4, inf], 3, k=4) == 1
    assert hit_rate([7, 4, inf], 3, k=3) == 0


@pytest.mark.parametrize("name", RANK_METRICS)
def test_every_metric_gives_one_value_per_user_between_zero_and_one(name):
    ranks = np.array([[1, 2, inf], [3, inf, inf], [inf, inf, inf], [9, 1, 2]])
    values = RANK_METRICS[name](ranks, np.array([2, 1, 1, 3]), 3)
    assert values.shape == (4,)
    assert ((values >= 0) & (values <= 1)).all()
    assert values[2] == 0


@pytest.mark.parametrize("name", RANK_METRICS)
def test_every_metric_counts_a_hit_at_the_last_place_and_none_behind_it(name):
    assert RANK_METRICS[name]([5], 1, 5) > 0
    assert RANK_METRICS[name]([6], 1, 5) == 0


@pytest.mark.parametrize("name", RANK_METRICS)
def test_the_order_of_the_ranks_says_nothing(name):
    metric = RANK_METRICS[name]
    assert metric([4, 1, inf, 2], 5, 4) == metric([inf, 1, 2, 4], 5, 4)


@pytest.mark.parametrize("name", set(RANK_METRICS) - {"precision", "f1"})
def test_a_perfect_list_is_one(name):
    assert RANK_METRICS[name]([1, 2], 2, 5) == pytest.approx(1)


def test_metric_names_are_legal_in_mlflow():
    assert metric_name("ndcg", 10) == "ndcg_at_10"


def test_coverage_counts_distinct_items_and_no_empty_places():
    assert coverage(np.array([[1, 2], [2, 0], [0, 0]]), n_items=8) == 2 / 8


def test_gini_is_zero_when_all_items_are_shown_equally_often():
    assert gini(np.array([[1, 2], [3, 4]]), n_items=4) == 0


def test_gini_of_one_item_taking_all():
    assert gini(np.array([[3], [3], [3]]), n_items=4) == pytest.approx(1 - 1 / 4)


def test_gini_by_mean_difference():
    # exposures 0, 1, 3: mean absolute difference over all 9 ordered pairs, over twice the mean
    differences = 2 * (1 + 3 + 2) / 9
    assert gini(np.array([[2, 3], [3, 3]]), n_items=3) == pytest.approx(differences / (2 * 4 / 3))


def test_gini_of_empty_lists_is_zero():
    assert gini(np.array([[0, 0]]), n_items=4) == 0


def test_mean_popularity_leaves_out_empty_places():
    counts = np.array([100, 7, 1, 4])
    assert mean_popularity(np.array([[1, 3], [1, 0]]), counts) == (7 + 4 + 7) / 3
    assert mean_popularity(np.array([[0]]), counts) == 0


def test_the_bootstrap_interval_is_the_normal_one_where_that_holds():
    values = np.repeat([0.0, 1.0], 500)  # mean .5, standard error .5 / sqrt(1000)
    low, high = bootstrap_interval(values, n_resamples=4000)
    error = 0.5 / 1000**0.5
    assert low == pytest.approx(0.5 - 1.96 * error, abs=error / 5)
    assert high == pytest.approx(0.5 + 1.96 * error, abs=error / 5)


def test_a_lower_level_gives_a_narrower_interval():
    values = np.arange(50.0)
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, level=0.5)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_the_bootstrap_follows_its_seed():
    values = np.arange(20.0)
    assert (
        bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    )


def test_the_interval_of_equal_values_is_a_point():
    assert bootstrap_interval(np.full(9, 0.25)) == (0.25, 0.25)


def test_intervals_of_several_metrics_are_those_of_each_alone():
    values = np.stack([np.arange(20.0), np.arange(20.0) ** 2], axis=1)
    both = bootstrap_intervals(values, seed=3)
    assert both.shape == (2, 2)
    assert tuple(both[0]) == pytest.approx(bootstrap_interval(values[:, 0], seed=3))
    assert tuple(both[1]) == pytest.approx(bootstrap_interval(values[:, 1], seed=3))
