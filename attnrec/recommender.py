"""The notebook's view: a trained model with its catalogue and the histories it knows."""

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
from attnrec.models.saved_model import SavedModel, load_whole, save_model
from attnrec.schema import ITEM
from attnrec.scoring import ScoreConfig, recommend
from attnrec.scoring.tables import recommendations_frame
from attnrec.storage import new_folder


class UnknownIdError(KeyError):
    """A user or item that is not known; its message is one sentence."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, eq=False, repr=False)
class Recommender:
    """Recommend and explain, in the ids of the log.

    Attributes:
        model: trained.
        item_ids: item id <-> the model's item row.
        histories: known users, in the model's item rows; None for a model loaded without them.
        facts: what is known of the model: name, seed, chosen epoch, hash of the log.
        moments: of the optimizer, for `fit(init=...)`; empty where they are not known.
        features: of the items, for `fit(init=...)`; None where `fit` got no items.
    """

    model: Model
    item_ids: Vocabulary
    histories: Histories | None = None
    facts: dict[str, Any] = field(default_factory=dict)
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
        """The text column "title" of the items it was fitted with, by item id; None where there is none."""
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
        """The k best items of known users, or for a history given as a list of item ids, oldest first.

        Args:
            users: user ids; default all known users.
            history: instead of users, the events of an anonymous user; unknown items are ignored.
            k: items per user.
            filter_viewed: never recommend what is in the history.

        Returns:
            user_id, rank, item_id, score, source ("history" or "popularity"), reasons (dicts of item_id, contribution and
            weight, largest first), explained_share, other_events, item_bias; score = sum of the reasons' contributions + other_events +
            item_bias.

        Raises:
            UnknownIdError: for an unknown user.
        """
        histories = anonymous_history(history, self.item_ids) if history is not None else self._known()
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
        """Why `item_id` has the score it has, for a known user or a given history; the rest as in `attnrec.explain`.

        Raises:
            UnknownIdError: for an unknown user or item.
            ReasonsError: for contributions of a model whose scores are not sums over the history.
            ValueError: as `attnrec.explain`.
        """
        if history is not None:
            return explain(self, history, [item_id], method=method, titles=titles)[0]
        histories = self._known()
        user = int(self._user_rows(histories, [user_id])[0])
        return self._explained(histories, user, [item_id], method=method, titles=titles)[0]

    def _explained(
        self, histories: Histories, user: int, items: Iterable[Any], *, method: str, titles: Titles | None
    ) -> Explanations:
        rows = [self._item_row(item_id) for item_id in items]
        found = explain_items(self.model, histories, user=user, items=rows, method=method, known=self.histories)
        titles = self.titles if titles is None else titles
        return found if titles is None else found.with_titles(titles)

    def similar_items(self, item_id: Any, k: int = 10) -> pd.DataFrame:
        """The k items whose vectors point the same way: item_id, similarity (cosine, -1 to 1).

        Raises:
            UnknownIdError: for an unknown item.
            TypeError: for a model without item vectors.
        """
        row = self._item_row(item_id)
        with torch.inference_mode():
            vectors = F.normalize(self.model.item_vectors(), dim=1)
            cosines = (vectors @ vectors[row]).masked_fill(~self.model.rankable, -torch.inf)
            cosines[row] = -torch.inf
            best = cosines.topk(min(k, len(self.item_ids) - 1))
        found = best.values > -torch.inf
        ids = self.item_ids.decode(best.indices[found].cpu().numpy())
        return pd.DataFrame({ITEM: ids, "similarity": best.values[found].cpu().numpy()})

    def item_vectors(self) -> pd.DataFrame:
        """One row per item, indexed by item_id, one column per dimension.

        Raises:
            TypeError: for a model without item vectors.
        """
        vectors = self.model.item_vectors().detach().cpu().numpy()[1:]
        return pd.DataFrame(vectors, index=pd.Index(self.item_ids.ids, name=ITEM))

    def with_histories(self, interactions: pd.DataFrame) -> "Recommender":
        """The same model for other users: a frame of user_id, item_id, datetime; unknown items are ignored.

        Raises:
            ValueError: for a frame that does not follow the schema, or has no order where the model needs one.
        """
        histories = histories_from_frame(interactions)
        if self.model.needs_order and not histories.ordered:
            raise ValueError(f"{self.model.kind} needs ordered histories, got a frame without datetime; add the column")
        return replace(self, histories=histories.recode(self.item_ids))

    def save(self, folder: str | Path) -> Path:
        """Write the model (not the histories) to a new folder: config.json, weights.safetensors, vocabulary.parquet.

        Beside them moments.safetensors and items.parquet, where there are any: `fit(init=folder)` goes on from there.

        Raises:
            FileExistsError: when there is something at `folder`.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"a model is saved to a new folder, got {folder}, which exists; choose another")
        with new_folder(folder) as target:
            save_model(SavedModel(self.model, self.item_ids, self.facts, self.moments, self.features), target)
        return folder

    def _known(self) -> Histories:
        if self.histories is None:
            raise UnknownIdError(
                "no user is known to this model, since it was loaded alone; call with_histories(frame)"
            )
        return self.histories

    def _user_rows(self, histories: Histories, users: Iterable[Any] | None) -> NDArray[np.int64]:
        if users is None:
            return np.arange(histories.n_users)
        users = [users] if isinstance(users, str | int | np.integer) else list(users)
        rows = histories.user_ids.encode(users)
        if (rows < 0).any():
            raise UnknownIdError(
                f"user {users[int(np.argmax(rows < 0))]!r} has no history here; check the id, or give a history"
            )
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
    """Why a model gives some items the scores it gives them, for one history, which is read once.

    Args:
        model: what `fit` or `load` returned.
        history: item ids, oldest first; or a frame of one user with item_id, datetime and optionally weight and event.
            Unknown items are ignored.
        items: one item id or several.
        method: "contribution", the exact split of the score, or another name in `attnrec.attribution.METHODS`, such as
            "leave_one_out" or "shapley". Methods that draw do so with seed 0.
        titles: item id -> title, or a frame of item_id and title; default the column "title" of `fit(items=...)`.

    Raises:
        UnknownIdError: for an item outside the catalogue.
        ReasonsError: for contributions of a model whose scores are not sums over the history; it says what to ask for.
        ValueError: for a frame of several users or without what the model reads, no item, or an unknown method or one
            that does not work for the model.
    """
    if not isinstance(model, Recommender):
        raise ValueError(
            f"explain needs what fit or load gave, got {type(model).__name__}; "
            "write explain(recommender, history, items)"
        )
    asked = [items] if isinstance(items, str | int | np.integer) else list(items)
    return model._explained(one_history(history, model.item_ids), 0, asked, method=method, titles=titles)


def load_folder(folder: str | Path) -> Recommender:
    """Read a saved model folder; users are given by `with_histories` or history=[...].

    Raises:
        FileNotFoundError: when `folder` holds no model.
    """
    saved = load_whole(Path(folder))
    return Recommender(saved.model, saved.item_ids, None, saved.facts, saved.moments, saved.features)
