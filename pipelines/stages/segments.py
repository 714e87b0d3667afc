"""Files of an evaluation: values by user, and who is served well and what with, for the disk and for MLflow."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from attnrec.evaluation.list_quality import BeyondAccuracy
from attnrec.evaluation.metrics import metric_name
from attnrec.evaluation.segments import segment_tables
from attnrec.storage import read_json, write_json
from attnrec.tracking.figures.segments import exposure_figure, segment_figure

if TYPE_CHECKING:
    from attnrec.tracking.tracker import Tracker

CHALLENGER = "challenger"
SEGMENTS, EXPOSURE, POPULARITY_GROUPS = "segments", "exposure", "popularity_groups"
"""Tables with a column that names the model; each is NAME.parquet in the stage and tables/NAME.json in MLflow."""

MOST_SENTENCES = 10


def write_tables(target: Path, found: dict[str, BeyondAccuracy], segments: pd.DataFrame, *, metric: str) -> None:
    """Write metrics.json, MODEL.parquet with a row per user, and the tables by segment, decile and group.

    Args:
        target: the folder.
        found: what was found, by the model's name.
        segments: from `segments_of`.
        metric: the one that segments are held against, beside hit_rate at its k.
    """
    per_user = {name: judged.evaluation.per_user for name, judged in found.items()}
    for name, frame in per_user.items():
        frame.to_parquet(target / f"{name}.parquet", index=False)
    write_json(target / "metrics.json", {name: judged.evaluation.to_json() for name, judged in found.items()})
    metrics = list(dict.fromkeys([metric, metric_name("hit_rate", place_of(metric))]))
    tables = {
        SEGMENTS: segment_tables(per_user, segments, metrics=metrics),
        EXPOSURE: _stacked({name: judged.exposure for name, judged in found.items()}),
        POPULARITY_GROUPS: _stacked({name: judged.popularity_groups for name, judged in found.items()}),
    }
    for name, table in tables.items():
        table.to_parquet(target / f"{name}.parquet", index=False)


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    """Segments, exposure by decile and popularity by group of users, of every model judged in a stage."""
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in (SEGMENTS, EXPOSURE, POPULARITY_GROUPS)}


def segments_table(folder: Path, metric: str, *, model: str = CHALLENGER) -> pd.DataFrame:
    """What `by_segment` finds for one model and metric, from a stage."""
    table = pd.read_parquet(folder / f"{SEGMENTS}.parquet")
    chosen = (table["model"] == model) & (table["metric"] == metric)
    return table[chosen].drop(columns=["model", "metric"]).reset_index(drop=True)


def underperforming_segments(folder: Path) -> list[str]:
    """A sentence for each group of users that an evaluate stage found underperforming, the worst first."""
    return read_json(folder / "manifest.json")["underperforming"]


def shortened(sentences: list[str]) -> list[str]:
    """The first ten, and how many more there are."""
    n_more = len(sentences) - MOST_SENTENCES
    return [*sentences[:MOST_SENTENCES], *([f"and {n_more} more groups"] if n_more > 0 else [])]


def place_of(metric: str) -> int:
    """The k of ndcg_at_k."""
    return int(metric.rsplit("_", 1)[-1])


def log_segments(tracker: "Tracker", run_id: str, evaluated: Path, *, metric: str) -> None:
    """Put the tables of all models into a run, and figures of the segments of its own and of the exposure of all."""
    tables = tables_of(evaluated)
    for name, table in tables.items():
        tracker.log_table(run_id, table, f"tables/{name}.json")
    tracker.log_figure(run_id, segment_figure(segments_table(evaluated, metric), metric=metric), "figures/segments.png")
    exposure, groups = tables[EXPOSURE], tables[POPULARITY_GROUPS]
    if len(exposure) and len(groups):
        tracker.log_figure(run_id, exposure_figure(exposure, groups), "figures/exposure.png")


def _stacked(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of models as one, with the column `model`."""
    stacked = pd.concat([table.assign(model=name) for name, table in tables.items()], ignore_index=True)
    return stacked[["model", *stacked.columns.drop("model")]]
