"""Result of a faithfulness measurement: tables, paired tests, the verdict, and figures."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from attnrec.attribution import METHODS
from attnrec.evaluation.comparison import compare
from attnrec.evaluation.metrics import bootstrap_interval
from attnrec.faithfulness import DIRECTIONS, Faithfulness, faithfulness_verdict
from attnrec.tracking.figures.faithfulness import curves_figure, faithfulness_figure

N_USERS = 40
SMOOTH = ("deletion", "insertion", "comprehensiveness", "sufficiency", "tau", "stability")


def noise(seed: int) -> np.ndarray:
    """Return random noise with mean 0."""
    values = np.random.default_rng(seed).normal(0, 0.1, N_USERS)
    return values - values.mean()


def measured_of(means: dict[str, float], skipped_methods: dict[str, str] | None = None, **columns) -> Faithfulness:
    """Return metrics with noise around the mean of each method; `columns` replaces values, by metric and method."""
    users = [f"u{n:02}" for n in range(N_USERS)]
    frames, curves = [], []
    for number, (method, mean) in enumerate(means.items()):
        frame = pd.DataFrame({"user_id": users, "item_id": "i", "n_events": 7, "method": method})
        values = {name: mean + noise(number) for name in ("pos_at_5", "neg_at_5", "pos_at_10", *SMOOTH)}
        frames.append(frame.assign(**values | {name: by[method] for name, by in columns.items() if method in by}))
        for curve in ("deletion", "reverse_deletion", "insertion"):
            shares = np.arange(5) / 4
            curves.append(
                pd.DataFrame({"method": method, "curve": curve, "share": shares, "probability": mean * shares})
            )
    permutation = pd.DataFrame({"user_id": users, "n_events": 7, "largest_weight": 0.5, "median_distance": 0.1})
    permutation.loc[:9, "median_distance"] = 0.04
    return Faithfulness("attnrec", pd.concat(frames), pd.concat(curves), permutation, skipped_methods or {}, {"few": 3})


@pytest.fixture
def measured() -> Faithfulness:
    return measured_of({"contribution": 0.2, "weight": 0.15, "random": 0.6, "recency": 0.5, "popularity": 0.7})


# --- the summary


def test_the_summary_has_means_and_bootstrap_intervals(measured):
    table = measured.summary().set_index("method")
    assert table.index.tolist() == ["contribution", "weight", "random", "recency", "popularity"]
    assert table["exact"].tolist() == [True, False, False, False, False]
    assert table["control"].tolist() == [False, False, True, True, True]
    assert table["n_users"].tolist() == [N_USERS] * 5
    row = table.loc["random"]
    assert row["deletion"] == pytest.approx((0.6 + noise(2)).mean())
    assert (row["pos_at_5_low"], row["pos_at_5_high"]) == pytest.approx(bootstrap_interval(0.6 + noise(2)))
    with_intervals = {name.removesuffix("_low") for name in table if name.endswith("_low")}
    assert with_intervals == {"pos_at_5", "neg_at_5", *SMOOTH} - {"stability"}


def test_nan_values_are_left_out_of_means():
    taus = np.where(np.arange(N_USERS) < 4, 0.5, np.nan)
    measured = measured_of({"contribution": 0.2, "random": 0.1}, tau={"contribution": taus, "random": np.nan})
    contribution, random = (row for _, row in measured.summary().iterrows())
    assert contribution[["tau", "tau_low", "tau_high"]].tolist() == pytest.approx([0.5] * 3)
    assert random[["tau", "tau_low", "tau_high"]].isna().all()


def test_json_is_small_and_has_no_nan(measured):
    without_values = measured_of({"contribution": 0.2}, {"weight": "needs attention"}, tau={"contribution": np.nan})
    for each in (measured, without_values):
        text = json.dumps(each.to_json(), allow_nan=False)
        assert len(text) < 5_000
    result = measured.to_json()
    assert result["permutation"] == {"n_users": N_USERS, "median_distance": 0.1, "interchangeable_share": 10 / N_USERS}
    assert result["methods"][2]["pos_at_5"] == round((0.6 + noise(2)).mean(), 6)
    assert without_values.to_json()["methods"][0]["tau"] is None
    assert without_values.to_json()["skipped_methods"] == {"weight": "needs attention"}
    assert result["skipped_users"] == {"few": 3}


# --- comparison of a method with the others


def test_a_method_is_compared_with_every_other_method(measured):
    table = measured.compare_method("pos_at_5").set_index("other")
    assert table.index.tolist() == ["weight", "random", "recency", "popularity"]
    expected = compare(
        *(measured.per_user[measured.per_user["method"] == name] for name in ("contribution", "random")),
        metric="pos_at_5",
    )
    row = table.loc["random"]
    assert row[["difference", "low", "high", "p_value"]].tolist() == [
        expected.mean, *expected.interval, expected.p_value,
    ]  # fmt: skip
    assert row["mean"] - row["other_mean"] == pytest.approx(row["difference"])
    assert row["n_users"] == N_USERS


@pytest.mark.parametrize(
    ("metric", "better"),
    [("pos_at_5", "low"), ("pos_at_10", "low"), ("neg_at_5", "high"), ("deletion", "low"), ("insertion", "high")]
    + [("comprehensiveness", "high"), ("sufficiency", "low"), ("tau", "high"), ("stability", "high")],
)  # fmt: skip
def test_the_better_method_follows_the_direction_of_the_metric(metric, better):
    measured = measured_of({"contribution": 0.2, "random": 0.6})
    names = {"low": "contribution", "high": "random"}
    assert measured.compare_method(metric)["better"].tolist() == [names[better]]
    assert measured.compare_method(metric, method="random")["better"].tolist() == [names[better]]


def test_every_metric_has_a_direction(measured):
    assert {name.partition("_at_")[0] for name in measured.metrics} == {*DIRECTIONS}


def test_equal_methods_have_no_better_method():
    measured = measured_of({"contribution": 0.2, "random": 0.6}, tau={"contribution": 0.5, "random": 0.5})
    row = measured.compare_method("tau").iloc[0]
    assert (row["difference"], row["p_value"], row["better"]) == (0, 1, "neither")


def test_only_users_with_both_values_are_compared():
    values = np.arange(N_USERS, dtype=float)
    measured = measured_of(
        {"contribution": 0, "random": 0, "recency": 0},
        tau={
            "contribution": np.where(values < 30, values, np.nan),
            "random": np.where(values < 10, np.nan, values - 1),
            "recency": np.nan,
        },
    )
    random, recency = (row for _, row in measured.compare_method("tau").iterrows())
    assert (random["n_users"], random["difference"], random["better"]) == (20, 1, "contribution")
    assert (recency["n_users"], recency["better"]) == (0, "neither")
    assert np.isnan(recency["p_value"])


def test_comparison_of_unmeasured_metrics_or_methods_raises_an_error(measured):
    with pytest.raises(ValueError, match="metric must be a measured metric, got 'pos_at_3'; choose one of pos_at_5, "):
        measured.compare_method("pos_at_3")
    with pytest.raises(ValueError, match="got 'shapley'; choose one of contribution, weight"):
        measured.compare_method("tau", method="shapley")


# --- the verdict


def test_contributions_that_outperform_every_control_are_faithful(measured):
    result = faithfulness_verdict(measured)
    assert result.faithful
    assert result.sentence == (
        "contributions outperform every control in pos@5 (lower is better): 0.200, random 0.600 (p = 0.0001), "
        "recency 0.500 (p = 0.0001), popularity 0.700 (p = 0.0001); 40 users, level 0.01"
    )
    assert set(result.numbers) == {"random", "recency", "popularity"}, "weight is better, but not a control"
    assert result.numbers["random"]["other_mean"] == pytest.approx((0.6 + noise(2)).mean())
    assert result.to_json()["faithful"] is True


def test_one_control_that_is_not_outperformed_is_named():
    result = faithfulness_verdict(measured_of({"contribution": 0.4, "random": 0.9, "recency": 0.42, "popularity": 0.8}))
    assert not result.faithful
    assert result.sentence.startswith(
        "contributions do not outperform recency in pos@5 (lower is better): 0.400, recency 0.420 (p = "
    )
    assert "random" not in result.sentence
    assert json.loads(json.dumps(result.to_json()))["numbers"]["recency"]["p_value"] > 0.01


def test_the_direction_of_the_metric_decides_the_verdict():
    measured = measured_of({"contribution": 0.9, "random": 0.1})
    assert not faithfulness_verdict(measured).faithful
    assert faithfulness_verdict(measured, metric="neg_at_5").faithful


def test_the_verdict_depends_on_the_level():
    measured = measured_of({"contribution": 0.4, "recency": 0.47})
    p_value = measured.compare_method("pos_at_5")["p_value"].item()
    assert 0.0005 < p_value < 0.05
    assert faithfulness_verdict(measured, level=p_value * 1.01).faithful
    assert not faithfulness_verdict(measured, level=p_value).faithful


def test_a_model_without_exact_contributions_is_not_faithful():
    measured = measured_of({"random": 0.5}, {"contribution": "contribution needs scores that are sums"})
    result = faithfulness_verdict(measured)
    assert not result.faithful
    assert result.sentence == "attnrec has no exact contributions: contribution needs scores that are sums"


def test_a_verdict_needs_contributions_and_a_control():
    with pytest.raises(ValueError, match="got 'contribution'; choose one of random"):
        faithfulness_verdict(measured_of({"random": 0.5}))
    for methods in ({"contribution": 0.5}, {"contribution": 0.5, "weight": 0.6}):
        with pytest.raises(ValueError, match="needs at least one control, got contribution"):
            faithfulness_verdict(measured_of(methods))


# --- figures


def test_curves_have_a_line_for_each_method_in_both_panels(measured):
    figure = curves_figure(measured)
    for axes, curve in zip(figure.axes, ("deletion", "insertion"), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert [*lines] == ["contribution", "weight", "random", "recency", "popularity"]
        assert lines["random"].get_ydata().tolist() == pytest.approx([0.6 * n / 4 for n in range(5)])
        assert curve in axes.get_title(loc="left").lower()
        widths = {name: line.get_linewidth() for name, line in lines.items()}
        assert max(widths, key=widths.get) == "contribution"
        controls = [lines[name] for name in ("random", "recency", "popularity")]
        assert len({line.get_color() for line in controls}) == 1
        assert len({line.get_linestyle() + str(line._dash_pattern) for line in controls}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*lines]


def test_the_lines_of_all_methods_look_different():
    figure = curves_figure(measured_of(dict.fromkeys(METHODS, 0.5)))
    styles = [
        (line.get_color(), line.get_marker(), str(line._dash_pattern), line.get_linewidth())
        for line in figure.axes[0].get_lines()
    ]
    assert len(set(styles)) == len(METHODS)


@pytest.mark.parametrize(("metric", "best"), [("pos_at_5", "weight"), ("neg_at_5", "popularity")])
def test_the_best_method_is_on_top(metric, best, measured):
    figure = faithfulness_figure(measured, metric=metric)
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    table = measured.summary().sort_values(metric, ascending=best == "weight")
    assert names == table["method"].tolist()
    assert names[0] == best
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first method is on top"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["exact", "other method", "control"]
    assert metric[:3].upper() + "@5" in axes.get_xlabel()


def test_a_figure_of_a_metric_without_interval_raises_an_error(measured):
    with pytest.raises(ValueError, match="must have an interval, got 'stability'; take one of pos_at_5, neg_at_5"):
        faithfulness_figure(measured, metric="stability")


def test_matplotlib_is_imported_when_a_figure_is_made():
    code = "import sys, attnrec.tracking.figures.faithfulness; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
