"""Stage: the results of an evaluation become MLflow runs, one for the trained model and one for each baseline."""

import re
import time
from pathlib import Path

from attnrec.analysis.attention_spread import attention_spread
from attnrec.faithfulness.files import load_faithfulness
from attnrec.models.saved_model import load_model, load_with_warm_start
from attnrec.recommender import Recommender
from attnrec.storage import read_json
from attnrec.tracking.examples import examples_table, fixed_users
from attnrec.tracking.figures.attention_spread import attention_spread_figure
from attnrec.tracking.figures.faithfulness import curves_figure, faithfulness_figure
from attnrec.tracking.figures.item_graph import item_graph_figure
from attnrec.tracking.figures.learning_curve import learning_curve
from attnrec.tracking.figures.segments import exposure_figure, segment_figure
from attnrec.tracking.run_content import artifact_links, description, faithfulness_metrics, test_metrics
from attnrec.tracking.tags import DESCRIPTION, EVALUATED_MODEL, FAITHFUL, RECORDED, UNDERPERFORMING
from attnrec.tracking.tracker import Tracker
from attnrec_pipelines.job import Job
from attnrec_pipelines.mlflow_runs import open_baseline_run, tracker_of, training_run
from attnrec_pipelines.stage_cache import key_of, log_stage
from attnrec_pipelines.stages.evaluate import BASELINES
from attnrec_pipelines.stages.evaluation_files import (
    CHALLENGER,
    EXPOSURE,
    POPULARITY_GROUPS,
    metrics_of,
    segments_table,
    shorten,
    tables_of,
    underperforming_segments,
)
from attnrec_pipelines.stages.faithfulness import METHOD, verdict_sentence
from attnrec_pipelines.stages.histories import load_split
from attnrec_pipelines.stages.train import training_summary

N_EXAMPLES, N_SPREAD, N_EXPLAINED = 5, 500, 3
LINKS = {
    "segments": "figures/segments.png",
    "learning curve": "figures/learning_curve.png",
    "examples": "tables/examples.json",
    "all metrics": "evaluation/metrics.json",
}
"""Artifacts that people open first, linked in the description; the report is added when it is written."""


def record_run(
    job: Job,
    histories: Path,
    trained: Path,
    evaluated: Path,
    measured: Path | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    """Log test metrics, figures, examples and the evaluated model to the training run. A second call does nothing.

    Args:
        job: experiment and home.
        histories: the histories stage.
        trained: the training stage.
        evaluated: the evaluation stage.
        measured: the faithfulness stage, if there is one.
        tags: further tags of the run.

    Returns:
        The run's id.
    """
    started = time.monotonic()
    tracker, run_id = tracker_of(job), training_run(job, histories, trained)
    recorded = " ".join(stage.name for stage in (evaluated, measured) if stage is not None)
    if tags:
        tracker.set_tags(run_id, tags)
    if tracker.client.get_run(run_id).data.tags.get(RECORDED) == recorded:
        log_stage("record", f"MLflow run {run_id}", seconds=None)
        return run_id
    manifest, metrics, main = read_json(trained / "manifest.json"), metrics_of(evaluated), job.experiment.promote.metric
    record_baselines(job, histories, evaluated)
    tracker.log_metrics(run_id, test_metrics(metrics[CHALLENGER], main=main))
    tracker.log_metrics(run_id, {"train/best_epoch": manifest["best_epoch"]})
    tracker.log_folder(run_id, evaluated, "evaluation")
    tracker.log_folder(run_id, trained / "model", EVALUATED_MODEL)
    epochs = read_json(trained / "epochs.json")
    if epochs:
        figure = learning_curve(epochs, metric=job.experiment.train.metric)
        tracker.log_figure(run_id, figure, "figures/learning_curve.png")
    log_segments(tracker, run_id, evaluated, metric=main)
    _log_examples(job, histories, trained, tracker, run_id)
    segments, faithful = underperforming_segments(evaluated), []
    if measured is not None:
        log_faithfulness(tracker, run_id, measured)
        faithful = [f"Explanations: {verdict_sentence(measured)}."]
    paragraphs = [*_segments_paragraph(segments), *faithful, f"Training: {training_summary(manifest)}."]
    model = read_json(evaluated / "manifest.json")["model"]
    links = artifact_links(tracker.experiment_id, run_id, LINKS)
    text = description(metrics, main=main, model=model, paragraphs=paragraphs, links=links)
    tracker.set_tags(run_id, {DESCRIPTION: text, UNDERPERFORMING: str(len(segments)), RECORDED: recorded})
    tracker.close_run(run_id)
    log_stage("record", f"MLflow run {run_id}", seconds=time.monotonic() - started)
    return run_id


def record_baselines(job: Job, histories: Path, evaluated: Path) -> None:
    """Log each baseline as a separate run; experiments on the same data and split share these runs."""
    tracker, metrics, main = tracker_of(job), metrics_of(evaluated), job.experiment.promote.metric
    split = job.experiment.split.model_dump(mode="json", exclude={"test_path"})
    for baseline in BASELINES:
        parameters = {"split": split, "evaluate": job.experiment.evaluate.model_dump(), "kind": baseline.kind}
        key = key_of("baseline", inputs=[histories.name], parameters=parameters)
        if tracker.find_run(key) is not None:
            continue
        run_id = open_baseline_run(job, histories, key, baseline)
        tracker.log_metrics(run_id, test_metrics(metrics[baseline.kind], main=main))
        tracker.close_run(run_id)


def log_segments(tracker: Tracker, run_id: str, evaluated: Path, *, metric: str) -> None:
    """Log the tables of all models, and figures of the trained model's segments and of all models' exposure."""
    tables = tables_of(evaluated)
    for name, table in tables.items():
        tracker.log_table(run_id, table, f"tables/{name}.json")
    tracker.log_figure(run_id, segment_figure(segments_table(evaluated, metric), metric=metric), "figures/segments.png")
    exposure, groups = tables[EXPOSURE], tables[POPULARITY_GROUPS]
    if len(exposure) and len(groups):
        tracker.log_figure(run_id, exposure_figure(exposure, groups), "figures/exposure.png")


def log_faithfulness(tracker: Tracker, run_id: str, measured: Path) -> None:
    """Log the faithfulness of the model's own reasons, the table of all methods, and figures."""
    result = load_faithfulness(measured)
    summary = result.summary()
    tracker.log_metrics(run_id, faithfulness_metrics(summary.to_dict("records"), method=METHOD))
    tracker.log_metrics(run_id, {"test/interchangeable_share": result.interchangeable_share})
    tracker.log_table(run_id, summary, "tables/faithfulness.json")
    tracker.log_figure(run_id, faithfulness_figure(result), "figures/faithfulness.png")
    tracker.log_figure(run_id, curves_figure(result), "figures/faithfulness_curves.png")
    verdict = read_json(measured / "manifest.json")["verdict"]
    tracker.set_tags(run_id, {FAITHFUL: str(verdict["faithful"]).lower()})


def _log_examples(job: Job, histories: Path, trained: Path, tracker: Tracker, run_id: str) -> None:
    """Log examples, the same users in every run: history, top 10, reasons, and figures that explain the first item."""
    _, split = load_split(job.experiment, histories)
    saved, visible = load_model(trained / "model"), split.test.histories
    recommender = Recommender(saved.model, saved.item_ids, visible, saved.metadata)
    test_ids = visible.user_ids.decode(split.test.users)
    users = split.test.users[fixed_users(test_ids, n=N_EXAMPLES)]
    tracker.log_table(run_id, examples_table(recommender, users), "tables/examples.json")
    spread = attention_spread(saved.model, visible, split.test.users[fixed_users(test_ids, n=N_SPREAD)])
    if len(spread):
        tracker.log_table(run_id, spread, "tables/attention_spread.json")
        tracker.log_figure(run_id, attention_spread_figure(spread), "figures/attention_spread.png")
    if saved.model.has_graph:
        figure = item_graph_figure(load_with_warm_start(trained / "model"), split)
        if figure is not None:
            tracker.log_figure(run_id, figure, "figures/item_graph.png")
    if not saved.model.exact_reasons:
        return
    first = recommender.recommend(visible.user_ids.decode(users[:N_EXPLAINED]), k=1)  # no row if all items are viewed
    for user_id, item_id in zip(first["user_id"], first["item_id"], strict=True):
        name = re.sub(r"[^\w-]", "_", str(user_id))
        tracker.log_figure(run_id, recommender.explain(user_id, item_id).figure(), f"figures/explanations/{name}.png")


def add_report_link(tracker: Tracker, run_id: str, path: str) -> None:
    """Link the report in the description of a run, before the other links."""
    text = tracker.client.get_run(run_id).data.tags.get(DESCRIPTION, "")
    link = artifact_links(tracker.experiment_id, run_id, {"report": path})
    if link not in text:
        tracker.set_tags(run_id, {DESCRIPTION: text.replace("[segments]", f"{link} · [segments]", 1)})


def _segments_paragraph(segments: list[str]) -> list[str]:
    if not segments:
        return []
    return ["**Underperforming segments:**\n\n" + "\n".join(f"- {line}" for line in shorten(segments))]
