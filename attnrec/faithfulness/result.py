"""Result of a faithfulness measurement: tables by user, method and curve, and paired tests between methods."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from attnrec.attribution import METHODS
from attnrec.evaluation.comparison import compare
from attnrec.evaluation.metrics import bootstrap_interval, bootstrap_intervals, metric_name
from attnrec.faithfulness.permutation import INTERCHANGEABLE_DISTANCE
from attnrec.schema import ITEM, USER

DIRECTIONS = {
    "pos": "lower",
    "neg": "higher",
    "deletion": "lower",
    "insertion": "higher",
    "comprehensiveness": "higher",
    "sufficiency": "lower",
    "tau": "higher",
    "stability": "higher",
}
"""Whether a higher or a lower value of a metric is better, by its name without the k.

`curves` defines the first six. `tau` is the rank correlation (`kendall_tau`) of the method with leave-one-out.
`stability` is defined in the module `stability`. The last two measure agreement of attributions, not faithfulness.
"""

METRICS_WITH_INTERVAL = (
    metric_name("pos", 5),
    metric_name("neg", 5),
    "deletion",
    "insertion",
    "comprehensiveness",
    "sufficiency",
    "tau",
)
KEYS = (USER, ITEM, "n_events", "method")
DIGITS = 6


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Faithfulness of the attribution methods of one model.

    Attributes:
        model: description of the model.
        per_user: one row per method and user: user_id, item_id (the explained item), n_events (in the window), method,
            and every metric (see `DIRECTIONS`): pos_at_k and neg_at_k for each k, deletion, insertion,
            comprehensiveness, sufficiency, tau (NaN if all values of a side are tied) and stability (NaN for fewer
            than 5 events).
        curves: method, curve ("deletion", "reverse_deletion": smallest first, "insertion"), share (of events moved),
            and means over users: probability, score_change (the score minus that of the full history), rank, and
            in_top_k for each k.
        permutation: permutation test of the readout's attention, the same for all methods: user_id, n_events,
            largest_weight and median_distance (total variation, see `permutation`); no rows for a model whose user
            vector is not a weighted sum.
        skipped_methods: methods that the model does not support, with what they need.
        skipped_users: number of requested users that were not measured, by reason.
    """

    model: str
    per_user: pd.DataFrame
    curves: pd.DataFrame
    permutation: pd.DataFrame
    skipped_methods: dict[str, str]
    skipped_users: dict[str, int]

    @property
    def methods(self) -> list[str]:
        """The measured methods, in the requested order."""
        return self.per_user["method"].drop_duplicates().tolist()

    @property
    def metrics(self) -> list[str]:
        """The metric columns of `per_user`."""
        return [str(name) for name in self.per_user if name not in KEYS]

    @property
    def interchangeable_share(self) -> float:
        """Share of users whose attention is interchangeable: median_distance below .05; NaN without users.

        Lower is better for attention as an explanation: for these users, permuted weights give almost the same scores.
        """
        return float((self.permutation["median_distance"] < INTERCHANGEABLE_DISTANCE).mean())

    def summary(self) -> pd.DataFrame:
        """Return one row per method: method, exact, control, n_users, the mean of each metric, and its 95 % interval.

        Bootstrap intervals are `{metric}_low` and `{metric}_high` for pos_at_5, neg_at_5 (if 5 is one of the ks),
        deletion, insertion, comprehensiveness, sufficiency and tau. Users whose value is NaN are left out of a mean.
        """
        rows = []
        for method in self.methods:
            values = self.per_user.loc[self.per_user["method"] == method, self.metrics]
            row = {"method": method, "exact": METHODS[method].exact, "control": METHODS[method].control}
            row["n_users"] = len(values)
            intervals = _intervals(values[[name for name in METRICS_WITH_INTERVAL if name in values]])
            rows.append(row | values.mean().to_dict() | intervals)
        return pd.DataFrame(rows)

    def compare_method(self, metric: str, *, method: str = "contribution") -> pd.DataFrame:
        """Compare a method with every other method on the same users, by the paired randomisation test of `compare`.

        p-values are not corrected for multiple comparisons, since the comparisons should be few and planned. Users
        whose value is NaN for either method are left out of that comparison.

        Args:
            metric: a column of `per_user`.
            method: the method to compare with the others.

        Returns:
            One row per other method: other, control (whether it is a control), mean, other_mean, difference (mean
            minus other_mean), low, high (its 95 % bootstrap interval), p_value, n_users, and better: the name of the
            method with the better mean in the metric's direction, or "neither" if they are equal.

        Raises:
            ValueError: for a metric or a method that was not measured.
        """
        sign = {"higher": 1, "lower": -1}[self._direction(metric)]
        if method not in self.methods:
            raise ValueError(
                f"method must be a measured method, got {method!r}; choose one of {', '.join(self.methods)}"
            )
        values = self.per_user.pivot(index=USER, columns="method", values=metric)
        rows = [
            {"other": other, "control": METHODS[other].control}
            | _difference(values[[method, other]].dropna(), sign=sign)
            for other in self.methods
            if other != method
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """Return the summary and skipped methods and users for a manifest: numbers are rounded, NaN is None."""
        return {
            "model": self.model,
            "methods": [_plain(row) for row in self.summary().to_dict("records")],
            "permutation": _plain(
                {
                    "n_users": len(self.permutation),
                    "median_distance": float(self.permutation["median_distance"].median()),
                    "interchangeable_share": self.interchangeable_share,
                }
            ),
            "skipped_methods": self.skipped_methods,
            "skipped_users": self.skipped_users,
        }

    def _direction(self, metric: str) -> str:
        if metric not in self.metrics:
            raise ValueError(
                f"metric must be a measured metric, got {metric!r}; choose one of {', '.join(self.metrics)}"
            )
        return DIRECTIONS[metric.partition("_at_")[0]]


def _difference(values: pd.DataFrame, *, sign: int) -> dict[str, Any]:
    """Compare the first column with the second over the same users; NaN without users."""
    first, second = values.columns
    if values.empty:
        names = ("mean", "other_mean", "difference", "low", "high", "p_value")
        return dict.fromkeys(names, math.nan) | {"n_users": 0, "better": "neither"}
    frames = [values[name].rename("value").reset_index() for name in (first, second)]
    difference = compare(*frames, metric="value")
    better = {1: first, -1: second, 0: "neither"}[int(np.sign(difference.mean)) * sign]
    means = {"mean": values[first].mean(), "other_mean": values[second].mean(), "difference": difference.mean}
    low, high = difference.interval
    ends = {"low": low, "high": high, "p_value": difference.p_value}
    return means | ends | {"n_users": difference.n_users, "better": better}


def _intervals(values: pd.DataFrame) -> dict[str, float]:
    """Bootstrap interval of each mean, as `{metric}_low` and `{metric}_high`; NaN for a column without values."""
    complete = [name for name in values if values[name].notna().all()]  # together: resampling users is the slow part
    ends = dict(zip(complete, bootstrap_intervals(values[complete].to_numpy(dtype=np.float64)), strict=True))
    for name in values.columns.difference(complete, sort=False):
        present = values[name].dropna().to_numpy(dtype=np.float64)
        ends[name] = bootstrap_interval(present) if len(present) else (math.nan, math.nan)
    return {f"{n}_{end}": float(at) for n, both in ends.items() for end, at in zip(("low", "high"), both, strict=True)}


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """Round floats and replace NaN by None."""
    return {
        str(name): (None if math.isnan(value) else round(value, DIGITS)) if isinstance(value, float) else value
        for name, value in row.items()
    }
