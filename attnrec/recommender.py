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

from attnrec.dataset import Histories, Vocabulary, audit_split, histories_from_frame, split_last
from attnrec.explanation import Explanation, explain
from attnrec.models import Model, build_model, model_config
from attnrec.models.folder import SavedModel, load_model, save_model
from attnrec.schema import ITEM, USER
from attnrec.scoring import Recommendations, ScoreConfig, recommend
from attnrec.storage import new_folder
from attnrec.training import TrainConfig, train

HERE = "(history)"
"""The user_id of a history that was given as a list."""


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
    """

    model: Model
    item_ids: Vocabulary
    histories: Histories | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        users = "no users" if self.histories is None else f"{self.histories.n_users:,} users"
        return f"Recommender({self.model.description}, {len(self.item_ids):,} items, {users})"

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
            history: instead of users, what one visitor did; unknown items are ignored.
            k: items per user.
            filter_viewed: never recommend what is in the history.

        Returns:
            user_id, rank, item_id, score, reasons (dicts of item_id, contribution, weight, largest first), rest,
            item_bias; score = sum of the reasons' contributions + rest + item_bias.

        Raises:
            UnknownIdError: for an unknown user.
        """
        histories = self._visit(history) if history is not None else self._known()
        rows = self._user_rows(histories, users if history is None else None)
        config = ScoreConfig.checked({"k": k, "filter_viewed": filter_viewed})
        return recommendations_frame(recommend(self.model, histories, rows, config=config), histories)

    def explain(self, user_id: Any = None, item_id: Any = None, *, history: Sequence[Any] | None = None) -> Explanation:
        """Why `item_id` has the score it has, for a known user or a history given as a list.

        Raises:
            UnknownIdError: for an unknown user or item.
            ReasonsError: for a model whose scores are not sums over the history.
        """
        histories = self._visit(history) if history is not None else self._known()
        user = 0 if history is not None else int(self._user_rows(histories, [user_id])[0])
        return explain(self.model, histories, user=user, item=self._item_row(item_id))

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

        Raises:
            FileExistsError: when there is something at `folder`.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"a model is saved to a new folder, got {folder}, which exists; choose another")
        with new_folder(folder) as target:
            save_model(SavedModel(self.model, self.item_ids, self.facts), target)
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
            raise UnknownIdError(f"user {users[int(np.argmax(rows < 0))]!r} has no history here; give history=[...]")
        return rows

    def _item_row(self, item_id: Any) -> int:
        if item_id not in self.item_ids:
            raise UnknownIdError(f"item {item_id!r} is not in the model's catalogue of {len(self.item_ids)} items")
        return self.item_ids.row(item_id)

    def _visit(self, history: Sequence[Any]) -> Histories:
        """One visitor's history; an item id that is unknown is left out."""
        if isinstance(history, str):
            raise ValueError(f"history must be a list of item ids, got the text {history!r}; write [{history!r}]")
        rows = self.item_ids.encode(history)
        rows = rows[rows > 0].astype(np.int32)
        return Histories(
            user_ids=Vocabulary([HERE]),
            item_ids=self.item_ids,
            items=rows,
            times=np.arange(len(rows)),
            offsets=np.array([0, len(rows)]),
            lengths=np.array([len(rows)]),
            time_kind="order",
        )


def fit(
    interactions: pd.DataFrame,
    *,
    model: str = "sasrec",
    settings: dict[str, Any] | None = None,
    progress_bar: bool = True,
    **training: Any,
) -> Recommender:
    """Train a model on a frame; each user's last event chooses the epoch.

    Args:
        interactions: user_id, item_id, datetime (and weight, event); see `schema.check_interactions`.
        model: "sasrec", "gat", "item_knn" or "popularity".
        settings: of the model, such as {"dim": 32, "max_length": 100, "dropout": 0.1, "readout": "pooling"}.
        progress_bar: show progress.
        **training: epochs, batch_size, learning_rate, seed, patience, max_minutes and the others of
            `attnrec.training.TrainConfig`.

    Raises:
        ValueError: for a frame that does not follow the schema, an unknown model or setting.
    """
    chosen = model_config(model, settings or {})
    histories = histories_from_frame(interactions)
    split = split_last(histories)
    audit_split(split)
    config = TrainConfig.checked(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        built = build_model(chosen, histories.n_items)
    asked = split.test if len(split.test.users) else None
    seen = split.test.histories if asked is not None else histories
    fitted = train(built, seen, validation=asked, config=config, progress_bar=progress_bar)
    facts = {"epoch": fitted.best_epoch, "seed": config.seed, "data": histories.content_hash}
    return Recommender(built.cpu(), histories.item_ids, histories, facts)


def load_folder(folder: str | Path) -> Recommender:
    """Read a saved model folder; users are given by `with_histories` or history=[...].

    Raises:
        FileNotFoundError: when `folder` holds no model.
    """
    saved = load_model(Path(folder))
    return Recommender(saved.model, saved.item_ids, None, saved.facts)


def recommendations_frame(found: Recommendations, histories: Histories) -> pd.DataFrame:
    """Recommendations as a frame with the log's own ids; reasons are lists of dicts."""
    users, places = np.nonzero(found.items > 0)
    decode = histories.item_ids.decode
    reasons = [
        [
            {
                ITEM: decode(item),
                "contribution": float(added),
                "weight": None if np.isnan(share) else float(share),
            }
            for item, added, share in zip(
                found.reason_items[at], found.reason_contributions[at], found.reason_weights[at], strict=True
            )
            if item
        ]
        for at in zip(users, places, strict=True)
    ]
    return pd.DataFrame(
        {
            USER: histories.user_ids.decode(found.users[users]),
            "rank": places + 1,
            ITEM: decode(found.items[users, places]),
            "score": found.scores[users, places],
            "reasons": reasons,
            "rest": found.rest[users, places],
            "item_bias": found.item_bias[users, places],
        }
    )
