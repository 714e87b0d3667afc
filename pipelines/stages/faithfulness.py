"""Stage: whether the trained model's reasons are faithful, measured on a sample of the test users."""

import logging
from pathlib import Path
from typing import Any

import torch

from attnrec.faithfulness import NothingToMeasureError, faithfulness_verdict, measure
from attnrec.faithfulness.files import load_faithfulness, save_faithfulness
from attnrec.models.saved_model import load_model
from attnrec.storage import read_json
from attnrec.tracking.examples import fixed_users
from attnrec_pipelines.job import Job
from attnrec_pipelines.progress import progress_bar
from attnrec_pipelines.stage_cache import SUMMARY, build, key_of
from attnrec_pipelines.stages.histories import load_split

METHOD, METRIC, SIGNIFICANCE = "contribution", "pos_at_5", 0.05
"""The model's own reasons, the metric of the verdict, and the level of its test."""

logger = logging.getLogger(__name__)


def measure_faithfulness(job: Job, histories: Path, trained: Path) -> Path | None:
    """Measure the faithfulness of a trained model's reasons, before its refit.

    Returns:
        A folder as `save_faithfulness` writes it, with the verdict in its manifest; None if [faithfulness] n_users is
        0, or if no user can be measured.
    """
    settings = job.experiment.faithfulness
    if not settings.n_users:
        return None
    options = {"filter_viewed": job.experiment.evaluate.filter_viewed, "seed": job.experiment.seed}
    parameters = settings.model_dump() | options
    key = key_of("faithfulness", inputs=[read_json(trained / "manifest.json")["key"]], parameters=parameters)

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        model, visible = load_model(trained / "model").model, split.test.histories
        users = split.test.users[fixed_users(visible.user_ids.decode(split.test.users), n=settings.n_users)]
        with progress_bar(f"faithfulness {model.description}", total=len(users)) as advance:
            measured = measure(
                model,
                visible,
                users,
                methods=settings.methods,
                counts=torch.from_numpy(split.train.item_counts()),
                on_batch=advance,
                **options,
            )
        save_faithfulness(measured, target)
        verdict = faithfulness_verdict(measured).to_json()
        return {"verdict": verdict, SUMMARY: _summary(verdict, n_users=len(users))}

    try:
        return build(job.home, "faithfulness", key, make)
    except NothingToMeasureError as error:
        logger.warning("%s", error)
        return None


def _summary(verdict: dict[str, Any], *, n_users: int) -> str:
    """Describe the verdict in one line, with the best of the controls; lower is better in pos@5."""
    if not verdict["numbers"]:
        return verdict["sentence"]
    control, numbers = min(verdict["numbers"].items(), key=lambda item: item[1]["other_mean"])
    result = "faithful" if verdict["faithful"] else "NOT faithful"
    return (
        f"{result}: {METRIC.replace('_at_', '@')} {numbers['mean']:.3f}, "
        f"best control {control} {numbers['other_mean']:.3f} (lower is better), {n_users} users"
    )


def verdict_sentence(measured: Path) -> str:
    """Return the verdict of a faithfulness stage in a sentence."""
    return read_json(measured / "manifest.json")["verdict"]["sentence"]


def unfaithful_reason(measured: Path | None) -> str:
    """Name the controls that are significantly better than the model's own reasons; "" if there are none."""
    if measured is None:
        return ""
    result = load_faithfulness(measured)
    if METHOD not in result.methods:
        return ""
    table = result.compare_method(METRIC, method=METHOD)
    better = table[table["control"] & (table["better"] == table["other"]) & (table["p_value"] < SIGNIFICANCE)]
    if better.empty:
        return ""
    controls = " and ".join(f"{row['other']} ({row['other_mean']:.3f})" for row in better.to_dict("records"))
    return f"{METRIC.replace('_at_', '@')} of its reasons, {better['mean'].iloc[0]:.3f}, is worse than {controls}"
