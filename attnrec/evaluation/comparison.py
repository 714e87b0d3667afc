"""Whether one model is better than another: paired tests over users of the same holdout.

The test is the randomisation test that Smucker, Allan & Carterette 2007 (doi:10.1145/1321440.1321528) advise for
means of ranking metrics: were the models equal, each user's difference could as well have the other sign. Many
comparisons are corrected after Holm 1979 (Scandinavian Journal of Statistics 6:65-70).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.evaluation.metrics import bootstrap_interval, bootstrap_intervals
from attnrec.schema import USER

Values = NDArray[np.float64]

N_FLIPS = 10_000
EXACT_UP_TO = 12  # users with a difference; 2 ** 12 assignments of signs are fewer than N_FLIPS
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """One model less another, over the same users.

    Attributes:
        mean: mean over users of the metric's difference.
        interval: 95 % bootstrap interval of `mean`; users are drawn, each with both models' values.
        p_value: of the two-sided randomisation test; 1 where no user differs.
        n_users: all users, those without a difference too.
        n_better: users for whom the one is better.
        n_worse: users for whom the other is.
    """

    mean: float
    interval: tuple[float, float]
    p_value: float
    n_users: int
    n_better: int
    n_worse: int


def compare(one: pd.DataFrame, other: pd.DataFrame, *, metric: str, seed: int = 0) -> Difference:
    """Say how much better the one is than the other, and whether that could be chance.

    Args:
        one: `Evaluation.per_user` of a model.
        other: that of another model, on the same holdout; users in any order.
        metric: the column compared.
        seed: of resamples and of flips.

    Raises:
        ValueError: when the users differ or one occurs twice, or the metric is missing or not a number.
    """
    values = _by_user({"one": one, "other": other}, metric)
    differences = (values["one"] - values["other"]).to_numpy()
    return Difference(
        mean=float(differences.mean()),
        interval=bootstrap_interval(differences, seed=seed),
        p_value=_p_value(differences, seed=seed),
        n_users=len(differences),
        n_better=int((differences > 0).sum()),
        n_worse=int((differences < 0).sum()),
    )


def compare_with_best(per_user: Mapping[str, pd.DataFrame], *, metric: str, seed: int = 0) -> pd.DataFrame:
    """Order models by their mean and compare each with the best of them.

    The best is chosen on these same users, which flatters it, and Holm's correction counts the comparisons, not
    that choice: of simulated tables of 14 equal, independent models, 20 % held a significant row, not 5 %.
    A claim about one pair, named beforehand, belongs to `compare`.

    Args:
        per_user: `Evaluation.per_user` of each model, by the model's name, all on the same holdout.
        metric: the column compared; frames are refused as by `compare`.
        seed: of resamples and of flips.

    Returns:
        One row per model, best first (ties: by name): model, mean, low, high (95 % bootstrap), difference (less
        the best; 0 for itself), difference_low, difference_high, p_value (Holm-corrected, NaN for the best) and
        significant (p_value below 0.05).
    """
    if not per_user:
        raise ValueError("a comparison needs a model, got none; pass the per_user frame of each by its name")
    values = _by_user(per_user, metric)
    means = values.mean()
    names = sorted(per_user, key=lambda name: (-means[name], name))
    ordered = values[names].to_numpy()
    differences = ordered - ordered[:, :1]
    # means and differences at once: the drawing of users is what takes the time
    ends = bootstrap_intervals(np.hstack([ordered, differences]), seed=seed)
    p_values = _holm(np.array([_p_value(column, seed=seed) for column in differences.T[1:]]))
    return pd.DataFrame(
        {
            "model": names,
            "mean": means[names].to_numpy(),
            "low": ends[: len(names), 0],
            "high": ends[: len(names), 1],
            "difference": differences.mean(axis=0),
            "difference_low": ends[len(names) :, 0],
            "difference_high": ends[len(names) :, 1],
            "p_value": [np.nan, *p_values],
            "significant": [False, *(p_values < LEVEL)],
        }
    )


def _by_user(per_user: Mapping[str, pd.DataFrame], metric: str) -> pd.DataFrame:
    """One column per model, one row per user, sorted, so that the order of rows can't change what is drawn."""
    columns = {name: _column(frame, metric, name) for name, frame in per_user.items()}
    first, users = next((name, column.index) for name, column in columns.items())
    for name, column in columns.items():
        alone = users.symmetric_difference(column.index, sort=False)
        if len(alone):
            raise ValueError(
                f"models must be evaluated on the same users, got {len(alone)} that only one of {first!r} and {name!r} "
                f"has (first: {alone[0]!r}); evaluate both on one holdout with the same filter_viewed"
            )
    users = users.sort_values()
    return pd.DataFrame({name: column.reindex(users) for name, column in columns.items()})


def _column(frame: pd.DataFrame, metric: str, name: str) -> pd.Series:
    """The metric by user_id."""
    if USER not in frame or metric not in frame:
        raise ValueError(
            f"a comparison needs the columns {USER} and {metric}, got {list(frame.columns)} of {name!r}; "
            "pass Evaluation.per_user and a metric at a k that was evaluated"
        )
    column = frame.set_index(USER)[metric].astype(np.float64)
    if column.empty:
        raise ValueError(f"a comparison needs a user, got none of {name!r}; check where the frame was read")
    twice = column.index[column.index.duplicated()]
    if len(twice):
        raise ValueError(
            f"a user must occur once, got {len(twice)} more rows of {name!r} (first: {twice[0]!r}); "
            "pass the frame of one evaluation"
        )
    unknown = column.index[~np.isfinite(column.to_numpy())]
    if len(unknown):
        raise ValueError(
            f"{metric} must be a number for every user, got {len(unknown)} that are not of {name!r} "
            f"(first user: {unknown[0]!r}); evaluate again"
        )
    return column


def _p_value(differences: Values, *, seed: int) -> float:
    """Share of sign assignments whose sum is at least as far from zero as the one seen.

    Drawn ones are counted together with the one seen, (hits + 1) / (flips + 1): a p-value of 0 would be wrong
    (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    sizes = np.abs(differences[differences != 0])
    # sums of the same sizes in another order differ by rounding, and must count as equal
    seen = abs(differences.sum()) - 1e-10 * sizes.sum()
    if len(sizes) <= EXACT_UP_TO:
        return float((np.abs(_all_signs(len(sizes)) @ sizes) >= seen).mean())
    hits = int((np.abs(_flipped_sums(sizes, seed=seed)) >= seen).sum())
    return (hits + 1) / (N_FLIPS + 1)


def _flipped_sums(sizes: Values, *, seed: int) -> Values:
    """Sums of `sizes` (n,) under random signs, (N_FLIPS,).

    Eight users at a time: a random byte chooses among the 256 sums they can have, so that the signs of all
    users are never in memory together.
    """
    random, signs = np.random.default_rng(seed), _all_signs(8)
    eights = np.pad(sizes, (0, -len(sizes) % 8)).reshape(-1, 8)
    totals = np.zeros(N_FLIPS)
    for eight in eights:
        totals += (signs @ eight)[np.frombuffer(random.bytes(N_FLIPS), dtype=np.uint8)]
    return totals


def _all_signs(n: int) -> Values:
    """Every assignment of -1 and 1 to n places, (2 ** n, n)."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2.0 - 1


def _holm(p_values: Values) -> Values:
    """The smallest times their number, the next times one less, and so on; never falling, never above 1."""
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(raised, 1)
    return corrected
