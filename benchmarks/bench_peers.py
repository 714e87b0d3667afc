"""SASRec of attnrec compared with that of RecTools on the same machine: python benchmarks/bench_peers.py.

Same data, split, configuration (see peers/world.py) and threads, one library after the other. RecTools runs in a
separate environment (it pins numpy 1.26), which the first run creates in data/peers. MovieLens-1M and Amazon Beauty are
read from --data-root (see data/README.md): ml-1m/ratings.parquet, beauty/interactions.parquet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from record import append

HERE = Path(__file__).parent
FILES = {"ml-1m": "ml-1m/ratings.parquet", "beauty": "beauty/interactions.parquet"}
MIN_EVENTS = {"ml-1m": 5, "beauty": 1}  # per item, as in the papers
RECTOOLS = "rectools[torch]==0.19.0"


def main() -> None:
    """Run both libraries and append their last lines."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        prepare(options.data, options.data_root, Path(folder))
        for side in options.sides:
            python = Path(sys.executable) if side == "attnrec" else rectools_python(options.peers)
            lines = run_side(side, python, Path(folder), options)
            record(side, lines, options)


def prepare(data: str, root: Path, folder: Path) -> None:
    """Write the leave-one-out split: the event before the last is for validation; the last is not used here."""
    frame = pd.read_parquet(root / FILES[data])
    frame = frame[frame["item_id"].map(frame["item_id"].value_counts()) >= MIN_EVENTS[data]]
    frame = frame.rename(columns={"timestamp": "datetime"})[["user_id", "item_id", "datetime"]]
    from_end = frame.groupby("user_id").cumcount(ascending=False)
    frame[from_end >= 2].to_csv(folder / "train.csv", index=False)
    frame[from_end == 1].to_csv(folder / "validation.csv", index=False)


def run_side(side: str, python: Path, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run one library in a process and return its lines."""
    out = folder / f"{side}.jsonl"
    inputs = ["--data", folder, "--out", out, "--threads", options.threads, "--validate-every", options.validate_every]
    limits = ["--epochs", options.epochs, "--minutes", options.minutes, "--until", options.until]
    shared = [part for change in options.set for part in ("--set", change)]
    own = [part for change in options.ours if side == "attnrec" for part in ("--set", change)]
    command = [python, HERE / "peers" / f"{side}_sasrec.py", *inputs, *limits, *shared, *own]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(HERE.parent)}
    if side != "attnrec":
        environment.pop("PYTHONPATH")
    subprocess.run([str(part) for part in command], check=True, env=environment)
    return [json.loads(line) for line in out.read_text().splitlines()]


def record(side: str, lines: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Append one line: the last epoch, and the time of recommending."""
    last, recommending = lines[-2], lines[-1]
    curve = [[line["epochs"], line["seconds"], line["ndcg_at_10"]] for line in lines[:-1]]
    shape = last["shape"]
    facts = {
        "data": options.data,
        "model": f"{side} sasrec",
        "readout": shape.get("readout", "last"),
        "split": "last",
        "seed": 0,
        "metrics": {"val_ndcg_at_10": last["best"]},
        "seconds": last["seconds"],
        "peak_mb": recommending["peak_mb"],
        "tokens_per_second": last["tokens_per_second"],
        "device": "cpu",
        "threads": options.threads,
        "shape": shape,
        "curve": curve,
        "recommend": {key: value for key, value in recommending.items() if key.startswith("recommend")},
    }
    path = append("peers", facts)
    print(f"{side}: {last['tokens_per_second']:,} tokens/s, {recommending['peak_mb']} MB, {recommending}; {path}")


def rectools_python(folder: Path) -> Path:
    """Return RecTools' interpreter; the first call installs it, torch first to keep the build of pip's index."""
    python = folder / "rectools" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "rectools"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "torch==2.13.0"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", RECTOOLS], check=True)
    return python


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(FILES), default="ml-1m")
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peers", type=Path, default=Path("data/peers"), help="folder of the environments")
    parser.add_argument("--sides", nargs="+", choices=("attnrec", "rectools"), default=("attnrec", "rectools"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--until", type=float, default=1.0, help="stop at this validation NDCG@10")
    parser.add_argument("--validate-every", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of both libraries")
    parser.add_argument("--ours", action="append", default=[], metavar="KEY=VALUE", help="a setting of attnrec only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
