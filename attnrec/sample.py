"""A synthetic shop log with planted causes, which also tells the truth about itself.

Four forces, so that a test can ask whether reasons find the first and not the last:
"who bought A soon buys B" pairs, seasonal taste, popularity and noise, and a distractor that is bought
often by everybody and causes nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnrec.schema import DATETIME, ITEM, USER
from attnrec.storage import write_text

DISTRACTOR = "carrier bag"
KINDS = ("tea", "garden", "desk", "bath", "toy", "lamp", "bike", "pen", "soup", "yarn")


@dataclass(frozen=True, eq=False)
class SampleLog:
    """A log and its truth.

    Attributes:
        interactions: user_id, item_id, datetime (UTC), sorted by time.
        items: item_id, title, kind (its category), price.
        effects: cause, effect: the planted pairs, as item ids.
        truth: user_id, datetime, item_id, cause: for each event that a planted cause made, that cause.
        distractor: the item that is frequent and causes nothing.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    effects: pd.DataFrame
    truth: pd.DataFrame
    distractor: str


def sample_log(
    *, n_users: int = 1200, n_items: int = 200, n_pairs: int = 40, mean_events: int = 30, seed: int = 0
) -> SampleLog:
    """Make a log of about n_users x mean_events interactions over one year.

    A user who bought a cause buys its effect as one of the next three things, with probability 0.75.

    Args:
        n_users, n_items: how many.
        n_pairs: planted pairs of (cause, effect); no item is in two of them.
        mean_events: events per user on average.
        seed: the same seed gives the same log.

    Raises:
        ValueError: when the pairs need more items than there are.
    """
    if 2 * n_pairs > n_items - 1:
        raise ValueError(f"pairs need 2 items each, got {n_pairs} pairs and {n_items} items; raise n_items")
    world = _World(np.random.default_rng(seed), n_items=n_items, n_pairs=n_pairs)
    rows = [row for user in range(n_users) for row in world.live(user, mean_events)]
    columns = [USER, ITEM, DATETIME, "cause"]
    log = pd.DataFrame(rows, columns=columns).sort_values([DATETIME, USER], kind="stable", ignore_index=True)
    log[DATETIME] = pd.to_datetime(log[DATETIME], unit="s", utc=True)
    truth = log[log["cause"] != ""].reset_index(drop=True)
    return SampleLog(log[columns[:3]], world.items, world.effects, truth[columns], DISTRACTOR)


def write_sample(log: SampleLog, folder: Path) -> None:
    """Write interactions.csv, items.csv, effects.csv and truth.csv into `folder`; equal logs give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("interactions", "items", "effects", "truth"):
        frame: pd.DataFrame = getattr(log, name)
        write_text(folder / f"{name}.csv", frame.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%SZ"))


class _World:
    """The shop: its items, what they cause, and how users come by."""

    def __init__(self, random: np.random.Generator, *, n_items: int, n_pairs: int) -> None:
        self.random = random
        names = [DISTRACTOR] + [f"{KINDS[i % len(KINDS)]}-{i:03d}" for i in range(1, n_items)]
        self.names = np.array(names, dtype=object)
        self.kinds = np.arange(n_items) % len(KINDS)
        members = 1 + random.permutation(n_items - 1)[: 2 * n_pairs]
        self.effect_of = dict(zip(members[:n_pairs].tolist(), members[n_pairs:].tolist(), strict=True))
        popularity = 1 / np.arange(1, n_items + 1) ** 0.6
        self.popularity = random.permutation(popularity)
        # effects are rarely bought by chance, so that most of their events have the planted cause
        self.popularity[members[n_pairs:]] *= 0.1
        self.popularity[0] = 0
        self.items = pd.DataFrame(
            {
                ITEM: self.names,
                "title": [str(name).replace("-", " no. ") for name in names],
                "kind": ["bag", *(KINDS[kind] for kind in self.kinds[1:])],
                "price": np.round(random.gamma(2.0, 5.0, n_items), 2),
            }
        )
        causes = [self.names[cause] for cause in self.effect_of]
        effects = [self.names[effect] for effect in self.effect_of.values()]
        self.effects = pd.DataFrame({"cause": causes, "effect": effects})

    def live(self, user: int, mean_events: int) -> list[tuple[str, str, int, str]]:
        """One user's year: (user_id, item_id, Unix seconds, cause or "")."""
        random, n_events = self.random, max(1, self.random.poisson(mean_events))
        start = pd.Timestamp("2025-01-01", tz="UTC").timestamp()
        times = np.sort(start + random.integers(0, 365 * 86_400, n_events)).astype(int)
        taste = random.dirichlet(np.full(len(KINDS), 0.3))
        pending: list[tuple[int, int, int]] = []  # (at which event, effect, cause)
        rows = []
        for number, moment in enumerate(times):
            due = next((p for p in pending if p[0] <= number), None)
            if due is not None:
                pending.remove(due)
                item, cause = due[1], str(self.names[due[2]])
            else:
                item, cause = self._browse(taste, moment), ""
            if item in self.effect_of and random.random() < 0.75:
                pending.append((number + int(random.integers(1, 4)), self.effect_of[item], item))
            rows.append((f"user-{user:04d}", str(self.names[item]), int(moment), cause))
        return rows

    def _browse(self, taste: NDArray[np.float64], moment: int) -> int:
        """An item by nobody's cause: the bag, or by popularity, the user's taste and the season."""
        if self.random.random() < 0.12:
            return 0
        month = pd.Timestamp(moment, unit="s").month - 1
        season = 1 + 2 * (np.arange(len(KINDS)) == month * len(KINDS) // 12)
        odds = self.popularity * (0.2 + len(KINDS) * taste[self.kinds]) * season[self.kinds]
        return int(self.random.choice(len(odds), p=odds / odds.sum()))
