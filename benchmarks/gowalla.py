"""Gowalla as LightGCN split it (He et al. 2020, arXiv:2002.02126), and how all models are asked on it.

The files are train.parquet and test.parquet with user_id and item_id: check-ins without order and time. There is no
validation part: a random tenth of the training events is the one by which settings and epochs are chosen.
Protocol: Recall@20 and NDCG@20 over all test items of a user, the whole catalogue ranked, training items left out.
Shapes: B users, N = n_items + 1 item rows (row 0 is padding), k places.
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
HELD_SHARE = 0.1
K = 20
METRICS = tuple(metric_name(name, K) for name in ("recall", "ndcg"))
BATCH_SIZE = 256

ScoreBatch = Callable[[NDArray[np.int64]], Any]
"""User rows (B,) -> scores of all item rows (B, N), a tensor or an array."""


class Part(NamedTuple):
    """What a model is trained on, and what it is asked."""

    train: Histories
    holdout: Holdout


@dataclass(frozen=True, eq=False)
class GowallaData:
    """Two parts with the same user and item rows.

    Attributes:
        choosing: the training file without a random tenth of its events, which is asked for.
        final: the whole training file; the test file is asked for.
    """

    choosing: Part
    final: Part


def load_gowalla(folder: Path = FOLDER) -> GowallaData:
    """Read the two files; the catalogue is that of the whole training file.

    A test item that is not in it is an answer that nobody can give.

    Raises:
        FileNotFoundError: when a file is not there.
        ValueError: for a test user without a row in the training file.
    """
    files = [folder / name for name in ("train.parquet", "test.parquet")]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"Gowalla is train.parquet and test.parquet, got no {file}; see data/README.md")
    log, test = (pd.read_parquet(file, columns=[USER, ITEM]) for file in files)
    histories = histories_from_frame(log)
    users, items = histories.user_ids.encode_column(test[USER]), histories.item_ids.encode_column(test[ITEM])
    if (users < 0).any():
        strange = test[USER][users < 0]
        raise ValueError(
            f"test users must have training events, got {strange.nunique()} without (first: {strange.iloc[0]}); "
            "take both files from one split"
        )
    order = np.argsort(users, kind="stable")
    return GowallaData(hold_out(histories), Part(histories, _ask(histories, users[order], items[order])))


def hold_out(histories: Histories, *, share: float = HELD_SHARE, seed: int = 0) -> Part:
    """Hold a random share of all events back; users of whom nothing would be left are not asked.

    Args:
        histories: an unordered log.
        share: chance of each event to be held.
        seed: of the draw.

    Returns:
        The histories without the held events, in the same user and item rows, and the questions.
    """
    held = np.random.default_rng(seed).random(histories.n_events) < share
    positions = histories.positions()
    owners = np.repeat(np.arange(histories.n_users), histories.lengths)
    lengths = np.bincount(owners[~held], minlength=histories.n_users).astype(np.int64)
    seen = replace(
        histories,
        items=histories.items[positions[~held]],
        times=histories.times[positions[~held]],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        lengths=lengths,
        content_hash=f"{histories.content_hash}-{share}-{seed}",
    )
    return Part(seen, _ask(seen, owners[held], histories.items[positions[held]]))


def _ask(histories: Histories, users: NDArray[np.int64], targets: NDArray[np.integer[Any]]) -> Holdout:
    """Questions from the user and the item of each held event, sorted by user."""
    known = histories.lengths[users] > 0
    asked, n_targets = np.unique(users[known], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(n_targets)]).astype(np.int64)
    targets = targets[known].astype(np.int64)
    return Holdout(histories, asked.astype(np.int64), targets, np.zeros(len(targets), np.int64), offsets)


def ranked_metrics(score_batch: ScoreBatch, histories: Histories, holdout: Holdout) -> dict[str, float]:
    """Means of `ranked_values` over the users: recall_at_20 and ndcg_at_20."""
    return {name: float(mean) for name, mean in ranked_values(score_batch, histories, holdout).mean().items()}


def ranked_values(score_batch: ScoreBatch, histories: Histories, holdout: Holdout) -> pd.DataFrame:
    """Metrics of each user of a peer that only gives scores, as `attnrec.evaluation.evaluator.evaluate` has them for a model.

    Items without an event in `histories` are not recommended; answers that a user has already are not asked for, and
    users left without an answer are not counted.

    Args:
        score_batch: the peer; rows of its scores may hold anything in column 0.
        histories: what the peer was trained on; what a user has there is not recommended.
        holdout: the questions.

    Returns:
        recall_at_20 and ndcg_at_20, one row for each user counted.

    Raises:
        ValueError: for scores of another shape, and when no user is left to ask.
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
        raise ValueError("ranking needs a user with an unseen answer, got none; ask for other events")
    return pd.DataFrame(joined, columns=pd.Index(METRICS))


def _batch_values(
    score_batch: ScoreBatch, histories: Histories, holdout: Holdout, chosen: NDArray[np.int64], rankable: Tensor
) -> NDArray[np.float64]:
    users, shape = holdout.users[chosen], (len(chosen), len(rankable))
    seen = torch.zeros(shape, dtype=torch.bool)
    lengths = torch.from_numpy(histories.lengths[users])
    seen[_owners(lengths), torch.from_numpy(histories.items[histories.positions(users)].astype(np.int64))] = True
    answers = torch.zeros(shape, dtype=torch.bool)
    part = holdout.select(chosen)
    answers[_owners(torch.from_numpy(np.diff(part.offsets))), torch.from_numpy(part.targets)] = True
    answers &= ~seen
    scores = torch.as_tensor(score_batch(users)).detach().float()
    if scores.shape != shape:
        raise ValueError(
            f"scores must have a row per user and a column per item row, got {tuple(scores.shape)} for {shape}; "
            "score all items, and padding in column 0"
        )
    items = top_k(scores.masked_fill(seen | ~rankable, float("-inf")), K)[1]
    places = torch.arange(1.0, items.shape[1] + 1)
    ranks = torch.where(answers.gather(1, items) & (items > 0), places, float("inf"))
    n_relevant = answers.sum(1)
    counted = n_relevant > 0
    given = ranks[counted].double().numpy(), n_relevant[counted].numpy(), K
    return np.stack([RANK_METRICS[name](*given) for name in ("recall", "ndcg")], axis=1)


def _owners(lengths: Tensor) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(lengths)
