"""Pictures and tables of a run for people: learning curve, examples with reasons, the graph around one of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Split
from attnrec.explanation import because
from attnrec.models.saved_model import SavedModel
from attnrec.recommender import Recommender
from attnrec.schema import ITEM, USER

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GRAPH_EVENTS = 50
"""A history whose graph is drawn has fewer events."""


def learning_curve(epochs: Sequence[dict[str, float]], *, metric: str) -> "Figure":
    """Training loss and the validation metric by epoch."""
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(7, 4), layout="constrained")
    numbers = range(1, len(epochs) + 1)
    left.plot(numbers, [epoch["train/loss"] for epoch in epochs], color="#888888", label="training loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss (nats)")
    values = [epoch.get(f"val/{metric}", np.nan) for epoch in epochs]
    right = left.twinx()
    right.plot(numbers, values, color="#2a6f97", marker="o", markersize=3, label=f"validation {metric}")
    right.set_ylabel(f"validation {metric}")
    if np.isfinite(values).any():
        best = int(np.nanargmax(values))
        right.annotate(f"{values[best]:.4f}", (best + 1, values[best]), xytext=(0, 6), textcoords="offset points")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def spread_figure(spread: pd.DataFrame) -> "Figure":
    """What `attention_spread` found: effective number of events, and how even attention is, by length and layer."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    longest = max(2.0, float(spread["length"].max()))
    left.plot([1, longest], [1, longest], color="#bbbbbb", linestyle="--", label="all events alike")
    for layer, rows in spread.groupby("layer", sort=True):
        left.plot(rows["length"], rows["effective_events"], marker="o", markersize=4, label=layer)
        right.plot(rows["length"], rows["share_of_even"], marker="o", markersize=4)
    left.set_yscale("log")
    left.set_ylabel("effective number of events")
    right.set_ylim(0, 1.05)
    right.set_ylabel("entropy, as a part of that of even attention")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("events in the history")
    figure.legend(loc="outside upper center", ncols=6)
    return figure


def graph_around(saved: SavedModel, split: Split) -> "Figure | None":
    """The graph around the best item of the test user with the longest history below `GRAPH_EVENTS` events.

    Args:
        saved: a model with its features, trained on `split.train`; it observes that part where it has lost its graph.
        split: whose test users are asked.

    Returns:
        See `Explanation.graph_figure`. None for a model without a graph or without exact reasons, and where no user has
        such a history and an item left to recommend.
    """
    seen, users, model = split.test.histories, split.test.users, saved.model
    lengths = seen.lengths[users]
    possible = users[(lengths > 0) & (lengths < GRAPH_EVENTS)]
    if not (model.has_graph and model.exact_reasons and len(possible)):
        return None
    chosen = seen.user_ids.decode(possible[[np.argmax(seen.lengths[possible])]])
    if (graph := getattr(model, "graph", None)) is not None and not graph.observed:
        model.observe(split.train)
    recommender = Recommender(model, saved.item_ids, seen, saved.facts, features=saved.features)
    best = recommender.recommend(chosen, k=1)
    return None if best.empty else recommender.explain(chosen[0], best[ITEM].iloc[0]).graph_figure()


def fixed_users(user_ids: NDArray[np.object_], *, n: int) -> NDArray[np.int64]:
    """The same n users in every run, as long as they are in the log: those whose ids hash lowest."""
    hashes = pd.util.hash_array(np.asarray(user_ids).astype(str).astype(object))
    return np.sort(np.argsort(hashes, kind="stable")[:n])


def examples_table(recommender: Recommender, users: NDArray[np.int64], *, k: int = 10) -> pd.DataFrame:
    """What some users did, what they are recommended and why, as text: one row per user.

    Args:
        recommender: a model with histories.
        users: user rows.
        k: recommendations each.

    Returns:
        user_id, history (latest last), top (best first), because (reasons of the first).
    """
    histories = recommender.histories
    assert histories is not None, "examples need histories"
    ids = histories.user_ids.decode(users)
    found = recommender.recommend(ids, k=k)
    rows = []
    for user, user_id in zip(users, ids, strict=True):
        history = histories.item_ids.decode(histories.items_of(user)[-10:])
        mine = found[found[USER] == user_id]
        rows.append(
            {
                USER: str(user_id),
                "history": ", ".join(map(str, history)),
                "top": ", ".join(map(str, mine[ITEM])),
                "because": because_row(mine.iloc[0]) if recommender.model.exact_reasons and len(mine) else "",
            }
        )
    return pd.DataFrame(rows)


def because_row(row: "pd.Series", *, n: int = 3) -> str:
    """The sentence of one row of recommendations."""
    reasons = [(str(reason[ITEM]), float(reason["contribution"])) for reason in row["reasons"][:n]]
    return because(reasons, score=float(row["score"]), item_bias=float(row["item_bias"]))
