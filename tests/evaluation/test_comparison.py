"""Paired comparison of models: p-values by hand, Holm's correction, rejected inputs, and the figure."""

import subprocess
import sys
import tracemalloc
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation, Text

from attnrec.evaluation.comparison import compare, compare_with_best
from attnrec.evaluation.metrics import bootstrap_interval
from attnrec.tracking.figures.comparison import comparison_figure

NDCG = "ndcg_at_10"


def evaluated(values, *, users=None) -> pd.DataFrame:
    """A frame like `Evaluation.per_user`; the default users are u00, u01, ..."""
    users = [f"u{number:02}" for number in range(len(values))] if users is None else users
    return pd.DataFrame({"user_id": users, "n_relevant": 1, NDCG: np.asarray(values, dtype=float)})


def worse_for(n: int, *, of: int) -> pd.DataFrame:
    """Values 0.9 for n users and 1 for the others: against a model of all ones the p-value is 2 / 2 ** n."""
    return evaluated([0.9] * n + [1.0] * (of - n))


# --- two models -----------------------------------------------------------------------------------------


def test_p_value_of_three_users_by_hand():
    # the differences .3, .2 and -.1 sum to .4; of the 8 sums of ±.3 ±.2 ±.1, which are ±.6, ±.4, ±.2 and twice 0,
    # four are at least as far from 0
    result = compare(evaluated([0.5, 0.9, 0.2]), evaluated([0.2, 0.7, 0.3]), metric=NDCG)
    assert result.mean == pytest.approx((0.3 + 0.2 - 0.1) / 3)
    assert result.p_value == 4 / 8
    assert (result.n_users, result.n_better, result.n_worse) == (3, 2, 1)


def test_p_value_of_three_differences_of_one_sign():
    assert compare(evaluated([1, 1, 1]), evaluated([0.7, 0.8, 0.9]), metric=NDCG).p_value == 2 / 8


def test_sums_that_differ_only_by_rounding_count_as_equal():
    # if the negative terms have the sum s, the total is 1 - 2 s: at least .4 from 0 if s <= .3 or s >= .7, which is 0,
    # .1, .2, .3, .1 + .2 (more than .3 in floating point), or 1 minus one of these
    for differences in permutations([0.1, 0.2, -0.3, 0.4]):
        assert compare(evaluated(differences), evaluated(np.zeros(4)), metric=NDCG).p_value == 10 / 16


def test_the_p_value_of_one_user_is_one():
    result = compare(evaluated([1.0]), evaluated([0.0]), metric=NDCG)
    assert (result.mean, result.interval, result.p_value) == (1, (1, 1), 1)


def test_equal_models_have_no_difference_and_p_value_one():
    result = compare(evaluated([0.1, 0.2, 0.3]), evaluated([0.1, 0.2, 0.3]), metric=NDCG)
    assert (result.mean, result.interval, result.p_value) == (0, (0, 0), 1)
    assert (result.n_users, result.n_better, result.n_worse) == (3, 0, 0)


def test_signs_of_twelve_users_are_enumerated_and_of_thirteen_are_sampled():
    exact = compare(evaluated([1] * 12 + [0.5] * 20), evaluated([0] * 12 + [0.5] * 20), metric=NDCG)
    assert exact.p_value == 2 / 2**12
    sampled = compare(evaluated([1] * 13), evaluated([0] * 13), metric=NDCG)
    assert sampled.p_value * 10_001 == pytest.approx(round(sampled.p_value * 10_001))
    assert (
        1 / 10_001 <= sampled.p_value < 12 / 10_001
    )  # 10,000 samples include 2 of 2 ** 13 assignments 2.4 times on average


@pytest.mark.parametrize("seed", range(3))
def test_sampled_signs_approximate_the_exact_p_value(seed):
    differences = np.array([1, -2, 3, 4, -5, 6, 7, -8, 9, 10, -11, 12, 13]) / 20
    sums = np.array(list(product([-1, 1], repeat=13))) @ differences
    exact = (abs(sums) >= differences.sum() - 1e-9).mean()
    result = compare(evaluated(differences), evaluated(np.zeros(13)), metric=NDCG, seed=seed)
    assert 0.1 < exact < 0.3
    assert result.p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_users_without_a_difference_change_the_mean_but_not_the_p_value():
    ones = np.tile([1.0, 1.0, 1.0, -1.0], 5)
    alone = compare(evaluated(ones), evaluated(np.zeros(20)), metric=NDCG)
    diluted = compare(evaluated([*ones, *np.ones(20)]), evaluated([*np.zeros(20), *np.ones(20)]), metric=NDCG)
    assert diluted.p_value == alone.p_value
    assert diluted.mean == alone.mean / 2


def test_the_smallest_sampled_p_value_is_not_zero():
    result = compare(evaluated(np.ones(40)), evaluated(np.zeros(40)), metric=NDCG)
    assert result.p_value == 1 / (10_000 + 1)


def test_p_values_of_equal_models_are_uniform():
    random = np.random.default_rng(0)
    p_values = np.sort(
        [
            compare(evaluated(random.random(30)), evaluated(random.random(30)), metric=NDCG, seed=seed).p_value
            for seed in range(150)
        ]
    )
    uniform = (np.arange(150) + 0.5) / 150
    assert abs(p_values - uniform).max() < 1.63 / 150**0.5  # Kolmogorov's distance, 1 %


def test_swapping_the_models_swaps_the_signs_and_keeps_the_p_value():
    random = np.random.default_rng(1)
    first, second = evaluated(random.random(50) + 0.1), evaluated(random.random(50))
    forward, backward = compare(first, second, metric=NDCG), compare(second, first, metric=NDCG)
    assert backward.mean == -forward.mean
    assert backward.interval == pytest.approx((-forward.interval[1], -forward.interval[0]))
    assert backward.p_value == forward.p_value
    assert (backward.n_better, backward.n_worse) == (forward.n_worse, forward.n_better)
    assert forward.n_better > forward.n_worse


def test_users_are_matched_by_id_in_any_order():
    random = np.random.default_rng(2)
    first, second = evaluated(random.random(50)), evaluated(random.random(50))
    result = compare(first.sample(frac=1, random_state=1), second.sample(frac=1, random_state=2), metric=NDCG)
    assert result == compare(first, second, metric=NDCG)


def test_ids_are_matched_across_string_dtypes():
    first, second = evaluated([0.5, 0.9, 0.2]), evaluated([0.2, 0.7, 0.3])
    as_objects = second.assign(user_id=second["user_id"].astype(object))
    assert compare(first, as_objects, metric=NDCG) == compare(first, second, metric=NDCG)


def test_the_interval_is_paired():
    # users differ by up to 1, the models by .25 for every user
    values = np.arange(64) / 64
    result = compare(evaluated(values + 0.25), evaluated(values), metric=NDCG)
    assert result.interval == (0.25, 0.25)


def test_the_interval_is_the_bootstrap_of_the_differences():
    random = np.random.default_rng(3)
    one, other = random.random(30), random.random(30)
    result = compare(evaluated(one), evaluated(other), metric=NDCG, seed=5)
    assert result.interval == pytest.approx(bootstrap_interval(one - other, seed=5))


def test_results_depend_only_on_the_seed():
    random = np.random.default_rng(4)
    first, second = evaluated(random.random(30)), evaluated(random.random(30))
    results = [compare(first, second, metric=NDCG, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0].p_value != results[2].p_value
    assert results[0].interval != results[2].interval


def test_signs_of_many_users_are_not_in_memory_together():
    random = np.random.default_rng(5)
    first, second = evaluated(random.random(20_000)), evaluated(random.random(20_000))
    tracemalloc.start()
    compare(first, second, metric=NDCG)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # the signs of all users as single bytes take 200 MB


# --- many models ----------------------------------------------------------------------------------------


def test_holm_by_hand():
    # raw p-values 2 / 2 ** n of n users: 1/128, 1/32, 1/32, 1 and 1
    models = {"d": 1, "b": 6, "best": 0, "a": 8, "e": 1, "c": 6}
    table = compare_with_best({name: worse_for(n, of=8) for name, n in models.items()}, metric=NDCG)
    corrected = table.set_index("model")["p_value"]
    assert corrected["a"] == 5 * (1 / 128)
    assert corrected["b"] == 4 * (1 / 32)
    assert corrected["c"] == 4 * (1 / 32)  # not 3 / 32: corrected p-values never decrease
    assert corrected["d"] == corrected["e"] == 1  # not 2: at most 1
    assert table.loc[table["significant"], "model"].tolist() == ["a"]


def test_a_significant_difference_may_not_be_significant_among_several_comparisons():
    alone = {"best": worse_for(0, of=8), "a": worse_for(6, of=8)}
    assert compare_with_best(alone, metric=NDCG)["significant"].tolist() == [False, True]
    several = alone | {"b": worse_for(1, of=8)}
    assert not compare_with_best(several, metric=NDCG)["significant"].any()


def test_models_are_sorted_by_mean_and_ties_by_name():
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


# --- rejected inputs -------------------------------------------------------------------------------------


def test_models_with_different_users_are_rejected():
    with pytest.raises(
        ValueError, match=r"same users, got 2 users in only one of 'first' and 'second' \(first: 'u01'\)"
    ):
        compare(evaluated([1, 1]), evaluated([1, 1], users=["u00", "u07"]), metric=NDCG)
    with pytest.raises(ValueError, match="got 1 users in only one of 'a' and 'c'"):
        compare_with_best({"a": evaluated([1, 1]), "b": evaluated([1, 1]), "c": evaluated([1])}, metric=NDCG)


def test_integer_and_string_ids_are_different_users():
    with pytest.raises(ValueError, match="same users, got 4"):
        compare(evaluated([1, 1], users=[1, 2]), evaluated([1, 1], users=["1", "2"]), metric=NDCG)


def test_a_duplicate_user_is_rejected():
    once, twice = evaluated([1, 1], users=["ann", "bob"]), evaluated([1, 1, 1], users=["ann", "bob", "ann"])
    with pytest.raises(ValueError, match=r"occur once, got 1 duplicate rows of 'second' \(first: 'ann'\)"):
        compare(once, twice, metric=NDCG)


@pytest.mark.parametrize("column", ["user_id", NDCG])
def test_a_missing_column_is_rejected(column):
    with pytest.raises(ValueError, match=f"columns user_id and {NDCG}, got .* of 'second'"):
        compare(evaluated([1]), evaluated([1]).drop(columns=column), metric=NDCG)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_value_is_rejected(value):
    with pytest.raises(
        ValueError, match=r"finite for every user, got 1 non-finite values of 'first' \(first user: 'u01'\)"
    ):
        compare(evaluated([1, value]), evaluated([1, 1]), metric=NDCG)


def test_an_empty_comparison_is_rejected():
    with pytest.raises(ValueError, match="needs at least one user, got none of 'first'"):
        compare(evaluated([]), evaluated([]), metric=NDCG)
    with pytest.raises(ValueError, match="needs a model, got none"):
        compare_with_best({}, metric=NDCG)


# --- the figure -----------------------------------------------------------------------------------------


def cost_table(**columns) -> pd.DataFrame:
    """A table of three models with costs; arguments replace columns."""
    table = {
        "model": ["dot", "gru", "popular"],
        "group": ["attention", "recurrence", "baseline"],
        "mean": [0.12, 0.11, 0.05],
        "low": [0.11, 0.10, 0.04],
        "high": [0.13, 0.12, 0.06],
        "seconds": [100.0, 300.0, 1.0],
    }
    return pd.DataFrame(table | columns)


def crowded_table(seed: int) -> pd.DataFrame:
    """14 models, 13 of them close together in the figure."""
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


def labels_of(figure) -> dict[str, Annotation]:
    return {text.get_text(): text for text in figure.axes[0].texts}


@pytest.mark.parametrize("seed", range(3))
def test_labels_overlap_neither_each_other_nor_points_and_are_inside_the_axes(seed):
    table = crowded_table(seed)
    figure = comparison_figure(table, cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    names = labels_of(figure)
    assert sorted(names) == sorted(table["model"])
    boxes = {name: Text.get_window_extent(text) for name, text in names.items()}
    for first, second in combinations(boxes, 2):
        assert not boxes[first].overlaps(boxes[second]), f"{first} on {second}"
    axes = figure.axes[0]
    for spot in axes.transData.transform(table[["seconds", "mean"]].to_numpy()):
        assert not any(box.contains(*spot) for box in boxes.values())
    frame = axes.get_window_extent()
    for box in boxes.values():
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


@pytest.mark.parametrize("seed", [2, 3, 9])  # with other seeds a point is enclosed by labels
def test_a_label_is_nearest_to_its_point_or_connected_by_a_line_that_crosses_nothing(seed):
    table = crowded_table(seed)
    figure = comparison_figure(table, cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    names, n_lines = labels_of(figure), 0
    spots = figure.axes[0].transData.transform(table[["seconds", "mean"]].to_numpy())
    for name, spot in zip(table["model"], spots, strict=True):
        box = Text.get_window_extent(names[name])
        if not names[name].arrow_patch.get_visible():
            distances = np.hypot(*(spots - np.clip(spots, box.min, box.max)).T)
            assert (spots[distances.argmin()] == spot).all(), name
            continue
        n_lines += 1
        for point in np.linspace((box.min + box.max) / 2, spot, 50):
            assert not any(Text.get_window_extent(names[other]).contains(*point) for other in names if other != name)
            others = spots[np.hypot(*(spots - spot).T) > 9]
            assert np.hypot(*(others - point).T).min() > 4, "a marker has a radius of about 4 pixels"
    assert 0 < n_lines < 14


def test_a_long_label_at_the_edge_is_inside_the_axes():
    name = "scaled dot product with the longest of names"
    figure = comparison_figure(cost_table(model=["dot", name, "popular"]), cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    assert Text.get_window_extent(labels_of(figure)[name]).x1 <= figure.axes[0].get_window_extent().x1


def test_models_at_the_same_point_are_both_labelled():
    figure = comparison_figure(cost_table(mean=0.1, low=0.1, high=0.1, seconds=7.0), cost="seconds", metric=NDCG)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in labels_of(figure).values()]
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))


def test_points_and_intervals_are_drawn_at_their_values():
    figure = comparison_figure(cost_table(), cost="seconds", metric=NDCG)
    axes = figure.axes[0]
    bars, points = axes.collections[0], axes.collections[1]  # the first group is attention
    assert axes.get_xscale() == "log"
    assert bars.get_segments()[0].tolist() == [[100, 0.11], [100, 0.13]]
    assert points.get_offsets().tolist() == [[100, 0.12]]


@pytest.mark.parametrize(
    ("cost", "label"), [("seconds", "time (seconds)"), ("peak_mb", "peak memory (MB)"), ("gpu_hours", "gpu hours")]
)
def test_axis_labels_have_quantity_and_unit(cost, label):
    axes = comparison_figure(cost_table().rename(columns={"seconds": cost}), cost=cost, metric=NDCG).axes[0]
    assert axes.get_xlabel() == label
    assert axes.get_ylabel() == "ndcg@10 (mean over users, 95 % interval)"


def test_the_colour_of_a_group_does_not_depend_on_the_other_groups():
    table = cost_table(group=["attention", "own", "baseline"])
    subset = table[table["group"] == "baseline"]
    whole, single = (comparison_figure(rows, cost="seconds", metric=NDCG) for rows in (table, subset))
    assert labels_of(whole)["popular"].get_color() == labels_of(single)["popular"].get_color()
    assert len({text.get_color() for text in labels_of(whole).values()}) == 3
    assert [text.get_text() for text in whole.legends[0].get_texts()] == ["attention", "baseline", "own"]
    assert [text.get_text() for text in single.legends[0].get_texts()] == ["baseline"]


@pytest.mark.parametrize(
    ("parameters", "ticks"),
    [
        ([30_000, 500_000, 9_000], ["10k", "20k", "50k", "100k", "200k", "500k"]),
        ([30_000, 30_000_000, 900], ["1k", "10k", "100k", "1M", "10M"]),
        ([100_000, 130_000, 120_000], ["100k", "105k", "110k", "115k", "120k", "125k", "130k"]),
    ],
)
def test_tick_labels_are_short_for_any_range(parameters, ticks):
    axes = comparison_figure(cost_table().assign(parameters=parameters), cost="parameters", metric=NDCG).axes[0]
    low, high = axes.get_xlim()
    shown = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [label.get_text() for value, label in shown if low <= value <= high] == ticks


def test_a_cost_that_is_not_positive_is_rejected():
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"seconds must be above 0 on a log axis, got \['popular'\] without"):
            comparison_figure(cost_table(seconds=[100.0, 300.0, value]), cost="seconds", metric=NDCG)


def test_a_table_without_a_column_or_without_models_is_rejected():
    with pytest.raises(ValueError, match=r"needs \['group', 'peak_mb'\], got"):
        comparison_figure(cost_table().drop(columns="group"), cost="peak_mb", metric=NDCG)
    with pytest.raises(ValueError, match="needs a model, got none"):
        comparison_figure(cost_table()[:0], cost="seconds", metric=NDCG)


def test_matplotlib_is_imported_only_for_a_figure_and_pyplot_never():
    code = "import sys, pandas, attnrec.evaluation.comparison, attnrec.tracking.figures.comparison as figures\n"
    code += "assert 'matplotlib' not in sys.modules\n"
    code += f"table = pandas.DataFrame({cost_table().to_dict('list')})\n"
    code += f"figures.comparison_figure(table, cost='seconds', metric={NDCG!r}).savefig(sys.stdout.buffer)\n"
    code += "assert 'matplotlib.pyplot' not in sys.modules\n"
    assert subprocess.check_output([sys.executable, "-c", code]).startswith(b"\x89PNG")
