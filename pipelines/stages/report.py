"""Stage 8: the page of recommendations with their reasons, in MLflow and linked from the Prefect run."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from attnrec.dataset import Histories
from attnrec.faithfulness.files import load_faithfulness
from attnrec.models.saved_model import load_model
from attnrec.recommender import Recommender
from attnrec.report import write_report
from attnrec.report.selection import NEEDED, OPTIONAL
from attnrec.schema import ITEM
from attnrec.storage import read_json
from attnrec_pipelines.artifacts import show_link
from attnrec_pipelines.job import Job
from attnrec_pipelines.stage_cache import build, digest_of, key_of
from attnrec_pipelines.stages.register import Served
from attnrec_pipelines.stages.segments import CHALLENGER
from attnrec_pipelines.tracked_runs import tracker_of

PAGE = "report.html"
TITLE = "title"  # of the column of items that is shown beside their ids
FORMAT = 2
"""Raised when the page changes: pages are written anew."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class About:
    """What else is known of a model that scored.

    Attributes:
        items: the ingested table of items, for titles.
        evaluated, measured: the stages of this model, before its refit, for its metrics and its faithfulness.
    """

    items: Path | None = None
    evaluated: Path | None = None
    measured: Path | None = None

    def shown(self) -> dict[str, Any]:
        """As `write_report` takes it."""
        return {
            "titles": None if self.items is None else _titles(self.items),
            "metrics": None if self.evaluated is None else _metrics(self.evaluated),
            "faithfulness": None if self.measured is None else load_faithfulness(self.measured).summary(),
        }


def write_page(job: Job, histories: Path, served: Served, published: Path, about: About) -> Path | None:
    """Write the page of what was published last.

    Args:
        job: experiment and home.
        histories: the histories stage, from which users were scored.
        served: the model that scored them.
        published: the pointer to the recommendations.
        about: what else is shown.

    Returns:
        A folder with report.html; None where [report] n_users is 0.
    """
    n_users = job.experiment.report.n_users
    if not n_users:
        return None
    stages = [stage.name for stage in (histories, about.evaluated, about.measured) if stage is not None]
    parts, titles = published.resolve(), None if about.items is None else digest_of(about.items)
    parameters = {"format": FORMAT, "n_users": n_users, "items": titles}
    key = key_of("report", inputs=[parts.parent.name, *stages], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        saved = load_model(served.folder)
        known = Histories.load(histories / "histories").recode(saved.item_ids)
        report = write_report(
            target / PAGE,
            Recommender(saved.model, saved.item_ids, known, saved.facts),
            read_published(parts),
            n_users=n_users,
            filter_viewed=job.experiment.score.filter_viewed,
            title=title_of(job.experiment.name),
            **about.shown(),
        )
        return {"n_users": report.n_users, "n_bytes": report.n_bytes}

    return build(job.home, "report", key, make)


def read_published(path: Path) -> pa.Table:
    """A table of recommendations without the reasons, which are most of it: a page computes them again.

    Args:
        path: a Parquet file, or a folder of them.
    """
    there = pq.ParquetDataset(path).schema.names
    return pq.read_table(path, columns=[name for name in (*NEEDED, *OPTIONAL) if name in there])


def title_of(experiment: str) -> str:
    """The page's heading."""
    return f"{experiment}: recommendations and their reasons"


def _titles(items: Path) -> pd.DataFrame | None:
    """item_id and title of an ingested table of items, where it has titles."""
    if TITLE not in pq.read_schema(items).names:
        return None
    return pd.read_parquet(items, columns=[ITEM, TITLE]).dropna()


def _metrics(evaluated: Path) -> dict[str, Any]:
    """Metrics by model, the one judged first and under its own name, which may be that of a baseline too."""
    found = read_json(evaluated / "metrics.json")
    name = read_json(evaluated / "manifest.json")["model"]
    baselines = {model: metrics for model, metrics in found.items() if model != CHALLENGER}
    return {f"{name} (this model)" if name in baselines else name: found[CHALLENGER]} | baselines


@task(name="report", cache_policy=NO_CACHE)
def report_task(job: Job, histories: Path, served: Served, published: Path, about: About) -> Path | None:
    """The page, kept with the run of the model that is served."""
    folder = write_page(job, histories, served, published, about)
    if folder is None:
        return None
    page, tracker = folder / PAGE, tracker_of(job)
    champion, link = tracker.champion(job.experiment.tracking.registered_model), page.absolute().as_uri()
    if champion is not None and champion.label == served.label:
        link = tracker.log_file(champion.run_id, page, "report")  # again each time: the file may have been deleted
    logger.info("report: %s", page)
    show_link(f"{job.experiment.name}-report", link, "Recommendations and their reasons")
    return page
