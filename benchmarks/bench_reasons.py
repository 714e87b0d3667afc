"""Cost of reasons in addition to scoring: python benchmarks/bench_reasons.py --data ml-1m.

Scores all users of a log with the default model as in the scoring flow, including the Parquet file, in three ways:
ranking alone, with the additivity check, and with five reasons per item. The ways alternate; CPU time of one thread is
measured, which depends least on other load. The model is untrained, which does not change the work.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from record import append

if TYPE_CHECKING:
    from attnrec.dataset import Histories
    from attnrec.models import Model

FILES = {"ml-1m": "ml-1m/ratings.parquet", "beauty": "beauty/interactions.parquet"}
LENGTHS = {"ml-1m": 200, "beauty": 50}
K = 10


def main() -> None:
    """Measure alternately, print medians, append a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(FILES), default="ml-1m")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from attnrec.dataset import histories_from_frame
    from attnrec.models import build_model, model_config

    torch.set_num_threads(1)
    log = pd.read_parquet(options.data_root / FILES[options.data]).rename(columns={"timestamp": "datetime"})
    histories = histories_from_frame(log[["user_id", "item_id", "datetime"]])
    torch.manual_seed(0)
    config = model_config("attnrec", {"dim": 64, "max_length": LENGTHS[options.data]})
    model = build_model(config, histories.n_items)
    model.observe(histories)
    with tempfile.TemporaryDirectory() as folder:
        ways = make_ways(model, histories, Path(folder) / "part.parquet")
        seconds = alternate(ways, rounds=options.rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    bare = medians["ranking alone"]
    for name, median in medians.items():
        print(f"{name:>16}: {median:.3f} s ({median / bare:.2f} of ranking alone), {seconds[name]}")
    facts: dict[str, Any] = {"data": options.data, "model": "attnrec", "readout": "pooling", "split": "-", "seed": 0}
    facts |= {"metrics": {name: round(median / bare, 3) for name, median in medians.items()}, "seconds": medians}
    facts |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "tokens_per_second": None}
    print(append("reasons", facts | {"device": "cpu", "threads": 1, "n_users": histories.n_users}))


def make_ways(model: "Model", histories: "Histories", path: Path) -> dict[str, Callable[[], None]]:
    """Return functions by name that score all users and write the file."""
    import numpy as np
    import pyarrow as pa

    from attnrec.scoring.ranking import rank_users
    from attnrec.scoring.recommendations import ScoreConfig, recommend
    from attnrec.scoring.tables import to_table, write_table

    users = np.arange(histories.n_users)

    def alone() -> None:
        items = np.zeros((len(users), K), np.int32)
        scores = np.full((len(users), K), np.nan, np.float32)
        for ranked in rank_users(model, histories, users, k=K):
            items[ranked.positions], scores[ranked.positions] = ranked.items.numpy(), ranked.scores.numpy()
        filled = items > 0
        columns = {
            "user_id": histories.user_ids.decode(np.broadcast_to(users[:, None], items.shape)[filled]).astype(str),
            "rank": np.broadcast_to(np.arange(1, K + 1, dtype=np.int32), items.shape)[filled],
            "item_id": histories.item_ids.decode(items[filled]).astype(str),
            "score": scores[filled],
        }
        write_table(pa.table(columns), path)

    def with_reasons(n: int) -> None:
        recommendations = recommend(model, histories, users, config=ScoreConfig(k=K, n_reasons=n))
        write_table(
            to_table(recommendations, histories, model_version="1", scored_at=datetime(2026, 1, 1, tzinfo=UTC)), path
        )

    return {"ranking alone": alone, "sums checked": lambda: with_reasons(0), "five reasons": lambda: with_reasons(5)}


def alternate(ways: dict[str, Callable[[], None]], *, rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each way by round, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if number:
                seconds[name].append(round(time.process_time() - started, 3))
    return seconds


if __name__ == "__main__":
    main()
