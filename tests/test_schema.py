"""Validation of DataFrames of interactions."""

import pandas as pd
import pytest

from attnrec.schema import check_interactions


def log(**columns) -> pd.DataFrame:
    return pd.DataFrame({"user_id": ["ann", "bob"], "item_id": ["tea", "cup"]} | columns)


def test_other_columns_are_dropped():
    assert list(check_interactions(log(datetime=[1, 2], colour=["red", "blue"])).columns) == [
        "user_id",
        "item_id",
        "datetime",
    ]


def test_column_names_of_other_libraries_are_renamed():
    checked = check_interactions(log(timestamp=[1, 2], rating=[5.0, 3.0], event_type=["view", "cart"]))
    assert list(checked.columns) == ["user_id", "item_id", "datetime", "weight", "event"]
    assert checked["weight"].tolist() == [5.0, 3.0]


def test_a_column_takes_precedence_over_its_alias():
    assert check_interactions(log(datetime=[1, 2], timestamp=[8, 9]))["datetime"].tolist() == [1, 2]


def test_timestamps_become_utc_seconds():
    noon = pd.to_datetime(["1970-01-01 00:00:07", "1970-01-01 12:00:00"])
    assert check_interactions(log(datetime=noon))["datetime"].tolist() == [7, 12 * 3600]


def test_times_with_a_time_zone_become_utc_seconds():
    paris = pd.to_datetime(["1970-01-01 01:00:07", "1970-01-01 13:00:00"]).tz_localize("Europe/Paris")
    assert check_interactions(log(datetime=paris))["datetime"].tolist() == [7, 12 * 3600]


def test_times_as_text_are_read_as_utc():
    assert check_interactions(log(datetime=["1970-01-01T00:01:00", "1970-01-02T00:00:00"]))["datetime"].tolist() == [
        60,
        86_400,
    ]


def test_the_input_is_not_modified():
    frame = log(timestamp=pd.to_datetime(["2025-01-01", "2025-01-02"]))
    before = frame.copy()
    check_interactions(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_rows_keep_their_order():
    assert check_interactions(log(datetime=[9, 1]))["user_id"].tolist() == ["ann", "bob"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"user": ["ann"], "item_id": ["tea"]}), "need the columns user_id and item_id"),
        (pd.DataFrame({"user_id": [], "item_id": []}), "at least one row"),
        (log(datetime=[1, None]), r"missing values, got some in \['datetime'\]"),
        (log(weight=[1.0, -0.5]), "must not be negative, got -0.5"),
    ],
)
def test_invalid_interactions_raise_a_one_line_error(frame, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_interactions(frame)
    assert "\n" not in str(caught.value)
