import numpy as np
import pandas as pd
import pytest

from attnrec.dataset import Holdout, features_from_frame, histories_from_frame
from attnrec.evaluation.metrics import bootstrap_interval
from attnrec.evaluation.segments import by_segment, underperforming_sentences, segment_tables, segments_of
from attnrec.tracking.figures.segments import exposure_figure, segment_figure

NDCG = "ndcg_at_10"
DAY = 86_400


def holdout_of(histories, users=None) -> Holdout:
    """Questions without answers: segments look at what is visible."""
    users = np.arange(histories.n_users) if users is None else np.array(users)
    nothing = np.zeros(0, dtype=np.int64)
    return Holdout(histories, users, nothing, nothing, np.zeros(len(users) + 1, dtype=np.int64))


@pytest.fixture
def four_users(make_histories) -> Holdout:
    """Histories of 1, 2, 3 and 5 events."""
    return holdout_of(make_histories({"ann": "a", "bob": "ab", "cid": "abc", "dan": "abcde"}))


def segment(holdout, name, frame=None) -> list[str]:
    features = None if frame is None else features_from_frame(frame, holdout.histories.user_ids)
    return segments_of(holdout, features)[name].tolist()


# --- which group a user belongs to ----------------------------------------------------------------------


def test_history_length_is_cut_at_quartiles_named_by_their_range(make_histories):
    lengths = {f"u{n}": "ab" * n for n in range(1, 9)}  # 2, 4, ..., 16
    found = segment(holdout_of(make_histories(lengths)), "history_length")
    assert found == ["2-4", "2-4", "6-8", "6-8", "10-12", "10-12", "14-16", "14-16"]


def test_only_visible_events_of_users_who_are_asked_count(make_histories):
    histories = make_histories({"ann": "abc", "bob": "abcde", "cid": "abcdefgh"}).up_to(np.array([1, 4, 8]))
    found = segments_of(holdout_of(histories, users=[1, 0]))
    assert found["user_id"].tolist() == ["bob", "ann"]
    assert found["history_length"].tolist() == ["4", "1"]


def test_equal_values_are_never_parted(make_histories):
    assert segment(holdout_of(make_histories(dict.fromkeys("uvwxyz", "abc"))), "history_length") == ["3"] * 6
    one_differs = dict.fromkeys("uvwxyz", "abc") | {"t": "a"}
    assert segment(holdout_of(make_histories(one_differs)), "history_length") == ["1"] + ["3"] * 6


def test_activity_is_events_per_week_with_an_event():
    rows = [("ann", day * DAY) for day in (0, 1, 6, 7, 300)]  # 3 in one week, and 1 in each of two others
    rows += [("bob", day * DAY) for day in (0, 1, 2, 3)]
    rows += [("cid", day * DAY) for day in (0, 7, 14, 70)]
    frame = pd.DataFrame(rows, columns=["user_id", "datetime"]).assign(item_id="a")
    found = segment(holdout_of(histories_from_frame(frame)), "activity")
    assert found == [f"{5 / 3:.3g}", "4", "1"]


def test_logs_without_a_clock_have_no_activity(make_histories):
    frame = pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["a", "a"]})
    found = segments_of(holdout_of(histories_from_frame(frame)))
    assert found.columns.tolist() == ["user_id", "history_length", "popularity_group"]


def test_users_are_grouped_by_their_taste_for_the_popular(make_histories):
    # a is the head of five items: shares 1, 1/2, 0
    found = segment(holdout_of(make_histories({"ann": "aaaa", "bob": "abacd" + "a", "cid": "bcde"})), "popularity_group")
    assert found == ["blockbuster", "mixed", "niche"]


def test_a_user_without_history_is_in_groups_of_their_own(make_histories):
    histories = make_histories({"ann": "ab", "bob": "abc"}).up_to(np.array([0, 3]))
    found = segments_of(holdout_of(histories)).iloc[0]
    assert found.tolist() == ["ann", "0", "(unknown)", "no history"]


def test_columns_of_users_are_segments(four_users):
    frame = pd.DataFrame(
        {
            "user_id": ["dan", "ann", "bob"],
            "age": [40.5, 20, -3],
            "genres": [["jazz", "folk", "jazz"], ["folk"], None],
            "premium": [True, False, False],
            "note": ["free", "text", "is no segment"],
        }
    )
    found = segments_of(four_users, features_from_frame(frame, four_users.histories.user_ids)).set_index("user_id")
    assert found["age"].to_dict() == {"ann": "20", "bob": "-3", "cid": "(unknown)", "dan": "40.5"}
    assert found["genres"].to_dict() == {"ann": "folk", "bob": "(unknown)", "cid": "(unknown)", "dan": "folk + jazz"}
    assert found["premium"].to_dict() == {"ann": "0", "bob": "0", "cid": "(unknown)", "dan": "1"}
    assert "note" not in found


def test_numbers_below_zero_are_groups_too(four_users):
    frame = pd.DataFrame({"user_id": ["ann", "bob", "cid", "dan"], "change": [-2.0, -2.0, -1.5, 0.25]})
    assert segment(four_users, "change", frame) == ["-2", "-2", "-1.5", "0.25"]


def test_a_range_from_below_zero_is_written_out(make_histories):
    world = {f"u{n}": "a" for n in range(8)}
    frame = pd.DataFrame({"user_id": list(world), "change": np.arange(8) - 4.0})
    found = segment(holdout_of(make_histories(world)), "change", frame)
    assert found == ["-4 to -3"] * 2 + ["-2 to -1"] * 2 + ["0 to 1"] * 2 + ["2 to 3"] * 2


def test_ranges_have_as_many_digits_as_tell_them_apart(four_users):
    frame = pd.DataFrame({"user_id": ["ann", "bob", "cid", "dan"], "score": [0.5, 0.50001, 0.50002, 0.7]})
    assert segment(four_users, "score", frame) == ["0.5", "0.50001", "0.50002", "0.7"]


def test_a_column_of_numbers_that_nobody_has_is_unknown(four_users):
    frame = pd.DataFrame({"user_id": ["ann"], "age": [np.nan]})
    assert segment(four_users, "age", frame) == ["(unknown)"] * 4


def test_only_the_largest_groups_keep_their_names(make_histories):
    world = {f"u{n:02}": "a" for n in range(30)}
    frame = pd.DataFrame({"user_id": list(world), "town": [[f"t{n // 2 if n < 6 else n:02}"] for n in range(30)]})
    found = segment(holdout_of(make_histories(world)), "town", frame)
    # t00, t01 and t02 have two users, t06 to t29 one: of these the first 17 by name are kept
    assert found[:7] == ["t00", "t00", "t01", "t01", "t02", "t02", "t06"]
    assert found[22:] == ["t22", *["(other)"] * 7]


def test_a_column_with_the_name_of_a_segment_is_told_apart(four_users):
    frame = pd.DataFrame({"user_id": ["ann"], "activity": [3], "all users": [["x"]]})
    found = segments_of(four_users, features_from_frame(frame, four_users.histories.user_ids))
    assert {"activity", "users.activity", "users.everyone"} <= set(found)
    assert "all users" not in found


def test_features_of_other_users_are_refused(four_users, make_histories):
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


def test_groups_are_held_against_everyone():
    values = [0.1, 0.3, 0.8, 0.4]
    table = by_segment(evaluated(values), grouped(side=["l", "l", "r", "r"]), metric=NDCG).set_index("group")
    assert table["segment"].tolist() == ["all users", "side", "side"]
    assert table["n_users"].tolist() == [4, 2, 2]
    assert table["mean"].tolist() == pytest.approx([0.4, 0.2, 0.6])
    assert table["behind"].tolist() == pytest.approx([0, 0.2 / 0.4 - 1, 0.6 / 0.4 - 1])
    assert tuple(table.loc["l", ["low", "high"]]) == bootstrap_interval(np.array([0.1, 0.3]))


def test_groups_keep_their_order_and_the_rows_of_users_need_none():
    side = pd.Categorical(["2-9", "10-12", "2-9", "10-12"], categories=["2-9", "10-12", "none such"], ordered=True)
    segments = grouped(side=side)
    one = by_segment(evaluated([1, 0, 1, 0]), segments, metric=NDCG)
    assert one["group"].tolist() == ["all users", "2-9", "10-12"]
    assert one.equals(by_segment(evaluated([1, 0, 1, 0]), segments.iloc[::-1], metric=NDCG))


def test_a_large_group_far_behind_is_lagging():
    values = np.repeat([0.1, 0.3], 200) + np.tile([-0.05, 0.05], 200)
    table = by_segment(evaluated(values), grouped(side=["l"] * 200 + ["r"] * 200), metric=NDCG)
    assert table["underperforming"].tolist() == [False, True, False]
    assert underperforming_sentences(table, NDCG) == [
        "ndcg_at_10 of side l is 0.1000, 50% behind the 0.2000 of everyone "
        f"(95 % interval {table['low'][1]:.4f} to {table['high'][1]:.4f}, 200 users)"
    ]


def test_a_group_a_little_behind_is_not_lagging_however_large():
    values = np.repeat([0.17, 0.23], 2000)  # 15 % less than .2
    table = by_segment(evaluated(values), grouped(side=["l"] * 2000 + ["r"] * 2000), metric=NDCG)
    assert not table["underperforming"].any()
    assert underperforming_sentences(table, NDCG) == []


def test_a_handful_of_users_with_nothing_found_is_not_lagging():
    # a tenth of all users have a hit; five have none, and their interval is the point 0
    table = by_segment(evaluated([1, *[0] * 9] * 20), grouped(side=[*"rrrrrlllll"] + ["r"] * 190), metric=NDCG)
    few = table.set_index("group").loc["l"]
    assert (few["mean"], few["high"], few["behind"]) == (0, 0, -1)
    assert not few["underperforming"]


def test_a_group_whose_interval_holds_the_mean_of_everyone_is_not_lagging():
    # ten users who differ more than all others: one has 1 and the others nothing, three of ten may be drawn
    table = by_segment(evaluated([1, *[0] * 9] + [0.25] * 1000), grouped(side=["l"] * 10 + ["r"] * 1000), metric=NDCG)
    few = table.set_index("group").loc["l"]
    assert few["mean"] == pytest.approx(0.1)
    assert few["high"] == pytest.approx(0.3)
    assert not few["underperforming"]


def test_the_more_groups_are_looked_at_the_more_it_takes():
    # .06 behind, of which by chance a hundred users have .025 (the deviation .25 by ten): more than 2 times
    values = [0.5] * 38 + [0] * 62 + [0.5] * 450 + [0] * 450
    side, many = ["l"] * 100 + ["r"] * 900, [f"g{n % 18:02}" for n in range(1000)]
    alone = by_segment(evaluated(values), grouped(side=side), metric=NDCG)
    among = by_segment(evaluated(values), grouped(side=side, many=many), metric=NDCG)
    assert alone.set_index("group").loc["l", "underperforming"]
    assert not among.set_index("group").loc["l", "underperforming"]


def test_the_worst_is_said_first():
    values = np.repeat([0.5, 0.2, 0.1], 300)
    table = by_segment(evaluated(values), grouped(side=["a"] * 300 + ["b"] * 300 + ["c"] * 300), metric=NDCG)
    assert [sentence.split()[3] for sentence in underperforming_sentences(table, NDCG)] == ["c", "b"]


def test_groups_of_one_user_and_of_equal_users_make_no_noise():
    table = by_segment(evaluated([0.5, 0.5, 0.5]), grouped(side=["a", "b", "c"]), metric=NDCG)
    assert table["behind"].tolist() == [0] * 4
    assert table["low"].tolist() == table["high"].tolist() == [0.5] * 4
    assert not table["underperforming"].any()


def test_when_nothing_is_ever_found_nobody_is_behind():
    table = by_segment(evaluated([0, 0]), grouped(side=["a", "b"]), metric=NDCG)
    assert table["behind"].isna().all()
    assert not table["underperforming"].any()


def test_users_without_a_value_are_left_out():
    table = by_segment(evaluated([0.2, np.nan, 0.4]), grouped(side=["a", "a", "b"]), metric=NDCG)
    assert table["n_users"].tolist() == [2, 1, 1]
    assert table["mean"].tolist() == pytest.approx([0.3, 0.2, 0.4])


def test_made_segments_and_metrics_fit_together(four_users):
    per_user = pd.DataFrame({"user_id": ["dan", "ann", "cid", "bob"], NDCG: [1.0, 0, 0.5, 0.5]})
    table = by_segment(per_user, segments_of(four_users), metric=NDCG)
    lengths = table[table["segment"] == "history_length"]
    assert dict(zip(lengths["group"], lengths["mean"], strict=True)) == {"1": 0, "2": 0.5, "3": 0.5, "5": 1}


def test_what_does_not_fit_is_refused():
    segments = grouped(side=["a", "b"])
    with pytest.raises(ValueError, match="every user evaluated, got 1 without \\(first: 'u0002'\\)"):
        by_segment(evaluated([1, 1, 1]), segments, metric=NDCG)
    with pytest.raises(ValueError, match="need the columns user_id and recall_at_3"):
        by_segment(evaluated([1, 1]), segments, metric="recall_at_3")
    with pytest.raises(ValueError, match="need a user with a value, got none"):
        by_segment(evaluated([np.nan]), segments, metric=NDCG)
    with pytest.raises(ValueError, match="a user must occur once, got 'u0000' twice"):
        by_segment(pd.concat([evaluated([1])] * 2), segments, metric=NDCG)


# --- several models and metrics -------------------------------------------------------------------------


def test_models_and_metrics_together_have_the_tables_they_have_alone():
    random = np.random.default_rng(0)
    segments = grouped(side=[*"lllrrr"] * 10, half=["a"] * 30 + ["b"] * 30)
    frames = {name: evaluated(random.random(60)).assign(hits=random.integers(0, 2, 60)) for name in ("one", "other")}
    found = segment_tables(frames, segments, metrics=["hits", NDCG])
    assert found[["model", "metric"]].drop_duplicates().to_numpy().tolist() == [
        ["one", "hits"], ["one", NDCG], ["other", "hits"], ["other", NDCG],
    ]  # fmt: skip
    for (name, metric), table in found.groupby(["model", "metric"]):
        alone = by_segment(frames[name], segments, metric=metric)
        pd.testing.assert_frame_equal(table.drop(columns=["model", "metric"]).reset_index(drop=True), alone)


def test_users_of_models_may_come_in_any_order():
    segments = grouped(side=[*"llrr"])
    frames = {"one": evaluated([1, 0, 1, 1]), "other": evaluated([0, 0, 1, 0])}
    found = segment_tables(frames, segments, metrics=[NDCG])
    turned = segment_tables(frames | {"other": frames["other"].iloc[::-1]}, segments, metrics=[NDCG])
    assert turned.equals(found)
    assert found["mean"].tolist() == [3 / 4, 1 / 2, 1, 1 / 4, 0, 1 / 2]


def test_models_of_other_users_are_refused():
    segments = grouped(side=[*"llr"])
    with pytest.raises(ValueError, match=f"got 1 that differ in {NDCG} of 'other' \\(first: 'u0002'\\)"):
        segment_tables({"one": evaluated([1, 0]), "other": evaluated([1, 0, 1])}, segments, metrics=[NDCG])
    with pytest.raises(ValueError, match="of the same users, got 1 that differ"):
        segment_tables({"one": evaluated([1, 0]), "other": evaluated([1, np.nan])}, segments, metrics=[NDCG])
    with pytest.raises(ValueError, match="need a model and a metric, got none"):
        segment_tables({}, segments, metrics=[NDCG])


# --- figures -----------------------------------------------------------------------------------------


def test_a_panel_per_segment_with_a_dot_per_group():
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
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["all users", "group", "underperforming group"]


def exposed(**shares) -> pd.DataFrame:
    """Exposure of models: the share of the last decile, and the others alike."""
    deciles = pd.DataFrame({"decile": range(1, 11), "n_items": [1234.5, *[30.0] * 8, 0.4]})
    tables = [deciles.assign(model=name, share=[(1 - last) / 9] * 9 + [last]) for name, last in shares.items()]
    return pd.concat(tables).assign(low=lambda table: table["share"] - 0.01, high=lambda table: table["share"] + 0.01)


def lifted(**lifts) -> pd.DataFrame:
    """Lifts of niche and blockbuster users by model."""
    rows = [
        (name, group, 7, lift, lift - 0.1, lift + 0.1)
        for name, pair in lifts.items()
        for group, lift in zip(("niche", "blockbuster"), pair, strict=True)
    ]
    return pd.DataFrame(rows, columns=["model", "group", "n_users", "lift", "low", "high"])


def test_a_line_per_model_and_a_point_per_model_and_group():
    figure = exposure_figure(exposed(ours=0.1, popularity=0.9), lifted(ours=(0.2, 0.1), popularity=(3.0, 1.0)))
    left, right = figure.axes
    ours, popularity, even = left.lines
    assert ours.get_ydata() == pytest.approx([0.1] * 10)
    assert popularity.get_ydata()[-1] == 0.9
    assert ours.get_linewidth() > popularity.get_linewidth()
    assert list(even.get_ydata()) == [0.1, 0.1]
    assert [label.get_text() for label in left.get_xticklabels()][::9] == ["1\n1,234", "10\n0.4"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["niche\n7 users", "blockbuster\n7 users"]
    points = [place.tolist() for dots in right.collections[1::2] for place in dots.get_offsets()]
    assert [x for x, _ in points] == [0.2, 0.1, 3.0, 1.0]
    assert len({round(y, 6) for _, y in points}) == 4, "no two points in one place"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "popularity", "share of events"]


def test_exposure_that_is_none_is_refused():
    whole, groups = exposed(ours=0.1), lifted(ours=(0.2, 0.1))
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
    exposure_figure(exposed(ours=0.1), lifted(ours=(0.2, 0.1)))
    assert pyplot.get_fignums() == before


def test_a_table_that_is_none_is_refused():
    table = by_segment(evaluated([1, 0]), grouped(side=["a", "b"]), metric=NDCG)
    with pytest.raises(ValueError, match=r"the figure needs \['underperforming'\]"):
        segment_figure(table.drop(columns="underperforming"), metric=NDCG)
    with pytest.raises(ValueError, match="needs 'all users' and a segment, got \\['all users'\\]"):
        segment_figure(table.head(1), metric=NDCG)
