"""Cost of item graphs: python benchmarks/bench_graph.py build|sample|train [--size 10000000] [--threads 1].

build: from a log with --size events (20 per user, Zipf popularity), build the user-item edges, their transpose, item
transitions and a table of 20 neighbours. sample: sample minibatches of 1,024 seeds from a graph with --size edges.
train: train GAT on the user-item graph of such a log with half a million sampled edges per step, for --minutes, which
covers a sample of the users; then compute the item vectors for scoring over all edges and score 1,024 users.
Peak memory is that of the process, so run each part in a separate process, as this command does. Needs Linux.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from record import append

if TYPE_CHECKING:
    from attnrec.dataset import Histories
    from attnrec.dataset.graph import Graph

EVENTS_PER_USER, K = 20, 20
N_SEEDS, FANOUTS, ROUNDS = 1024, (15, 10), 30
DAY_SECONDS = 86_400
GAT_SETTINGS = {"edges_per_step": 500_000, "loss": "sampled_softmax", "n_negatives": 1024, "max_length": 20}
USERS_PER_STEP = 1024


def main() -> None:
    """Measure one part and append its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("build", "sample", "train"))
    parser.add_argument("--size", type=int, default=10_000_000, help="events of the log, or edges of the graph")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5.0, help="training time")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: build(options.size),
        "sample": lambda: sample(options.size),
        "train": lambda: train_on(options.size, minutes=options.minutes, threads=options.threads),
    }
    facts = parts[options.part]()
    shared = {"readout": "-", "split": "-", "seed": 0, "device": "cpu", "threads": options.threads}
    path = append("graph", shared | facts | {"peak_mb": _peak_mb()})
    print(f"{facts} peak {_peak_mb()} MB -> {path.name}")


def build(n_events: int) -> dict[str, Any]:
    """Measure wall and CPU seconds of each step; all results stay in memory until the end."""
    from attnrec.dataset import item_transitions, strongest_neighbours, user_item_edges

    histories = synthetic_log(n_events // EVENTS_PER_USER, n_items=n_events // 100)
    before = _peak_mb()
    clocks: dict[str, tuple[float, float]] = {}
    edges = _timed(clocks, "user-item edges", lambda: user_item_edges(histories))
    by_item = _timed(clocks, "by item", edges.by_item)
    transitions = _timed(clocks, "transitions", lambda: item_transitions(histories, half_life_days=30))
    table = _timed(clocks, f"{K} strongest", lambda: strongest_neighbours(transitions, K))
    sizes = {"edges": len(edges), "by item": len(by_item), "transitions": len(transitions), "table": len(table)}
    return {
        "data": f"{n_events:,} events",
        "model": "build",
        "metrics": {name: round(cpu, 3) for name, (_, cpu) in clocks.items()},
        "wall": {name: round(wall, 3) for name, (wall, _) in clocks.items()},
        "sizes": sizes,
        "mb_before": before,
        "seconds": round(sum(cpu for _, cpu in clocks.values()), 3),
        "tokens_per_second": None,
    }


def sample(n_edges: int) -> dict[str, Any]:
    """Measure the median milliseconds of a minibatch with new random seeds."""
    import numpy as np

    from attnrec.dataset import sample_blocks

    graph = synthetic_graph(n_edges)
    before, random = _peak_mb(), np.random.default_rng(0)
    milliseconds, sizes = [], []
    for _ in range(ROUNDS):
        seeds = random.integers(1, graph.n_targets, N_SEEDS)
        started = time.process_time()
        blocks = sample_blocks(graph, seeds, FANOUTS, random)
        milliseconds.append(1000 * (time.process_time() - started))
        sizes.append(len(blocks[0].sources))
    graph_bytes = sum(array.nbytes for array in (graph.sources, graph.offsets, graph.weights, *graph.columns.values()))
    return {
        "data": f"{n_edges:,} edges",
        "model": f"blocks of {N_SEEDS} seeds, fan-outs {FANOUTS}",
        "metrics": {"ms": round(statistics.median(milliseconds), 2), "held_mb": graph_bytes // 2**20},
        "sizes": {"rows": statistics.median(sizes)},
        "mb_before": before,
        "seconds": round(statistics.median(milliseconds) / 1000, 5),
        "tokens_per_second": None,
    }


def train_on(n_events: int, *, minutes: float, threads: int) -> dict[str, Any]:
    """Measure tokens per CPU second of training, and seconds of the steps before and after it."""
    import numpy as np

    from attnrec.models import build_model, model_config
    from attnrec.scoring.recommendations import ScoreConfig, recommend
    from attnrec.training import TrainConfig, train

    histories = synthetic_log(n_events // EVENTS_PER_USER, n_items=n_events // 100)
    before, clocks = _peak_mb(), dict[str, tuple[float, float]]()
    config = model_config("gat", GAT_SETTINGS)
    model = build_model(config, histories.n_items)
    _timed(clocks, "graph", lambda: model.observe(histories))
    limits = {"epochs": 1, "max_minutes": minutes, "clock": "cpu_time", "device": "cpu", "threads": threads}
    settings = TrainConfig.from_dict({"batch_size": USERS_PER_STEP, "ema_decay": 0.0, "warmup_steps": 10} | limits)
    result = _timed(clocks, "training", lambda: train(model, histories, config=settings, progress_bar=False))
    _timed(clocks, "item table", model.refresh)
    users = np.arange(N_SEEDS)
    _timed(clocks, f"{N_SEEDS} users scored", lambda: recommend(model, histories, users, config=ScoreConfig()))
    report = result.epochs[-1]
    return {
        "data": f"{n_events:,} events",
        "model": "gat, half a million edges a step",
        "metrics": {name: round(cpu, 3) for name, (_, cpu) in clocks.items()} | {"loss": report["train/loss"]},
        "wall": {name: round(wall, 3) for name, (wall, _) in clocks.items()},
        "sizes": {"users": histories.n_users, "items": histories.n_items, "tokens": report["train/tokens"]},
        "mb_before": before,
        "seconds": round(result.seconds, 1),
        "tokens_per_second": round(report["train/tokens_per_second"]),
        "settings": config.model_dump(mode="json") | {"train": settings.model_dump(mode="json")},
    }


def synthetic_log(n_users: int, *, n_items: int) -> "Histories":
    """Return a log of random items with popularity 1 / rank, about one event per user and day."""
    import numpy as np

    from attnrec.dataset import Histories, Vocabulary

    random, n_events = np.random.default_rng(0), n_users * EVENTS_PER_USER
    popularity = np.cumsum(1 / np.arange(1, n_items + 1))
    items = np.searchsorted(popularity, random.random(n_events) * popularity[-1]).astype(np.int32) + 1
    gaps = random.exponential(DAY_SECONDS, (n_users, EVENTS_PER_USER)).astype(np.int64)
    return Histories(
        user_ids=Vocabulary(np.arange(n_users)),
        item_ids=Vocabulary(np.arange(n_items), first=1),
        items=items,
        times=np.cumsum(gaps, axis=1).ravel(),
        offsets=np.arange(0, n_events + 1, EVENTS_PER_USER),
        lengths=np.full(n_users, EVENTS_PER_USER),
    )


def synthetic_graph(n_edges: int) -> "Graph":
    """Return a graph with 0 to 1,000 edges per row, far more than a fan-out, from random sources."""
    import numpy as np

    from attnrec.dataset.graph import Graph

    random = np.random.default_rng(0)
    n_rows = n_edges // 50
    degrees = np.minimum(random.pareto(1.0, n_rows) * 10, 1000).astype(np.int64)
    ends = np.minimum(np.cumsum(degrees) * n_edges // degrees.sum(), n_edges)
    return Graph(
        sources=random.integers(1, n_rows, n_edges, dtype=np.int32),
        offsets=np.concatenate([[0], ends]),
        weights=np.ones(n_edges, np.float32),
        n_sources=n_rows,
        columns={"gap_seconds": np.ones(n_edges, np.float32)},
    )


def _timed(clocks: dict[str, tuple[float, float]], name: str, step: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = step()
    clocks[name] = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {clocks[name][0]:.2f} s, {clocks[name][1]:.2f} s of CPU time, peak so far {_peak_mb()} MB")
    return result


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
