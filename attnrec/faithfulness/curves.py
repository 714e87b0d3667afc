"""Deletion and insertion curves: the explained item as events are removed or added in the order of an attribution.

A history of n events is processed in `n_bins` steps; after step s, ceil(s * n / n_bins) events are moved. For a short
history, a step may move no event. The explained item is x, p its probability (softmax of the scores over the items
that are recommendable with the full history), rank its rank among them.

- deletion: events are removed, largest first; the area under p over the share s / n_bins by the trapezoidal rule (RISE,
  Petsiuk et al. 2018, arXiv:1806.07421). Lower is better.
- insertion: events are added to the empty history, largest first; the area under p. Higher is better.
- pos_at_k: share of steps 1 to n_bins of deletion at which rank <= k. Lower is better. After POS@k of Barkan et al.
  2024 (A Counterfactual Framework for Learning and Evaluating Explanations for Recommender Systems, WWW).
- neg_at_k: the same when events are removed smallest first. Higher is better. After NEG@k of the same paper.
- comprehensiveness: mean of p(full) - p(without the first q) over q = ceil(1, 5, 10, 20, 50 % of n). Higher is better.
- sufficiency: mean of p(full) - p(the first q alone) over the same q. Lower is better. Both are the AOPC of ERASER
  (DeYoung et al. 2020, arXiv:1911.03429), with events instead of tokens.

Shapes: B users, M methods, L positions, S = n_bins + 1 steps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnrec.evaluation.metrics import metric_name
from attnrec.faithfulness.outcomes import Outcomes, outcomes_without
from attnrec.faithfulness.top_items import TopItems
from attnrec.models import Model

PERCENTAGES = (1, 5, 10, 20, 50)
"""Percentages of events in the bins of ERASER."""

CURVES = ("deletion", "reverse_deletion", "insertion")
"""Remove largest first; remove smallest first; add largest first."""


def compute_curves(model: Model, top_items: TopItems, ranks: Tensor, *, n_bins: int) -> dict[str, Outcomes]:
    """Compute the outcomes of removing and adding events in the orders of M methods.

    Args:
        model: in evaluation mode.
        top_items: B users with their explained items.
        ranks: rank of each event in the order of each method, 0 for the largest, (B, M, L).
        n_bins: steps from the full to the empty history.

    Returns:
        By name: each of `CURVES`, (B, M, S), step 0 first; "comprehensiveness" and "sufficiency", (B, M, 5).
    """
    steps = n_moved(top_items.batch.lengths, range(n_bins + 1), n_bins)
    bins, n = n_moved(top_items.batch.lengths, PERCENTAGES, 100), top_items.batch.lengths[:, None]
    remove_below = {"deletion": steps, "comprehensiveness": bins}
    remove_from = {"reverse_deletion": n - steps, "insertion": steps, "sufficiency": bins}
    below, start = (torch.cat([*each.values()], dim=1)[:, None, :, None] for each in (remove_below, remove_from))
    rank = ranks[:, :, None]
    removed = torch.cat([rank < below, rank >= start], dim=2) & top_items.batch.real[:, None, None]
    outcomes = outcomes_without(model, top_items, removed.flatten(1, 2))
    sizes = {name: counts.shape[1] for name, counts in (remove_below | remove_from).items()}
    by_method = Outcomes(*(each.unflatten(1, removed.shape[1:3]) for each in vars(outcomes).values()))
    return dict(zip(sizes, by_method.split([*sizes.values()]), strict=True))


def n_moved(lengths: Tensor, parts: Sequence[int], whole: int) -> Tensor:
    """Return the number of events in each of n `parts` of `whole`, rounded up, for lengths (B,): (B, n)."""
    return -(-torch.tensor(parts, device=lengths.device) * lengths[:, None] // whole)


def curve_metrics(curves: dict[str, Outcomes], *, ks: Sequence[int]) -> dict[str, Tensor]:
    """Compute the metrics defined in this module from the result of `compute_curves`, by name, (B, M) each."""
    p = {name: each.probabilities for name, each in curves.items()}
    full, width = p["deletion"][..., :1], 1 / (p["deletion"].shape[-1] - 1)
    ranked = {"pos": curves["deletion"], "neg": curves["reverse_deletion"]}
    metrics = {
        metric_name(name, k): (each.ranks[..., 1:] <= k).double().mean(-1) for name, each in ranked.items() for k in ks
    }
    metrics |= {name: torch.trapezoid(p[name], dx=width) for name in ("deletion", "insertion")}
    return metrics | {name: (full - p[name]).mean(-1) for name in ("comprehensiveness", "sufficiency")}


def curve_sums(curves: dict[str, Outcomes], *, ks: Sequence[int]) -> dict[tuple[str, str], Tensor]:
    """Sum the values that curves show over users, by curve and column, (M, S) each.

    The columns are probability, score_change (the score minus that of the full history), rank and in_top_k for each k.
    """
    full = curves["deletion"].scores[..., :1]
    sums = {}
    for name in CURVES:
        each = curves[name]
        columns = {"probability": each.probabilities, "score_change": each.scores - full, "rank": each.ranks}
        columns |= {f"in_top_{k}": (each.ranks <= k).double() for k in ks}
        sums |= {(name, column): values.sum(0) for column, values in columns.items()}
    return sums
