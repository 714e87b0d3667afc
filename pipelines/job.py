"""A job: an experiment and the home it writes to. Small, so that Prefect tasks can pass it on."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from attnrec.experiment import Experiment, load_experiment
from attnrec_pipelines.builtin import builtin_path
from attnrec_pipelines.settings import Home, prepare


class PipelineError(RuntimeError):
    """A stage failed; the message is one line with the cause and the fix."""


@dataclass(frozen=True)
class Job:
    """An experiment and the home it writes to."""

    experiment: Experiment
    home: Home


def make_job(experiment: str, overrides: tuple[str, ...] = (), home: str | None = None) -> Job:
    """Read an experiment and prepare the home.

    Args:
        experiment: a TOML file, or the name of a built-in experiment (see `builtin`).
        overrides: settings that replace those of the file, such as "train.epochs=2".
        home: folder for everything that is written; default ATTNREC_HOME or ./data.

    Raises:
        ExperimentError: for an invalid experiment.
    """
    path = Path(experiment) if Path(experiment).exists() else builtin_path(experiment)
    prepared = prepare(home)
    return Job(load_experiment(path, overrides=overrides, samples=prepared.samples), prepared)


def logical_time(at: datetime | None) -> datetime:
    """Return the run's logical time: `at`, or today 00:00 UTC, so that two runs of a day write the same bytes."""
    if at is None:
        return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
