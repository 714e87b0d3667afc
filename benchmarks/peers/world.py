"""Shared parts of a comparison of libraries: command line, data, metric and records. Needs numpy and pandas only.

Each library has a script that runs in its own virtual environment. It trains epoch by epoch and validates after each
epoch, with the clock stopped.
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
"""Configuration of SASRec with full softmax in both libraries; every result line has the one that was used."""


def options(description: str | None) -> argparse.Namespace:
    """Parse the command line of a library's script."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and validation.csv")
    parser.add_argument("--out", type=Path, required=True, help="file to append JSON lines to")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1000, help="stop after this many epochs")
    parser.add_argument("--minutes", type=float, default=1000.0, help="stop after this training time")
    parser.add_argument("--until", type=float, default=1.0, help="stop when validation NDCG@10 reaches this")
    parser.add_argument("--validate-every", type=int, default=1, help="epochs between two validations")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the configuration")
    return parser.parse_args()


def shape(options: argparse.Namespace) -> dict[str, float | str]:
    """Return `SHAPE` with the changes of --set."""
    changed: dict[str, float | str] = dict(SHAPE)
    for setting in options.set:
        key, _, value = setting.partition("=")
        try:
            changed[key] = json.loads(value)
        except json.JSONDecodeError:
            changed[key] = value
    return changed


def read(folder: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Return the training events (user_id, item_id, datetime, in order) and each user's validation item."""
    train = pd.read_csv(folder / "train.csv")
    return train, pd.read_csv(folder / "validation.csv").set_index("user_id")["item_id"]


def ndcg_at_10(recommended: pd.DataFrame, targets: pd.Series) -> float:
    """Return the mean over all users of 1 / log2(rank + 1) if the target is among the ten; ranks start at 1."""
    hit = recommended[recommended["item_id"] == recommended["user_id"].map(targets)]
    return float((1 / np.log2(hit["rank"] + 1)).sum() / len(targets))


class Recorder:
    """Write a line for every validation and check the limits.

    Args:
        options: the command line.
        facts: keys of every line.
    """

    def __init__(self, options: argparse.Namespace, facts: dict[str, object]) -> None:
        self.options, self.facts, self.best = options, facts, 0.0

    def record(self, *, epochs: int, seconds: float, tokens: int, ndcg: float, **more: object) -> bool:
        """Write one validation.

        Args:
            epochs, seconds, tokens: totals of training; tokens are non-padding positions.
            ndcg: NDCG@10 over all users.
            more: further keys of the line.

        Returns:
            Whether to continue training.
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
        within = epochs < self.options.epochs and seconds < 60 * self.options.minutes
        return within and self.best < self.options.until

    def write(self, line: dict[str, object]) -> None:
        """Append a line."""
        print(line, flush=True)
        with self.options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.facts | {"threads": self.options.threads} | line) + "\n")


def recommend_seconds(recommend: Callable[[], pd.DataFrame], *, times: int = 3) -> tuple[float, pd.DataFrame]:
    """Return the median seconds of recommending to all users, and the recommendations."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        recommendations = recommend()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), recommendations


def peak_mb() -> int:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
