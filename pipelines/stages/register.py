"""Stages 5 and 6: record a run in MLflow, decide whether it is promoted, register what is served."""

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from attnrec.analysis.attention_spread import attention_spread
from attnrec.evaluation.promotion import Candidate, Decision, decide
from attnrec.models.saved_model import load_model, load_whole, save_model
from attnrec.recommender import Recommender
from attnrec.storage import read_json, write_json
from attnrec.tracking.examples import examples_table, fixed_users
from attnrec.tracking.figures.attention_spread import attention_spread_figure
from attnrec.tracking.figures.item_graph import item_graph_figure
from attnrec.tracking.figures.learning_curve import learning_curve
from attnrec.tracking.tracker import EVALUATED, EXPERIMENT, STAGE_KEY, TRAIN_KEY, Tracker, Version
from attnrec_pipelines.artifacts import show_text
from attnrec_pipelines.cli.printing import training_line
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.stage_cache import build, key_of
from attnrec_pipelines.stages.evaluate import BASELINES, judge_champion, metrics_of
from attnrec_pipelines.stages.faithfulness import log_faithfulness, sentence_of, unfaithful
from attnrec_pipelines.stages.ingest import load_split
from attnrec_pipelines.stages.registry import ASKED_KEY, START_KEY, asked_key, check_registry
from attnrec_pipelines.stages.segments import log_segments, shortened, underperforming_segments
from attnrec_pipelines.tracked_runs import run_of, tracker_of

RECORDED = "attnrec.recorded"
UNDERPERFORMING = "attnrec.underperforming"
"""Tag of a run: how many groups of users are more than 20 % behind."""
N_EXAMPLES, N_SPREAD = 5, 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """The model that scores: its folder, resolved once, and its label."""

    folder: Path
    label: str


def record_run(job: Job, histories: Path, trained: Path, evaluated: Path, measured: Path | None = None) -> str:
    """Put test metrics, figures, examples and the judged model into the training run; twice does nothing.

    Args:
        job: experiment and home.
        histories: the histories stage.
        trained: the training stage.
        evaluated: the evaluation stage.
        measured: the faithfulness stage, where it was measured.

    Returns:
        The run's id.
    """
    tracker, run_id = tracker_of(job), run_of(job, histories, trained)
    recorded = " ".join(stage.name for stage in (evaluated, measured) if stage is not None)
    if tracker.client.get_run(run_id).data.tags.get(RECORDED) == recorded:
        return run_id
    fitted, metrics = read_json(trained / "manifest.json"), metrics_of(evaluated)
    tracker.log_metrics(run_id, _named("test", metrics["challenger"]))
    tracker.log_metrics(run_id, {f"train/{name}": fitted[name] for name in ("best_epoch", "wall_seconds")})
    for baseline in BASELINES:
        tracker.log_metrics(run_id, _named(f"test-{baseline.kind}", metrics[baseline.kind]))
    tracker.log_folder(run_id, evaluated, "evaluation")
    tracker.log_folder(run_id, trained / "model", EVALUATED)
    if read_json(trained / "epochs.json"):
        figure = learning_curve(read_json(trained / "epochs.json"), metric=job.experiment.train.metric)
        tracker.log_figure(run_id, figure, "figures/learning_curve.png")
    log_segments(tracker, run_id, evaluated, metric=job.experiment.promote.metric)
    _log_examples(job, histories, trained, tracker, run_id)
    underperforming, said = underperforming_segments(evaluated), []
    if measured is not None:
        log_faithfulness(tracker, run_id, measured)
        said = [sentence_of(measured)]
    note = {"mlflow.note.content": _note(job, metrics, fitted, underperforming, said), UNDERPERFORMING: str(len(underperforming))}
    tracker.set_tags(run_id, note | {RECORDED: recorded} | _prefect_tags())
    tracker.close_run(run_id)
    return run_id


def decide_promotion(
    job: Job, histories: Path, trained: Path, evaluated: Path, measured: Path | None = None
) -> Decision:
    """Compare with the champion on the same test users; the answer is kept as a stage."""
    tracker, train = tracker_of(job), read_json(trained / "manifest.json")["key"]
    champion = check_registry(job)
    if champion is not None and champion.tags[TRAIN_KEY] == train:
        return Decision(True, f"{champion.label} is this model", {})
    rule = job.experiment.promote
    rival = champion.tags[TRAIN_KEY] if champion else ""
    inputs = [evaluated.name, rival, "" if measured is None else measured.name]
    key = key_of("decide", inputs=inputs, parameters=rule.model_dump())

    def make(target: Path) -> dict[str, object]:
        metrics = metrics_of(evaluated)
        served = None
        if champion is not None:
            judged = metrics_of(judge_champion(job, histories, champion, tracker))
            served = Candidate(champion.label, judged["champion"])
        baselines = [Candidate(baseline.kind, metrics[baseline.kind]) for baseline in BASELINES]
        challenger = Candidate("challenger", metrics["challenger"], unfaithful(measured))
        decision = decide(challenger, served, baselines=baselines, rule=rule)
        write_json(target / "decision.json", decision.to_json())
        return {}

    return Decision(**read_json(build(job.home, "decide", key, make) / "decision.json"))


def register_model(job: Job, histories: Path, trained: Path, served: Path, run_id: str, decision: Decision) -> Version:
    """Log the model to be served and register it; promote it when that was decided. Twice does nothing.

    Args:
        job: experiment and home.
        histories: what it was trained on.
        trained: the training stage.
        served: the stage whose model is registered: the refit, or the training stage itself.
        run_id: the training run.
        decision: whether it becomes champion.
    """
    tracker, name = tracker_of(job), job.experiment.tracking.registered_model
    key = read_json(served / "manifest.json")["key"]
    version = tracker.find_version(name, key)
    if version is None:
        content = read_json(histories / "histories" / "manifest.json")["content_hash"]
        dataset = tracker.log_dataset(run_id, name=job.experiment.name, source=histories, content_hash=content)
        run = tracker.client.get_run(run_id)
        test = {metric: value for metric, value in run.data.metrics.items() if metric.startswith("test/")}
        with tempfile.TemporaryDirectory() as scratch:
            uri = tracker.log_model(run_id, _lean(served, Path(scratch)), metrics=test, dataset=dataset)
        manifest = read_json(trained / "manifest.json")
        tags = {
            STAGE_KEY: key,
            TRAIN_KEY: manifest["key"],
            START_KEY: manifest["start"],
            ASKED_KEY: asked_key(job.experiment),
            EXPERIMENT: job.experiment.name,
            "attnrec.served": served.name,
            "attnrec.promoted": str(decision.promoted).lower(),
        }
        description = f"{run.info.run_name} on {job.experiment.name}: {decision.reason}"
        version = tracker.register(name, uri, run_id=run_id, tags=tags, description=description)
    if decision.promoted:
        tracker.promote(version)
    return version


def champion_model(job: Job) -> Served:
    """The champion, resolved once: workers get a folder and need no MLflow.

    Raises:
        PipelineError: when there is no champion.
    """
    tracker, name = tracker_of(job), job.experiment.tracking.registered_model
    champion = tracker.champion(name)
    if champion is None:
        raise PipelineError(f"no champion of {name!r} in {tracker.uri}; run `attnrec daily` first")
    own = job.home.stages / champion.tags.get("attnrec.served", "") / "model"
    if (own / "config.json").is_file():
        return Served(own, champion.label)

    def make(target: Path) -> dict[str, object]:
        found = load_model(tracker.download_version(champion))
        (target / "model").mkdir()
        save_model(found, target / "model")
        return {}

    key = key_of("champion", inputs=[champion.tags.get(STAGE_KEY, champion.label)], parameters={})
    return Served(build(job.home, "champion", key, make) / "model", champion.label)


def _lean(served: Path, scratch: Path) -> Path:
    """The model folder without what only a warm start reads: that is in the run's evaluated_model."""
    folder = scratch / "model"
    folder.mkdir()
    save_model(load_model(served / "model"), folder)
    return folder


def _log_examples(job: Job, histories: Path, trained: Path, tracker: Tracker, run_id: str) -> None:
    """The same users in every run: history, top 10, reasons, and pictures of why the first item."""
    _, split = load_split(job.experiment, histories)
    saved, seen = load_model(trained / "model"), split.test.histories
    recommender = Recommender(saved.model, saved.item_ids, seen, saved.metadata)
    asked = seen.user_ids.decode(split.test.users)
    users = split.test.users[fixed_users(asked, n=N_EXAMPLES)]
    tracker.log_table(run_id, examples_table(recommender, users), "tables/examples.json")
    several = split.test.users[fixed_users(asked, n=N_SPREAD)]
    spread = attention_spread(saved.model, seen, several)
    if len(spread):
        tracker.log_table(run_id, spread, "tables/attention_spread.json")
        tracker.log_figure(run_id, attention_spread_figure(spread), "figures/attention_spread.png")
    if saved.model.has_graph and (figure := item_graph_figure(load_whole(trained / "model"), split)) is not None:
        tracker.log_figure(run_id, figure, "figures/item_graph.png")
    if not saved.model.exact_reasons:
        return
    best = recommender.recommend(seen.user_ids.decode(users[:3]), k=1)  # who has seen all there is has no line
    for user_id, item_id in zip(best["user_id"], best["item_id"], strict=True):
        name = re.sub(r"[^\w-]", "_", str(user_id))
        tracker.log_figure(run_id, recommender.explain(user_id, item_id).figure(), f"figures/why/{name}.png")


def _named(part: str, metrics: dict[str, float]) -> dict[str, float]:
    """Metrics as MLflow has them: part/name, where a name from a column of the items may hold what it refuses."""
    return {f"{part}/" + re.sub(r"[^\w.-]", "_", name): value for name, value in metrics.items()}


def _note(
    job: Job, metrics: dict[str, dict[str, float]], fitted: dict[str, Any], underperforming: list[str], said: list[str]
) -> str:
    """The run's description, markdown: test metrics, who is served worse, what is said of its reasons, training."""
    metric = job.experiment.promote.metric
    rows = [f"| {name} | {values[metric]:.4f} |" for name, values in metrics.items()]
    table = [f"`{job.experiment.name}`, test part", "", f"| model | {metric} |", "|---|---|", *rows]
    behind = ["**Users who are more than 20 % behind:**", "", *(f"- {line}" for line in shortened(underperforming)), ""]
    paragraphs = [line for sentence in said for line in (sentence, "")]
    return "\n".join([*table, "", *(behind if underperforming else []), *paragraphs, training_line(fitted)])


def _prefect_tags() -> dict[str, str]:
    run_id = flow_run.id
    return {"prefect.flow_run_id": str(run_id), "prefect.flow_run_name": str(flow_run.name)} if run_id else {}


_OUTSIDE = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": lambda task_, run, state: _failed_outside(state),
}


def _failed_outside(state: object) -> bool:
    """MLflow's store may be away for a moment; our own errors are not mended by waiting."""
    from mlflow.exceptions import MlflowException

    try:
        state.result()  # type: ignore[attr-defined]
    except (OSError, MlflowException):
        return True
    except Exception:
        return False
    return False


@task(name="record", **_OUTSIDE)
def record_task(job: Job, histories: Path, trained: Path, evaluated: Path, measured: Path | None = None) -> str:
    """Everything about the run, in MLflow."""
    run_id = record_run(job, histories, trained, evaluated, measured)
    show_text(f"{job.experiment.name}-mlflow", f"MLflow run `{run_id}` in `{job.experiment.mlflow_experiment}`")
    return run_id


@task(name="check-registry", **_OUTSIDE)
def check_task(job: Job) -> None:
    """Whether this experiment may serve at all, asked before anything is trained."""
    check_registry(job)


@task(name="decide", **_OUTSIDE)
def decide_task(job: Job, histories: Path, trained: Path, evaluated: Path, measured: Path | None = None) -> Decision:
    """Whether the challenger takes the champion's place."""
    decision = decide_promotion(job, histories, trained, evaluated, measured)
    logger.info("%s: %s", "promoted" if decision.promoted else "not promoted", decision.reason)
    show_text(f"{job.experiment.name}-decision", f"promoted: **{decision.promoted}**\n\n{decision.reason}")
    return decision


@task(name="register", **_OUTSIDE)
def register_task(job: Job, histories: Path, trained: Path, served: Path, run_id: str, decision: Decision) -> Version:
    """A version in the registry, and the aliases."""
    return register_model(job, histories, trained, served, run_id, decision)


@task(name="resolve-champion", **_OUTSIDE)
def champion_task(job: Job) -> Served:
    """The folder of the model that is served."""
    return champion_model(job)
