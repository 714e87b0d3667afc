import subprocess
import sys
import tracemalloc
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation, Text

from attnrec.evaluation.comparison import compare_with_best, compare
from attnrec.evaluation.metrics import bootstrap_interval
from attnrec.tracking.figures.comparison import comparison_figure

NDCG = "ndcg_at_10"


def evaluated(values, *, users=None) -> pd.DataFrame:
    """What `Evaluation.per_user` holds, with users u00, u01, ... unless given."""
    users = [f"u{number:02}" for number in range(len(values))] if users is None else users
    return pd.DataFrame({"user_id": users, "n_relevant": 1, NDCG: np.asarray(values, dtype=float)})


def all_better(n: int, *, of: int) -> pd.DataFrame:
    """Users of whom the first n miss what the best model, all ones, has; a sum that only 2 of 2 ** n signs reach."""
    return evaluated([0.9] * n + [1.0] * (of - n))


# --- two models -----------------------------------------------------------------------------------------


def test_three_users_enumerated_by_hand():
    # differences .3, .2, -.1 sum to .4; of the 8 sums of ±.3 ±.2 ±.1, which are ±.6, ±.4, ±.2 and twice 0,
    # four are as far from 0
    found = compare(evaluated([0.5, 0.9, 0.2]), evaluated([0.2, 0.7, 0.3]), metric=NDCG)
    assert found.mean == pytest.approx((0.3 + 0.2 - 0.1) / 3)
    assert found.p_value == 4 / 8
    assert (found.n_users, found.n_better, found.n_worse) == (3, 2, 1)


def test_three_users_who_all_agree():
    assert compare(evaluated([1, 1, 1]), evaluated([0.7, 0.8, 0.9]), metric=NDCG).p_value == 2 / 8


def test_sums_that_differ_by_rounding_alone_are_equally_far_from_zero():
    # 1 less twice what is flipped is at least .4 from 0 if that is at most .3, or at least .7: nothing, .1, .2, .3,
    # .1 + .2 (which is more than .3 in floating point), or all but these
    for differences in permutations([0.1, 0.2, -0.3, 0.4]):
        assert compare(evaluated(differences), evaluated(np.zeros(4)), metric=NDCG).p_value == 10 / 16


def test_one_user_proves_nothing():
    found = compare(evaluated([1.0]), evaluated([0.0]), metric=NDCG)
    assert (found.mean, found.interval, found.p_value) == (1, (1, 1), 1)


def test_equal_models_do_not_differ():
    found = compare(evaluated([0.1, 0.2, 0.3]), evaluated([0.1, 0.2, 0.3]), metric=NDCG)
    assert (found.mean, found.interval, found.p_value) == (0, (0, 0), 1)
    assert (found.n_users, found.n_better, found.n_worse) == (3, 0, 0)


def test_twelve_users_with_a_difference_are_enumerated_and_thirteen_are_drawn():
    exact = compare(evaluated([1] * 12 + [0.5] * 20), evaluated([0] * 12 + [0.5] * 20), metric=NDCG)
    assert exact.p_value == 2 / 2**12
    drawn = compare(evaluated([1] * 13), evaluated([0] * 13), metric=NDCG)
    assert drawn.p_value * 10_001 == pytest.approx(round(drawn.p_value * 10_001))
    assert 1 / 10_001 <= drawn.p_value < 12 / 10_001  # 10,000 draws hit 2 of 2 ** 13 signs 2.4 times on average


@pytest.mark.parametrize("seed", range(3))
def test_drawn_flips_come_near_the_enumeration(seed):
    differences = np.array([1, -2, 3, 4, -5, 6, 7, -8, 9, 10, -11, 12, 13]) / 20
    sums = np.array(list(product([-1, 1], repeat=13))) @ differences
    exact = (abs(sums) >= differences.sum() - 1e-9).mean()
    found = compare(evaluated(differences), evaluated(np.zeros(13)), metric=NDCG, seed=seed)
    assert 0.1 < exact < 0.3
    assert found.p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_users_without_a_difference_leave_the_p_value_and_narrow_the_mean():
    ones = np.tile([1.0, 1.0, 1.0, -1.0], 5)
    alone = compare(evaluated(ones), evaluated(np.zeros(20)), metric=NDCG)
    among = compare(evaluated([*ones, *np.ones(20)]), evaluated([*np.zeros(20), *np.ones(20)]), metric=NDCG)
    assert among.p_value == alone.p_value
    assert among.mean == alone.mean / 2


def test_a_clear_difference_has_the_smallest_p_value_that_can_be_and_never_zero():
    found = compare(evaluated(np.ones(40)), evaluated(np.zeros(40)), metric=NDCG)
    assert found.p_value == 1 / (10_000 + 1)


def test_p_values_are_uniform_where_models_are_equal():
    random = np.random.default_rng(0)
    p_values = np.sort(
        [
            compare(evaluated(random.random(30)), evaluated(random.random(30)), metric=NDCG, seed=world).p_value
            for world in range(150)
        ]
    )
    uniform = (np.arange(150) + 0.5) / 150
    assert abs(p_values - uniform).max() < 1.63 / 150**0.5  # Kolmogorov's distance, 1 %


def test_the_test_is_two_sided_and_swapping_the_models_swaps_the_signs():
    random = np.random.default_rng(1)
    one, other = evaluated(random.random(50) + 0.1), evaluated(random.random(50))
    there, back = compare(one, other, metric=NDCG), compare(other, one, metric=NDCG)
    assert back.mean == -there.mean
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert back.p_value == there.p_value
    assert (back.n_better, back.n_worse) == (there.n_worse, there.n_better)
    assert there.n_better > there.n_worse


def test_users_are_matched_by_id_in_whatever_order_they_come():
    random = np.random.default_rng(2)
    one, other = evaluated(random.random(50)), evaluated(random.random(50))
    found = compare(one.sample(frac=1, random_state=1), other.sample(frac=1, random_state=2), metric=NDCG)
    assert found == compare(one, other, metric=NDCG)


def test_ids_are_matched_across_the_types_that_files_and_memory_give():
    one, other = evaluated([0.5, 0.9, 0.2]), evaluated([0.2, 0.7, 0.3])
    of_objects = other.assign(user_id=other["user_id"].astype(object))
    assert compare(one, of_objects, metric=NDCG) == compare(one, other, metric=NDCG)


def test_the_interval_is_paired():
    # users differ by up to 1, but the models by .25 for each of them
    values = np.arange(64) / 64
    found = compare(evaluated(values + 0.25), evaluated(values), metric=NDCG)
    assert found.interval == (0.25, 0.25)


def test_the_interval_is_the_bootstrap_of_the_differences():
    random = np.random.default_rng(3)
    one, other = random.random(30), random.random(30)
    found = compare(evaluated(one), evaluated(other), metric=NDCG, seed=5)
    assert found.interval == pytest.approx(bootstrap_interval(one - other, seed=5))


def test_the_seed_decides():
    random = np.random.default_rng(4)
    one, other = evaluated(random.random(30)), evaluated(random.random(30))
    again = [compare(one, other, metric=NDCG, seed=seed) for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0].p_value != again[2].p_value
    assert again[0].interval != again[2].interval


def test_flips_of_many_users_are_never_in_memory_together():
    random = np.random.default_rng(5)
    one, other = evaluated(random.random(20_000)), evaluated(random.random(20_000))
    tracemalloc.start()
    compare(one, other, metric=NDCG)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # the signs of all as single bytes are 200 MB


# --- many models ----------------------------------------------------------------------------------------


def test_holm_by_hand():
    # raw p-values 2 / 2 ** n of n users: 1/128, 1/32, 1/32, 1 and 1
    models = {"d": 1, "b": 6, "best": 0, "a": 8, "e": 1, "c": 6}
    table = compare_with_best({name: all_better(n, of=8) for name, n in models.items()}, metric=NDCG)
    corrected = table.set_index("model")["p_value"]
    assert corrected["a"] == 5 * (1 / 128)
    assert corrected["b"] == 4 * (1 / 32)
    assert corrected["c"] == 4 * (1 / 32)  # not 3 / 32: never below that of an earlier one
    assert corrected["d"] == corrected["e"] == 1  # not 2
    assert table.loc[table["significant"], "model"].tolist() == ["a"]


def test_a_difference_that_one_comparison_would_show_is_not_significant_among_many():
    alone = {"best": all_better(0, of=8), "a": all_better(6, of=8)}
    assert compare_with_best(alone, metric=NDCG)["significant"].tolist() == [False, True]
    among = alone | {"b": all_better(1, of=8)}
    assert not compare_with_best(among, metric=NDCG)["significant"].any()


def test_models_stand_by_their_mean_and_equal_ones_by_name():
    table = compare_with_best(
        {
            "late": evaluated([0.5, 0.5]),
            "low": evaluated([0.1, 0.2]),
            "early": evaluated([0.5, 0.5]),
            "top": evaluated([0.9, 0.8]),
        },
        metric=NDCG,
    )
    assert table["model"].tolist() == ["top", "early", "late", "low"]
    assert table["mean"].tolist() == pytest.approx([0.85, 0.5, 0.5, 0.15])
    assert table["difference"].tolist() == pytest.approx([0, -0.35, -0.35, -0.7])
    assert table.columns.tolist() == [
        *("model", "mean", "low", "high", "difference", "difference_low", "difference_high", "p_value", "significant")
    ]


def test_the_best_is_not_compared_with_itself():
    table = compare_with_best({"a": evaluated([0.1, 0.2]), "b": evaluated([0.3, 0.9])}, metric=NDCG)
    best = table.iloc[0]
    assert best["model"] == "b"
    assert (best["difference"], best["difference_low"], best["difference_high"]) == (0, 0, 0)
    assert np.isnan(best["p_value"])
    assert table["significant"].dtype == bool
    assert not best["significant"]


def test_one_model_alone_is_the_best():
    table = compare_with_best({"a": evaluated([0.1, 0.2])}, metric=NDCG)
    assert table["model"].tolist() == ["a"]
    assert table["mean"].tolist() == pytest.approx([0.15])


def test_a_row_says_what_compare_says():
    random = np.random.default_rng(6)
    models = {"a": evaluated(random.random(40)), "b": evaluated(random.random(40) + 0.2)}
    shuffled = {name: frame.sample(frac=1, random_state=1) for name, frame in models.items()}
    row = compare_with_best(shuffled, metric=NDCG, seed=3).iloc[1]
    pair = compare(models["a"], models["b"], metric=NDCG, seed=3)
    assert row["model"] == "a"
    assert row["difference"] == pytest.approx(pair.mean)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(pair.interval)
    assert row["p_value"] == pair.p_value
    assert (row["low"], row["high"]) == pytest.approx(bootstrap_interval(models["a"][NDCG].to_numpy(), seed=3))


# --- what is refused ------------------------------------------------------------------------------------


def test_other_users_are_refused():
    with pytest.raises(ValueError, match=r"same users, got 2 that only one of 'one' and 'other' has \(first: 'u01'\)"):
        compare(evaluated([1, 1]), evaluated([1, 1], users=["u00", "u07"]), metric=NDCG)
    with pytest.raises(ValueError, match="got 1 that only one of 'a' and 'c'"):
        compare_with_best({"a": evaluated([1, 1]), "b": evaluated([1, 1]), "c": evaluated([1])}, metric=NDCG)


def test_ids_that_only_look_alike_are_other_users():
    with pytest.raises(ValueError, match="same users, got 4"):
        compare(evaluated([1, 1], users=[1, 2]), evaluated([1, 1], users=["1", "2"]), metric=NDCG)


def test_a_user_who_occurs_twice_is_refused():
    once, twice = evaluated([1, 1], users=["ann", "bob"]), evaluated([1, 1, 1], users=["ann", "bob", "ann"])
    with pytest.raises(ValueError, match=r"occur once, got 1 more rows of 'other' \(first: 'ann'\)"):
        compare(once, twice, metric=NDCG)


@pytest.mark.parametrize("column", ["user_id", NDCG])
def test_a_missing_column_is_refused(column):
    with pytest.raises(ValueError, match=f"columns user_id and {NDCG}, got .* of 'other'"):
        compare(evaluated([1]), evaluated([1]).drop(columns=column), metric=NDCG)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"number for every user, got 1 that are not of 'one' \(first user: 'u01'\)"):
        compare(evaluated([1, value]), evaluated([1, 1]), metric=NDCG)


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="needs a user, got none of 'one'"):
        compare(evaluated([]), evaluated([]), metric=NDCG)
    with pytest.raises(ValueError, match="needs a model, got none"):
        compare_with_best({}, metric=NDCG)


# --- the figure -----------------------------------------------------------------------------------------


def priced(**columns) -> pd.DataFrame:
    """Three models with their costs; a column given replaces that of this table."""
    table = {
        "model": ["dot", "gru", "popular"],
        "group": ["attention", "recurrence", "baseline"],
        "mean": [0.12, 0.11, 0.05],
        "low": [0.11, 0.10, 0.04],
        "high": [0.13, 0.12, 0.06],
        "seconds": [100.0, 300.0, 1.0],
    }
    return pd.DataFrame(table | columns)


def crowd(seed: int) -> pd.DataFrame:
    """14 models, 13 of them near each other."""
    random = np.random.default_rng(seed)
    mean = np.append(0.11 + 0.004 * random.standard_normal(13), 0.05)
    return pd.DataFrame(
        {
            "model": [f"model_{number}" for number in range(14)],
            "group": [("attention", "convolution", "recurrence", "baseline")[number % 4] for number in range(14)],
            "mean": mean,
            "low": mean - 0.002,
            "high": mean + 0.002,
            "seconds": np.append(10 ** (2 + 0.4 * random.standard_normal(13)), 1),
        }
    )


def names_in(figure) -> dict[str, Annotation]:
    return {text.get_text(): text for text in figure.axes[0].texts}


@pytest.mark.parametrize("seed", range(3))
def test_names_cover_neither_each_other_nor_points_and_are_not_cut_off(seed):
    table = crowd(seed)
    figure = comparison_figure(table, cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    names = names_in(figure)
    assert sorted(names) == sorted(table["model"])
    boxes = {name: Text.get_window_extent(text) for name, text in names.items()}
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), f"{one} on {other}"
    axes = figure.axes[0]
    for spot in axes.transData.transform(table[["seconds", "mean"]].to_numpy()):
        assert not any(box.contains(*spot) for box in boxes.values())
    frame = axes.get_window_extent()
    for box in boxes.values():
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


@pytest.mark.parametrize("seed", [2, 3, 9])  # in others a point is shut in
def test_a_name_is_nearest_to_its_own_point_or_a_line_that_crosses_nothing_leads_there(seed):
    table = crowd(seed)
    figure = comparison_figure(table, cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    names, n_lines = names_in(figure), 0
    spots = figure.axes[0].transData.transform(table[["seconds", "mean"]].to_numpy())
    for name, spot in zip(table["model"], spots, strict=True):
        box = Text.get_window_extent(names[name])
        if not names[name].arrow_patch.get_visible():
            distances = np.hypot(*(spots - np.clip(spots, box.min, box.max)).T)
            assert (spots[distances.argmin()] == spot).all(), name
            continue
        n_lines += 1
        for place in np.linspace((box.min + box.max) / 2, spot, 50):
            assert not any(Text.get_window_extent(names[other]).contains(*place) for other in names if other != name)
            others = spots[np.hypot(*(spots - spot).T) > 9]
            assert np.hypot(*(others - place).T).min() > 4, "a marker reaches about 4 pixels from its middle"
    assert 0 < n_lines < 14


def test_a_long_name_at_the_edge_is_not_cut_off():
    name = "scaled dot product with the longest of names"
    figure = comparison_figure(priced(model=["dot", name, "popular"]), cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    assert Text.get_window_extent(names_in(figure)[name]).x1 <= figure.axes[0].get_window_extent().x1


def test_models_at_the_same_place_are_both_named():
    figure = comparison_figure(priced(mean=0.1, low=0.1, high=0.1, seconds=7.0), cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in names_in(figure).values()]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_points_and_intervals_stand_at_their_values():
    figure = comparison_figure(priced(), cost="seconds", metric=NDCG)
    axes = figure.axes[0]
    bars, points = axes.collections[0], axes.collections[1]  # of the first group, attention
    assert axes.get_xscale() == "log"
    assert bars.get_segments()[0].tolist() == [[100, 0.11], [100, 0.13]]
    assert points.get_offsets().tolist() == [[100, 0.12]]


@pytest.mark.parametrize(
    ("cost", "label"), [("seconds", "time (seconds)"), ("peak_mb", "peak memory (MB)"), ("gpu_hours", "gpu hours")]
)
def test_axes_say_what_they_show_and_in_which_unit(cost, label):
    axes = comparison_figure(priced().rename(columns={"seconds": cost}), cost=cost, metric=NDCG).axes[0]
    assert axes.get_xlabel() == label
    assert axes.get_ylabel() == "ndcg@10 (mean over users, 95 % interval)"


def test_a_group_has_its_colour_whoever_else_is_shown():
    everyone = priced(group=["attention", "own", "baseline"])
    alone = everyone[everyone["group"] == "baseline"]
    shown, single = (comparison_figure(table, cost="seconds", metric=NDCG) for table in (everyone, alone))
    assert names_in(shown)["popular"].get_color() == names_in(single)["popular"].get_color()
    assert len({text.get_color() for text in names_in(shown).values()}) == 3
    assert [text.get_text() for text in shown.legends[0].get_texts()] == ["attention", "baseline", "own"]
    assert [text.get_text() for text in single.legends[0].get_texts()] == ["baseline"]


@pytest.mark.parametrize(
    ("parameters", "ticks"),
    [
        ([30_000, 500_000, 9_000], ["10k", "20k", "50k", "100k", "200k", "500k"]),
        ([30_000, 30_000_000, 900], ["1k", "10k", "100k", "1M", "10M"]),
        ([100_000, 130_000, 120_000], ["100k", "105k", "110k", "115k", "120k", "125k", "130k"]),
    ],
)
def test_ticks_are_short_numbers_however_wide_the_range(parameters, ticks):
    axes = comparison_figure(priced().assign(parameters=parameters), cost="parameters", metric=NDCG).axes[0]
    low, high = axes.get_xlim()
    shown = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [label.get_text() for value, label in shown if low <= value <= high] == ticks


def test_a_cost_that_a_log_axis_cannot_show_is_refused():
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"seconds must be above 0 on a log axis, got \['popular'\] without"):
            comparison_figure(priced(seconds=[100.0, 300.0, value]), cost="seconds", metric=NDCG)


def test_a_figure_without_a_column_or_a_model_is_refused():
    with pytest.raises(ValueError, match=r"needs \['group', 'peak_mb'\], got"):
        comparison_figure(priced().drop(columns="group"), cost="peak_mb", metric=NDCG)
    with pytest.raises(ValueError, match="needs a model, got none"):
        comparison_figure(priced()[:0], cost="seconds", metric=NDCG)


def test_matplotlib_is_imported_when_a_figure_is_made_and_pyplot_never():
    code = "import sys, pandas, attnrec.evaluation.comparison, attnrec.tracking.figures.comparison as figures\n"
    code += "assert 'matplotlib' not in sys.modules\n"
    code += f"table = pandas.DataFrame({priced().to_dict('list')})\n"
    code += f"figures.comparison_figure(table, cost='seconds', metric={NDCG!r}).savefig(sys.stdout.buffer)\n"
    code += "assert 'matplotlib.pyplot' not in sys.modules\n"
    assert subprocess.check_output([sys.executable, "-c", code]).startswith(b"\x89PNG")
