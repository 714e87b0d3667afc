"""Results of benchmarks: one line per run in benchmarks/results/NAME.jsonl, with versions, commit and date."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
KEYS = [
    "bench",
    "data",
    "model",
    "readout",
    "split",
    "seed",
    "metrics",
    "seconds",
    "peak_mb",
    "tokens_per_second",
    "device",
    "threads",
    "versions",
    "commit",
    "date",
]
PACKAGES = ("torch", "numpy", "pandas")


def append(name: str, facts: dict[str, Any]) -> Path:
    """Append the line of a run; versions, commit and date are added.

    Args:
        name: name of the benchmark and of its file.
        facts: the other keys of `KEYS`, and any further keys.

    Returns:
        The file.

    Raises:
        ValueError: if a key is missing.
    """
    versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"bench": name} | facts | {"versions": versions, "commit": _commit(), "date": date}
    missing = [key for key in KEYS if key not in line]
    if missing:
        raise ValueError(
            f"a benchmark line needs the keys {', '.join(KEYS)}, got none for {', '.join(missing)}; add them to facts"
        )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")
    return path


def _commit() -> str:
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "attnrec"], check=False).returncode
    return head.stdout.strip() + ("+" if changed else "")
