"""The champion of an experiment: the registered version that is served, and the folder of its model."""

from dataclasses import dataclass
from pathlib import Path

from attnrec.experiment import Experiment
from attnrec.models.saved_model import load_model, save_model
from attnrec.tracking.tags import EXPERIMENT, SERVED_STAGE, STAGE_KEY
from attnrec.tracking.tracker import Version
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stage_cache import SUMMARY, build, key_of


@dataclass(frozen=True)
class ScoringModel:
    """The model that scores: its folder, resolved once, and its label (NAME/VERSION)."""

    folder: Path
    label: str


def check_registry(job: Job) -> Version | None:
    """Return the champion that this experiment's models compete with, or None if there is none.

    Raises:
        PipelineError: when the registered model belongs to another experiment.
    """
    name = job.experiment.tracking.registered_model
    champion = tracker_of(job).champion(name)
    if champion is not None and champion.tags.get(EXPERIMENT) != job.experiment.name:
        raise PipelineError(
            f"registered model {name!r} serves experiment {champion.tags.get(EXPERIMENT)!r}, got experiment "
            f"{job.experiment.name!r}; set tracking.registered_model to another name"
        )
    return champion


def split_key(experiment: Experiment) -> str:
    """Hash the settings that decide which events are validation and test events."""
    settings = {
        "split": experiment.split.model_dump(mode="json", exclude={"test_path"}),
        "dataset": experiment.dataset.model_dump(),
    }
    return key_of("split", inputs=[], parameters=settings)


def champion_model(job: Job) -> ScoringModel:
    """Resolve the champion to a model folder once: workers get a folder and need no MLflow.

    Raises:
        PipelineError: when there is no champion.
    """
    tracker, name = tracker_of(job), job.experiment.tracking.registered_model
    champion = tracker.champion(name)
    if champion is None:
        raise PipelineError(f"registered model {name!r} has no champion in {tracker.uri}; run `attnrec daily` first")
    local = job.home.stages / champion.tags.get(SERVED_STAGE, "") / "model"
    if (local / "config.json").is_file():
        return ScoringModel(local, champion.label)

    def make(target: Path) -> dict[str, object]:
        saved = load_model(tracker.download_version(champion))
        (target / "model").mkdir()
        save_model(saved, target / "model")
        return {SUMMARY: f"{champion.label} downloaded from MLflow"}

    key = key_of("champion", inputs=[champion.tags.get(STAGE_KEY, champion.label)], parameters={})
    return ScoringModel(build(job.home, "champion", key, make) / "model", champion.label)
