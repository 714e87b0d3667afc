"""The measurement itself: users in batches, methods in turn, every shortened history scored once.

Shapes: U users, B of them in a batch, M methods, L positions, N = n_items + 1 item rows, S steps of a curve.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnrec.attribution import METHODS
from attnrec.dataset import Histories
from attnrec.faithfulness.curves import CURVES, heights, measures, walk
from attnrec.faithfulness.orders import N_PERMUTATIONS, TIES, Given, drawn, levels, places
from attnrec.faithfulness.permutation import permutation_test
from attnrec.faithfulness.rank_correlation import kendall_tau
from attnrec.faithfulness.result import Faithfulness
from attnrec.faithfulness.stability import stability
from attnrec.faithfulness.top_items import Explained, best_items, explained_batches
from attnrec.models import Model
from attnrec.schema import ITEM, USER

DEFAULT_METHODS = (
    "contribution",
    "weight",
    "leave_one_out",
    "renormalized",
    "integrated_gradients",
    "shapley",
    "random",
    "recency",
    "item_cosine",
    "popularity",
)
EFFECT = "leave_one_out"
FEWEST = 2
TOO_SHORT, NOTHING_LEFT = f"fewer than {FEWEST} events", "nothing to recommend"


class NothingToMeasureError(ValueError):
    """Users without two events, or with nothing left to recommend: there is nothing to take out, or to explain."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is measured: methods that the model can do, places, steps, and what methods are given."""

    methods: tuple[str, ...]
    ks: tuple[int, ...]
    n_bins: int
    given: Given


@dataclass(frozen=True, eq=False)
class Found:
    """Of one batch.

    Attributes:
        chosen: which users, (B,), indices.
        n_events: in the window, (B,).
        metrics: by name, (B, M).
        curves: sums over users by curve and column, (M, S).
        permutation: largest weight and median distance, (B, 2), or None.
    """

    chosen: NDArray[np.int64]
    n_events: NDArray[np.int64]
    metrics: dict[str, NDArray[np.float64]]
    curves: dict[tuple[str, str], NDArray[np.float64]]
    permutation: NDArray[np.float64] | None


def measure(
    model: Model,
    histories: Histories,
    users: NDArray[np.int64],
    *,
    methods: Sequence[str] | None = None,
    counts: Tensor | None = None,
    ks: Sequence[int] = (1, 5, 10),
    n_bins: int = 10,
    filter_viewed: bool = True,
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
    on_batch: Callable[[int], None] | None = None,
) -> Faithfulness:
    """Measure how true the reasons for each user's best item are, by several methods and by controls.

    The item explained is the one that the model recommends first with the full window. Each method orders the
    window's events; they are then taken out, or put in, in that order (see `curves`). Events before the window that
    a model sees compressed are no reasons and stay. Draws depend on the seed, the history and the item, never on
    which users are asked together.

    Most of the time goes into readings of shortened histories: some 3 * n_bins for each user and method, n for each
    history of n events for leave-one-out and n_permutations * n for `shapley`; both twice, for stability.

    Args:
        model: trained on the catalogue of `histories`; it is put into evaluation mode.
        histories: what is known of the users.
        users: rows, (U,), each once.
        methods: names in `METHODS`; None is `DEFAULT_METHODS`. Those that the model cannot do are left out.
        counts: events of each item row in training, (N,), for `popularity`; None counts those of `histories`.
        ks: places of pos_at_k and neg_at_k.
        n_bins: steps from the full history to the empty one.
        filter_viewed: what is anywhere in the visible history is neither explained nor a competitor.
        seed: of ties, of the event that stability takes out, of permutations and of methods that draw.
        n_permutations: of `shapley`, if that is a method; fewer than `attribute` takes, for time.
        on_batch: called with the number of users just measured.

    Raises:
        ValueError: for users that do not exist or occur twice, an unknown method, none that the model can do, counts
            of another catalogue, ks or n_bins below 1.
        NothingToMeasureError: when no user is left to measure.
    """
    histories = histories.with_event_names(model.event_names)
    able, skipped_methods = _able(model, DEFAULT_METHODS if methods is None else tuple(dict.fromkeys(methods)))
    counts = torch.from_numpy(histories.item_counts()) if counts is None else counts
    _check(ks, n_bins, n_permutations)
    _check_rows(model, histories, users, counts)
    plan = Plan(able, tuple(ks), n_bins, Given(seed, counts, n_permutations))
    long_enough = np.minimum(histories.lengths[users], model.max_length) >= FEWEST
    users, n_short = users[long_enough], int((~long_enough).sum())
    items = best_items(model, histories, users, filter_viewed=filter_viewed)
    users, items, n_without = users[items > 0], items[items > 0], int((items == 0).sum())
    if not len(users):
        came = f"{n_short} with {TOO_SHORT} and {n_without} with {NOTHING_LEFT}"
        raise NothingToMeasureError(
            f"faithfulness needs a user with {FEWEST} events and an item to explain, got {came}; take others"
        )
    found = []
    for explained in explained_batches(model, histories, users, items, filter_viewed=filter_viewed):
        found.append(_measured(model, explained, plan))
        if on_batch is not None:
            on_batch(len(explained.chosen))
    ids = pd.DataFrame({USER: histories.user_ids.decode(users), ITEM: histories.item_ids.decode(items)})
    return Faithfulness(
        model.description,
        *_tables(found, ids, plan),
        skipped_methods=skipped_methods,
        skipped_users={TOO_SHORT: n_short, NOTHING_LEFT: n_without},
    )


def _able(model: Model, methods: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods that the model can do, and what others would need."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods must be of {', '.join(METHODS)}, got {unknown}; take some of these")
    able = tuple(name for name in methods if METHODS[name].works_for(model))
    skipped_methods = {name: f"{name} needs {METHODS[name].needs.words}" for name in methods if name not in able}
    if not able:
        raise ValueError(f"faithfulness needs a method that {model.description} can do, got {methods}; add random")
    return able, skipped_methods


def _check(ks: Sequence[int], n_bins: int, n_permutations: int) -> None:
    if min(*ks, n_bins, n_permutations) < 1 or not ks:
        came = f"{tuple(ks)}, {n_bins} and {n_permutations}"
        raise ValueError(f"ks, n_bins and n_permutations must be 1 or more, got {came}; leave them out for the usual")


def _check_rows(model: Model, histories: Histories, users: NDArray[np.int64], counts: Tensor) -> None:
    if counts.shape != model.rankable.shape:
        came, n = tuple(counts.shape), len(model.rankable)
        raise ValueError(f"counts must be of the model's item rows, ({n},), got {came}; count its training log")
    n_different = len(np.unique(users))
    if n_different < len(users) or np.any((users < 0) | (users >= histories.n_users)):
        raise ValueError(
            f"users must be rows from 0 to {histories.n_users - 1}, each once, got {len(users)}, {n_different} of them "
            f"different, from {users.min()} to {users.max()}; take rows of histories.user_ids"
        )


def _measured(model: Model, explained: Explained, plan: Plan) -> Found:
    batch, items, seed = explained.batch, explained.items, plan.given.seed
    names = dict.fromkeys([*plan.methods, EFFECT])
    found = {name: levels(model, batch, items, method=name, given=plan.given) for name in names}
    chance = drawn(batch, items, seed=seed, purpose=TIES)
    at = {name: places(found[name], chance, real=batch.real) for name in plan.methods}
    curves = walk(model, explained, torch.stack([*at.values()], dim=1), n_bins=plan.n_bins)
    metrics = measures(curves, ks=plan.ks)
    metrics["tau"] = _columns([kendall_tau(found[name], found[EFFECT], real=batch.real) for name in at])
    metrics["stability"] = _columns(
        [stability(model, explained, order, method=name, given=plan.given) for name, order in at.items()]
    )
    permuted = permutation_test(model, explained, seed=seed)
    return Found(
        explained.chosen,
        batch.lengths.cpu().numpy(),
        {name: values.cpu().numpy() for name, values in metrics.items()},
        {name: values.cpu().numpy() for name, values in heights(curves, ks=plan.ks).items()},
        None if permuted is None else _columns(permuted).cpu().numpy(),
    )


def _columns(values: Sequence[Tensor]) -> Tensor:
    """n times (B,) -> (B, n)."""
    return torch.stack([each.double() for each in values], dim=1)


def _tables(found: list[Found], ids: pd.DataFrame, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Users by method, curves, and the permutation test; users in the order they were asked for."""
    order = np.argsort(np.concatenate([each.chosen for each in found]))
    ids = ids.assign(n_events=np.concatenate([each.n_events for each in found])[order])
    metrics = {name: np.concatenate([each.metrics[name] for each in found])[order] for name in found[0].metrics}
    per_user = [
        ids.assign(method=method, **{name: values[:, number] for name, values in metrics.items()})
        for number, method in enumerate(plan.methods)
    ]
    rows = [each.permutation for each in found if each.permutation is not None]
    tested = np.concatenate(rows)[order] if rows else np.zeros((0, 2))
    permutation = ids[[USER, "n_events"]].head(len(tested))
    permutation = permutation.assign(largest_weight=tested[:, 0], median_distance=tested[:, 1])
    return pd.concat(per_user, ignore_index=True), _mean_curves(found, len(ids), plan), permutation


def _mean_curves(found: list[Found], n_users: int, plan: Plan) -> pd.DataFrame:
    columns = list(dict.fromkeys(column for _, column in found[0].curves))
    frames = []
    for number, method in enumerate(plan.methods):
        for curve in CURVES:
            means = {c: sum(each.curves[curve, c][number] for each in found) / n_users for c in columns}
            shares = np.arange(plan.n_bins + 1) / plan.n_bins
            frames.append(pd.DataFrame({"method": method, "curve": curve, "share": shares} | means))
    return pd.concat(frames, ignore_index=True)
