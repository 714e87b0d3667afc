"""Paths from the history to a recommended item over the graph that the model attends over.

start(j) is the attention weight of item j in the history, summed over its events. step(a -> b) is the attention weight
of item a on its neighbour b in the first graph layer: the mean over heads, and over the relations in which a has
neighbours. For a relation through users or attribute values x, step(a -> b) is the sum over x of
weight(a on x) * weight(x on b). A path from j to the recommended item i is one of
    j -> i, j attends to i: start(j) * step(j -> i)
    i -> j, i attends to j: start(j) * step(i -> j)
    j -> m <- i, both attend to m: start(j) * step(j -> m) * step(i -> m)
The products only illustrate where attention flows. They do not split the score, because what flows are vectors; the
exact split is by event. A random walk model is the exception: its only paths are j -> i, or j itself, and their
products times the number of items are exactly the contributions.
"""

import numpy as np
import pandas as pd

from attnrec.explanation.neighbourhood import NEIGHBOUR, Neighbourhood
from attnrec.explanation.score_attribution import ScoreAttribution
from attnrec.schema import ITEM, WEIGHT

COLUMNS = [
    ITEM, "through", "length", "attending_item", "relation", "recommended_relation", "start", "step",
    "recommended_step", "product", "exact",
]  # fmt: skip
HISTORY, RECOMMENDED, BOTH = "history", "recommended", "both"
"""The item that attends along a path: the history item, the recommended one, or both to a third."""

SEPARATOR = ", "  # between the relations of one step


def find_paths(attribution: ScoreAttribution, *, n: int) -> pd.DataFrame:
    """Return the n strongest paths, see `Explanation.paths`.

    Raises:
        ValueError: for n below 1, a model without a graph, a model that has not observed its graph, or one whose
            readout has no attention weights.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more paths, got {n}; the default is 10")
    if attribution.neighbourhood is None:
        raise ValueError(
            f"paths need a model with a graph, got {attribution.model_description}; "
            "fit model='gat' or 'random_walk', or a sequence model with settings={'graph': 'transitions'}"
        )
    starts, around = _start_weights(attribution), attribution.neighbourhood()
    is_walk = around.walk_probabilities is not None
    paths = _walk_paths(attribution, around, starts) if is_walk else _attention_paths(attribution, around, starts)
    paths = paths[paths["product"] > 0].sort_values("position", kind="stable")  # ties: the older item
    paths = paths.sort_values("product", ascending=False, kind="stable").head(n)
    paths = paths.assign(
        relation=_relations(around, paths["row"]),
        recommended_relation=_relations(around, paths["recommended_row"]),
        exact=is_walk,
    )
    return paths[COLUMNS].reset_index(drop=True)


def _start_weights(attribution: ScoreAttribution) -> pd.Series:
    """Return the attention weight of each item, in order of its first event."""
    frame = attribution.frame
    if frame[WEIGHT].isna().any():
        raise ValueError(
            f"paths start from attention weights over the history, got {attribution.model_description}, "
            "which has none; fit with settings={'readout': 'pooling'}"
        )
    return frame.groupby(ITEM, sort=False)[WEIGHT].sum()


def _walk_paths(attribution: ScoreAttribution, around: Neighbourhood, starts: pd.Series) -> pd.DataFrame:
    """Return the paths of a random walk; with several heads a step is their mean, weighted by the start weights."""
    items = attribution.frame[ITEM]
    products = pd.Series(around.walk_probabilities, index=items.index).groupby(items, sort=False).sum()
    paths = pd.DataFrame({ITEM: products.index, "start": starts.to_numpy(), "product": products.to_numpy()})
    paths["step"] = paths["product"] / paths["start"].where(paths["start"] > 0)
    steps = around.steps[[ITEM]].assign(row=np.arange(len(around.steps)))
    steps = steps[around.steps[NEIGHBOUR] == attribution.item_id]
    paths = paths.merge(steps, on=ITEM, how="left")
    return paths.assign(
        position=np.arange(len(paths)),
        length=paths["row"].notna().astype(int),  # 0: the walk ended where it started
        attending_item=HISTORY,
        recommended_step=np.nan,
        recommended_row=np.nan,
        through=pd.Series([None] * len(paths), index=paths.index, dtype=object),
    )


def _attention_paths(attribution: ScoreAttribution, around: Neighbourhood, starts: pd.Series) -> pd.DataFrame:
    """Return paths of one and two steps, unordered, with `position` in the history and rows of `around.steps`."""
    steps, item_id = around.steps[[ITEM, NEIGHBOUR]], attribution.item_id
    steps = steps.assign(step=around.steps[around.relations].sum(axis=1), row=np.arange(len(steps), dtype=float))
    history_steps, recommended_steps = steps[steps[ITEM].isin(starts.index)], steps[steps[ITEM] == item_id]
    recommended_steps = recommended_steps.rename(
        columns={ITEM: "recommended_item", "step": "recommended_step", "row": "recommended_row"}
    )
    forward = history_steps[history_steps[NEIGHBOUR] == item_id].assign(length=1, attending_item=HISTORY)
    backward = recommended_steps[recommended_steps[NEIGHBOUR].isin(starts.index)]
    backward = backward.assign(length=1, attending_item=RECOMMENDED)
    backward[ITEM] = backward[NEIGHBOUR]
    two_steps = history_steps.merge(recommended_steps, on=NEIGHBOUR).assign(length=2, attending_item=BOTH)
    paths = pd.concat([forward, backward, two_steps], ignore_index=True)
    paths = paths.astype({"step": float, "recommended_step": float})
    paths["position"] = starts.index.get_indexer(pd.Index(paths[ITEM]))
    paths["start"] = starts.to_numpy()[paths["position"]]
    # the two steps first: weights are float32, whose product is exact in float64, so that equal paths are equal
    paths["product"] = paths["start"] * (paths["step"].fillna(1) * paths["recommended_step"].fillna(1))
    paths["through"] = paths[NEIGHBOUR].astype(object).where(paths["length"] == 2, None)
    return paths


def _relations(around: Neighbourhood, rows: pd.Series) -> pd.Series:
    """Return the relations of each step, by its row in `around.steps`; None if there is no step."""
    weights = around.steps[around.relations]

    def name(row: float) -> str | None:
        return None if np.isnan(row) else SEPARATOR.join(weights.columns[weights.iloc[int(row)] > 0])

    return pd.Series([name(row) for row in rows], index=rows.index, dtype=object)
