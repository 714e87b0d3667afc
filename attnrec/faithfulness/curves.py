"""What happens as events leave or enter in the order of an attribution: curves, and the measures read off them.

A history of n events is walked in `n_bins` steps; step s has moved ceil(s * n / n_bins) events, so that a step of a
short history moves what its share says or more, and may move nothing new. The explained item is x, p its probability
(softmax of the scores over the items that were recommendable with the full history), rank its rank among them.

- deletion: events leave, largest first; the area under p over the share s / n_bins by the trapezoidal rule (RISE,
  Petsiuk et al. 2018, arXiv:1806.07421). Less is better.
- insertion: events enter the empty history, largest first; the area under p. More is better.
- pos_at_k: share of steps 1 to n_bins of deletion at which rank <= k. Less is better. After POS@k of Barkan et al.
  2024 (A Counterfactual Framework for Learning and Evaluating Explanations for Recommender Systems, WWW).
- neg_at_k: the same as events leave smallest first. More is better. After NEG@k of the same.
- comprehensiveness: mean of p(full) - p(without the first q) over q = ceil(1, 5, 10, 20, 50 % of n). More is better.
- sufficiency: mean of p(full) - p(the first q alone) over the same q. Less is better. Both are the AOPC of ERASER
  (DeYoung et al. 2020, arXiv:1911.03429), events in the place of tokens.

Shapes: B users, M methods, L positions, S = n_bins + 1 steps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnrec.evaluation.metrics import metric_name
from attnrec.faithfulness.outcomes import Outcomes, outcomes_without
from attnrec.faithfulness.top_items import Explained
from attnrec.models import Model

PERCENT = (1, 5, 10, 20, 50)
"""Of the events, in ERASER's bins."""

CURVES = ("deletion", "reverse_deletion", "insertion")
"""Largest first out; smallest first out; largest first in."""


def walk(model: Model, explained: Explained, places: Tensor, *, n_bins: int) -> dict[str, Outcomes]:
    """Take events out of each history in the orders of M methods.

    Args:
        model: in evaluation mode.
        explained: B users.
        places: of each event in each method's order, 0 for the largest, (B, M, L).
        n_bins: steps from the full to the empty history.

    Returns:
        By name: each of `CURVES`, (B, M, S), step 0 first; "comprehensiveness" and "sufficiency", (B, M, 5).
    """
    steps = n_moved(explained.batch.lengths, range(n_bins + 1), n_bins)
    bins, n = n_moved(explained.batch.lengths, PERCENT, 100), explained.batch.lengths[:, None]
    out_below = {"deletion": steps, "comprehensiveness": bins}
    out_from = {"reverse_deletion": n - steps, "insertion": steps, "sufficiency": bins}
    below, above = (torch.cat([*each.values()], dim=1)[:, None, :, None] for each in (out_below, out_from))
    at = places[:, :, None]
    removed = torch.cat([at < below, at >= above], dim=2) & explained.batch.real[:, None, None]
    outcomes = outcomes_without(model, explained, removed.flatten(1, 2))
    parts = {name: counts.shape[1] for name, counts in (out_below | out_from).items()}
    by_method = Outcomes(*(each.unflatten(1, removed.shape[1:3]) for each in vars(outcomes).values()))
    return dict(zip(parts, by_method.split([*parts.values()]), strict=True))


def n_moved(lengths: Tensor, parts: Sequence[int], whole: int) -> Tensor:
    """How many events make each of n `parts` of the `whole`, rounded up, of lengths (B,): (B, n)."""
    return -(-torch.tensor(parts, device=lengths.device) * lengths[:, None] // whole)


def measures(curves: dict[str, Outcomes], *, ks: Sequence[int]) -> dict[str, Tensor]:
    """The measures that this module defines, by name, (B, M) each; `curves` come from `walk`."""
    p = {name: each.probabilities for name, each in curves.items()}
    full, width = p["deletion"][..., :1], 1 / (p["deletion"].shape[-1] - 1)
    ranked = {"pos": curves["deletion"], "neg": curves["reverse_deletion"]}
    found = {
        metric_name(name, k): (each.ranks[..., 1:] <= k).double().mean(-1) for name, each in ranked.items() for k in ks
    }
    found |= {name: torch.trapezoid(p[name], dx=width) for name in ("deletion", "insertion")}
    return found | {name: (full - p[name]).mean(-1) for name in ("comprehensiveness", "sufficiency")}


def heights(curves: dict[str, Outcomes], *, ks: Sequence[int]) -> dict[tuple[str, str], Tensor]:
    """What curves are drawn of: sums over users by curve and column, (M, S) each.

    The columns are probability, score_change (the score less that of the full history), rank and in_top_k for each k.
    """
    full = curves["deletion"].scores[..., :1]
    found = {}
    for name in CURVES:
        each = curves[name]
        columns = {"probability": each.probabilities, "score_change": each.scores - full, "rank": each.ranks}
        columns |= {f"in_top_{k}": (each.ranks <= k).double() for k in ks}
        found |= {(name, column): values.sum(0) for column, values in columns.items()}
    return found
