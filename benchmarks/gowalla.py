"""Gowalla in LightGCN's split (He et al. 2020, arXiv:2002.02126), and the evaluation of all models on it.

The files are train.parquet and test.parquet with user_id and item_id: check-ins without order and time. They have no
validation part: a random tenth of the training events serves to choose settings and epochs.
Protocol: Recall@20 and NDCG@20 over all test items of a user, full-catalogue ranking, training items excluded.
Shapes: B users, N = n_items + 1 item rows (row 0 is padding), k ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.dataset import Histories, Holdout, histories_from_frame
from attnrec.evaluation.metrics import RANK_METRICS, metric_name
from attnrec.schema import ITEM, USER
from attnrec.scoring.ranking import top_k

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "gowalla"
HOLDOUT_SHARE = 0.1
K = 20
METRICS = tuple(metric_name(name, K) for name in ("recall", "ndcg"))
BATCH_SIZE = 256

ScoreBatch = Callable[[NDArray[np.int64]], Any]
"""Function from user rows (B,) to scores of all item rows (B, N), a tensor or an array."""


class Part(NamedTuple):
    """Training histories and the holdout to evaluate on."""

    train: Histories
    holdout: Holdout


@dataclass(frozen=True, eq=False)
class GowallaData:
    """Two parts with the same user and item rows.

    Attributes:
        choosing: trained on the training file without a random tenth of its events, evaluated on these events.
        final: trained on the whole training file, evaluated on the test file.
    """

    choosing: Part
    final: Part


def load_gowalla(folder: Path = FOLDER) -> GowallaData:
    """Read the two files; the catalogue is that of the whole training file.

    A test item outside the catalogue counts as a target that no model can recommend.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: for a test user without a row in the training file.
    """
    files = [folder / name for name in ("train.parquet", "test.parquet")]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"Gowalla needs train.parquet and test.parquet, got no {file}; see data/README.md")
    log, test = (pd.read_parquet(file, columns=[USER, ITEM]) for file in files)
    histories = histories_from_frame(log)
    users, items = histories.user_ids.encode_column(test[USER]), histories.item_ids.encode_column(test[ITEM])
    if (users < 0).any():
        unknown = test[USER][users < 0]
        raise ValueError(
            f"test users must have training events, got {unknown.nunique()} without (first: {unknown.iloc[0]}); "
            "take both files from the same split"
        )
    order = np.argsort(users, kind="stable")
    return GowallaData(hold_out(histories), Part(histories, _make_holdout(histories, users[order], items[order])))


def hold_out(histories: Histories, *, share: float = HOLDOUT_SHARE, seed: int = 0) -> Part:
    """Hold out a random share of all events; users without a remaining event are not evaluated.

    Args:
        histories: an unordered log.
        share: probability of each event to be held out.
        seed: seed of the random numbers.

    Returns:
        The histories without the held-out events, in the same user and item rows, and the holdout.
    """
    held_out = np.random.default_rng(seed).random(histories.n_events) < share
    positions = histories.positions()
    owners = np.repeat(np.arange(histories.n_users), histories.lengths)
    lengths = np.bincount(owners[~held_out], minlength=histories.n_users).astype(np.int64)
    visible = replace(
        histories,
        items=histories.items[positions[~held_out]],
        times=histories.times[positions[~held_out]],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        lengths=lengths,
        content_hash=f"{histories.content_hash}-{share}-{seed}",
    )
    return Part(visible, _make_holdout(visible, owners[held_out], histories.items[positions[held_out]]))


def _make_holdout(histories: Histories, users: NDArray[np.int64], targets: NDArray[np.integer[Any]]) -> Holdout:
    """Make a holdout from the user and the item of each held-out event, sorted by user."""
    has_history = histories.lengths[users] > 0
    unique_users, n_targets = np.unique(users[has_history], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(n_targets)]).astype(np.int64)
    targets = targets[has_history].astype(np.int64)
    return Holdout(histories, unique_users.astype(np.int64), targets, np.zeros(len(targets), np.int64), offsets)


def ranked_metrics(score_batch: ScoreBatch, histories: Histories, holdout: Holdout) -> dict[str, float]:
    """Return the means of `ranked_values` over the users: recall_at_20 and ndcg_at_20."""
    return {name: float(mean) for name, mean in ranked_values(score_batch, histories, holdout).mean().items()}


def ranked_values(score_batch: ScoreBatch, histories: Histories, holdout: Holdout) -> pd.DataFrame:
    """Compute each user's metrics for a model outside attnrec, with the protocol of `evaluate` of attnrec models.

    Items without an event in `histories` are not recommended. Targets in a user's history are dropped, and users
    without a remaining target are not evaluated.

    Args:
        score_batch: the model; column 0 of its scores is ignored.
        histories: the training part; a user's items in it are not recommended.
        holdout: the targets.

    Returns:
        recall_at_20 and ndcg_at_20, one row per evaluated user.

    Raises:
        ValueError: for scores of the wrong shape, or if no user has a target.
    """
    rankable = torch.from_numpy(histories.item_counts() > 0)
    values = [
        _batch_values(score_batch, histories, holdout, chosen, rankable)
        for chosen in np.split(
            np.arange(len(holdout.users)), np.arange(BATCH_SIZE, max(1, len(holdout.users)), BATCH_SIZE)
        )
    ]
    joined = np.concatenate(values)
    if not len(joined):
        raise ValueError("evaluation needs a user with a target outside the history, got none; pass another holdout")
    return pd.DataFrame(joined, columns=pd.Index(METRICS))


def _batch_values(
    score_batch: ScoreBatch, histories: Histories, holdout: Holdout, chosen: NDArray[np.int64], rankable: Tensor
) -> NDArray[np.float64]:
    users, shape = holdout.users[chosen], (len(chosen), len(rankable))
    viewed = torch.zeros(shape, dtype=torch.bool)
    lengths = torch.from_numpy(histories.lengths[users])
    viewed[_row_numbers(lengths), torch.from_numpy(histories.items[histories.positions(users)].astype(np.int64))] = True
    is_target = torch.zeros(shape, dtype=torch.bool)
    part = holdout.select(chosen)
    is_target[_row_numbers(torch.from_numpy(np.diff(part.offsets))), torch.from_numpy(part.targets)] = True
    is_target &= ~viewed
    scores = torch.as_tensor(score_batch(users)).detach().float()
    if scores.shape != shape:
        raise ValueError(
            f"scores must have a row per user and a column per item row, got {tuple(scores.shape)} for {shape}; "
            "return scores of all items and of padding in column 0"
        )
    items = top_k(scores.masked_fill(viewed | ~rankable, float("-inf")), K)[1]
    positions = torch.arange(1.0, items.shape[1] + 1)
    ranks = torch.where(is_target.gather(1, items) & (items > 0), positions, float("inf"))
    n_relevant = is_target.sum(1)
    evaluated = n_relevant > 0
    arguments = ranks[evaluated].double().numpy(), n_relevant[evaluated].numpy(), K
    return np.stack([RANK_METRICS[name](*arguments) for name in ("recall", "ndcg")], axis=1)


def _row_numbers(lengths: Tensor) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(lengths)
