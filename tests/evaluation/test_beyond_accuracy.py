import tracemalloc
from itertools import chain
from math import log, log2, sqrt

import numpy as np
import pytest

from attnrec.evaluation.beyond_accuracy import (
    Profiles,
    calibration,
    category_diversity,
    exposure_by_decile,
    head_share,
    intra_list_diversity,
    items_by_decile,
    novelty,
    popularity_lift,
    profiles_of,
    user_groups,
    user_popularity_lift,
)

NOWHERE = np.zeros(3, dtype=np.int64)


def profiles(*rows: list[int]) -> Profiles:
    """One history of item rows per user."""
    return Profiles(np.array([*chain(*rows)], dtype=np.int64), np.cumsum([0, *map(len, rows)]))


def category(*sets: str):
    """A column of items: letters of item 1, of item 2, ...; codes a = 0, b = 1, c = 2."""
    pairs = [(row, "abc".index(letter)) for row, letters in enumerate(sets, start=1) for letter in letters]
    rows, codes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return rows, codes, ("a", "b", "c")


def nan(*values):
    return pytest.approx(values, nan_ok=True)


# --- histories as profiles ------------------------------------------------------------------------------


def test_profiles_show_what_the_histories_show_in_the_order_asked(make_histories):
    histories = make_histories({"ann": "abd", "bob": "c", "cid": "aca"}).up_to(np.array([2, 0, 3]))
    found = profiles_of(histories, np.array([2, 1, 0]))
    assert found.items.tolist() == [1, 3, 1, 1, 2]
    assert found.offsets.tolist() == [0, 3, 3, 5]


# --- exposure by decile ---------------------------------------------------------------------------------


def test_deciles_hold_a_tenth_of_the_events_each():
    # of 10 events items 1, 2, 3 and 4 have 1, 2, 3 and 4: the deciles 1, 2 to 3, 4 to 6 and 7 to 10
    counts = np.array([0, 1, 2, 3, 4])
    found = exposure_by_decile(np.array([[1, 2], [4, 0]]), counts)
    assert found[0] == pytest.approx([1 / 2, 1 / 4, 1 / 4, 0, 0, 0, 0, 0, 0, 0])
    assert found[1] == pytest.approx([0, 0, 0, 0, 0, 0, 1 / 4, 1 / 4, 1 / 4, 1 / 4])


def test_items_shown_as_often_as_they_are_used_give_every_decile_its_tenth():
    counts = np.array([0, 7, 1, 3, 2])
    lists = np.repeat(np.arange(5), counts)[:, None]
    assert exposure_by_decile(lists, counts).mean(axis=0) == pytest.approx(np.full(10, 1 / 10))


def test_an_item_on_an_edge_belongs_to_both_deciles_in_parts():
    # events 0 to 1 of 4 are a quarter: two and a half deciles of a tenth
    found = exposure_by_decile(np.array([[1]]), np.array([0, 1, 3]))
    assert found[0] == pytest.approx([0.1 / 0.25, 0.1 / 0.25, 0.05 / 0.25, 0, 0, 0, 0, 0, 0, 0])


def test_equally_popular_items_are_all_in_the_same_deciles():
    found = exposure_by_decile(np.array([[1], [2], [3]]), np.array([0, 5, 5, 5]))
    assert found == pytest.approx(np.full((3, 10), 1 / 10))


def test_an_item_without_an_event_is_in_the_first_decile():
    assert exposure_by_decile(np.array([[2]]), np.array([0, 4, 0]))[0].tolist() == [1, *[0] * 9]


def test_an_empty_list_has_no_exposure():
    assert np.isnan(exposure_by_decile(np.array([[0, 0]]), np.array([0, 4]))).all()


def test_deciles_are_counted_in_items_and_parts_of_them():
    # as above: 1 to item 1, 2 to item 2, 3 to item 3, 4 to item 4; items 5 and 6 were never used
    found = items_by_decile(np.array([0, 1, 2, 3, 4, 0, 0]))
    assert found == pytest.approx([1 + 2, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1 / 4, 1 / 4])


# --- groups of users ------------------------------------------------------------------------------------

TEN = np.array([0, 90, 80, 1, 1, 1, 1, 1, 1, 1, 1])  # two of the ten items, the fifth, are the head


def test_the_head_is_a_fifth_of_the_items():
    found = head_share(profiles([1, 2], [1, 3, 4, 3], [5], []), TEN)
    assert found.tolist() == nan(1, 1 / 4, 0, np.nan)


def test_items_never_used_do_not_count_for_the_head():
    # of five items that were used one is the head, although there are ten
    counts = np.array([0, 9, 5, 1, 1, 1, 0, 0, 0, 0, 0])
    assert head_share(profiles([1], [2], [6]), counts).tolist() == [1, 0, 0]


def test_equally_popular_items_are_in_the_head_to_equal_parts():
    # the head has room for 2 of 10: one for item 1, one for the two that are next
    counts = np.array([0, 9, 5, 5, 1, 1, 1, 1, 1, 1, 1])
    assert head_share(profiles([1], [2], [3], [4]), counts) == pytest.approx([1, 1 / 2, 1 / 2, 0])


def test_groups_are_the_lowest_and_the_highest_fifth():
    # head shares 0, 1/4, 1/2, 3/4 and 1
    found = user_groups(profiles([3, 4], [1, 3, 4, 5], [1, 3], [1, 2, 1, 3], [1, 2]), TEN)
    assert found.tolist() == ["niche", "mixed", "mixed", "mixed", "blockbuster"]


def test_users_with_equal_shares_are_in_one_group():
    found = user_groups(profiles([3], [1, 3], [1], [2], [1, 2]), TEN)
    assert found.tolist() == ["niche", "mixed", "blockbuster", "blockbuster", "blockbuster"]


def test_users_who_are_all_equal_are_mixed():
    assert user_groups(profiles([1], [2], [1]), TEN).tolist() == ["mixed"] * 3


def test_when_most_are_equal_only_the_others_stand_apart():
    found = user_groups(profiles(*[[1]] * 9, [3]), TEN)
    assert found.tolist() == ["mixed"] * 9 + ["niche"]


def test_one_user_is_mixed_and_one_without_history_is_in_no_group():
    assert user_groups(profiles([1]), TEN).tolist() == ["mixed"]
    assert user_groups(profiles([], [1]), TEN).tolist() == ["no history", "mixed"]
    assert user_groups(profiles([], []), TEN).tolist() == ["no history"] * 2


def test_lift_compares_what_a_group_is_shown_with_what_it_chose():
    counts = np.array([0, 8, 4, 2])
    lists = np.array([[1, 2], [1, 0], [2, 1], [0, 0]])
    groups = np.array(["niche", "niche", "blockbuster", "niche"], dtype=object)
    found = popularity_lift(lists, profiles([3, 3], [2], [1], [3]), counts, groups)
    assert found["group"].tolist() == ["niche", "blockbuster"]
    assert found["n_users"].tolist() == [2, 1]  # the last user was shown nothing
    assert found["in_profiles"].tolist() == [(2 + 4) / 2, 8]
    assert found["in_lists"].tolist() == [((8 + 4) / 2 + 8) / 2, (4 + 8) / 2]
    assert found["lift"].tolist() == [7 / 3 - 1, 6 / 8 - 1]
    # niche users drawn: the first twice (6 of 2), both, or the second twice (8 of 4)
    assert found.loc[0, ["low", "high"]].tolist() == [8 / 4 - 1, 6 / 2 - 1]
    assert found.loc[1, ["low", "high"]].tolist() == [6 / 8 - 1] * 2


def test_users_without_history_have_no_lift():
    found = popularity_lift(np.array([[1]]), profiles([]), np.array([0, 3]), np.array(["no history"], dtype=object))
    assert found.empty


def test_groups_of_any_name_are_lifted_in_order():
    groups = np.array(["west", "niche", "east"], dtype=object)
    found = popularity_lift(np.array([[1], [1], [1]]), profiles([1], [1], [1]), np.array([0, 3]), groups)
    assert found["group"].tolist() == ["niche", "east", "west"]
    assert found["lift"].tolist() == [0, 0, 0]


def test_the_lift_of_a_user_is_that_of_a_group_of_one():
    counts = np.array([0, 8, 4, 2])
    lists, before = np.array([[1, 2], [1, 0], [2, 1]]), profiles([3, 3], [2, 2, 1], [1])
    found = user_popularity_lift(lists, before, counts)
    assert found == pytest.approx([6 / 2 - 1, 8 / ((4 + 4 + 8) / 3) - 1, 6 / 8 - 1])
    groups = np.array(["ann", "bob", "cid"], dtype=object)
    assert popularity_lift(lists, before, counts, groups)["lift"].tolist() == pytest.approx(found)


def test_without_list_or_history_of_counted_items_a_user_has_no_lift():
    lists, before = np.array([[0], [1], [1]]), profiles([1], [], [2])
    assert np.isnan(user_popularity_lift(lists, before, np.array([0, 3, 0]))).all()


# --- calibration ----------------------------------------------------------------------------------------


def test_calibration_by_hand():
    # history: a, a and half a, half b; list: b and half b, half c
    column = category("a", "ab", "b", "bc")
    p, q = [(1 + 1 + 1 / 2) / 3, (1 / 2) / 3], [0, (1 + 1 / 2) / 2]
    expected = sum(p * log(p / (0.99 * q + 0.01 * p)) for p, q in zip(p, q, strict=True))
    assert calibration(np.array([[3, 4]]), profiles([1, 1, 2]), column) == pytest.approx([expected])


def test_a_list_like_the_history_is_calibrated():
    # the order of items and how many they are say nothing
    assert calibration(np.array([[2, 1, 0]]), profiles([1, 2, 1, 2]), category("a", "bc")) == pytest.approx([0])


def test_a_list_with_none_of_the_categories_is_as_far_off_as_can_be():
    column = category("a", "b")
    assert calibration(np.array([[2]]), profiles([1]), column) == pytest.approx([log(1 / 0.01)])
    assert calibration(np.array([[2]]), profiles([1]), column, alpha=0.1) == pytest.approx([log(1 / 0.1)])


def test_items_without_a_category_change_nothing():
    column = category("a", "b", "")
    with_them = calibration(np.array([[1, 3, 2]]), profiles([1, 3, 3]), column)
    assert with_them == pytest.approx(calibration(np.array([[1, 2, 0]]), profiles([1]), column))
    assert with_them == pytest.approx([log(1 / (0.99 / 2 + 0.01))])


def test_without_history_list_or_categories_there_is_no_calibration():
    column = category("a", "")
    lists = np.array([[1], [0], [2], [1], [1], [9]])
    found = calibration(lists, profiles([], [1], [1], [2], [1], [1]), column)
    assert found.tolist() == nan(np.nan, np.nan, np.nan, np.nan, 0, np.nan)


def test_a_column_without_any_category_calibrates_nobody():
    empty = (NOWHERE[:0], NOWHERE[:0], ())
    assert np.isnan(calibration(np.array([[1]]), profiles([1]), empty)).all()
    assert np.isnan(category_diversity(np.array([[1, 2]]), empty)).all()


def test_a_category_that_an_item_has_twice_counts_once():
    once, twice = category("ab", "a"), category("aba", "a")
    lists, before = np.array([[1, 0], [1, 2]]), profiles([2], [1])
    assert calibration(lists, before, once).tolist() == calibration(lists, before, twice).tolist()


# --- novelty --------------------------------------------------------------------------------------------


def test_novelty_is_the_mean_information_in_bits():
    counts = np.array([0, 4, 2, 1, 1])
    found = novelty(np.array([[1, 2], [4, 0], [0, 0]]), counts)
    assert found.tolist() == nan((log2(8 / 4) + log2(8 / 2)) / 2, log2(8 / 1), np.nan)


def test_an_item_without_an_event_is_as_novel_as_one_with_a_single_event():
    assert novelty(np.array([[2], [3]]), np.array([0, 7, 1, 0])).tolist() == [log2(8), log2(8)]


# --- diversity ------------------------------------------------------------------------------------------

VECTORS = np.array([[7, 7], [3, 0], [0, 2], [1, 1], [-1, 0], [0, 0]])


def test_diversity_by_hand():
    # cosines of items 1, 2 and 3: 0, 1/sqrt 2 and 1/sqrt 2
    found = intra_list_diversity(np.array([[1, 2, 3], [1, 4, 0], [3, 3, 3]]), VECTORS)
    assert found == pytest.approx([1 - (0 + 1 / sqrt(2) + 1 / sqrt(2)) / 3, 1 - -1, 0])


def test_items_without_a_vector_are_in_no_pair():
    found = intra_list_diversity(np.array([[1, 5, 3], [1, 5, 0], [0, 0, 0]]), VECTORS)
    assert found.tolist() == nan(1 - 1 / sqrt(2), np.nan, np.nan)


def test_vectors_of_items_that_are_in_no_list_are_not_read():
    # a million rows of which only the view is in memory: as numbers they were 256 MB
    vectors = np.broadcast_to(np.ones((1, 64), dtype=np.float32), (1_000_000, 64))
    tracemalloc.start()
    found = intra_list_diversity(np.array([[1, 999_999], [7, 0]]), vectors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.tolist() == nan(0, np.nan)
    assert peak < 1e6


def test_category_diversity_by_hand():
    # common over all categories of ab, b and c: 1/2, 0 and 0
    column = category("ab", "b", "c", "")
    found = category_diversity(np.array([[1, 2, 3], [2, 3, 0], [1, 1, 0]]), column)
    assert found == pytest.approx([1 - (1 / 2 + 0 + 0) / 3, 1, 0])


def test_items_without_a_category_are_in_no_pair():
    column = category("ab", "b", "c", "")
    found = category_diversity(np.array([[1, 4, 2], [1, 4, 0], [0, 0, 0]]), column)
    assert found.tolist() == nan(1 - 1 / 2, np.nan, np.nan)


def test_more_categories_than_bits_in_a_word():
    # items 1 and 2 have 100 and 150 of 200 categories, 50 of them in common
    rows = np.repeat([1, 2], [100, 150])
    codes = np.concatenate([np.arange(100), np.arange(50, 200)])
    found = category_diversity(np.array([[1, 2]]), (rows, codes, tuple(map(str, range(200)))))
    assert found == pytest.approx([1 - 50 / 200])


def test_a_list_of_one_place_has_no_pair():
    assert np.isnan(intra_list_diversity(np.array([[1]]), VECTORS)).all()
    assert np.isnan(category_diversity(np.array([[1]]), category("a"))).all()


# --- all of them ----------------------------------------------------------------------------------------


def every_metric(lists, before):
    counts, column = np.array([0, 5, 3, 1, 1, 0]), category("a", "ab", "c", "", "bc")
    return {
        "exposure": exposure_by_decile(lists, counts),
        "novelty": novelty(lists, counts),
        "calibration": calibration(lists, before, column),
        "vectors": intra_list_diversity(lists, VECTORS),
        "categories": category_diversity(lists, column),
    }


def test_no_users_have_no_values():
    for values in every_metric(np.zeros((0, 3), dtype=np.int64), profiles()).values():
        assert len(values) == 0


def test_users_are_worked_on_in_parts_without_a_seam(monkeypatch):
    random = np.random.default_rng(0)
    lists = random.integers(0, 6, size=(50, 4))
    before = profiles(*[random.integers(1, 6, size=length).tolist() for length in random.integers(0, 5, size=50)])
    expected = every_metric(lists, before)
    monkeypatch.setattr(
        "attnrec.evaluation.beyond_accuracy._parts",
        lambda n, width: [slice(start, start + 7) for start in range(0, n, 7)],
    )
    for name, values in every_metric(lists, before).items():
        assert values == pytest.approx(expected[name], nan_ok=True), name


def test_a_user_alone_has_the_values_they_have_among_others():
    lists, before = np.array([[1, 2, 3], [5, 4, 0], [2, 5, 1]]), profiles([1, 2], [3], [2, 2, 5])
    together = every_metric(lists, before)
    alone = every_metric(lists[2:], profiles([2, 2, 5]))
    for name, values in alone.items():
        assert values[0] == pytest.approx(together[name][2]), name


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="needs a training event, got none"):
        novelty(np.array([[1]]), NOWHERE)
    with pytest.raises(ValueError, match="each list needs its user's profile, got 1 and 2"):
        calibration(np.array([[1]]), profiles([1], [1]), category("a"))
    with pytest.raises(ValueError, match="each list needs its user's profile, got 1 and 2"):
        user_popularity_lift(np.array([[1]]), profiles([1], [1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 0"):
        calibration(np.array([[1]]), profiles([1]), category("a"), alpha=0)
