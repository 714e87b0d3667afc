"""Item graph of one test user: the neighbourhood of the best recommended item, drawn for the training run."""

from typing import TYPE_CHECKING

import numpy as np

from attnrec.dataset import Split
from attnrec.models.saved_model import SavedModel
from attnrec.recommender import Recommender
from attnrec.schema import ITEM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_EVENTS = 50
"""Histories with this many events or more are not drawn."""


def item_graph_figure(saved: SavedModel, split: Split) -> "Figure | None":
    """Draw the graph around the best item of the test user with the longest history below `MAX_EVENTS` events.

    Args:
        saved: a model with its features, trained on `split.train`. A model that was saved without its graph observes
            `split.train` again.
        split: the split whose test users are candidates.

    Returns:
        The figure of `Explanation.graph_figure`. None for a model without a graph or without exact reasons, and if no
        test user has such a history and an item left to recommend.
    """
    histories, users, model = split.test.histories, split.test.users, saved.model
    lengths = histories.lengths[users]
    candidates = users[(lengths > 0) & (lengths < MAX_EVENTS)]
    if not (model.has_graph and model.exact_reasons and len(candidates)):
        return None
    user_ids = histories.user_ids.decode(candidates[[np.argmax(histories.lengths[candidates])]])
    if (graph := getattr(model, "graph", None)) is not None and not graph.observed:
        model.observe(split.train)
    recommender = Recommender(model, saved.item_ids, histories, saved.metadata, features=saved.features)
    best = recommender.recommend(user_ids, k=1)
    return None if best.empty else recommender.explain(user_ids[0], best[ITEM].iloc[0]).graph_figure()
