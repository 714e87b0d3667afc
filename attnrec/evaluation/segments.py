"""Metrics by user segment: history length, activity, popularity group, and the columns of the users table."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Features, Histories, Holdout
from attnrec.dataset.features import Category
from attnrec.evaluation.metrics import bootstrap_intervals, metric_label
from attnrec.evaluation.popularity_bias import GROUPS, NO_HISTORY, profiles_of, user_groups
from attnrec.schema import USER

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

ALL_USERS = "all users"
UNKNOWN, OTHER = "(unknown)", "(other)"
MAX_GROUPS = 20
N_QUARTILES = 4
WEEK_SECONDS = 7 * 86_400
MAX_RELATIVE_DIFFERENCE = -0.2
LEVEL = 0.05


def segments_of(holdout: Holdout, users_features: Features | None = None) -> pd.DataFrame:
    """Assign every user of the holdout to one group per segment.

    Numbers are cut at their quartiles, and the groups are named by their range of values, such as "1-14". Equal values
    are always in the same group, so that groups may have different sizes or be fewer than four.

    Args:
        holdout: the users and their histories.
        users_features: user features by the rows of `holdout.histories.user_ids`.

    Returns:
        user_id, and one column of ordered categories per segment. history_length: number of events in the history.
        activity: events per active week, a week (7 days from Thursday 0:00 UTC, the start of Unix time) with an event;
        only for logs with timestamps. popularity_group: see `user_groups`. Then the categories and numbers of the
        features: several categories of a user form one group, "a + b"; the 20 largest groups are kept and the others
        become "(other)"; users without a value are "(unknown)". A feature column with the name of another segment is
        called "users.<name>".
    """
    histories, users = holdout.histories, holdout.users
    segments: dict[str, pd.Series] = {"history_length": _quartiles(histories.lengths[users].astype(np.float64))}
    if histories.time_kind == "datetime":
        segments["activity"] = _quartiles(_events_per_active_week(histories, users))
    groups = user_groups(profiles_of(histories, users), histories.item_counts())
    segments["popularity_group"] = _ordered(groups, [*GROUPS, NO_HISTORY])
    reserved = {USER, ALL_USERS, "activity", *segments}
    if users_features is not None:
        if users_features.n_rows != histories.n_users:
            raise ValueError(
                f"users_features must have a row per user of the histories, got {users_features.n_rows} for "
                f"{histories.n_users}; load them with holdout.histories.user_ids"
            )
        columns = {name: _categories(column, users) for name, column in users_features.categories.items()}
        columns |= {name: _quartiles(column[users].astype(float)) for name, column in users_features.numbers.items()}
        segments |= {f"users.{name}" if name in reserved else name: column for name, column in columns.items()}
    return pd.DataFrame({USER: histories.user_ids.decode(users)} | segments)


def by_segment(per_user: pd.DataFrame, segments: pd.DataFrame, *, metric: str, seed: int = 0) -> pd.DataFrame:
    """Compute the mean of a metric in each group of each segment, and find underperforming groups.

    A group is underperforming if its mean is more than 20 % below the mean of all users, its 95 % interval is below
    that mean, and a z-test with the standard deviation of all users rejects an equal mean (one-sided, 5 % per table by
    the Bonferroni correction). The interval alone is not enough, because the interval of a few users who all have 0 is
    a point: in simulated tables of 25 groups of 500 to 3,000 users without any difference it found an underperforming
    group in 38 to 95 % of the tables, both conditions together in none of 240.

    Args:
        per_user: user_id and the metric; higher is better; users with NaN are left out.
        segments: from `segments_of`, with all these users.
        metric: the column.
        seed: seed of the resamples.

    Returns:
        segment, group, n_users, mean, low, high (95 % bootstrap interval), relative_difference (to the mean of all
        users, -0.23 is 23 % below it; NaN if that mean is 0) and underperforming. In the first row segment and group
        are "all users".
    """
    (table,) = _tables(_values(per_user, metric).to_frame(), segments, seed=seed)
    return table


def segment_tables(
    per_user: Mapping[str, pd.DataFrame], segments: pd.DataFrame, *, metrics: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """Compute `by_segment` for several models and metrics with shared resamples, which takes little more time than one.

    Args:
        per_user: `Evaluation.per_user` by model name, all on one holdout.
        segments, seed: as in `by_segment`.
        metrics: columns with a value for every user.

    Returns:
        model, metric, and the columns of `by_segment`.
    """
    columns = {(name, metric): _values(frame, metric) for name, frame in per_user.items() for metric in metrics}
    if not columns:
        raise ValueError("segments need a model and a metric, got none; pass Evaluation.per_user by the model's name")
    users = next(iter(columns.values())).index
    for (name, metric), column in columns.items():
        unshared = users.symmetric_difference(column.index, sort=False)
        if len(unshared):
            raise ValueError(
                f"all models and metrics must have values of the same users, got {len(unshared)} users that differ in "
                f"{metric} of {name!r} (first: {unshared[0]!r}); evaluate on one holdout, or call by_segment for each"
            )
    tables = _tables(pd.concat([column.reindex(users) for column in columns.values()], axis=1), segments, seed=seed)
    parts = [table.assign(model=name, metric=metric) for (name, metric), table in zip(columns, tables, strict=True)]
    return pd.concat(parts, ignore_index=True)[["model", "metric", *tables[0].columns]]


def _tables(values: pd.DataFrame, segments: pd.DataFrame, *, seed: int) -> list[pd.DataFrame]:
    """Return a table of `by_segment` for each column of `values` by user_id."""
    missing = values.index[~values.index.isin(segments[USER])]
    if len(missing):
        raise ValueError(
            f"segments must contain every evaluated user, got {len(missing)} users without (first: {missing[0]!r}); "
            "compute them with segments_of on the same holdout"
        )
    groups = segments.set_index(USER).reindex(values.index)
    parts = [(ALL_USERS, ALL_USERS, values.to_numpy())]
    for name in groups:
        parts += [(name, str(group), part.to_numpy()) for group, part in values.groupby(groups[name], observed=True)]
    labels = pd.DataFrame([(name, group, len(x)) for name, group, x in parts], columns=["segment", "group", "n_users"])
    means, ends = [x.mean(axis=0) for _, _, x in parts], [bootstrap_intervals(x, seed=seed) for _, _, x in parts]
    statistics = np.concatenate([np.stack(means)[..., None], np.stack(ends)], axis=2)
    return [_compare_with_all(labels, statistics[:, i], parts[0][2][:, i].std()) for i in range(values.shape[1])]


def _compare_with_all(labels: pd.DataFrame, statistics: Values, deviation: float) -> pd.DataFrame:
    """Return the table of one metric.

    Args:
        labels: segment, group and n_users; the first row is all users.
        statistics: mean, low and high of each group, (n, 3).
        deviation: standard deviation of the metric over all users.
    """
    table = labels.assign(mean=statistics[:, 0], low=statistics[:, 1], high=statistics[:, 2])
    overall, error = table["mean"].iloc[0], deviation / np.sqrt(table["n_users"])
    table["relative_difference"] = table["mean"] / overall - 1 if overall else np.nan
    critical = NormalDist().inv_cdf(1 - LEVEL / max(1, len(table) - 1)) * error
    far_below = table["relative_difference"] < MAX_RELATIVE_DIFFERENCE
    table["underperforming"] = far_below & (table["high"] < overall) & (table["mean"] < overall - critical)
    return table


def underperforming_sentences(table: pd.DataFrame, metric: str) -> list[str]:
    """Return one sentence per underperforming group of `by_segment`, the lowest relative difference first."""
    overall = table["mean"].iloc[0]
    rows = table[table["underperforming"]].sort_values("relative_difference", kind="stable").to_dict("records")
    return [
        f"{metric_label(metric)} of {row['segment']} {row['group']} is {row['mean']:.4f}, "
        f"{-row['relative_difference']:.0%} below the mean {overall:.4f} of all users "
        f"(95 % interval {row['low']:.4f} to {row['high']:.4f}, {row['n_users']:,} users)"
        for row in rows
    ]


def _values(per_user: pd.DataFrame, metric: str) -> pd.Series:
    """Return the finite values of the metric by user_id."""
    if USER not in per_user or metric not in per_user:
        raise ValueError(
            f"segments need the columns {USER} and {metric}, got {list(per_user.columns)}; "
            "pass Evaluation.per_user and a metric at a k that was evaluated"
        )
    values = per_user.set_index(USER)[metric].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.empty:
        raise ValueError(f"segments need a user with a finite value, got none in {metric}; check the file of the frame")
    if values.index.has_duplicates:
        duplicate = values.index[values.index.duplicated()][0]
        raise ValueError(f"each user must occur once, got {duplicate!r} twice; pass the frame of one evaluation")
    return values


def _events_per_active_week(histories: Histories, users: Rows) -> Values:
    weeks = histories.times[histories.positions(users)] // WEEK_SECONDS
    owners = np.repeat(np.arange(len(users)), histories.lengths[users])
    # times ascend within a user, so that every change of the week is a new week
    is_new = np.ones(len(weeks), dtype=bool)
    is_new[1:] = (weeks[1:] != weeks[:-1]) | (owners[1:] != owners[:-1])
    n_weeks = np.bincount(owners[is_new], minlength=len(users))
    return np.divide(histories.lengths[users], n_weeks, out=np.full(len(users), np.nan), where=n_weeks > 0)


def _quartiles(values: Values) -> pd.Series:
    """Group the finite values into quartiles, lowest first, named by their range."""
    finite = pd.Series(values[np.isfinite(values)])
    # equal values share their mean rank, and so their quartile
    quartile = ((finite.rank() - 0.5) / len(finite) * N_QUARTILES).astype(np.int64)
    ranges = finite.groupby(quartile).agg(["min", "max"])
    names = _range_names(ranges["min"].to_numpy(), ranges["max"].to_numpy())
    groups = np.full(len(values), UNKNOWN, dtype=object)
    groups[np.isfinite(values)] = np.array(names, dtype=object)[np.unique(quartile, return_inverse=True)[1]]
    return _ordered(groups, [*names, UNKNOWN])


def _range_names(lows: Values, highs: Values) -> list[str]:
    """Return names with as few digits as make them distinct: "1-14", "3", "-2 to 0.5"."""
    names: list[str] = []
    for digits in range(3, 18):
        ends = [(_number(low, digits), _number(high, digits)) for low, high in zip(lows, highs, strict=True)]
        separator = " to " if (lows < 0).any() else "-"
        names = [low if low == high else f"{low}{separator}{high}" for low, high in ends]
        if len(set(names)) == len(names):
            break
    return names


def _number(value: float, digits: int) -> str:
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.{digits}g}"


def _categories(column: Category, users: Rows) -> pd.Series:
    """Group users by their joined category names; keep the most frequent groups."""
    rows, codes, names = column
    joined = np.full(max(users.max(initial=0), rows.max(initial=0)) + 1, "", dtype=object)
    rows, codes = np.unique(np.stack([rows, codes]), axis=1)
    numbers = np.arange(len(rows)) - np.searchsorted(rows, rows)  # number of the category among those of its user
    for number in range(numbers.max(initial=-1) + 1):
        selected = numbers == number
        joined[rows[selected]] += (" + " if number else "") + np.array(names, dtype=object)[codes[selected]]
    groups = pd.Series(joined[users])
    counts = groups[groups != ""].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    kept = sorted(counts.index[:MAX_GROUPS])
    groups = groups.where(groups.isin([*kept, ""]), OTHER).replace("", UNKNOWN)
    return _ordered(groups, [*kept, OTHER, UNKNOWN])


def _ordered(groups: NDArray[np.object_] | pd.Series, names: list[str]) -> pd.Series:
    return pd.Series(pd.Categorical(groups, categories=names, ordered=True))
