"""A measurement as files: Parquet tables and one JSON, for stages and artifacts."""

from pathlib import Path

import pandas as pd

from attnrec.faithfulness.result import Faithfulness
from attnrec.storage import read_json, write_json

TABLES = ("per_user", "curves", "permutation")
ABOUT = "faithfulness.json"


def save_faithfulness(measured: Faithfulness, folder: Path) -> None:
    """Write per_user.parquet, curves.parquet, permutation.parquet and faithfulness.json into a folder."""
    for name in TABLES:
        getattr(measured, name).to_parquet(folder / f"{name}.parquet", index=False)
    write_json(folder / ABOUT, measured.to_json())


def load_faithfulness(folder: Path) -> Faithfulness:
    """Read what `save_faithfulness` wrote."""
    about = read_json(folder / ABOUT)
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
    return Faithfulness(about["model"], **tables, skipped_methods=about["skipped_methods"], skipped_users=about["skipped_users"])
