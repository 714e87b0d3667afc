"""The same metrics for parts of the users: by history, activity, taste for the popular and what is known of them."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.dataset import Features, Histories, Holdout
from attnrec.dataset.features import Category
from attnrec.evaluation.beyond_accuracy import GROUPS, NO_HISTORY, profiles_of, user_groups
from attnrec.evaluation.metrics import bootstrap_intervals
from attnrec.schema import USER

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

ALL_USERS = "all users"
UNKNOWN, OTHER = "(unknown)", "(other)"
MOST_GROUPS = 20
N_PARTS = 4
WEEK_SECONDS = 7 * 86_400
BEHIND = -0.2
LEVEL = 0.05


def segments_of(holdout: Holdout, users_features: Features | None = None) -> pd.DataFrame:
    """Say for every user asked which groups they belong to.

    Numbers are cut at their quartiles and groups named by the range found in them, such as "1-14"; equal values are
    never parted, so that groups may be uneven or fewer than four.

    Args:
        holdout: the questions; groups are made of the visible histories of those who are asked.
        users_features: columns of users by the rows of `holdout.histories.user_ids`.

    Returns:
        user_id and a column of ordered categories per segment. history_length: visible events. activity: visible
        events per active week, a week (7 days from Thursday 0:00 UTC, as Unix time has them) with an event; only for
        logs with a clock. popularity_group: see `user_groups`. Then the categories and numbers of the features: a
        user's several categories are one group, "a + b", the 20 largest groups are kept and others called "(other)";
        without a value "(unknown)". A column named as one of these is called "users.<name>".
    """
    histories, users = holdout.histories, holdout.users
    segments: dict[str, pd.Series] = {"history_length": _quartiles(histories.lengths[users].astype(np.float64))}
    if histories.time_kind == "datetime":
        segments["activity"] = _quartiles(_events_per_active_week(histories, users))
    groups = user_groups(profiles_of(histories, users), histories.item_counts())
    segments["popularity_group"] = _ordered(groups, [*GROUPS, NO_HISTORY])
    taken = {USER, ALL_USERS, "activity", *segments}
    if users_features is not None:
        if users_features.n_rows != histories.n_users:
            raise ValueError(
                f"users_features must have a row per user of the histories, got {users_features.n_rows} for "
                f"{histories.n_users}; load them with holdout.histories.user_ids"
            )
        columns = {name: _categories(column, users) for name, column in users_features.categories.items()}
        columns |= {name: _quartiles(column[users].astype(float)) for name, column in users_features.numbers.items()}
        segments |= {f"users.{name}" if name in taken else name: column for name, column in columns.items()}
    return pd.DataFrame({USER: histories.user_ids.decode(users)} | segments)


def by_segment(per_user: pd.DataFrame, segments: pd.DataFrame, *, metric: str, seed: int = 0) -> pd.DataFrame:
    """Mean of a metric in each group of each segment, against that of everyone.

    A group is underperforming when it is more than 20 % behind, its interval lies below the mean of everyone, and as many
    users drawn from everyone would hardly be that low: with the standard error of everyone's values, in 5 % of
    tables whose groups are all alike (Bonferroni). The interval alone is not enough, because that of a few
    users who all have 0 is a point: of simulated tables of 25 groups of 500 to 3,000 equally served users it
    found one underperforming in 38 to 95 %, and both together in none of 240.

    Args:
        per_user: user_id and the metric, of which more is better; NaN is left out.
        segments: from `segments_of`, with all those users.
        metric: the column.
        seed: of the resamples.

    Returns:
        segment, group, n_users, mean, low, high (95 % bootstrap), behind (-0.23 is 23 % less than the mean of
        everyone; NaN where that is 0) and underperforming. The first row is everyone, in segment and group "all users".
    """
    (table,) = _tables(_values(per_user, metric).to_frame(), segments, seed=seed)
    return table


def segment_tables(
    per_user: Mapping[str, pd.DataFrame], segments: pd.DataFrame, *, metrics: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """`by_segment` of several models and metrics, in little more time than one takes: they share their resamples.

    Args:
        per_user: frames by the name of their model, all on one holdout.
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
        alone = users.symmetric_difference(column.index, sort=False)
        if len(alone):
            raise ValueError(
                f"all models must have every metric of the same users, got {len(alone)} that differ in {metric} of "
                f"{name!r} (first: {alone[0]!r}); evaluate on one holdout, or call by_segment for each"
            )
    tables = _tables(pd.concat([column.reindex(users) for column in columns.values()], axis=1), segments, seed=seed)
    parts = [table.assign(model=name, metric=metric) for (name, metric), table in zip(columns, tables, strict=True)]
    return pd.concat(parts, ignore_index=True)[["model", "metric", *tables[0].columns]]


def _tables(values: pd.DataFrame, segments: pd.DataFrame, *, seed: int) -> list[pd.DataFrame]:
    """A table of `by_segment` for each column of values by user_id."""
    strange = values.index[~values.index.isin(segments[USER])]
    if len(strange):
        raise ValueError(
            f"segments need every user evaluated, got {len(strange)} without (first: {strange[0]!r}); "
            "make them with segments_of the same holdout"
        )
    groups = segments.set_index(USER).reindex(values.index)
    parts = [(ALL_USERS, ALL_USERS, values.to_numpy())]
    for name in groups:
        parts += [(name, str(group), part.to_numpy()) for group, part in values.groupby(groups[name], observed=True)]
    facts = pd.DataFrame([(name, group, len(x)) for name, group, x in parts], columns=["segment", "group", "n_users"])
    means, ends = [x.mean(axis=0) for _, _, x in parts], [bootstrap_intervals(x, seed=seed) for _, _, x in parts]
    found = np.concatenate([np.stack(means)[..., None], np.stack(ends)], axis=2)
    return [_held_against_everyone(facts, found[:, i], parts[0][2][:, i].std()) for i in range(values.shape[1])]


def _held_against_everyone(facts: pd.DataFrame, found: Values, spread: float) -> pd.DataFrame:
    """Facts of groups, everyone first, with mean, low and high (n, 3) of one metric that differs by `spread`."""
    table = facts.assign(mean=found[:, 0], low=found[:, 1], high=found[:, 2])
    overall, error = table["mean"].iloc[0], spread / np.sqrt(table["n_users"])
    table["behind"] = table["mean"] / overall - 1 if overall else np.nan
    chance = NormalDist().inv_cdf(1 - LEVEL / max(1, len(table) - 1)) * error
    table["underperforming"] = (table["behind"] < BEHIND) & (table["high"] < overall) & (table["mean"] < overall - chance)
    return table


def underperforming_sentences(table: pd.DataFrame, metric: str) -> list[str]:
    """A line for each group of `by_segment` that is underperforming, the worst first."""
    overall = table["mean"].iloc[0]
    return [
        f"{metric} of {row['segment']} {row['group']} is {row['mean']:.4f}, {-row['behind']:.0%} behind the "
        f"{overall:.4f} of everyone (95 % interval {row['low']:.4f} to {row['high']:.4f}, {row['n_users']:,} users)"
        for row in table[table["underperforming"]].sort_values("behind", kind="stable").to_dict("records")
    ]


def _values(per_user: pd.DataFrame, metric: str) -> pd.Series:
    """The metric by user_id, where it is a number."""
    if USER not in per_user or metric not in per_user:
        raise ValueError(
            f"segments need the columns {USER} and {metric}, got {list(per_user.columns)}; "
            "pass Evaluation.per_user and a metric at a k that was evaluated"
        )
    values = per_user.set_index(USER)[metric].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.empty:
        raise ValueError(f"segments need a user with a value, got none in {metric}; check where the frame was read")
    if values.index.has_duplicates:
        twice = values.index[values.index.duplicated()][0]
        raise ValueError(f"a user must occur once, got {twice!r} twice; pass the frame of one evaluation")
    return values


def _events_per_active_week(histories: Histories, users: Rows) -> Values:
    weeks = histories.times[histories.positions(users)] // WEEK_SECONDS
    owners = np.repeat(np.arange(len(users)), histories.lengths[users])
    # times rise within a user, so that a new week is a change
    new = np.ones(len(weeks), dtype=bool)
    new[1:] = (weeks[1:] != weeks[:-1]) | (owners[1:] != owners[:-1])
    n_weeks = np.bincount(owners[new], minlength=len(users))
    return np.divide(histories.lengths[users], n_weeks, out=np.full(len(users), np.nan), where=n_weeks > 0)


def _quartiles(values: Values) -> pd.Series:
    """Groups of about a quarter of the finite values each, lowest first, named by their range."""
    known = pd.Series(values[np.isfinite(values)])
    # equal values share their middle rank, and so a part
    part = ((known.rank() - 0.5) / len(known) * N_PARTS).astype(np.int64)
    ranges = known.groupby(part).agg(["min", "max"])
    names = _range_names(ranges["min"].to_numpy(), ranges["max"].to_numpy())
    groups = np.full(len(values), UNKNOWN, dtype=object)
    groups[np.isfinite(values)] = np.array(names, dtype=object)[np.unique(part, return_inverse=True)[1]]
    return _ordered(groups, [*names, UNKNOWN])


def _range_names(lows: Values, highs: Values) -> list[str]:
    """As short as tells them apart: "1-14", "3", "-2 to 0.5"."""
    names: list[str] = []
    for digits in range(3, 18):
        ends = [(_number(low, digits), _number(high, digits)) for low, high in zip(lows, highs, strict=True)]
        joint = " to " if (lows < 0).any() else "-"
        names = [low if low == high else f"{low}{joint}{high}" for low, high in ends]
        if len(set(names)) == len(names):
            break
    return names


def _number(value: float, digits: int) -> str:
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.{digits}g}"


def _categories(column: Category, users: Rows) -> pd.Series:
    """The names of each user's categories, joined; the most frequent ones."""
    rows, codes, names = column
    texts = np.full(max(users.max(initial=0), rows.max(initial=0)) + 1, "", dtype=object)
    rows, codes = np.unique(np.stack([rows, codes]), axis=1)
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    for place in range(places.max(initial=-1) + 1):
        at = places == place
        texts[rows[at]] += (" + " if place else "") + np.array(names, dtype=object)[codes[at]]
    groups = pd.Series(texts[users])
    counts = groups[groups != ""].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    kept = sorted(counts.index[:MOST_GROUPS])
    groups = groups.where(groups.isin([*kept, ""]), OTHER).replace("", UNKNOWN)
    return _ordered(groups, [*kept, OTHER, UNKNOWN])


def _ordered(groups: NDArray[np.object_] | pd.Series, names: list[str]) -> pd.Series:
    return pd.Series(pd.Categorical(groups, categories=names, ordered=True))
