"""What every side of a comparison shares: the data as prepared, one clock, one metric. Needs numpy and pandas only.

A side is a script run in its own virtual environment: it trains epoch by epoch, and after each `ask`s its
model for recommendations, with the clock stopped.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

SHAPE = {
    "dim": 64,
    "layers": 2,
    "heads": 2,
    "max_length": 100,
    "batch_size": 128,
    "dropout": 0.2,
    "learning_rate": 1e-3,
}
"""SASRec with full softmax: the one shape both sides train, unless a side says otherwise in its line."""


def options(description: str | None) -> argparse.Namespace:
    """The command line of a side."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and validation.csv")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1000, help="stop after this many epochs")
    parser.add_argument("--minutes", type=float, default=1000.0, help="stop after this time in training")
    parser.add_argument("--until", type=float, default=1.0, help="stop when validation NDCG@10 reaches this")
    parser.add_argument("--ask-every", type=int, default=1, help="epochs between two validations")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the shape")
    return parser.parse_args()


def shape(given: argparse.Namespace) -> dict[str, float | str]:
    """`SHAPE` with what `--set` changes."""
    changed: dict[str, float | str] = dict(SHAPE)
    for setting in given.set:
        key, _, value = setting.partition("=")
        try:
            changed[key] = json.loads(value)
        except json.JSONDecodeError:
            changed[key] = value
    return changed


def read(folder: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Training events (user_id, item_id, datetime, in order) and the validation item of each user_id."""
    train = pd.read_csv(folder / "train.csv")
    return train, pd.read_csv(folder / "validation.csv").set_index("user_id")["item_id"]


def ndcg_at_10(recommended: pd.DataFrame, answers: pd.Series) -> float:
    """Mean over all users of 1 / log2(rank + 1) where the answer is among the ten; rank counts from 1."""
    hit = recommended[recommended["item_id"] == recommended["user_id"].map(answers)]
    return float((1 / np.log2(hit["rank"] + 1)).sum() / len(answers))


class Recorder:
    """Writes a line for every question asked, and says when a limit is reached.

    Args:
        given: the side's options.
        facts: written into every line.
    """

    def __init__(self, given: argparse.Namespace, facts: dict[str, object]) -> None:
        self.given, self.facts, self.best = given, facts, 0.0

    def record(self, *, epochs: int, seconds: float, tokens: int, ndcg: float, **more: object) -> bool:
        """One question.

        Args:
            epochs, seconds, tokens: trained so far; only training counts, tokens are real positions.
            ndcg: of all users.
            more: what else the side knows.

        Returns:
            Whether to go on.
        """
        self.best = max(self.best, ndcg)
        line = {
            "epochs": epochs,
            "seconds": round(seconds, 2),
            "tokens_per_second": round(tokens / seconds),
            "ndcg_at_10": round(ndcg, 5),
            "best": round(self.best, 5),
            "peak_mb": peak_mb(),
        }
        self.write(line | more)
        within = epochs < self.given.epochs and seconds < 60 * self.given.minutes
        return within and self.best < self.given.until

    def write(self, line: dict[str, object]) -> None:
        """Append any line."""
        print(line, flush=True)
        with self.given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.facts | {"threads": self.given.threads} | line) + "\n")


def recommend_seconds(recommend: Callable[[], pd.DataFrame], *, times: int = 3) -> tuple[float, pd.DataFrame]:
    """Median time to recommend to everybody, and what came: user_id, item_id, rank."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        found = recommend()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), found


def peak_mb() -> int:
    """Most resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
