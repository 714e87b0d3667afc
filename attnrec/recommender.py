"""`Recommender`: a trained model with its catalogue and user histories, addressed by raw user and item ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Features, Histories, Vocabulary, anonymous_history, histories_from_frame
from attnrec.explanation import Explanation, Explanations, Titles, explain_items, one_history
from attnrec.explanation.titles import TITLE
from attnrec.models import Model
from attnrec.models.saved_model import SavedModel, load_with_warm_start, save_model
from attnrec.schema import ITEM
from attnrec.scoring import ScoreConfig, recommend
from attnrec.scoring.tables import recommendations_frame
from attnrec.storage import new_folder


class UnknownIdError(KeyError):
    """A user id without a history, or an item id outside the catalogue."""

    def __str__(self) -> str:  # KeyError would quote the message
        return str(self.args[0])


@dataclass(frozen=True, eq=False, repr=False)
class Recommender:
    """A trained model that recommends and explains with the ids of the log.

    Attributes:
        model: the trained model.
        item_ids: item id <-> item row of the model.
        histories: histories of the users, in item rows of the model; None for a model loaded from disk.
        metadata: seed, best epoch and hash of the training log; in a pipeline also the training mode.
        moments: optimizer moments for a warm start with `fit(init=...)`; empty where they were not saved.
        features: item features for a warm start; None when `fit` got no `items`.
    """

    model: Model
    item_ids: Vocabulary
    histories: Histories | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    features: Features | None = None

    def __post_init__(self) -> None:
        if self.histories is not None:
            object.__setattr__(self, "histories", self.histories.with_event_names(self.model.event_names))

    def __repr__(self) -> str:
        users = "no users" if self.histories is None else f"{self.histories.n_users:,} users"
        return f"Recommender({self.model.description}, {len(self.item_ids):,} items, {users})"

    @property
    def titles(self) -> pd.Series | None:
        """Titles by item id: the text column "title" of `fit(items=...)`; None without such a column."""
        if self.features is None or TITLE not in self.features.texts:
            return None
        return pd.Series(self.features.texts[TITLE][1:], index=self.item_ids.index)

    def recommend(
        self,
        users: Iterable[Any] | None = None,
        *,
        history: Sequence[Any] | None = None,
        k: int = 10,
        filter_viewed: bool = True,
    ) -> pd.DataFrame:
        """Recommend the k items with the highest scores, for users of the log or for one anonymous history.

        Args:
            users: user ids; default: all users of `histories`.
            history: item ids of one anonymous user, oldest first; replaces `users`. Unknown items are ignored.
            k: items per user.
            filter_viewed: whether to exclude items of the history.

        Returns:
            user_id, rank, item_id, score, source ("history" or "popularity"), reasons (dicts of item_id, contribution
            and weight, largest first), explained_share, other_events, item_bias. The score is the sum of the reasons'
            contributions, other_events and item_bias.

        Raises:
            UnknownIdError: for a user without a history.
        """
        histories = anonymous_history(history, self.item_ids) if history is not None else self._require_histories()
        rows = self._user_rows(histories, users if history is None else None)
        config = ScoreConfig.from_dict({"k": k, "filter_viewed": filter_viewed})
        return recommendations_frame(recommend(self.model, histories, rows, config=config), histories)

    def explain(
        self,
        user_id: Any = None,
        item_id: Any = None,
        *,
        history: Sequence[Any] | pd.DataFrame | None = None,
        method: str = "contribution",
        titles: Titles | None = None,
    ) -> Explanation:
        """Explain the score of one item, for a user of the log or a given history; see `attnrec.explain`.

        Raises:
            UnknownIdError: for a user without a history, or an item outside the catalogue.
            ReasonsError, ValueError: as in `attnrec.explain`.
        """
        if history is not None:
            return explain(self, history, [item_id], method=method, titles=titles)[0]
        histories = self._require_histories()
        user = int(self._user_rows(histories, [user_id])[0])
        return self._explained(histories, user, [item_id], method=method, titles=titles)[0]

    def _explained(
        self, histories: Histories, user: int, items: Iterable[Any], *, method: str, titles: Titles | None
    ) -> Explanations:
        rows = [self._item_row(item_id) for item_id in items]
        explanations = explain_items(self.model, histories, user=user, items=rows, method=method, log=self.histories)
        titles = self.titles if titles is None else titles
        return explanations if titles is None else explanations.with_titles(titles)

    def similar_items(self, item_id: Any, k: int = 10) -> pd.DataFrame:
        """Return the k nearest neighbours of an item: item_id and similarity (cosine of item vectors, -1 to 1).

        Raises:
            UnknownIdError: for an item outside the catalogue.
            TypeError: for a model without item vectors.
        """
        row = self._item_row(item_id)
        with torch.inference_mode():
            vectors = F.normalize(self.model.item_vectors(), dim=1)
            cosines = (vectors @ vectors[row]).masked_fill(~self.model.rankable, -torch.inf)
            cosines[row] = -torch.inf
            best = cosines.topk(min(k, len(self.item_ids) - 1))
        finite = best.values > -torch.inf
        ids = self.item_ids.decode(best.indices[finite].cpu().numpy())
        return pd.DataFrame({ITEM: ids, "similarity": best.values[finite].cpu().numpy()})

    def item_vectors(self) -> pd.DataFrame:
        """Return the item vectors: one row per item, indexed by item_id, one column per dimension.

        Raises:
            TypeError: for a model without item vectors.
        """
        vectors = self.model.item_vectors().detach().cpu().numpy()[1:]
        return pd.DataFrame(vectors, index=pd.Index(self.item_ids.ids, name=ITEM))

    def with_histories(self, interactions: pd.DataFrame) -> "Recommender":
        """Return the same model with the histories of `interactions` (see `fit`); unknown items are ignored.

        Raises:
            ValueError: for invalid interactions, or interactions without datetime for a model that needs an order.
        """
        histories = histories_from_frame(interactions)
        if self.model.needs_order and not histories.ordered:
            raise ValueError(f"{self.model.kind} needs ordered histories, got no datetime; add the column")
        return replace(self, histories=histories.recode(self.item_ids))

    def save(self, folder: str | Path) -> Path:
        """Save the model, without the histories, to a new folder.

        The folder contains config.json, weights.safetensors and vocabulary.parquet, and for a warm start with
        `fit(init=folder)` moments.safetensors and items.parquet, where they exist.

        Raises:
            FileExistsError: when `folder` exists.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"save needs a new folder, got {folder}, which exists; choose another path")
        with new_folder(folder) as target:
            save_model(SavedModel(self.model, self.item_ids, self.metadata, self.moments, self.features), target)
        return folder

    def _require_histories(self) -> Histories:
        if self.histories is None:
            raise UnknownIdError("the model has no user histories; call with_histories(log), or pass history=[...]")
        return self.histories

    def _user_rows(self, histories: Histories, users: Iterable[Any] | None) -> NDArray[np.int64]:
        if users is None:
            return np.arange(histories.n_users)
        users = [users] if isinstance(users, str | int | np.integer) else list(users)
        rows = histories.user_ids.encode(users)
        if (rows < 0).any():
            unknown = users[int(np.argmax(rows < 0))]
            raise UnknownIdError(f"user {unknown!r} has no history; check the id, or pass history=[...]")
        return rows

    def _item_row(self, item_id: Any) -> int:
        if item_id not in self.item_ids:
            raise UnknownIdError(f"item {item_id!r} is not in the model's catalogue of {len(self.item_ids)} items")
        return self.item_ids.row(item_id)


def explain(
    model: Recommender,
    history: Sequence[Any] | pd.DataFrame,
    items: Any,
    *,
    method: str = "contribution",
    titles: Titles | None = None,
) -> Explanations:
    """Explain the scores of one or more items for one history, which is encoded once.

    Args:
        model: a model from `fit` or `load`.
        history: item ids, oldest first; or a DataFrame of one user with item_id, datetime and optionally weight and
            event. Unknown items are ignored.
        items: one item id or several.
        method: "contribution" (the exact decomposition of the score) or another key of `attnrec.attribution.METHODS`,
            such as "leave_one_out" or "shapley". Random methods use seed 0.
        titles: item id -> title, or a DataFrame with item_id and title. Default: `model.titles`.

    Returns:
        One explanation per item, in the order of `items`.

    Raises:
        UnknownIdError: for an item outside the catalogue.
        ReasonsError: for method "contribution" of a model whose scores are not sums over the history.
        ValueError: for a DataFrame of several users or without a required column, no items, an unknown method, or a
            method that the model does not support.
    """
    if not isinstance(model, Recommender):
        raise ValueError(
            f"explain needs a model from fit or load, got {type(model).__name__}; "
            "call explain(recommender, history, items)"
        )
    item_list = [items] if isinstance(items, str | int | np.integer) else list(items)
    return model._explained(one_history(history, model.item_ids), 0, item_list, method=method, titles=titles)


def load_folder(folder: str | Path) -> Recommender:
    """Load a saved model folder, without user histories; see `load`.

    Raises:
        FileNotFoundError: when `folder` contains no model.
    """
    saved = load_with_warm_start(Path(folder))
    return Recommender(saved.model, saved.item_ids, None, saved.metadata, saved.moments, saved.features)
