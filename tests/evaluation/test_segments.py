"""User segments, metrics by segment, underperforming groups, and the figures."""

import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import Holdout, features_from_frame, histories_from_frame
from attnrec.evaluation.metrics import bootstrap_interval
from attnrec.evaluation.segments import by_segment, segment_tables, segments_of, underperforming_sentences
from attnrec.tracking.figures.segments import exposure_figure, segment_figure

NDCG = "ndcg_at_10"
DAY = 86_400


def holdout_of(histories, users=None) -> Holdout:
    """A holdout without targets: segments depend on the histories only."""
    users = np.arange(histories.n_users) if users is None else np.array(users)
    empty = np.zeros(0, dtype=np.int64)
    return Holdout(histories, users, empty, empty, np.zeros(len(users) + 1, dtype=np.int64))


@pytest.fixture
def four_users(make_histories) -> Holdout:
    """Histories of 1, 2, 3 and 5 events."""
    return holdout_of(make_histories({"ann": "a", "bob": "ab", "cid": "abc", "dan": "abcde"}))


def segment(holdout, name, frame=None) -> list[str]:
    features = None if frame is None else features_from_frame(frame, holdout.histories.user_ids)
    return segments_of(holdout, features)[name].tolist()


# --- groups of users ---------------------------------------------------------------------------------


def test_history_length_is_cut_at_quartiles_and_named_by_their_range(make_histories):
    lengths = {f"u{n}": "ab" * n for n in range(1, 9)}  # 2, 4, ..., 16
    result = segment(holdout_of(make_histories(lengths)), "history_length")
    assert result == ["2-4", "2-4", "6-8", "6-8", "10-12", "10-12", "14-16", "14-16"]


def test_only_the_histories_of_the_holdouts_users_count(make_histories):
    histories = make_histories({"ann": "abc", "bob": "abcde", "cid": "abcdefgh"}).up_to(np.array([1, 4, 8]))
    result = segments_of(holdout_of(histories, users=[1, 0]))
    assert result["user_id"].tolist() == ["bob", "ann"]
    assert result["history_length"].tolist() == ["4", "1"]


def test_equal_values_are_in_the_same_group(make_histories):
    assert segment(holdout_of(make_histories(dict.fromkeys("uvwxyz", "abc"))), "history_length") == ["3"] * 6
    one_shorter = dict.fromkeys("uvwxyz", "abc") | {"t": "a"}
    assert segment(holdout_of(make_histories(one_shorter)), "history_length") == ["1"] + ["3"] * 6


def test_activity_is_events_per_active_week():
    rows = [("ann", day * DAY) for day in (0, 1, 6, 7, 300)]  # 3 in one week, and 1 in each of two others
    rows += [("bob", day * DAY) for day in (0, 1, 2, 3)]
    rows += [("cid", day * DAY) for day in (0, 7, 14, 70)]
    frame = pd.DataFrame(rows, columns=["user_id", "datetime"]).assign(item_id="a")
    result = segment(holdout_of(histories_from_frame(frame)), "activity")
    assert result == [f"{5 / 3:.3g}", "4", "1"]


def test_logs_without_timestamps_have_no_activity(make_histories):
    frame = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["a", "a"]})
    result = segments_of(holdout_of(histories_from_frame(frame)))
    assert result.columns.tolist() == ["user_id", "history_length", "popularity_group"]


def test_users_are_grouped_by_their_share_of_head_items(make_histories):
    # a is the head of five items; the shares are 1, 1/2 and 0
    result = segment(
        holdout_of(make_histories({"ann": "aaaa", "bob": "abacd" + "a", "cid": "bcde"})), "popularity_group"
    )
    assert result == ["blockbuster", "mixed", "niche"]


def test_a_user_without_history_is_in_separate_groups(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc"}).up_to(np.array([0, 3]))
    result = segments_of(holdout_of(histories)).iloc[0]
    assert result.tolist() == ["ann", "0", "(unknown)", "no history"]


def test_user_columns_are_segments(four_users):
    frame = pd.DataFrame(
        {
            "user_id": ["dan", "ann", "bob"],
            "age": [40.5, 20, -3],
            "genres": [["jazz", "folk", "jazz"], ["folk"], None],
            "premium": [True, False, False],
            "note": ["free", "text", "not a segment"],
        }
    )
    result = segments_of(four_users, features_from_frame(frame, four_users.histories.user_ids)).set_index("user_id")
    assert result["age"].to_dict() == {"ann": "20", "bob": "-3", "cid": "(unknown)", "dan": "40.5"}
    assert result["genres"].to_dict() == {"ann": "folk", "bob": "(unknown)", "cid": "(unknown)", "dan": "folk + jazz"}
    assert result["premium"].to_dict() == {"ann": "0", "bob": "0", "cid": "(unknown)", "dan": "1"}
    assert "note" not in result


def test_negative_numbers_are_grouped(four_users):
    frame = pd.DataFrame({"user_id": ["ann", "bob", "cid", "dan"], "change": [-2.0, -2.0, -1.5, 0.25]})
    assert segment(four_users, "change", frame) == ["-2", "-2", "-1.5", "0.25"]


def test_a_range_with_negative_numbers_is_named_with_to(make_histories):
    world = {f"u{n}": "a" for n in range(8)}
    frame = pd.DataFrame({"user_id": list(world), "change": np.arange(8) - 4.0})
    result = segment(holdout_of(make_histories(world)), "change", frame)
    assert result == ["-4 to -3"] * 2 + ["-2 to -1"] * 2 + ["0 to 1"] * 2 + ["2 to 3"] * 2


def test_range_names_have_enough_digits_to_be_distinct(four_users):
    frame = pd.DataFrame({"user_id": ["ann", "bob", "cid", "dan"], "score": [0.5, 0.50001, 0.50002, 0.7]})
    assert segment(four_users, "score", frame) == ["0.5", "0.50001", "0.50002", "0.7"]


def test_a_number_column_without_values_is_unknown(four_users):
    frame = pd.DataFrame({"user_id": ["ann"], "age": [np.nan]})
    assert segment(four_users, "age", frame) == ["(unknown)"] * 4


def test_only_the_largest_groups_keep_their_names(make_histories):
    world = {f"u{n:02}": "a" for n in range(30)}
    frame = pd.DataFrame({"user_id": list(world), "town": [[f"t{n // 2 if n < 6 else n:02}"] for n in range(30)]})
    result = segment(holdout_of(make_histories(world)), "town", frame)
    # t00, t01 and t02 have two users, t06 to t29 have one: of the latter the first 17 by name are kept
    assert result[:7] == ["t00", "t00", "t01", "t01", "t02", "t02", "t06"]
    assert result[22:] == ["t22", *["(other)"] * 7]


def test_a_column_with_the_name_of_a_segment_gets_a_prefix(four_users):
    frame = pd.DataFrame({"user_id": ["ann"], "activity": [3], "all users": [["x"]]})
    result = segments_of(four_users, features_from_frame(frame, four_users.histories.user_ids))
    assert {"activity", "users.activity", "users.all users"} <= set(result)
    assert "all users" not in result


def test_features_of_other_users_are_rejected(four_users, make_histories):
    other = make_histories({"ann": "ab"})
    features = features_from_frame(pd.DataFrame({"user_id": ["ann"], "age": [3]}), other.user_ids)
    with pytest.raises(ValueError, match="a row per user of the histories, got 1 for 4"):
        segments_of(four_users, features)


# --- metrics by group -----------------------------------------------------------------------------------


def evaluated(values) -> pd.DataFrame:
    return pd.DataFrame({"user_id": [f"u{n:04}" for n in range(len(values))], NDCG: np.asarray(values, dtype=float)})


def grouped(**columns) -> pd.DataFrame:
    n_users = len(next(iter(columns.values())))
    return pd.DataFrame({"user_id": [f"u{n:04}" for n in range(n_users)]} | columns)


def test_groups_are_compared_with_all_users():
    values = [0.1, 0.3, 0.8, 0.4]
    table = by_segment(evaluated(values), grouped(side=["l", "l", "r", "r"]), metric=NDCG).set_index("group")
    assert table["segment"].tolist() == ["all users", "side", "side"]
    assert table["n_users"].tolist() == [4, 2, 2]
    assert table["mean"].tolist() == pytest.approx([0.4, 0.2, 0.6])
    assert table["relative_difference"].tolist() == pytest.approx([0, 0.2 / 0.4 - 1, 0.6 / 0.4 - 1])
    assert tuple(table.loc["l", ["low", "high"]]) == bootstrap_interval(np.array([0.1, 0.3]))


def test_groups_keep_their_order_in_any_order_of_the_users():
    side = pd.Categorical(["2-9", "10-12", "2-9", "10-12"], categories=["2-9", "10-12", "empty"], ordered=True)
    segments = grouped(side=side)
    table = by_segment(evaluated([1, 0, 1, 0]), segments, metric=NDCG)
    assert table["group"].tolist() == ["all users", "2-9", "10-12"]
    assert table.equals(by_segment(evaluated([1, 0, 1, 0]), segments.iloc[::-1], metric=NDCG))


def test_a_large_group_far_below_the_mean_is_underperforming():
    values = np.repeat([0.1, 0.3], 200) + np.tile([-0.05, 0.05], 200)
    table = by_segment(evaluated(values), grouped(side=["l"] * 200 + ["r"] * 200), metric=NDCG)
    assert table["underperforming"].tolist() == [False, True, False]
    assert underperforming_sentences(table, NDCG) == [
        "ndcg@10 of side l is 0.1000, 50% below the mean 0.2000 of all users "
        f"(95 % interval {table['low'][1]:.4f} to {table['high'][1]:.4f}, 200 users)"
    ]


def test_a_group_less_than_20_percent_below_the_mean_is_not_underperforming():
    values = np.repeat([0.17, 0.23], 2000)  # 15 % below .2
    table = by_segment(evaluated(values), grouped(side=["l"] * 2000 + ["r"] * 2000), metric=NDCG)
    assert not table["underperforming"].any()
    assert underperforming_sentences(table, NDCG) == []


def test_a_few_users_without_a_hit_are_not_underperforming():
    # a tenth of all users have a hit; the five users of the group have none, and their interval is the point 0
    table = by_segment(evaluated([1, *[0] * 9] * 20), grouped(side=[*"rrrrrlllll"] + ["r"] * 190), metric=NDCG)
    group = table.set_index("group").loc["l"]
    assert (group["mean"], group["high"], group["relative_difference"]) == (0, 0, -1)
    assert not group["underperforming"]


def test_a_group_whose_interval_contains_the_mean_of_all_users_is_not_underperforming():
    # the ten users of the group have one 1 and nine 0: a resample may have the 1 three times
    table = by_segment(evaluated([1, *[0] * 9] + [0.25] * 1000), grouped(side=["l"] * 10 + ["r"] * 1000), metric=NDCG)
    group = table.set_index("group").loc["l"]
    assert group["mean"] == pytest.approx(0.1)
    assert group["high"] == pytest.approx(0.3)
    assert not group["underperforming"]


def test_more_groups_require_a_larger_difference():
    # .06 below the mean, more than twice the standard error .025 of 100 users (deviation .25 / 10)
    values = [0.5] * 38 + [0] * 62 + [0.5] * 450 + [0] * 450
    side, many = ["l"] * 100 + ["r"] * 900, [f"g{n % 18:02}" for n in range(1000)]
    alone = by_segment(evaluated(values), grouped(side=side), metric=NDCG)
    crowded = by_segment(evaluated(values), grouped(side=side, many=many), metric=NDCG)
    assert alone.set_index("group").loc["l", "underperforming"]
    assert not crowded.set_index("group").loc["l", "underperforming"]


def test_sentences_start_with_the_worst_group():
    values = np.repeat([0.5, 0.2, 0.1], 300)
    table = by_segment(evaluated(values), grouped(side=["a"] * 300 + ["b"] * 300 + ["c"] * 300), metric=NDCG)
    assert [sentence.split()[3] for sentence in underperforming_sentences(table, NDCG)] == ["c", "b"]


def test_groups_of_one_user_with_equal_values_are_not_underperforming():
    table = by_segment(evaluated([0.5, 0.5, 0.5]), grouped(side=["a", "b", "c"]), metric=NDCG)
    assert table["relative_difference"].tolist() == [0] * 4
    assert table["low"].tolist() == table["high"].tolist() == [0.5] * 4
    assert not table["underperforming"].any()


def test_a_mean_of_zero_has_no_relative_difference():
    table = by_segment(evaluated([0, 0]), grouped(side=["a", "b"]), metric=NDCG)
    assert table["relative_difference"].isna().all()
    assert not table["underperforming"].any()


def test_users_without_a_value_are_left_out():
    table = by_segment(evaluated([0.2, np.nan, 0.4]), grouped(side=["a", "a", "b"]), metric=NDCG)
    assert table["n_users"].tolist() == [2, 1, 1]
    assert table["mean"].tolist() == pytest.approx([0.3, 0.2, 0.4])


def test_segments_of_a_holdout_work_with_metrics(four_users):
    per_user = pd.DataFrame({"user_id": ["dan", "ann", "cid", "bob"], NDCG: [1.0, 0, 0.5, 0.5]})
    table = by_segment(per_user, segments_of(four_users), metric=NDCG)
    lengths = table[table["segment"] == "history_length"]
    assert dict(zip(lengths["group"], lengths["mean"], strict=True)) == {"1": 0, "2": 0.5, "3": 0.5, "5": 1}


def test_invalid_inputs_are_rejected():
    segments = grouped(side=["a", "b"])
    with pytest.raises(ValueError, match="every evaluated user, got 1 users without \\(first: 'u0002'\\)"):
        by_segment(evaluated([1, 1, 1]), segments, metric=NDCG)
    with pytest.raises(ValueError, match="need the columns user_id and recall_at_3"):
        by_segment(evaluated([1, 1]), segments, metric="recall_at_3")
    with pytest.raises(ValueError, match="need a user with a finite value, got none"):
        by_segment(evaluated([np.nan]), segments, metric=NDCG)
    with pytest.raises(ValueError, match="each user must occur once, got 'u0000' twice"):
        by_segment(pd.concat([evaluated([1])] * 2), segments, metric=NDCG)


# --- several models and metrics -------------------------------------------------------------------------


def test_segment_tables_equal_the_tables_of_each_model_and_metric():
    random = np.random.default_rng(0)
    segments = grouped(side=[*"lllrrr"] * 10, half=["a"] * 30 + ["b"] * 30)
    frames = {name: evaluated(random.random(60)).assign(hits=random.integers(0, 2, 60)) for name in ("one", "other")}
    result = segment_tables(frames, segments, metrics=["hits", NDCG])
    assert result[["model", "metric"]].drop_duplicates().to_numpy().tolist() == [
        ["one", "hits"], ["one", NDCG], ["other", "hits"], ["other", NDCG],
    ]  # fmt: skip
    for (name, metric), table in result.groupby(["model", "metric"]):
        alone = by_segment(frames[name], segments, metric=metric)
        pd.testing.assert_frame_equal(table.drop(columns=["model", "metric"]).reset_index(drop=True), alone)


def test_models_may_have_users_in_any_order():
    segments = grouped(side=[*"llrr"])
    frames = {"one": evaluated([1, 0, 1, 1]), "other": evaluated([0, 0, 1, 0])}
    result = segment_tables(frames, segments, metrics=[NDCG])
    reversed_order = segment_tables(frames | {"other": frames["other"].iloc[::-1]}, segments, metrics=[NDCG])
    assert reversed_order.equals(result)
    assert result["mean"].tolist() == [3 / 4, 1 / 2, 1, 1 / 4, 0, 1 / 2]


def test_models_with_different_users_are_rejected():
    segments = grouped(side=[*"llr"])
    with pytest.raises(ValueError, match=f"got 1 users that differ in {NDCG} of 'other' \\(first: 'u0002'\\)"):
        segment_tables({"one": evaluated([1, 0]), "other": evaluated([1, 0, 1])}, segments, metrics=[NDCG])
    with pytest.raises(ValueError, match="of the same users, got 1 users that differ"):
        segment_tables({"one": evaluated([1, 0]), "other": evaluated([1, np.nan])}, segments, metrics=[NDCG])
    with pytest.raises(ValueError, match="need a model and a metric, got none"):
        segment_tables({}, segments, metrics=[NDCG])


# --- figures -----------------------------------------------------------------------------------------


def test_the_segment_figure_has_a_panel_per_segment_and_a_dot_per_group():
    values = np.repeat([0.1, 0.3, 0.35], 200)
    sides = grouped(side=["l"] * 200 + ["r"] * 400, height_of_user=["low", "mid", "high"] * 200)
    table = by_segment(evaluated(values), sides, metric=NDCG)
    figure = segment_figure(table, metric=NDCG)
    side, height = figure.axes
    assert side.get_title(loc="left") == "side"
    assert height.get_title(loc="left") == "height of user"
    assert [label.get_text() for label in side.get_yticklabels()] == ["l", "r"]
    assert [label.get_text() for label in height.get_yticklabels()] == ["high", "low", "mid"]
    assert side.get_ylim()[0] > side.get_ylim()[1]  # the first group on top
    assert [text.get_text() for text in side.texts] == ["200", "400"]
    assert side.lines[0].get_xdata()[0] == pytest.approx((0.1 + 0.3 + 0.35) / 3)
    assert height.get_xlabel() == "ndcg@10 (mean over users, 95 % interval)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "all users",
        "group",
        "underperforming group",
    ]


def exposure_of(**shares) -> pd.DataFrame:
    """Exposure tables of models: the share of the last decile as given, the other deciles equal."""
    deciles = pd.DataFrame({"decile": range(1, 11), "n_items": [1234.5, *[30.0] * 8, 0.4]})
    tables = [deciles.assign(model=name, share=[(1 - last) / 9] * 9 + [last]) for name, last in shares.items()]
    return pd.concat(tables).assign(low=lambda table: table["share"] - 0.01, high=lambda table: table["share"] + 0.01)


def lifts_of(**lifts) -> pd.DataFrame:
    """Popularity lifts of niche and blockbuster users by model."""
    rows = [
        (name, group, 7, lift, lift - 0.1, lift + 0.1)
        for name, pair in lifts.items()
        for group, lift in zip(("niche", "blockbuster"), pair, strict=True)
    ]
    return pd.DataFrame(rows, columns=["model", "group", "n_users", "lift", "low", "high"])


def test_the_exposure_figure_has_a_line_per_model_and_a_point_per_model_and_group():
    figure = exposure_figure(exposure_of(ours=0.1, popularity=0.9), lifts_of(ours=(0.2, 0.1), popularity=(3.0, 1.0)))
    left, right = figure.axes
    ours, popularity, uniform = left.lines
    assert ours.get_ydata() == pytest.approx([0.1] * 10)
    assert popularity.get_ydata()[-1] == 0.9
    assert ours.get_linewidth() > popularity.get_linewidth()
    assert list(uniform.get_ydata()) == [0.1, 0.1]
    assert [label.get_text() for label in left.get_xticklabels()][::9] == ["1\n1,234", "10\n0.4"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["niche\n7 users", "blockbuster\n7 users"]
    points = [offset.tolist() for dots in right.collections[1::2] for offset in dots.get_offsets()]
    assert [x for x, _ in points] == [0.2, 0.1, 3.0, 1.0]
    assert len({round(y, 6) for _, y in points}) == 4, "no two points overlap"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "popularity", "share of events"]


def test_an_invalid_exposure_table_is_rejected():
    whole, groups = exposure_of(ours=0.1), lifts_of(ours=(0.2, 0.1))
    with pytest.raises(ValueError, match=r"the figure needs \['n_items'\]"):
        exposure_figure(whole.drop(columns="n_items"), groups)
    with pytest.raises(ValueError, match=r"the figure needs \['lift'\]"):
        exposure_figure(whole, groups.drop(columns="lift"))
    with pytest.raises(ValueError, match="needs users with a history and a list, got none"):
        exposure_figure(whole.head(0), groups)
    with pytest.raises(ValueError, match="needs users with a history and a list, got none"):
        exposure_figure(whole, groups.head(0))


def test_a_figure_leaves_no_pyplot_state():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    segment_figure(by_segment(evaluated([1, 0]), grouped(side=["a", "b" * 60]), metric=NDCG), metric=NDCG)
    exposure_figure(exposure_of(ours=0.1), lifts_of(ours=(0.2, 0.1)))
    assert pyplot.get_fignums() == before


def test_an_invalid_segment_table_is_rejected():
    table = by_segment(evaluated([1, 0]), grouped(side=["a", "b"]), metric=NDCG)
    with pytest.raises(ValueError, match=r"the figure needs \['underperforming'\]"):
        segment_figure(table.drop(columns="underperforming"), metric=NDCG)
    with pytest.raises(ValueError, match="needs 'all users' and a segment, got \\['all users'\\]"):
        segment_figure(table.head(1), metric=NDCG)
