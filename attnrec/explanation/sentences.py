"""Reasons as sentences: what is added up and what is not, verbs of events, and times as people say them."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from attnrec.attribution import METHODS

DAY = 86_400
STEPS = (
    (730 * DAY, 365 * DAY, "year"),
    (60 * DAY, 30 * DAY, "month"),
    (14 * DAY, 7 * DAY, "week"),
    (DAY, DAY, "day"),
    (3600, 3600, "hour"),
    (60, 60, "minute"),
)
"""From so many seconds on, counted in units of so many seconds, called this."""

VERBS = {
    "view": "viewed {}",
    "click": "clicked on {}",
    "cart": "put {} in the cart",
    "addtocart": "put {} in the cart",
    "add_to_cart": "put {} in the cart",
    "purchase": "bought {}",
    "transaction": "bought {}",
    "buy": "bought {}",
}
"""Type of event -> what the user did; of other types, or none, the user "had" the item."""


@dataclass(frozen=True)
class Words:
    """What an attribution method is called, beside what `METHODS` knows of it.

    Attributes:
        name: in a sentence.
        unit: of its values.
        adds: whether the values of several events say something when they are added.
    """

    name: str
    unit: str
    adds: bool


WORDS = {
    "contribution": Words("contribution", "score units", adds=True),
    "weight": Words("the readout's attention", "shares of attention", adds=True),
    "leave_one_out": Words("leave-one-out", "score units", adds=False),
    "renormalized": Words("attention dealt out anew", "score units", adds=False),
    "attention_rollout": Words("attention rollout", "shares of attention", adds=True),
    "value_norm": Words("value norm", "lengths of vectors", adds=False),
    "gradient_x_input": Words("gradient x input", "score units", adds=True),
    "integrated_gradients": Words("integrated gradients", "score units", adds=True),
    "shapley": Words("Shapley value", "score units", adds=True),
    "lime": Words("LIME", "score units", adds=True),
    "random": Words("random number", "numbers from 0 to 1", adds=False),
    "recency": Words("recency", "parts of the history, 1 is its end", adds=False),
    "item_cosine": Words("item cosine", "cosines", adds=False),
    "popularity": Words("popularity", "events in the log", adds=False),
}


def words_of(method: str) -> Words:
    """The words of a method; a method of the caller's own is called what it is registered as."""
    return WORDS.get(method, Words(method.replace("_", " "), "a unit of its own", adds=False))


def by_method(method: str) -> str:
    """The method at the beginning of a sentence: "by leave-one-out", "by recency, a control"."""
    return f"by {words_of(method).name}{', a control' if METHODS[method].control else ''}"


def because(reasons: list[tuple[str, float]], *, score: float, item_bias: float) -> str:
    """A sentence from (item, contribution) pairs whose numbers add up to the score.

    Args:
        reasons: the largest ones.
        score: of the item.
        item_bias: what everyone's liking added; what is left is "the rest" of the history.
    """
    parts = [f"{item} {added:+.2f}" for item, added in reasons]
    rest = score - item_bias - sum(added for _, added in reasons)
    if abs(rest) >= 0.005:
        parts.append(f"other events {rest:+.2f}")
    return "because: " + ", ".join([*parts, f"popularity {item_bias:+.2f}"])


def named(reasons: list[tuple[str, float]], *, method: str) -> str:
    """A sentence from (item, value) pairs whose numbers do not add up to the score, and which says so."""
    parts = ", ".join(f"{item} {value:.2f}" for item, value in reasons) or "no event speaks for it"
    return f"{by_method(method)}: {parts} (not a split of the score)"


def deed(title: str, *, event: Any = None, times: int = 1, when: str = "") -> str:
    """What the user did: "you bought A", "you viewed A twice, last 3 days ago"."""
    done = "you " + VERBS.get(str(event).lower(), "had {}").format(title)
    often = {1: "", 2: " twice"}.get(times, f" {times} times")
    if not when:
        return done + often
    return f"{done}{often}, last {when}" if often else f"{done} {when}"


def ago(seconds: float) -> str:
    """How long ago, in the largest unit that fits: "3 days ago"; under a minute "just now"."""
    for least, unit, name in STEPS:
        if seconds >= least:
            return f"{_counted(int(seconds // unit), name)} ago"
    return "just now"


def before(n_later: int) -> str:
    """How many events before the last one, where there is no clock; the last one itself is "just now"."""
    return f"{_counted(n_later, 'event')} before" if n_later else "just now"


def moment(now: Any, *, last: pd.Timestamp) -> pd.Timestamp:
    """`now` in UTC, as a text, a datetime or a Timestamp (without a zone it is UTC); None is `last`.

    Raises:
        ValueError: when it is before the last event.
    """
    if now is None:
        return last
    given = pd.Timestamp(now)
    given = given.tz_localize("UTC") if given.tzinfo is None else given.tz_convert("UTC")
    if given < last:
        raise ValueError(f"now must not be before the last event ({last}), got {given}; give a later time")
    return given


def _counted(n: int, name: str) -> str:
    return f"{n} {name}{'' if n == 1 else 's'}"
