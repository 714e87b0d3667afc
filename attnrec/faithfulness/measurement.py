"""Measure faithfulness: users in batches, every method, each shortened history scored once.

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
from attnrec.faithfulness.curves import CURVES, compute_curves, curve_metrics, curve_sums
from attnrec.faithfulness.orders import (
    N_PERMUTATIONS,
    TIES,
    MethodOptions,
    attribution_levels,
    random_numbers,
    rank_events,
)
from attnrec.faithfulness.permutation import permutation_test
from attnrec.faithfulness.rank_correlation import kendall_tau
from attnrec.faithfulness.result import Faithfulness
from attnrec.faithfulness.stability import stability
from attnrec.faithfulness.top_items import TopItems, top_item_batches, top_item_rows
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
REFERENCE = "leave_one_out"
"""The method that `tau` compares the others with."""

MIN_EVENTS = 2
TOO_SHORT, NO_ITEM = f"fewer than {MIN_EVENTS} events", "no recommendable item"


class NothingToMeasureError(ValueError):
    """No user has at least two events and a recommendable item."""


@dataclass(frozen=True, eq=False)
class MeasurementPlan:
    """Validated arguments of `measure`: supported methods, ks of the metrics, steps, and options of the methods."""

    methods: tuple[str, ...]
    ks: tuple[int, ...]
    n_bins: int
    options: MethodOptions


@dataclass(frozen=True, eq=False)
class BatchMeasurement:
    """Results of one batch.

    Attributes:
        positions: positions of the users among the measured ones, (B,).
        n_events: events in the window, (B,).
        metrics: by name, (B, M).
        curves: sums over users by curve and column, (M, S).
        permutation: largest weight and median distance, (B, 2), or None.
    """

    positions: NDArray[np.int64]
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
    """Measure the faithfulness of several attribution methods and controls for each user's best item.

    The explained item is the model's first recommendation with the full window. Each method orders the events of the
    window; events are then removed or added in that order (see `curves`). Memory events before the window are not
    explained and stay. Random numbers depend on the seed, the history and the item, not on the other users.

    Most of the time is for encoding shortened histories: about 3 * n_bins per user and method, n per history of n
    events for leave-one-out and n_permutations * n for `shapley`; both twice, because of stability.

    Args:
        model: trained on the catalogue of `histories`; it is put into evaluation mode.
        histories: the log.
        users: user rows, (U,), without duplicates.
        methods: names in `METHODS`; None is `DEFAULT_METHODS`. Methods that the model does not support are skipped.
        counts: training events of each item row, (N,), for `popularity`; None counts the events of `histories`.
        ks: ranks k of pos_at_k and neg_at_k.
        n_bins: steps from the full to the empty history.
        filter_viewed: whether items of the user's history are excluded, as explained items and as competitors.
        seed: seed of tie-breaking, of the event that stability removes, of permutations and of random methods.
        n_permutations: of `shapley`; fewer than the default of `attribute`, to save time.
        on_batch: called with the number of users of each finished batch.

    Raises:
        ValueError: for unknown or duplicate users, an unknown method, no supported method, counts of another
            catalogue, ks or n_bins below 1.
        NothingToMeasureError: if no user can be measured.
    """
    histories = histories.with_event_names(model.event_names)
    requested = DEFAULT_METHODS if methods is None else tuple(dict.fromkeys(methods))
    supported, skipped_methods = _supported_methods(model, requested)
    counts = torch.from_numpy(histories.item_counts()) if counts is None else counts
    _check(ks, n_bins, n_permutations)
    _check_rows(model, histories, users, counts)
    plan = MeasurementPlan(supported, tuple(ks), n_bins, MethodOptions(seed, counts, n_permutations))
    long_enough = np.minimum(histories.lengths[users], model.max_length) >= MIN_EVENTS
    users, n_short = users[long_enough], int((~long_enough).sum())
    items = top_item_rows(model, histories, users, filter_viewed=filter_viewed)
    users, items, n_without = users[items > 0], items[items > 0], int((items == 0).sum())
    if not len(users):
        raise NothingToMeasureError(
            f"faithfulness needs a user with {MIN_EVENTS} events and a recommendable item, got {n_short} with "
            f"{TOO_SHORT} and {n_without} with {NO_ITEM}; choose other users"
        )
    batches = []
    for top_items in top_item_batches(model, histories, users, items, filter_viewed=filter_viewed):
        batches.append(_measure_batch(model, top_items, plan))
        if on_batch is not None:
            on_batch(len(top_items.positions))
    ids = pd.DataFrame({USER: histories.user_ids.decode(users), ITEM: histories.item_ids.decode(items)})
    return Faithfulness(
        model.description,
        *_tables(batches, ids, plan),
        skipped_methods=skipped_methods,
        skipped_users={TOO_SHORT: n_short, NO_ITEM: n_without},
    )


def _supported_methods(model: Model, methods: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods that the model supports, and for each other method what it needs."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods must be from {', '.join(METHODS)}, got {unknown}; remove them")
    supported = tuple(name for name in methods if METHODS[name].works_for(model))
    skipped = {
        name: f"{name} needs {METHODS[name].requirement.description}" for name in methods if name not in supported
    }
    if not supported:
        raise ValueError(f"faithfulness needs a method that {model.description} supports, got {methods}; add random")
    return supported, skipped


def _check(ks: Sequence[int], n_bins: int, n_permutations: int) -> None:
    if not ks or min(*ks, n_bins, n_permutations) < 1:
        raise ValueError(
            f"ks, n_bins and n_permutations must be at least 1, got {tuple(ks)}, {n_bins} and {n_permutations}; "
            "omit them to use the defaults"
        )


def _check_rows(model: Model, histories: Histories, users: NDArray[np.int64], counts: Tensor) -> None:
    if counts.shape != model.rankable.shape:
        raise ValueError(
            f"counts must have one value per item row of the model, ({len(model.rankable)},), got "
            f"{tuple(counts.shape)}; count the events of its training log"
        )
    n_different = len(np.unique(users))
    if n_different < len(users) or np.any((users < 0) | (users >= histories.n_users)):
        raise ValueError(
            f"users must be rows from 0 to {histories.n_users - 1} without duplicates, got {len(users)} users, "
            f"{n_different} different, from {users.min()} to {users.max()}; use rows of histories.user_ids"
        )


def _measure_batch(model: Model, top_items: TopItems, plan: MeasurementPlan) -> BatchMeasurement:
    batch, items, options = top_items.batch, top_items.items, plan.options
    names = dict.fromkeys([*plan.methods, REFERENCE])
    levels = {name: attribution_levels(model, batch, items, method=name, options=options) for name in names}
    tie_breakers = random_numbers(batch, items, seed=options.seed, purpose=TIES)
    ranks = {name: rank_events(levels[name], tie_breakers, real=batch.real) for name in plan.methods}
    curves = compute_curves(model, top_items, torch.stack([*ranks.values()], dim=1), n_bins=plan.n_bins)
    metrics = curve_metrics(curves, ks=plan.ks)
    metrics["tau"] = _columns([kendall_tau(levels[name], levels[REFERENCE], real=batch.real) for name in ranks])
    metrics["stability"] = _columns(
        [stability(model, top_items, order, method=name, options=options) for name, order in ranks.items()]
    )
    permutation = permutation_test(model, top_items, seed=options.seed)
    return BatchMeasurement(
        top_items.positions,
        batch.lengths.cpu().numpy(),
        {name: values.cpu().numpy() for name, values in metrics.items()},
        {name: values.cpu().numpy() for name, values in curve_sums(curves, ks=plan.ks).items()},
        None if permutation is None else _columns(permutation).cpu().numpy(),
    )


def _columns(values: Sequence[Tensor]) -> Tensor:
    """Stack n tensors (B,) as (B, n) float64."""
    return torch.stack([each.double() for each in values], dim=1)


def _tables(
    batches: list[BatchMeasurement], ids: pd.DataFrame, plan: MeasurementPlan
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables `per_user`, `curves` and `permutation` of `Faithfulness`; users in the requested order."""
    order = np.argsort(np.concatenate([each.positions for each in batches]))
    ids = ids.assign(n_events=np.concatenate([each.n_events for each in batches])[order])
    metrics = {name: np.concatenate([each.metrics[name] for each in batches])[order] for name in batches[0].metrics}
    per_user = [
        ids.assign(method=method, **{name: values[:, number] for name, values in metrics.items()})
        for number, method in enumerate(plan.methods)
    ]
    rows = [each.permutation for each in batches if each.permutation is not None]
    tested = np.concatenate(rows)[order] if rows else np.zeros((0, 2))
    permutation = ids[[USER, "n_events"]].head(len(tested))
    permutation = permutation.assign(largest_weight=tested[:, 0], median_distance=tested[:, 1])
    return pd.concat(per_user, ignore_index=True), _mean_curves(batches, len(ids), plan), permutation


def _mean_curves(batches: list[BatchMeasurement], n_users: int, plan: MeasurementPlan) -> pd.DataFrame:
    columns = list(dict.fromkeys(column for _, column in batches[0].curves))
    frames = []
    for number, method in enumerate(plan.methods):
        for curve in CURVES:
            means = {c: sum(each.curves[curve, c][number] for each in batches) / n_users for c in columns}
            shares = np.arange(plan.n_bins + 1) / plan.n_bins
            frames.append(pd.DataFrame({"method": method, "curve": curve, "share": shares} | means))
    return pd.concat(frames, ignore_index=True)
