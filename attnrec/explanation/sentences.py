"""Explanations as English sentences: the largest reasons, verbs of event types, and relative times."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from attnrec.explanation.method_texts import method_text
from attnrec.explanation.score_attribution import ScoreAttribution
from attnrec.schema import DATETIME, EVENT, ITEM

DAY = 86_400
TIME_UNITS = (
    (730 * DAY, 365 * DAY, "year"),
    (60 * DAY, 30 * DAY, "month"),
    (14 * DAY, 7 * DAY, "week"),
    (DAY, DAY, "day"),
    (3600, 3600, "hour"),
    (60, 60, "minute"),
)
"""Smallest duration for which the unit is used, its length (both in seconds), and its name."""

VERBS = {
    "view": "viewed {}",
    "click": "clicked on {}",
    "cart": "added {} to the cart",
    "addtocart": "added {} to the cart",
    "add_to_cart": "added {} to the cart",
    "purchase": "bought {}",
    "transaction": "bought {}",
    "buy": "bought {}",
}
"""Event type -> what the user did. For other types, or none, the user "interacted with" the item."""


def because(reasons: Sequence[tuple[str, float]], *, score: float, item_bias: float) -> str:
    """Return the reasons as one line whose numbers sum to the score: "because: A +1.20, popularity -0.03".

    Args:
        reasons: (item, contribution) pairs, the largest contributions.
        score: score of the item.
        item_bias: the item's bias, shown as "popularity"; what is left is shown as "other events".
    """
    parts = [f"{item} {contribution:+.2f}" for item, contribution in reasons]
    other_events = score - item_bias - sum(contribution for _, contribution in reasons)
    if abs(other_events) >= 0.005:
        parts.append(f"other events {other_events:+.2f}")
    return "because: " + ", ".join([*parts, f"popularity {item_bias:+.2f}"])


def reasons_text(attribution: ScoreAttribution, *, n: int) -> str:
    """Return the n largest reasons as one line, see `Explanation.because`."""
    largest = largest_values(attribution, [ITEM], n=n)
    reasons = [(attribution.title_of(item_id), float(value)) for item_id, value in largest.items()]
    if attribution.exact:
        return because(reasons, score=attribution.score, item_bias=attribution.item_bias)
    parts = ", ".join(f"{item} {value:.2f}" for item, value in reasons) or "no event has a positive value"
    return f"{_method_prefix(attribution)}: {parts} (does not sum to the score)"


def reason_sentences(attribution: ScoreAttribution, *, n: int, now: Any) -> list[str]:
    """Return one sentence per reason, see `Explanation.sentences`."""
    keys = [ITEM, EVENT] if EVENT in attribution.frame else [ITEM]
    largest = largest_values(attribution, keys, n=n)
    return [_reason_sentence(attribution, key, float(value), now) for key, value in largest.items()]


def largest_values(attribution: ScoreAttribution, keys: Sequence[str], *, n: int) -> pd.Series:
    """Return the n largest positive values grouped by columns of the frame; ties: the older event first.

    Values of an additive method are summed within a group; of other methods the largest is taken.
    """
    grouped = attribution.frame.groupby(list(keys), sort=False)[attribution.method]
    totals = grouped.sum() if method_text(attribution.method).additive else grouped.max()
    return totals[totals > 0].sort_values(ascending=False, kind="stable").head(n)


def _reason_sentence(attribution: ScoreAttribution, key: Any, value: float, now: Any) -> str:
    item_id, event = key if isinstance(key, tuple) else (key, None)
    matches = attribution.frame[ITEM] == item_id
    if event is not None:
        matches &= attribution.frame[EVENT] == event
    when = _relative_time(attribution, int(np.flatnonzero(matches)[-1]), now)
    done = action(attribution.title_of(item_id), event=event, times=int(matches.sum()), when=when)
    if attribution.exact:
        return f"because {done} ({value:+.2f})"
    return f"{_method_prefix(attribution)}: {done} ({value:.2f})"


def _method_prefix(attribution: ScoreAttribution) -> str:
    """Return the method's label: "leave-one-out", "recency (control)"."""
    return method_text(attribution.method).label + (" (control)" if attribution.control else "")


def _relative_time(attribution: ScoreAttribution, row: int, now: Any) -> str:
    if not attribution.ordered:
        return ""
    times = attribution.frame.get(DATETIME)
    if times is None or times.isna().any():
        return events_earlier(len(attribution.frame) - 1 - row)
    return time_ago((reference_time(now, last=times.iloc[-1]) - times.iloc[row]).total_seconds())


def action(title: str, *, event: Any = None, times: int = 1, when: str = "") -> str:
    """Return what the user did: "you bought A", "you viewed A twice, last 3 days ago"."""
    done = "you " + VERBS.get(str(event).lower(), "interacted with {}").format(title)
    frequency = {1: "", 2: " twice"}.get(times, f" {times} times")
    if not when:
        return done + frequency
    return f"{done}{frequency}, last {when}" if frequency else f"{done} {when}"


def time_ago(seconds: float) -> str:
    """Return a duration in the largest unit that fits: "3 days ago"; "just now" for less than a minute."""
    for smallest, length, name in TIME_UNITS:
        if seconds >= smallest:
            return f"{_count(int(seconds // length), name)} ago"
    return "just now"


def events_earlier(n_later: int) -> str:
    """Return the distance to the last event of a history without timestamps; the last event is "just now"."""
    return f"{_count(n_later, 'event')} earlier" if n_later else "just now"


def reference_time(now: Any, *, last: pd.Timestamp) -> pd.Timestamp:
    """Return `now` in UTC, from a string, a datetime or a Timestamp (UTC if it has no zone); None means `last`.

    Raises:
        ValueError: if it is before the last event.
    """
    if now is None:
        return last
    time = pd.Timestamp(now)
    time = time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")
    if time < last:
        raise ValueError(f"now must not be before the last event ({last}), got {time}; pass a later time")
    return time


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
