"""Parts of training: python benchmarks/bench_training.py softmax|memory|outside [--threads 2].

softmax: forward and backward pass of the softmax layer, compared with two implementations of torch.
memory: one step with 1,000,000 items x 64 and 8,192 tokens.
outside: share of an epoch outside forward pass, backward pass and optimizer step (needs ml-1m in --data-root).
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import append

SHAPES = [(4096, 3416), (2048, 12101), (1024, 50000)]
DIM = 64


def main() -> None:
    """Run one part and append its lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("softmax", "memory", "outside"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    import torch

    torch.set_num_threads(options.threads)
    {"softmax": softmax, "memory": memory, "outside": outside}[options.part](options)


def softmax(options: argparse.Namespace) -> None:
    """Measure tokens/s of the layer: median of 7 runs, the four implementations alternating under the same load."""
    import torch
    import torch.nn.functional as F

    from attnrec.losses import full_softmax
    from attnrec.precision import reduced_precision

    def ours(precision: Any) -> Callable[..., torch.Tensor]:
        def loss(users: torch.Tensor, items: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            with reduced_precision(precision, torch.device("cpu")):
                return full_softmax(users, items, bias, targets + 1)

        return loss

    def linear_cross_entropy(users: torch.Tensor, items: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor):
        chunked = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=512)
        return F.linear_cross_entropy(users, items, targets, linear_bias=bias, options=chunked)

    def plain(users: torch.Tensor, items: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(users @ items.mT + bias, targets)

    implementations = {
        "plain cross_entropy": plain,
        "torch linear_cross_entropy": linear_cross_entropy,
        "full_softmax float32": ours("float32"),
        "full_softmax bfloat16": ours("bfloat16"),
    }
    for n_tokens, n_items in SHAPES:
        users = torch.randn(n_tokens, DIM, requires_grad=True)
        items = (0.3 * torch.randn(n_items, DIM)).requires_grad_()
        bias = torch.zeros(n_items, requires_grad=True)
        targets = torch.randint(n_items, (n_tokens,))
        seconds: dict[str, list[float]] = {name: [] for name in implementations}
        for _ in range(9):
            for name, implementation in implementations.items():
                started = time.perf_counter()
                implementation(users, items, bias, targets).backward()
                seconds[name].append(time.perf_counter() - started)
        for name, taken in seconds.items():
            median = statistics.median(taken[2:])
            facts = {"model": name, "shape": [n_tokens, n_items, DIM]}
            _append("softmax layer", facts, seconds=median, tokens=n_tokens, options=options)


def memory(options: argparse.Namespace) -> None:
    """Measure the peak memory of training steps with a million items and full softmax."""
    import numpy as np
    import pandas as pd

    from attnrec.dataset import histories_from_frame
    from attnrec.models import build_model, model_config
    from attnrec.training import TrainConfig, train

    n_items, n_users, length = 1_000_000, 656, 26
    random = np.random.default_rng(0)
    items = np.concatenate([random.integers(0, n_items, n_users * length), np.arange(n_items)])
    users = np.concatenate([np.repeat(np.arange(n_users), length), n_users + np.arange(n_items)])
    log = pd.DataFrame({"user_id": users, "item_id": items, "datetime": np.arange(len(items))})
    histories = histories_from_frame(log)
    del log, users, items
    base = _peak_mb()
    model = build_model(model_config("sasrec", {"dim": DIM, "max_length": length - 1, "layers": 1}), n_items)
    config = TrainConfig(epochs=1, batch_size=328, device="cpu", threads=options.threads)
    started = time.perf_counter()
    train(model, histories, config=config, progress_bar=False)
    facts = {"model": "sasrec", "shape": [8200, n_items, DIM], "peak_mb": _peak_mb(), "mb_before": base}
    _append("a million items", facts, seconds=time.perf_counter() - started, tokens=2 * 8200, options=options)


def outside(options: argparse.Namespace) -> None:
    """Measure the time of an epoch outside the steps: cutting batches, reading losses, progress."""
    import bench_peers
    import numpy as np
    import pandas as pd
    import torch

    from attnrec.dataset import histories_from_frame
    from attnrec.models import build_model, model_config
    from attnrec.training import TrainConfig, train
    from attnrec.training.step import Stepper

    with tempfile.TemporaryDirectory() as folder:
        bench_peers.prepare("ml-1m", options.data_root, Path(folder))
        log = pd.read_csv(Path(folder) / "train.csv")
    log["datetime"] = pd.to_datetime(np.arange(len(log)), unit="s", utc=True)
    histories = histories_from_frame(log)
    inside, step = [0.0], Stepper.step

    def timed(self: Stepper, *arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        report = step(self, *arguments, **keywords)
        inside[0] += time.perf_counter() - started
        return report

    Stepper.step = timed
    torch.manual_seed(0)
    model = build_model(model_config("sasrec", {"dim": DIM, "max_length": 100}), histories.n_items)
    config = TrainConfig(epochs=1, batch_size=128, device="cpu", threads=options.threads)
    result = train(model, histories, config=config, progress_bar=False)
    seconds = result.epochs[0]["train/epoch_seconds"]
    tokens = round(result.epochs[0]["train/tokens_per_second"] * seconds)
    facts = {"model": "sasrec", "share_outside": 1 - inside[0] / seconds}
    _append("outside the step", facts, seconds=seconds, tokens=tokens, options=options)


def _append(data: str, facts: dict[str, Any], *, seconds: float, tokens: int, options: argparse.Namespace) -> None:
    speed = tokens / seconds
    shared = {"data": data, "readout": "-", "split": "-", "seed": 0, "metrics": {}, "device": "cpu"}
    line = {"peak_mb": _peak_mb()} | shared | facts
    path = append("training", line | {"seconds": seconds, "tokens_per_second": speed, "threads": options.threads})
    print(f"{data}: {facts} {seconds:.3f} s, {speed:,.0f} tokens/s, {line['peak_mb']} MB -> {path.name}", flush=True)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
