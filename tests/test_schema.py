import pandas as pd
import pytest

from attnrec.schema import check_interactions


def log(**columns) -> pd.DataFrame:
    return pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "cup"]} | columns)


def test_columns_that_are_not_the_projects_are_dropped():
    assert list(check_interactions(log(datetime=[1, 2], colour=["red", "blue"])).columns) == [
        "user_id",
        "item_id",
        "datetime",
    ]


def test_other_libraries_column_names_are_accepted():
    checked = check_interactions(log(timestamp=[1, 2], rating=[5.0, 3.0], event_type=["view", "cart"]))
    assert list(checked.columns) == ["user_id", "item_id", "datetime", "weight", "event"]
    assert checked["weight"].tolist() == [5.0, 3.0]


def test_a_column_of_the_projects_own_name_wins_over_its_alias():
    assert check_interactions(log(datetime=[1, 2], timestamp=[8, 9]))["datetime"].tolist() == [1, 2]


def test_timestamps_become_utc_seconds():
    noon = pd.to_datetime(["1970-01-01 00:00:07", "1970-01-01 12:00:00"])
    assert check_interactions(log(datetime=noon))["datetime"].tolist() == [7, 12 * 3600]


def test_times_with_a_zone_become_utc_seconds():
    paris = pd.to_datetime(["1970-01-01 01:00:07", "1970-01-01 13:00:00"]).tz_localize("Europe/Paris")
    assert check_interactions(log(datetime=paris))["datetime"].tolist() == [7, 12 * 3600]


def test_text_times_are_read_as_utc():
    assert check_interactions(log(datetime=["1970-01-01T00:01:00", "1970-01-02T00:00:00"]))["datetime"].tolist() == [
        60,
        86_400,
    ]


def test_the_callers_frame_is_left_alone():
    frame = log(timestamp=pd.to_datetime(["2025-01-01", "2025-01-02"]))
    before = frame.copy()
    check_interactions(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_rows_keep_their_order():
    assert check_interactions(log(datetime=[9, 1]))["user_id"].tolist() == ["ann", "bob"]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"user": ["ann"], "item_id": ["tea"]}), "user_id and item_id"),
        (pd.DataFrame({"user_id": [], "item_id": []}), "at least one row"),
        (log(datetime=[1, None]), r"missing values, got some in \['datetime'\]"),
        (log(weight=[1.0, -0.5]), "must not be negative"),
    ],
)
def test_a_frame_that_breaks_the_schema_is_refused_in_one_sentence(frame, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_interactions(frame)
    assert "\n" not in str(caught.value)
