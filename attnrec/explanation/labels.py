"""Short labels for plots and tables: item titles, numbers and dates."""

from collections.abc import Callable, Sequence

import pandas as pd

from attnrec.schema import DATETIME

NO_HISTORY = "no history: ranked by popularity"


def shorten(text: str, *, width: int) -> str:
    """Return the text on one line of at most `width` characters, cut with an ellipsis."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def number_format(values: Sequence[float], *, exact: bool) -> Callable[[float], str]:
    """Return a function that formats the numbers of one plot or table.

    Contributions get a sign and two digits ("0.00" without a sign); other values get as many digits as they need.
    """
    if exact:
        return lambda value: "0.00" if abs(value) < 0.005 else f"{value:+.2f}"
    integers, largest = all(float(value).is_integer() for value in values), max(map(abs, values), default=0.0)
    digits = 0 if integers else 3 if largest < 1 else 2
    return lambda value: f"{value:z,.{digits}f}"


def plot_label(text: str, *, width: int) -> str:
    """Return the shortened text with dollar signs escaped, because matplotlib typesets text between two of them."""
    return shorten(text, width=width).replace("$", r"\$")


def older_events(n: int) -> str:
    """Return the label of a sum over the n events that are not shown one by one."""
    return f"{n} older event{'s' * (n > 1)}"


def event_dates(frame: pd.DataFrame) -> list[str]:
    """Return the UTC date of each event, with minutes if all are within two days; empty strings without timestamps."""
    if DATETIME not in frame or frame[DATETIME].isna().any():
        return [""] * len(frame)
    within_two_days = frame[DATETIME].max() - frame[DATETIME].min() < pd.Timedelta(days=2)
    return frame[DATETIME].dt.strftime("%m-%d %H:%M" if within_two_days else "%Y-%m-%d").tolist()
