"""Stage 4b: whether the trained model's reasons are true, measured on some of the test users."""

import logging
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from attnrec.faithfulness import NothingToMeasureError, faithfulness_verdict, measure
from attnrec.faithfulness.files import load_faithfulness, save_faithfulness
from attnrec.models.saved_model import load_model
from attnrec.storage import read_json
from attnrec.tracking.examples import fixed_users
from attnrec.tracking.figures.faithfulness import curves_figure, faithfulness_figure
from attnrec.tracking.tracker import Tracker
from attnrec_pipelines.artifacts import show_table
from attnrec_pipelines.cli.printing import METRICS
from attnrec_pipelines.job import Job
from attnrec_pipelines.progress import bar
from attnrec_pipelines.stage_cache import build, key_of
from attnrec_pipelines.stages.ingest import load_split

OWN, METRIC, LEVEL = "contribution", "pos_at_5", 0.05
FAITHFUL = "attnrec.faithful"
"""Tag of a run: whether the model's own reasons beat every control, by a paired test."""

logger = logging.getLogger(__name__)


def measure_reasons(job: Job, histories: Path, trained: Path) -> Path | None:
    """Measure the faithfulness of a trained model's reasons, before its refit, on some of the test users.

    Returns:
        A folder as `save_faithfulness` writes it, with the verdict in its manifest; None where n_users is 0, or none
        of the users has something to explain.
    """
    settings = job.experiment.faithfulness
    if not settings.n_users:
        return None
    asked = {"filter_viewed": job.experiment.evaluate.filter_viewed, "seed": job.experiment.seed}
    parameters = settings.model_dump() | asked
    key = key_of("faithfulness", inputs=[read_json(trained / "manifest.json")["key"]], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        model, seen = load_model(trained / "model").model, split.test.histories
        users = split.test.users[fixed_users(seen.user_ids.decode(split.test.users), n=settings.n_users)]
        with bar(f"faithfulness {model.description}", total=len(users)) as done:
            measured = measure(
                model,
                seen,
                users,
                methods=settings.methods,
                counts=torch.from_numpy(split.train.item_counts()),
                on_batch=done,
                **asked,
            )
        save_faithfulness(measured, target)
        return {"verdict": faithfulness_verdict(measured).to_json()}

    try:
        return build(job.home, "faithfulness", key, make)
    except NothingToMeasureError as error:
        logger.warning("%s", error)
        return None


def sentence_of(measured: Path) -> str:
    """The verdict, in a sentence."""
    return read_json(measured / "manifest.json")["verdict"]["sentence"]


def unfaithful(measured: Path | None) -> str:
    """What speaks against a model's own reasons: controls that do better than they, and not by chance; or ""."""
    if measured is None:
        return ""
    found = load_faithfulness(measured)
    if OWN not in found.methods:
        return ""
    table = found.compare_method(METRIC, method=OWN)
    better = table[table["control"] & (table["better"] == table["other"]) & (table["p_value"] < LEVEL)]
    worse = [f"{row['other']}'s {row['other_mean']:.3f}" for row in better.to_dict("records")]
    return f"{METRIC} {better['mean'].iloc[0]:.3f} of its reasons is worse than {' and '.join(worse)}" if worse else ""


def log_faithfulness(tracker: Tracker, run_id: str, measured: Path) -> None:
    """Put all measures of the model's own reasons, POS@5 of the other methods, the table and figures into a run."""
    found = load_faithfulness(measured)
    summary = found.summary()
    for row in summary.to_dict("records"):
        names = METRICS if row["method"] == OWN else (METRIC,)
        tracker.log_metrics(run_id, {f"faithfulness/{row['method']}_{name}": row[name] for name in names})
    tracker.log_metrics(run_id, {"faithfulness/interchangeable_share": found.interchangeable_share})
    tracker.log_table(run_id, summary, "tables/faithfulness.json")
    tracker.log_figure(run_id, faithfulness_figure(found), "figures/faithfulness.png")
    tracker.log_figure(run_id, curves_figure(found), "figures/faithfulness_curves.png")
    tracker.set_tags(run_id, {FAITHFUL: str(read_json(measured / "manifest.json")["verdict"]["faithful"]).lower()})


@task(name="measure-faithfulness", cache_policy=NO_CACHE)
def faithfulness_task(job: Job, histories: Path, trained: Path) -> Path | None:
    """How true the model's reasons are, shown in Prefect; a warning where a control does better."""
    folder = measure_reasons(job, histories, trained)
    if folder is None:
        return None
    logger.info("%s", sentence_of(folder))
    problem = unfaithful(folder)
    if problem:
        logger.warning("%s", problem)
    summary = load_faithfulness(folder).summary()
    rows = summary[["method", *(name for name in METRICS if name in summary)]].round(4).astype(str)
    show_table(f"{job.experiment.name}-faithfulness", rows.to_dict("records"), "Whether reasons are true, by method")
    return folder
