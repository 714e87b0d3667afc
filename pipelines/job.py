"""What a flow run is about: an experiment and a home. Small, so that tasks can pass it on."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from attnrec.experiment import Experiment, load_experiment
from attnrec_pipelines.settings import Home, prepare

BUILT_IN = Path(__file__).parent / "experiments"


class PipelineError(RuntimeError):
    """A stage failed for a reason that one line can say."""


@dataclass(frozen=True)
class Job:
    """An experiment, and where its files go."""

    experiment: Experiment
    home: Home


def make_job(experiment: str, overrides: tuple[str, ...] = (), home: str | None = None) -> Job:
    """Read an experiment and prepare the home.

    Args:
        experiment: a TOML file, or the name of one that comes with attnrec (smoke, ml-1m, online-retail).
        overrides: such as "train.epochs=2".
        home: folder for everything written; default ATTNREC_HOME or ./data.

    Raises:
        ExperimentError: for an experiment that cannot be run.
    """
    path = Path(experiment)
    if not path.exists() and (BUILT_IN / f"{experiment}.toml").is_file():
        path = BUILT_IN / f"{experiment}.toml"
    return Job(load_experiment(path, overrides=overrides), prepare(home))


def logical_time(at: datetime | None) -> datetime:
    """The run's time: `at`, or today 00:00 UTC, so that a second run of a day writes the same bytes."""
    if at is None:
        return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
