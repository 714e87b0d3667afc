"""Comparison of models: paired tests over the users of one holdout.

The test is the randomisation test recommended for means of ranking metrics by Smucker, Allan & Carterette 2007
(doi:10.1145/1321440.1321528): if the models were equal, the sign of each user's difference would be random. p-values of
several comparisons are corrected by the method of Holm 1979 (Scandinavian Journal of Statistics 6:65-70).
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
    """Difference of a metric between two models, over the same users.

    Attributes:
        mean: mean over users of the metric of the first model minus that of the second.
        interval: 95 % bootstrap interval of `mean`; users are resampled together with both values.
        p_value: p-value of the two-sided randomisation test; 1 if no user differs.
        n_users: number of users, including those without a difference.
        n_better: number of users for whom the first model is better.
        n_worse: number of users for whom the first model is worse.
    """

    mean: float
    interval: tuple[float, float]
    p_value: float
    n_users: int
    n_better: int
    n_worse: int


def compare(first: pd.DataFrame, second: pd.DataFrame, *, metric: str, seed: int = 0) -> Difference:
    """Test whether the mean of a metric differs between two models.

    Args:
        first: `Evaluation.per_user` of the first model.
        second: `Evaluation.per_user` of the second model, on the same holdout; users in any order.
        metric: the column to compare; higher is better.
        seed: seed of the resamples and the random signs.

    Raises:
        ValueError: if the users differ, a user occurs twice, or the metric is missing or not finite.
    """
    values = _by_user({"first": first, "second": second}, metric)
    differences = (values["first"] - values["second"]).to_numpy()
    return Difference(
        mean=float(differences.mean()),
        interval=bootstrap_interval(differences, seed=seed),
        p_value=_p_value(differences, seed=seed),
        n_users=len(differences),
        n_better=int((differences > 0).sum()),
        n_worse=int((differences < 0).sum()),
    )


def compare_with_best(per_user: Mapping[str, pd.DataFrame], *, metric: str, seed: int = 0) -> pd.DataFrame:
    """Sort models by their mean and compare each of them with the best.

    The best model is selected on the same users, which biases its mean upwards; Holm's correction accounts for the
    number of comparisons but not for that selection: in simulated tables of 14 equal, independent models, 20 % had a
    significant row instead of 5 %. For a claim about one pair of models chosen beforehand use `compare`.

    Args:
        per_user: `Evaluation.per_user` of each model by the model's name, all on the same holdout.
        metric: the column to compare, with the requirements of `compare`.
        seed: seed of the resamples and the random signs.

    Returns:
        One row per model, best first (ties: by name): model, mean, low, high (95 % bootstrap interval), difference (to
        the best model; 0 for the best itself), difference_low, difference_high, p_value (Holm-corrected, NaN for the
        best) and significant (p_value below 0.05).
    """
    if not per_user:
        raise ValueError("a comparison needs a model, got none; pass the per_user frame of each model by its name")
    values = _by_user(per_user, metric)
    means = values.mean()
    names = sorted(per_user, key=lambda name: (-means[name], name))
    ordered = values[names].to_numpy()
    differences = ordered - ordered[:, :1]
    # means and differences together: most of the time is spent on resampling users
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
    """Return one column per model and one row per user, sorted, so that the row order cannot change the resamples."""
    columns = {name: _column(frame, metric, name) for name, frame in per_user.items()}
    first, users = next((name, column.index) for name, column in columns.items())
    for name, column in columns.items():
        unshared = users.symmetric_difference(column.index, sort=False)
        if len(unshared):
            raise ValueError(
                f"models must be evaluated on the same users, got {len(unshared)} users in only one of {first!r} and "
                f"{name!r} (first: {unshared[0]!r}); evaluate both on one holdout with the same filter_viewed"
            )
    users = users.sort_values()
    return pd.DataFrame({name: column.reindex(users) for name, column in columns.items()})


def _column(frame: pd.DataFrame, metric: str, name: str) -> pd.Series:
    """Return the metric by user_id."""
    if USER not in frame or metric not in frame:
        raise ValueError(
            f"a comparison needs the columns {USER} and {metric}, got {list(frame.columns)} of {name!r}; "
            "pass Evaluation.per_user and a metric at a k that was evaluated"
        )
    column = frame.set_index(USER)[metric].astype(np.float64)
    if column.empty:
        raise ValueError(f"a comparison needs at least one user, got none of {name!r}; check the file of the frame")
    duplicates = column.index[column.index.duplicated()]
    if len(duplicates):
        raise ValueError(
            f"each user must occur once, got {len(duplicates)} duplicate rows of {name!r} (first: {duplicates[0]!r}); "
            "pass the frame of one evaluation"
        )
    non_finite = column.index[~np.isfinite(column.to_numpy())]
    if len(non_finite):
        raise ValueError(
            f"{metric} must be finite for every user, got {len(non_finite)} non-finite values of {name!r} "
            f"(first user: {non_finite[0]!r}); repeat the evaluation"
        )
    return column


def _p_value(differences: Values, *, seed: int) -> float:
    """Return the fraction of sign assignments whose sum is at least as far from zero as the observed sum.

    With random assignments the observed one is counted, too, (hits + 1) / (flips + 1): a p-value of 0 would be wrong
    (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    sizes = np.abs(differences[differences != 0])
    # sums of the same sizes in another order differ by rounding and must count as equal
    observed = abs(differences.sum()) - 1e-10 * sizes.sum()
    if len(sizes) <= EXACT_UP_TO:
        return float((np.abs(_all_signs(len(sizes)) @ sizes) >= observed).mean())
    hits = int((np.abs(_random_sign_sums(sizes, seed=seed)) >= observed).sum())
    return (hits + 1) / (N_FLIPS + 1)


def _random_sign_sums(sizes: Values, *, seed: int) -> Values:
    """Return sums of `sizes` (n,) with random signs, (N_FLIPS,).

    Users are processed in groups of eight: a random byte selects one of the group's 256 signed sums, so that the signs
    of all users are never in memory together.
    """
    random, signs = np.random.default_rng(seed), _all_signs(8)
    groups = np.pad(sizes, (0, -len(sizes) % 8)).reshape(-1, 8)
    totals = np.zeros(N_FLIPS)
    for group in groups:
        totals += (signs @ group)[np.frombuffer(random.bytes(N_FLIPS), dtype=np.uint8)]
    return totals


def _all_signs(n: int) -> Values:
    """Return every assignment of -1 and 1 to n values, (2 ** n, n)."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2.0 - 1


def _holm(p_values: Values) -> Values:
    """Correct p-values: multiply the i-th smallest of n by n + 1 - i, keep them non-decreasing and at most 1."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(scaled, 1)
    return corrected
