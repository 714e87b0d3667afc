"""The champion of an experiment: which version serves, and what its questions were."""

from attnrec.experiment import Experiment
from attnrec.tracking.tracker import EXPERIMENT, Version
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.stage_cache import key_of
from attnrec_pipelines.tracked_runs import tracker_of

START_KEY = "attnrec.start_key"
"""Tag of a version: what its training started from, "" for nothing (see `start`)."""
ASKED_KEY = "attnrec.asked_key"
"""Tag of a version: which questions its training left for validation and test."""


def check_registry(job: Job) -> Version | None:
    """The champion that this experiment's models compete with, or None.

    Raises:
        PipelineError: when the registered model belongs to another experiment.
    """
    name = job.experiment.tracking.registered_model
    champion = tracker_of(job).champion(name)
    if champion is not None and champion.tags.get(EXPERIMENT) != job.experiment.name:
        raise PipelineError(
            f"registered model {name!r} serves experiment {champion.tags.get(EXPERIMENT)!r}, got "
            f"{job.experiment.name!r}; set tracking.registered_model"
        )
    return champion


def asked_key(experiment: Experiment) -> str:
    """Changes with what decides which events of a log are asked for, and so never trained on."""
    parts = {
        "split": experiment.split.model_dump(mode="json", exclude={"test_path"}),
        "dataset": experiment.dataset.model_dump(),
    }
    return key_of("asked", inputs=[], parameters=parts)
