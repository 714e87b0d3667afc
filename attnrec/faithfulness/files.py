"""Save a faithfulness measurement as Parquet tables and one JSON file, and load it."""

from pathlib import Path

import pandas as pd

from attnrec.faithfulness.result import Faithfulness
from attnrec.storage import read_json, write_json

TABLES = ("per_user", "curves", "permutation")
SUMMARY = "faithfulness.json"


def save_faithfulness(measured: Faithfulness, folder: Path) -> None:
    """Write per_user.parquet, curves.parquet, permutation.parquet and faithfulness.json into a folder."""
    for name in TABLES:
        getattr(measured, name).to_parquet(folder / f"{name}.parquet", index=False)
    write_json(folder / SUMMARY, measured.to_json())


def load_faithfulness(folder: Path) -> Faithfulness:
    """Load a measurement that `save_faithfulness` wrote."""
    summary = read_json(folder / SUMMARY)
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
    skipped = {name: summary[name] for name in ("skipped_methods", "skipped_users")}
    return Faithfulness(summary["model"], **tables, **skipped)
