"""Whether reasons are the causes, on a log that knows them: `sample_log` plants who bought A soon buys B.

Shapes: B users, k places.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attribution import attribute
from attnrec.dataset import Holdout
from attnrec.models import Model
from attnrec.sample import SampleLog
from attnrec.schema import DATETIME, ITEM, USER
from attnrec.scoring.ranking import RankedBatch, rank_users
from attnrec.scoring.reasons import largest_reasons


@dataclass(frozen=True)
class GroundTruth:
    """How often one method's first reason is the cause.

    Attributes:
        n_hits: recommendations of what a planted cause made the user buy next.
        found: share of them whose first reason is that cause; NaN without a hit.
        n_recommendations: all recommendations of the same users.
        distractor: share of these whose first reason is the item that everybody buys and that causes nothing.
        distractor_by_chance: what it would be, were first reasons drawn from the items of the history.
    """

    n_hits: int
    found: float
    n_recommendations: int
    distractor: float
    distractor_by_chance: float


def ground_truth(
    model: Model, holdout: Holdout, log: SampleLog, *, method: str = "contribution", k: int = 10, seed: int = 0
) -> GroundTruth:
    """Ask a method for the first reason of each of the k best items of users whose answer has a planted cause.

    Events of one item are one reason, with the sum of what the method gives them; where nothing speaks for an item
    there is no first reason, and the cause was not found.

    Args:
        model: trained on what `holdout.histories` shows, or less.
        holdout: one answer per user, as `split_last` asks.
        log: what the histories were made from.
        method: a name in `attnrec.attribution.METHODS`.
        k: items recommended.
        seed: of methods that draw.

    Raises:
        ValueError: for a method that does not work for the model, or no user whose answer has a cause.
    """
    causes = planted_causes(holdout, log)
    asked = np.flatnonzero(causes)
    if not len(asked):
        raise ValueError("ground truth needs an answer with a planted cause, got none; take the log of the histories")
    histories, counts = holdout.histories, torch.from_numpy(holdout.histories.item_counts())
    distractor = histories.item_ids.row(log.distractor) if log.distractor in histories.item_ids else -1
    n_recommendations, firsts, hits, chances = 0, [], [], []
    for ranked in rank_users(model, histories, holdout.users[asked], k=k):
        given = attribute(model, ranked.batch, ranked.items, method=method, seed=seed, counts=counts)
        first = _first_reasons(ranked, given)
        places = ranked.items > 0
        chosen = asked[ranked.chosen]
        answers = torch.from_numpy(holdout.targets[holdout.offsets[:-1][chosen]]).to(first.device)
        wanted = torch.from_numpy(causes[chosen]).to(first.device)
        hits.append((first == wanted[:, None])[ranked.items == answers[:, None]])
        firsts.append((first == distractor)[places])
        chances.append((_shares_of(ranked.batch.items, distractor).to(places.device)[:, None] * places).sum())
        n_recommendations += int(places.sum())
    found = torch.cat(hits).double()
    return GroundTruth(
        n_hits=len(found),
        found=float(found.mean()),
        n_recommendations=n_recommendations,
        distractor=float(torch.cat(firsts).double().mean()),
        distractor_by_chance=float(sum(chances)) / n_recommendations,
    )


def planted_causes(holdout: Holdout, log: SampleLog) -> NDArray[np.int64]:
    """Item row of what caused the first answer of each user asked, 0 where nobody planted it, (n asked,)."""
    histories, first = holdout.histories, holdout.offsets[:-1]
    answers = pd.DataFrame(
        {
            USER: histories.user_ids.decode(holdout.users),
            ITEM: histories.item_ids.decode(holdout.targets[first]),
            DATETIME: histories.to_datetime(holdout.target_times[first]),
        }
    )
    truth = log.truth.drop_duplicates([USER, ITEM, DATETIME]).astype({DATETIME: answers[DATETIME].dtype})
    causes = answers.merge(truth, on=[USER, ITEM, DATETIME], how="left")["cause"]
    rows = np.zeros(len(causes), dtype=np.int64)
    known = causes.notna().to_numpy()
    rows[known] = histories.item_ids.encode(causes[known])
    return np.maximum(rows, 0)


def _first_reasons(ranked: RankedBatch, given: Tensor) -> Tensor:
    """Item row of the largest reason for each recommended item, 0 where nothing speaks for it, (B, k)."""
    return largest_reasons(ranked.reading, ranked.batch.items.to(given.device), given, m=1).items[..., 0]


def _shares_of(histories: Tensor, item: int) -> Tensor:
    """1 / number of distinct items of the histories that have the item, 0 for others, (B,)."""
    distinct = [row[row > 0].unique() for row in histories]
    return torch.tensor([float((items == item).any()) / max(1, len(items)) for items in distinct])
