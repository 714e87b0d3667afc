"""Popularity bias, novelty, calibration and diversity of lists, by hand."""

import tracemalloc
from itertools import chain
from math import log, log2, sqrt

import numpy as np
import pytest

from attnrec.evaluation.beyond_accuracy import calibration, category_diversity, intra_list_diversity
from attnrec.evaluation.popularity_bias import (
    Profiles,
    exposure_by_decile,
    head_share,
    items_by_decile,
    novelty,
    popularity_lift,
    profiles_of,
    user_groups,
    user_popularity_lift,
)

NO_EVENTS = np.zeros(3, dtype=np.int64)


def profiles(*rows: list[int]) -> Profiles:
    """One history of item rows per user."""
    return Profiles(np.array([*chain(*rows)], dtype=np.int64), np.cumsum([0, *map(len, rows)]))


def category(*sets: str):
    """An item column from the category letters of item 1, item 2, ...; codes a = 0, b = 1, c = 2."""
    pairs = [(row, "abc".index(letter)) for row, letters in enumerate(sets, start=1) for letter in letters]
    rows, codes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return rows, codes, ("a", "b", "c")


def approx(*values):
    return pytest.approx(values, nan_ok=True)


# --- profiles -------------------------------------------------------------------------------------------


def test_profiles_have_the_histories_in_the_order_of_the_users(make_histories):
    histories = make_histories({"ann": "abd", "bob": "c", "cid": "aca"}).up_to(np.array([2, 0, 3]))
    result = profiles_of(histories, np.array([2, 1, 0]))
    assert result.items.tolist() == [1, 3, 1, 1, 2]
    assert result.offsets.tolist() == [0, 3, 3, 5]


# --- exposure by decile ---------------------------------------------------------------------------------


def test_each_decile_has_a_tenth_of_the_events():
    # items 1, 2, 3 and 4 have 1, 2, 3 and 4 of 10 events: deciles 1, 2 to 3, 4 to 6 and 7 to 10
    counts = np.array([0, 1, 2, 3, 4])
    result = exposure_by_decile(np.array([[1, 2], [4, 0]]), counts)
    assert result[0] == pytest.approx([1 / 2, 1 / 4, 1 / 4, 0, 0, 0, 0, 0, 0, 0])
    assert result[1] == pytest.approx([0, 0, 0, 0, 0, 0, 1 / 4, 1 / 4, 1 / 4, 1 / 4])


def test_exposure_proportional_to_use_is_a_tenth_in_every_decile():
    counts = np.array([0, 7, 1, 3, 2])
    lists = np.repeat(np.arange(5), counts)[:, None]
    assert exposure_by_decile(lists, counts).mean(axis=0) == pytest.approx(np.full(10, 1 / 10))


def test_an_item_at_a_boundary_is_split_between_both_deciles():
    # item 1 has a quarter of the events: two and a half deciles
    result = exposure_by_decile(np.array([[1]]), np.array([0, 1, 3]))
    assert result[0] == pytest.approx([0.1 / 0.25, 0.1 / 0.25, 0.05 / 0.25, 0, 0, 0, 0, 0, 0, 0])


def test_equally_popular_items_are_all_in_the_same_deciles():
    result = exposure_by_decile(np.array([[1], [2], [3]]), np.array([0, 5, 5, 5]))
    assert result == pytest.approx(np.full((3, 10), 1 / 10))


def test_an_item_without_an_event_is_in_the_first_decile():
    assert exposure_by_decile(np.array([[2]]), np.array([0, 4, 0]))[0].tolist() == [1, *[0] * 9]


def test_an_empty_list_has_no_exposure():
    assert np.isnan(exposure_by_decile(np.array([[0, 0]]), np.array([0, 4]))).all()


def test_items_by_decile_counts_fractions_of_items():
    # item 1 has one decile, item 2 two, item 3 three, item 4 four; items 5 and 6 have no events
    result = items_by_decile(np.array([0, 1, 2, 3, 4, 0, 0]))
    assert result == pytest.approx([1 + 2, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1 / 4, 1 / 4])


# --- groups of users ------------------------------------------------------------------------------------

TEN_ITEMS = np.array([0, 90, 80, 1, 1, 1, 1, 1, 1, 1, 1])  # items 1 and 2, a fifth of the items, are the head


def test_the_head_is_a_fifth_of_the_items():
    result = head_share(profiles([1, 2], [1, 3, 4, 3], [5], []), TEN_ITEMS)
    assert result.tolist() == approx(1, 1 / 4, 0, np.nan)


def test_items_without_events_do_not_count_for_the_size_of_the_head():
    # five of the ten items have events; the head is one item
    counts = np.array([0, 9, 5, 1, 1, 1, 0, 0, 0, 0, 0])
    assert head_share(profiles([1], [2], [6]), counts).tolist() == [1, 0, 0]


def test_equally_popular_items_belong_to_the_head_with_equal_fractions():
    # the head has 2 of 10 items: item 1, and one half of each of the items 2 and 3
    counts = np.array([0, 9, 5, 5, 1, 1, 1, 1, 1, 1, 1])
    assert head_share(profiles([1], [2], [3], [4]), counts) == pytest.approx([1, 1 / 2, 1 / 2, 0])


def test_groups_are_the_lowest_and_the_highest_fifth():
    # head shares 0, 1/4, 1/2, 3/4 and 1
    result = user_groups(profiles([3, 4], [1, 3, 4, 5], [1, 3], [1, 2, 1, 3], [1, 2]), TEN_ITEMS)
    assert result.tolist() == ["niche", "mixed", "mixed", "mixed", "blockbuster"]


def test_users_with_equal_shares_are_in_one_group():
    result = user_groups(profiles([3], [1, 3], [1], [2], [1, 2]), TEN_ITEMS)
    assert result.tolist() == ["niche", "mixed", "blockbuster", "blockbuster", "blockbuster"]


def test_users_who_are_all_equal_are_mixed():
    assert user_groups(profiles([1], [2], [1]), TEN_ITEMS).tolist() == ["mixed"] * 3


def test_when_most_users_are_equal_only_the_others_are_in_another_group():
    result = user_groups(profiles(*[[1]] * 9, [3]), TEN_ITEMS)
    assert result.tolist() == ["mixed"] * 9 + ["niche"]


def test_a_single_user_is_mixed_and_a_user_without_history_has_a_separate_group():
    assert user_groups(profiles([1]), TEN_ITEMS).tolist() == ["mixed"]
    assert user_groups(profiles([], [1]), TEN_ITEMS).tolist() == ["no history", "mixed"]
    assert user_groups(profiles([], []), TEN_ITEMS).tolist() == ["no history"] * 2


def test_popularity_lift_by_hand():
    counts = np.array([0, 8, 4, 2])
    lists = np.array([[1, 2], [1, 0], [2, 1], [0, 0]])
    groups = np.array(["niche", "niche", "blockbuster", "niche"], dtype=object)
    result = popularity_lift(lists, profiles([3, 3], [2], [1], [3]), counts, groups)
    assert result["group"].tolist() == ["niche", "blockbuster"]
    assert result["n_users"].tolist() == [2, 1]  # the last user has no list
    assert result["in_profiles"].tolist() == [(2 + 4) / 2, 8]
    assert result["in_lists"].tolist() == [((8 + 4) / 2 + 8) / 2, (4 + 8) / 2]
    assert result["lift"].tolist() == [7 / 3 - 1, 6 / 8 - 1]
    # resamples of the niche users: the first twice (6 / 2), both, or the second twice (8 / 4)
    assert result.loc[0, ["low", "high"]].tolist() == [8 / 4 - 1, 6 / 2 - 1]
    assert result.loc[1, ["low", "high"]].tolist() == [6 / 8 - 1] * 2


def test_users_without_history_have_no_popularity_lift():
    result = popularity_lift(np.array([[1]]), profiles([]), np.array([0, 3]), np.array(["no history"], dtype=object))
    assert result.empty


def test_other_groups_are_sorted_by_name_after_the_known_ones():
    groups = np.array(["west", "niche", "east"], dtype=object)
    result = popularity_lift(np.array([[1], [1], [1]]), profiles([1], [1], [1]), np.array([0, 3]), groups)
    assert result["group"].tolist() == ["niche", "east", "west"]
    assert result["lift"].tolist() == [0, 0, 0]


def test_the_lift_of_a_user_equals_that_of_a_group_of_one():
    counts = np.array([0, 8, 4, 2])
    lists, before = np.array([[1, 2], [1, 0], [2, 1]]), profiles([3, 3], [2, 2, 1], [1])
    result = user_popularity_lift(lists, before, counts)
    assert result == pytest.approx([6 / 2 - 1, 8 / ((4 + 4 + 8) / 3) - 1, 6 / 8 - 1])
    groups = np.array(["ann", "bob", "cid"], dtype=object)
    assert popularity_lift(lists, before, counts, groups)["lift"].tolist() == pytest.approx(result)


def test_a_user_without_a_list_or_without_counted_items_has_no_lift():
    lists, before = np.array([[0], [1], [1]]), profiles([1], [], [2])
    assert np.isnan(user_popularity_lift(lists, before, np.array([0, 3, 0]))).all()


# --- calibration ----------------------------------------------------------------------------------------


def test_calibration_by_hand():
    # history: items a, a and ab; list: items b and bc
    column = category("a", "ab", "b", "bc")
    p, q = [(1 + 1 + 1 / 2) / 3, (1 / 2) / 3], [0, (1 + 1 / 2) / 2]
    expected = sum(p * log(p / (0.99 * q + 0.01 * p)) for p, q in zip(p, q, strict=True))
    assert calibration(np.array([[3, 4]]), profiles([1, 1, 2]), column) == pytest.approx([expected])


def test_a_list_with_the_distribution_of_the_history_is_calibrated():
    # the order and the number of the items do not matter
    assert calibration(np.array([[2, 1, 0]]), profiles([1, 2, 1, 2]), category("a", "bc")) == pytest.approx([0])


def test_a_list_without_any_category_of_the_history_has_the_maximum_miscalibration():
    column = category("a", "b")
    assert calibration(np.array([[2]]), profiles([1]), column) == pytest.approx([log(1 / 0.01)])
    assert calibration(np.array([[2]]), profiles([1]), column, alpha=0.1) == pytest.approx([log(1 / 0.1)])


def test_items_without_a_category_do_not_change_calibration():
    column = category("a", "b", "")
    with_them = calibration(np.array([[1, 3, 2]]), profiles([1, 3, 3]), column)
    assert with_them == pytest.approx(calibration(np.array([[1, 2, 0]]), profiles([1]), column))
    assert with_them == pytest.approx([log(1 / (0.99 / 2 + 0.01))])


def test_calibration_is_nan_without_history_list_or_categories():
    column = category("a", "")
    lists = np.array([[1], [0], [2], [1], [1], [9]])
    result = calibration(lists, profiles([], [1], [1], [2], [1], [1]), column)
    assert result.tolist() == approx(np.nan, np.nan, np.nan, np.nan, 0, np.nan)


def test_metrics_of_a_column_without_categories_are_nan():
    empty = (NO_EVENTS[:0], NO_EVENTS[:0], ())
    assert np.isnan(calibration(np.array([[1]]), profiles([1]), empty)).all()
    assert np.isnan(category_diversity(np.array([[1, 2]]), empty)).all()


def test_a_duplicate_category_of_an_item_counts_once():
    once, twice = category("ab", "a"), category("aba", "a")
    lists, before = np.array([[1, 0], [1, 2]]), profiles([2], [1])
    assert calibration(lists, before, once).tolist() == calibration(lists, before, twice).tolist()


# --- novelty --------------------------------------------------------------------------------------------


def test_novelty_is_the_mean_self_information_in_bits():
    counts = np.array([0, 4, 2, 1, 1])
    result = novelty(np.array([[1, 2], [4, 0], [0, 0]]), counts)
    assert result.tolist() == approx((log2(8 / 4) + log2(8 / 2)) / 2, log2(8 / 1), np.nan)


def test_an_item_without_events_is_as_novel_as_one_with_a_single_event():
    assert novelty(np.array([[2], [3]]), np.array([0, 7, 1, 0])).tolist() == [log2(8), log2(8)]


# --- diversity ------------------------------------------------------------------------------------------

VECTORS = np.array([[7, 7], [3, 0], [0, 2], [1, 1], [-1, 0], [0, 0]])


def test_intra_list_diversity_by_hand():
    # cosines of items 1, 2 and 3: 0, 1/sqrt 2 and 1/sqrt 2
    result = intra_list_diversity(np.array([[1, 2, 3], [1, 4, 0], [3, 3, 3]]), VECTORS)
    assert result == pytest.approx([1 - (0 + 1 / sqrt(2) + 1 / sqrt(2)) / 3, 1 - -1, 0])


def test_items_without_a_vector_are_ignored():
    result = intra_list_diversity(np.array([[1, 5, 3], [1, 5, 0], [0, 0, 0]]), VECTORS)
    assert result.tolist() == approx(1 - 1 / sqrt(2), np.nan, np.nan)


def test_only_vectors_of_recommended_items_are_read():
    # a broadcast view of a million rows; copied they would take 256 MB
    vectors = np.broadcast_to(np.ones((1, 64), dtype=np.float32), (1_000_000, 64))
    tracemalloc.start()
    result = intra_list_diversity(np.array([[1, 999_999], [7, 0]]), vectors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.tolist() == approx(0, np.nan)
    assert peak < 1e6


def test_category_diversity_by_hand():
    # Jaccard indices of ab, b and c: 1/2, 0 and 0
    column = category("ab", "b", "c", "")
    result = category_diversity(np.array([[1, 2, 3], [2, 3, 0], [1, 1, 0]]), column)
    assert result == pytest.approx([1 - (1 / 2 + 0 + 0) / 3, 1, 0])


def test_items_without_a_category_are_ignored():
    column = category("ab", "b", "c", "")
    result = category_diversity(np.array([[1, 4, 2], [1, 4, 0], [0, 0, 0]]), column)
    assert result.tolist() == approx(1 - 1 / 2, np.nan, np.nan)


def test_category_diversity_with_more_categories_than_bits_in_a_word():
    # items 1 and 2 have 100 and 150 of 200 categories and share 50
    rows = np.repeat([1, 2], [100, 150])
    codes = np.concatenate([np.arange(100), np.arange(50, 200)])
    result = category_diversity(np.array([[1, 2]]), (rows, codes, tuple(map(str, range(200)))))
    assert result == pytest.approx([1 - 50 / 200])


def test_the_diversity_of_a_list_of_one_item_is_nan():
    assert np.isnan(intra_list_diversity(np.array([[1]]), VECTORS)).all()
    assert np.isnan(category_diversity(np.array([[1]]), category("a"))).all()


# --- all metrics ----------------------------------------------------------------------------------------


def every_metric(lists, before):
    counts, column = np.array([0, 5, 3, 1, 1, 0]), category("a", "ab", "c", "", "bc")
    return {
        "exposure": exposure_by_decile(lists, counts),
        "novelty": novelty(lists, counts),
        "calibration": calibration(lists, before, column),
        "vectors": intra_list_diversity(lists, VECTORS),
        "categories": category_diversity(lists, column),
    }


def test_metrics_of_no_users_are_empty():
    for values in every_metric(np.zeros((0, 3), dtype=np.int64), profiles()).values():
        assert len(values) == 0


def test_results_do_not_depend_on_the_chunk_size(monkeypatch):
    random = np.random.default_rng(0)
    lists = random.integers(0, 6, size=(50, 4))
    before = profiles(*[random.integers(1, 6, size=length).tolist() for length in random.integers(0, 5, size=50)])
    expected = every_metric(lists, before)
    monkeypatch.setattr(
        "attnrec.evaluation.beyond_accuracy._chunks",
        lambda n, width: [slice(start, start + 7) for start in range(0, n, 7)],
    )
    for name, values in every_metric(lists, before).items():
        assert values == pytest.approx(expected[name], nan_ok=True), name


def test_the_values_of_a_user_do_not_depend_on_other_users():
    lists, before = np.array([[1, 2, 3], [5, 4, 0], [2, 5, 1]]), profiles([1, 2], [3], [2, 2, 5])
    together = every_metric(lists, before)
    alone = every_metric(lists[2:], profiles([2, 2, 5]))
    for name, values in alone.items():
        assert values[0] == pytest.approx(together[name][2]), name


def test_invalid_inputs_are_rejected():
    with pytest.raises(ValueError, match="needs a training event, got none"):
        novelty(np.array([[1]]), NO_EVENTS)
    with pytest.raises(ValueError, match="each list needs a profile, got 1 lists and 2 profiles"):
        calibration(np.array([[1]]), profiles([1], [1]), category("a"))
    with pytest.raises(ValueError, match="each list needs a profile, got 1 lists and 2 profiles"):
        user_popularity_lift(np.array([[1]]), profiles([1], [1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 0"):
        calibration(np.array([[1]]), profiles([1]), category("a"), alpha=0)
