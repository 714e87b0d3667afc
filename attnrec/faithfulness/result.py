"""What was measured: tables of users, curves and methods, and paired tests between methods."""

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
    "pos": "less",
    "neg": "higher",
    "deletion": "less",
    "insertion": "higher",
    "comprehensiveness": "higher",
    "sufficiency": "less",
    "tau": "higher",
    "stability": "higher",
}
"""Which is better of each metric, "more" or "less", by its name without the k.

`curves` defines the first six; tau is `rank_correlation.kendall_tau` of the method and leave-one-out; stability is
`stability.stability`. The last two say how attributions agree, not whether they are true.
"""

INTERVALS_OF = (
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
    """How true the reasons of one model are, by method.

    Attributes:
        model: its description.
        per_user: one row per method and user: user_id, item_id (the item explained), n_events (in the window), method,
            and every metric: pos_at_k and neg_at_k for each k, deletion, insertion, comprehensiveness, sufficiency,
            tau (NaN where a side is constant) and stability (NaN for fewer than 5 events).
        curves: method, curve ("deletion", "reverse_deletion": smallest first out, "insertion"), share (of events
            moved), and means over users: probability, score_change (the score less that of the full history), rank,
            and in_top_k for each k.
        permutation: of the readout's attention, whatever the method: user_id, n_events, largest_weight and
            median_distance (total variation, see `permutation`); no rows for a model whose user is no weighted sum.
        skipped_methods: the methods that the model cannot do, each with what it would need.
        skipped_users: how many of the users asked for were not measured, by reason.
    """

    model: str
    per_user: pd.DataFrame
    curves: pd.DataFrame
    permutation: pd.DataFrame
    skipped_methods: dict[str, str]
    skipped_users: dict[str, int]

    @property
    def methods(self) -> list[str]:
        """Those that were measured, in the order they were asked for."""
        return self.per_user["method"].drop_duplicates().tolist()

    @property
    def metrics(self) -> list[str]:
        """The metrics of `per_user`."""
        return [str(name) for name in self.per_user if name not in KEYS]

    @property
    def interchangeable_share(self) -> float:
        """Share of users whose attention could as well go elsewhere: a median distance below .05; NaN without users."""
        return float((self.permutation["median_distance"] < INTERCHANGEABLE_DISTANCE).mean())

    def summary(self) -> pd.DataFrame:
        """One row per method: method, exact, control, n_users, each metric's mean, and 95 % bootstrap intervals.

        Intervals are `{metric}_low` and `{metric}_high` for pos_at_5, neg_at_5 (where 5 is one of the ks), deletion,
        insertion, comprehensiveness, sufficiency and tau. Users without a value, NaN, are not in a mean.
        """
        rows = []
        for method in self.methods:
            values = self.per_user.loc[self.per_user["method"] == method, self.metrics]
            about = {"method": method, "exact": METHODS[method].exact, "control": METHODS[method].control}
            about["n_users"] = len(values)
            rows.append(about | values.mean().to_dict() | _intervals(values[[n for n in INTERVALS_OF if n in values]]))
        return pd.DataFrame(rows)

    def against(self, metric: str, *, method: str = "contribution") -> pd.DataFrame:
        """Compare a method with each other one over the same users, by the paired randomisation test of `compare`.

        A few comparisons named beforehand are meant, so p-values are not corrected for their number. Users without a
        value of either, NaN, are left out of that comparison.

        Args:
            metric: a column of `per_user`.
            method: the one that is compared with the others.

        Returns:
            One row per other method: other, control (whether it is one), mean, other_mean, difference (mean less
            other_mean), low, high (its 95 % bootstrap interval), p_value, n_users, and better: the name of the one
            whose mean is better in the metric's direction, or "neither" where they are equal.

        Raises:
            ValueError: for a metric or a method that was not measured.
        """
        sign = {"higher": 1, "lower": -1}[self._direction(metric)]
        if method not in self.methods:
            raise ValueError(f"method must have been measured, got {method!r}; take one of {', '.join(self.methods)}")
        values = self.per_user.pivot(index=USER, columns="method", values=metric)
        rows = [
            {"other": other, "control": METHODS[other].control}
            | _difference(values[[method, other]].dropna(), sign=sign)
            for other in self.methods
            if other != method
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """The summary and what was left out, for a manifest: numbers are rounded, NaN is None."""
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
            raise ValueError(f"metric must have been measured, got {metric!r}; take one of {', '.join(self.metrics)}")
        return DIRECTIONS[metric.partition("_at_")[0]]


def _difference(values: pd.DataFrame, *, sign: int) -> dict[str, Any]:
    """The first column less the second, over the same users; without users nothing is known."""
    one, other = values.columns
    nothing = dict.fromkeys(("mean", "other_mean", "difference", "low", "high", "p_value"), math.nan)
    if values.empty:
        return nothing | {"n_users": 0, "better": "neither"}
    frames = [values[name].rename("value").reset_index() for name in (one, other)]
    found = compare(*frames, metric="value")
    better = {1: one, -1: other, 0: "neither"}[int(np.sign(found.mean)) * sign]
    means = {"mean": values[one].mean(), "other_mean": values[other].mean(), "difference": found.mean}
    ends = {"low": found.interval[0], "high": found.interval[1], "p_value": found.p_value}
    return means | ends | {"n_users": found.n_users, "better": better}


def _intervals(values: pd.DataFrame) -> dict[str, float]:
    """Ends of each mean, by `{metric}_low` and `{metric}_high`; NaN where no user has a value."""
    whole = [name for name in values if values[name].notna().all()]  # at once: drawing users is what takes the time
    ends = dict(zip(whole, bootstrap_intervals(values[whole].to_numpy(dtype=np.float64)), strict=True))
    for name in values.columns.difference(whole, sort=False):
        known = values[name].dropna().to_numpy(dtype=np.float64)
        ends[name] = bootstrap_interval(known) if len(known) else (math.nan, math.nan)
    return {f"{n}_{end}": float(at) for n, both in ends.items() for end, at in zip(("low", "high"), both, strict=True)}


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """Floats rounded, NaN as None."""
    return {
        str(name): (None if math.isnan(value) else round(value, DIGITS)) if isinstance(value, float) else value
        for name, value in row.items()
    }
