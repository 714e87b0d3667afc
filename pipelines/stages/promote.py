"""Stage: the promotion decision, for which challenger and champion are evaluated on the same test users."""

from pathlib import Path

from attnrec.evaluation.promotion import Candidate, Decision, decide
from attnrec.storage import read_json, write_json
from attnrec.tracking.tags import TRAIN_KEY
from attnrec_pipelines.job import Job
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stage_cache import SUMMARY, build, key_of
from attnrec_pipelines.stages.champion import check_registry
from attnrec_pipelines.stages.evaluate import BASELINES, evaluate_champion
from attnrec_pipelines.stages.evaluation_files import CHALLENGER, metrics_of
from attnrec_pipelines.stages.faithfulness import unfaithful_reason


def decide_promotion(
    job: Job, histories: Path, trained: Path, evaluated: Path, measured: Path | None = None
) -> Decision:
    """Decide whether the challenger replaces the champion.

    Args:
        job: experiment and home.
        histories: the histories stage.
        trained: the training stage of the challenger.
        evaluated: the evaluation stage of the challenger.
        measured: its faithfulness stage, if there is one.
    """
    tracker, train_key = tracker_of(job), read_json(trained / "manifest.json")["key"]
    champion = check_registry(job)
    if champion is not None and champion.tags[TRAIN_KEY] == train_key:
        return Decision(True, f"{champion.label} is this model", {})
    rule = job.experiment.promote
    inputs = [
        evaluated.name,
        champion.tags[TRAIN_KEY] if champion else "",
        "" if measured is None else measured.name,
    ]
    key = key_of("promote", inputs=inputs, parameters=rule.model_dump())

    def make(target: Path) -> dict[str, object]:
        metrics = metrics_of(evaluated)
        current = None
        if champion is not None:
            champion_metrics = metrics_of(evaluate_champion(job, histories, champion, tracker))
            current = Candidate(champion.label, champion_metrics["champion"])
        baselines = [Candidate(baseline.kind, metrics[baseline.kind]) for baseline in BASELINES]
        challenger = Candidate(CHALLENGER, metrics[CHALLENGER], unfaithful_reason(measured))
        decision = decide(challenger, current, baselines=baselines, rule=rule)
        write_json(target / "decision.json", decision.to_json())
        return {SUMMARY: f"{'promoted' if decision.promoted else 'not promoted'}: {decision.reason}"}

    return Decision(**read_json(build(job.home, "promote", key, make) / "decision.json"))
