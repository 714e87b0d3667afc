"""Paths from a history to a recommended item over the graph that its model attends over.

start(j) is the share of attention that item j got in the history, summed over its events; step(a -> b) is the share of
item a's attention that goes to its neighbour b in the first layer of the graph: the mean over heads, and over the
relations in which a has neighbours. Where a relation leads through users or values of attributes x, step(a -> b) is the
sum over x of share(a attending_item to x) * share(x attending_item to b). A path from j to the recommended item i is one of
    j -> i, j attending_item to i: start(j) * step(j -> i)
    i -> j, i attending_item to j: start(j) * step(i -> j)
    j -> m <- i, both listen to m: start(j) * step(j -> m) * step(i -> m)
These products are a view: they show where attention flows, not how the score was made, for what flows are vectors, and
a score is split exactly by event and no further. A model that walks over its graph is the exception: its only paths are
j -> i, or j itself, and their products times the number of items are exactly the contributions.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attnrec.explanation.neighbourhood import NEIGHBOUR, Neighbourhood
from attnrec.schema import ITEM, WEIGHT

if TYPE_CHECKING:
    from attnrec.explanation.explanation import Explanation

COLUMNS = [
    ITEM, "through", "length", "attending_item", "relation", "other_relation", "start", "step", "recommended_step", "product",
    "exact",
]  # fmt: skip
HISTORY, RECOMMENDED, BOTH = "history", "recommended", "both"
"""Who attending_item along a path: the history's item, the recommended one, or both to a third."""

SEVERAL = ", "  # between the relations of one step


def find_paths(explanation: "Explanation", *, n: int) -> pd.DataFrame:
    """The n strongest paths, see `Explanation.paths`.

    Raises:
        ValueError: for n below 1, a model without a graph, one that does not have it any more, or one whose readout has
            no shares of attention.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more paths, got {n}; the default is 10")
    if explanation.graph is None:
        raise ValueError(
            f"paths need a model with a graph, got {explanation.model}; "
            "fit model='gat' or 'random_walk', or a sequence model with settings={'graph': 'transitions'}"
        )
    starts, around = _starts(explanation), explanation.graph()
    found = _listening(explanation, around, starts) if around.arriving is None else _walks(explanation, around, starts)
    found = found[found["product"] > 0].sort_values("place", kind="stable")  # ties: the older item
    found = found.sort_values("product", ascending=False, kind="stable").head(n)
    names = {name: _relations(around, found[row]) for name, row in (("relation", "row"), ("other_relation", "other"))}
    found = found.assign(**names, exact=around.arriving is not None)
    return found[COLUMNS].reset_index(drop=True)


def _starts(explanation: "Explanation") -> pd.Series:
    """Share of attention by item, in the order in which they first came."""
    frame = explanation.frame
    if frame[WEIGHT].isna().any():
        raise ValueError(
            f"paths start from shares of attention over the history, got {explanation.model}, which has none; "
            "fit with settings={'readout': 'pooling'}"
        )
    return frame.groupby(ITEM, sort=False)[WEIGHT].sum()


def _walks(explanation: "Explanation", around: Neighbourhood, starts: pd.Series) -> pd.DataFrame:
    """Steps of a walk; with several heads the share of a step is their mean, weighed by where they start."""
    arriving = pd.Series(around.arriving, index=explanation.frame.index).groupby(explanation.frame[ITEM], sort=False)
    products = arriving.sum()
    found = pd.DataFrame({ITEM: products.index, "start": starts.to_numpy(), "product": products.to_numpy()})
    found["step"] = found["product"] / found["start"].where(found["start"] > 0)
    pairs = around.steps[[ITEM]].assign(row=np.arange(len(around.steps)))
    pairs = pairs[around.steps[NEIGHBOUR] == explanation.item_id]
    found = found.merge(pairs, on=ITEM, how="left")
    return found.assign(
        place=np.arange(len(found)),
        length=found["row"].notna().astype(int),  # 0: the walk ended where it started
        attending_item=HISTORY,
        recommended_step=np.nan,
        other=np.nan,
        through=_none(found),
    )


def _listening(explanation: "Explanation", around: Neighbourhood, starts: pd.Series) -> pd.DataFrame:
    """Paths of one step and of two, in any order, with `place` in the history and rows of the steps in `around`."""
    steps, item_id = around.steps[[ITEM, NEIGHBOUR]], explanation.item_id
    steps = steps.assign(step=around.steps[around.relations].sum(axis=1), row=np.arange(len(steps), dtype=float))
    mine, theirs = steps[steps[ITEM] == item_id], steps[steps[ITEM].isin(starts.index)]
    mine = mine.rename(columns={ITEM: "asked", "step": "recommended_step", "row": "other"})
    towards = theirs[theirs[NEIGHBOUR] == item_id].assign(length=1, attending_item=HISTORY)
    back = mine[mine[NEIGHBOUR].isin(starts.index)].assign(length=1, attending_item=RECOMMENDED)
    back[ITEM] = back[NEIGHBOUR]
    both = theirs.merge(mine, on=NEIGHBOUR).assign(length=2, attending_item=BOTH)
    found = pd.concat([towards, back, both], ignore_index=True).astype({"step": float, "recommended_step": float})
    found["place"] = starts.index.get_indexer(pd.Index(found[ITEM]))
    found["start"] = starts.to_numpy()[found["place"]]
    # the two steps first: shares are float32, whose product is exact in float64, so that equal paths are equal
    found["product"] = found["start"] * (found["step"].fillna(1) * found["recommended_step"].fillna(1))
    found["through"] = found[NEIGHBOUR].astype(object).where(found["length"] == 2, None)
    return found


def _relations(around: Neighbourhood, rows: pd.Series) -> pd.Series:
    """The relations that join the two ends of each step, by its row; None where there is no step."""
    shares = around.steps[around.relations]

    def name(row: float) -> str | None:
        return None if np.isnan(row) else SEVERAL.join(shares.columns[shares.iloc[int(row)] > 0])

    return pd.Series([name(row) for row in rows], index=rows.index, dtype=object)


def _none(frame: pd.DataFrame) -> pd.Series:
    return pd.Series([None] * len(frame), index=frame.index, dtype=object)
