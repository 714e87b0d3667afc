"""The home folder of a run and the environment of Prefect and MLflow, set in one place before either is imported."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = {
    # no telemetry: DO_NOT_TRACK alone stops neither tool
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # the temporary in-process server needs 10-20 s for its first start on a small machine
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Prefect's default serializer is pickle
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "attnrec,attnrec_pipelines",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the training process logs outside of any flow run
    # MLflow's server would start ten job processes that nothing uses
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MPLBACKEND": "Agg",
}


@dataclass(frozen=True)
class Home:
    """The folder that contains everything a run writes."""

    root: Path

    @property
    def stages(self) -> Path:
        """One folder per complete stage, named by its key."""
        return self.root / "stages"

    @property
    def published(self) -> Path:
        """Published recommendations: NAME/current."""
        return self.root / "recommendations"

    @property
    def samples(self) -> Path:
        """Synthetic logs of experiments with a table [sample]."""
        return self.root / "samples"

    @property
    def current(self) -> Path:
        """JSON file that describes the last scoring run."""
        return self.root / "current.json"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts, when no MLflow server is configured."""
        return self.root / "mlartifacts"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI: MLFLOW_TRACKING_URI, or a SQLite file in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.local_store

    @property
    def local_store(self) -> str:
        """The tracking URI of this home's SQLite file."""
        return f"sqlite:///{self.root / 'mlflow.db'}"


def home_at(root: str | Path | None = None) -> Home:
    """Return a home without creating it.

    Args:
        root: default ATTNREC_HOME, or ./data.
    """
    return Home(Path(root or os.environ.get("ATTNREC_HOME") or "data").absolute())


def prepare(root: str | Path | None = None) -> Home:
    """Create the home (see `home_at`) and set the environment; variables that the caller has set take precedence."""
    home = home_at(root)
    home.stages.mkdir(parents=True, exist_ok=True)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(home.root / "prefect"))
    for name in ("attnrec", "attnrec_pipelines"):
        logging.getLogger(name).setLevel(logging.INFO)
    return home
