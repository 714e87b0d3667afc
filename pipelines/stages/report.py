"""Stage: the report, one HTML page of recommendations with their reasons."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attnrec.dataset import Histories
from attnrec.faithfulness.files import load_faithfulness
from attnrec.models.saved_model import load_model
from attnrec.recommender import Recommender
from attnrec.report import write_report
from attnrec.report.items import CATEGORY_COLUMNS, IMAGE
from attnrec.report.selection import OPTIONAL, REQUIRED
from attnrec.schema import ITEM
from attnrec.storage import read_json
from attnrec_pipelines.job import Job
from attnrec_pipelines.stage_cache import SUMMARY, build, digest_of, key_of
from attnrec_pipelines.stages.champion import ScoringModel
from attnrec_pipelines.stages.evaluation_files import CHALLENGER

PAGE = "report.html"
TITLE = "title"
FORMAT = 4
"""Increase when the page changes: existing pages are then written again."""


@dataclass(frozen=True)
class ReportInputs:
    """Stages that a report shows beside the recommendations.

    Attributes:
        items: the ingested table of items, for titles, categories and images.
        evaluated, measured: evaluation and faithfulness of the model that scored, before its refit.
    """

    items: Path | None = None
    evaluated: Path | None = None
    measured: Path | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `write_report`."""
        return {
            "items": None if self.items is None else read_items(self.items),
            "metrics": None if self.evaluated is None else _metrics(self.evaluated),
            "faithfulness": None if self.measured is None else load_faithfulness(self.measured).summary(),
        }


def build_report(job: Job, histories: Path, model: ScoringModel, published: Path, inputs: ReportInputs) -> Path | None:
    """Write the report of the published recommendations.

    Args:
        job: experiment and home.
        histories: the histories stage that was scored.
        model: the model that scored.
        published: the pointer to the recommendations.
        inputs: what else the report shows.

    Returns:
        A folder with report.html; None if [report] n_users is 0.
    """
    n_users = job.experiment.report.n_users
    if not n_users:
        return None
    stages = [stage.name for stage in (histories, inputs.evaluated, inputs.measured) if stage is not None]
    parts, items = published.resolve(), None if inputs.items is None else digest_of(inputs.items)
    parameters = {"format": FORMAT, "n_users": n_users, "items": items}
    key = key_of("report", inputs=[parts.parent.name, *stages], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        saved = load_model(model.folder)
        all_histories = Histories.load(histories / "histories").recode(saved.item_ids)
        report = write_report(
            target / PAGE,
            Recommender(saved.model, saved.item_ids, all_histories, saved.metadata),
            read_published(parts),
            n_users=n_users,
            filter_viewed=job.experiment.score.filter_viewed,
            title=report_title(job.experiment.name),
            **inputs.arguments(),
        )
        summary = f"{report.n_users:,} users, {report.n_bytes / 1e6:.1f} MB"
        return {"n_users": report.n_users, "n_bytes": report.n_bytes, SUMMARY: summary}

    return build(job.home, "report", key, make)


def read_published(path: Path) -> pa.Table:
    """Read recommendations without the reasons, which are most of the table: a report computes them again.

    Args:
        path: a Parquet file, or a folder of them.
    """
    available = pq.ParquetDataset(path).schema.names
    return pq.read_table(path, columns=[name for name in (*REQUIRED, *OPTIONAL) if name in available])


def report_title(experiment: str) -> str:
    """Return the heading of a report."""
    return f"{experiment}: recommendations and their reasons"


def read_titles(items: Path) -> pd.DataFrame | None:
    """Read item_id and title of an ingested table of items; None if it has no titles."""
    if TITLE not in pq.read_schema(items).names:
        return None
    return pd.read_parquet(items, columns=[ITEM, TITLE]).dropna()


def read_items(items: Path) -> pd.DataFrame:
    """Read the columns of an ingested table of items that a report shows."""
    available = pq.read_schema(items).names
    return pd.read_parquet(
        items, columns=[name for name in (ITEM, TITLE, *CATEGORY_COLUMNS, IMAGE) if name in available]
    )


def _metrics(evaluated: Path) -> dict[str, Any]:
    """Return metrics by model, the evaluated model first and under its own name, which may be a baseline's too."""
    metrics = read_json(evaluated / "metrics.json")
    name = read_json(evaluated / "manifest.json")["model"]
    baselines = {model: values for model, values in metrics.items() if model != CHALLENGER}
    return {f"{name} (this model)" if name in baselines else name: metrics[CHALLENGER]} | baselines
