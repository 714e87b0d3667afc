"""Column names of interactions, and the validation of a DataFrame of interactions."""

import pandas as pd

USER = "user_id"
ITEM = "item_id"
DATETIME = "datetime"
WEIGHT = "weight"
EVENT = "event"

ALIASES = {"timestamp": DATETIME, "rating": WEIGHT, "event_type": EVENT}
"""Accepted alternative names -> column names; they occur in logs of RecTools, RecBole and MovieLens."""

SCHEMA_VERSION = 1


def check_interactions(frame: pd.DataFrame) -> pd.DataFrame:
    """Validate a DataFrame of interactions and normalise its columns.

    Args:
        frame: one row per interaction. Columns: user_id, item_id; datetime (timestamps, or numbers as Unix seconds)
            unless interactions have no order; optionally weight and event. Columns named as in `ALIASES` are renamed.

    Returns:
        A new DataFrame with the same rows and only the columns above; datetime is int64, in Unix seconds.

    Raises:
        ValueError: for another type than DataFrame, no rows, a missing column, a missing value or a negative weight.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"interactions must be a pandas DataFrame, got {type(frame).__name__}; load the file first")
    frame = frame.rename(columns={old: new for old, new in ALIASES.items() if new not in frame})
    missing = [name for name in (USER, ITEM) if name not in frame]
    if missing:
        raise ValueError(
            f"interactions need the columns {USER} and {ITEM}, got {list(frame.columns)}; rename your columns"
        )
    if frame.empty:
        raise ValueError("interactions must have at least one row, got an empty DataFrame; check how it was loaded")
    columns = [name for name in (USER, ITEM, DATETIME, WEIGHT, EVENT) if name in frame]
    frame = frame[columns].copy()
    incomplete = frame.columns[frame.isna().any()].tolist()
    if incomplete:
        raise ValueError(
            f"interactions must have no missing values, got some in {incomplete}; drop these rows, or use `ingest`"
        )
    if WEIGHT in frame and (frame[WEIGHT] < 0).any():
        lowest = frame[WEIGHT].min()
        raise ValueError(f"weight must not be negative, got {lowest}; drop these rows, or use `ingest`")
    if DATETIME in frame:
        frame[DATETIME] = _unix_seconds(frame[DATETIME])
    return frame


def _unix_seconds(times: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(times):
        return times.astype("int64")
    return pd.to_datetime(times, utc=True).dt.as_unit("s").astype("int64")
