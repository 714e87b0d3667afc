"""Files of an evaluation: metrics by model, values by user, and tables of segments and exposure."""

from pathlib import Path

import pandas as pd

from attnrec.evaluation.list_quality import BeyondAccuracy
from attnrec.evaluation.metrics import metric_name
from attnrec.evaluation.segments import segment_tables
from attnrec.storage import read_json, write_json

CHALLENGER = "challenger"
SEGMENTS, EXPOSURE, POPULARITY_GROUPS = "segments", "exposure", "popularity_groups"
"""Tables with a column `model`: NAME.parquet in the stage, tables/NAME.json in MLflow."""

MAX_SENTENCES = 10


def write_tables(target: Path, results: dict[str, BeyondAccuracy], segments: pd.DataFrame, *, metric: str) -> None:
    """Write metrics.json, MODEL.parquet with a row per user, and the tables.

    Args:
        target: the folder.
        results: by the model's name.
        segments: from `segments_of`.
        metric: the metric by segment, besides the hit rate at its k.
    """
    per_user = {name: result.evaluation.per_user for name, result in results.items()}
    for name, frame in per_user.items():
        frame.to_parquet(target / f"{name}.parquet", index=False)
    write_json(target / "metrics.json", {name: result.evaluation.to_json() for name, result in results.items()})
    metrics = list(dict.fromkeys([metric, metric_name("hit_rate", k_of(metric))]))
    tables = {
        SEGMENTS: segment_tables(per_user, segments, metrics=metrics),
        EXPOSURE: _stack({name: result.exposure for name, result in results.items()}),
        POPULARITY_GROUPS: _stack({name: result.popularity_groups for name, result in results.items()}),
    }
    for name, table in tables.items():
        table.to_parquet(target / f"{name}.parquet", index=False)


def metrics_of(folder: Path) -> dict[str, dict[str, float]]:
    """Return the test metrics of an evaluation stage by model; the trained model is `CHALLENGER`."""
    return {name: result["metrics"] for name, result in read_json(folder / "metrics.json").items()}


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of all models: segments, exposure by popularity decile, popularity by group of users."""
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in (SEGMENTS, EXPOSURE, POPULARITY_GROUPS)}


def segments_table(folder: Path, metric: str, *, model: str = CHALLENGER) -> pd.DataFrame:
    """Return the segments of one model and metric (see `by_segment`)."""
    table = pd.read_parquet(folder / f"{SEGMENTS}.parquet")
    chosen = (table["model"] == model) & (table["metric"] == metric)
    return table[chosen].drop(columns=["model", "metric"]).reset_index(drop=True)


def underperforming_segments(folder: Path) -> list[str]:
    """Return a sentence for each underperforming segment of the trained model, the worst first."""
    return read_json(folder / "manifest.json")["underperforming"]


def shorten(sentences: list[str]) -> list[str]:
    """Return the first ten sentences and the number of others."""
    n_more = len(sentences) - MAX_SENTENCES
    return [*sentences[:MAX_SENTENCES], *([f"and {n_more} more segments"] if n_more > 0 else [])]


def k_of(metric: str) -> int:
    """Return the k of a metric's name, such as ndcg_at_k."""
    return int(metric.rsplit("_", 1)[-1])


def _stack(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of models, with the column `model`."""
    stacked = pd.concat([table.assign(model=name) for name, table in tables.items()], ignore_index=True)
    return stacked[["model", *stacked.columns.drop("model")]]
