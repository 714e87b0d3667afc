"""MLflow tracking client: runs and their artifacts, and the registry of served models.

Besides this module, only `served_model` and `signature` import mlflow. Every call passes a run id, so that it works
from any thread (MLflow's fluent API has one active run per thread).
"""

import getpass
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from attnrec.tracking.download import default_store, download_model
from attnrec.tracking.saved_view import saved_view
from attnrec.tracking.signature import EXAMPLE, SIGNATURE
from attnrec.tracking.tags import STAGE_KEY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REQUIREMENTS = ("torch", "pandas", "numpy", "pyarrow", "pydantic", "safetensors")
"""Packages that loading and serving any model imports; see `Model.package_requirements` for others."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name, number: such as "attnrec", "3".
        run_id: the training run.
        tags: tags of the version; they include the keys of the stages that produced it.
    """

    name: str
    number: str
    run_id: str
    tags: dict[str, str]

    @property
    def label(self) -> str:
        """Name of the version in published recommendations, such as attnrec/3."""
        return f"{self.name}/{self.number}"


class Tracker:
    """One MLflow experiment and one registered model.

    Args:
        uri: tracking URI, such as sqlite:////data/mlflow.db or http://127.0.0.1:5000.
        experiment: name of the experiment; it is created if it does not exist.
        artifacts: artifact folder for a store without a server (SQLite); ignored for http URIs.
    """

    def __init__(self, uri: str, *, experiment: str, artifacts: Path) -> None:
        for name in ("alembic", "mlflow.store.db.utils"):  # they log dozens of lines when a SQLite file is created
            logging.getLogger(name).setLevel(logging.WARNING)
        self.uri = uri
        self.client = MlflowClient(uri, registry_uri=uri)
        existing = self.client.get_experiment_by_name(experiment)
        if existing is None:
            location = None if uri.startswith("http") else (artifacts / experiment).absolute().as_uri()
            self.experiment_id = self.client.create_experiment(experiment, artifact_location=location)
        else:
            self.experiment_id = existing.experiment_id

    def open_run(
        self,
        name: str,
        *,
        stage_key: str,
        params: dict[str, Any],
        settings: dict[str, Any],
        tags: dict[str, str] | None = None,
    ) -> str:
        """Start a run. Runs of the same stage that a killed process left open are marked KILLED.

        Args:
            name: run name, such as sasrec-pooling-d64-L100.
            stage_key: key of the training stage.
            params: the settings that are compared between runs.
            settings: the resolved experiment, logged as experiment.json.
            tags: further tags (see `attnrec.tracking.tags`).

        Returns:
            The run id.
        """
        left_open = f"tags.`{STAGE_KEY}` = '{stage_key}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment_id], left_open):
            self.client.set_terminated(run.info.run_id, status=RunStatus.to_string(RunStatus.KILLED))
        own_tags = {STAGE_KEY: stage_key, "mlflow.user": getpass.getuser(), "mlflow.source.name": "attnrec"}
        run = self.client.create_run(self.experiment_id, run_name=name, tags=own_tags | (tags or {}))
        run_id = run.info.run_id
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self.client.log_dict(run_id, settings, "experiment.json")
        return run_id

    def save_view(self, *, metric: str) -> None:
        """Save a view of the run list that shows and sorts by the main metric; see `saved_view`."""
        key, value = saved_view(metric)
        self.client.set_experiment_tag(self.experiment_id, key, value)

    def find_run(self, stage_key: str) -> str | None:
        """Return the id of the newest running or finished run of a stage, or None."""
        runs = self.client.search_runs([self.experiment_id], f"tags.`{STAGE_KEY}` = '{stage_key}'")
        valid = [run for run in runs if run.info.status in ("RUNNING", "FINISHED")]
        return valid[0].info.run_id if valid else None

    def close_run(self, run_id: str, *, failed: bool = False) -> None:
        """Set the status of the run to FINISHED or FAILED."""
        self.client.set_terminated(run_id, status="FAILED" if failed else "FINISHED")

    def log_dataset(self, run_id: str, *, name: str, source: Path, content_hash: str) -> MetaDataset:
        """Log the training data as the input of the run; its digest is the content hash of the log."""
        dataset = _dataset(name, source, content_hash)
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])
        return dataset

    def log_metrics(self, run_id: str, metrics: dict[str, float], *, step: int = 0) -> None:
        """Log all metrics of an epoch or an evaluation in one call; non-finite values are left out."""
        now = round(1000 * time.time())
        finite = [Metric(name, value, now, step) for name, value in metrics.items() if math.isfinite(value)]
        self.client.log_batch(run_id, metrics=finite)

    def log_figure(self, run_id: str, figure: "Figure", path: str) -> None:
        """Log a matplotlib figure as PNG and close it."""
        from matplotlib import pyplot

        self.client.log_figure(run_id, figure, path)
        pyplot.close(figure)

    def log_table(self, run_id: str, table: pd.DataFrame, path: str) -> None:
        """Log a table as JSON that the UI compares across runs; it replaces an earlier table at `path`."""
        self.client.log_dict(run_id, {"columns": [], "data": []}, path)  # log_table appends to an existing table
        self.client.log_table(run_id, table.astype(object), path)  # MLflow expects text columns as object

    def log_file(self, run_id: str, file: Path, path: str) -> str:
        """Log a file below `path`; return its URL in the MLflow UI, or a file URI for a store without a server."""
        self.client.log_artifact(run_id, str(file), path)
        if not self.uri.startswith("http"):
            return file.absolute().as_uri()
        run = self.client.get_run(run_id).info
        return f"{self.uri}/#/experiments/{run.experiment_id}/runs/{run_id}/artifacts/{path}/{file.name}"

    def log_folder(self, run_id: str, folder: Path, path: str) -> None:
        """Log all files of a folder below `path`."""
        self.client.log_artifacts(run_id, str(folder), path)

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags of a run; "mlflow.note.content" is its description, in Markdown."""
        for name, value in tags.items():
            self.client.set_tag(run_id, name, value)

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Log CPU, memory, disk, network and GPU usage every 10 s inside the block."""
        monitor = SystemMetricsMonitor(run_id, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def log_model(
        self,
        run_id: str,
        folder: Path,
        *,
        metrics: dict[str, float],
        dataset: MetaDataset,
        requirements: Sequence[str] = (),
    ) -> str:
        """Log a model folder as a pyfunc model from code (no pickle), with its test metrics on the dataset.

        Args:
            run_id: the run.
            folder: the model folder.
            metrics: test metrics.
            dataset: the data set of the metrics.
            requirements: packages beyond `REQUIREMENTS`, see `Model.package_requirements`.

        Returns:
            The model URI, models:/m-....
        """
        package = Path(__file__).parents[1]
        with default_store(self.uri), mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # MLflow advises to infer the signature, which is passed; it resets warning filters, so silence the output
            warnings.showwarning = lambda *args, **kwargs: None
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(package / "tracking" / "served_model.py"),
                artifacts={"model_dir": str(folder)},
                code_paths=[str(package)],
                signature=SIGNATURE,
                input_example=EXAMPLE,
                pip_requirements=_pinned((*REQUIREMENTS, *requirements)),
            )
            assert logged.model_id is not None, "MLflow 3 assigns an id to every logged model"
            mlflow.log_metrics(metrics, model_id=logged.model_id, dataset=dataset)
        return logged.model_uri

    def register(self, name: str, model_uri: str, *, run_id: str, tags: dict[str, str], description: str) -> Version:
        """Create a version of the registered model `name` and set the alias `challenger` to it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.client.get_registered_model(name)
            except MlflowException as error:
                if not _is_missing(error):
                    raise
                self.client.create_registered_model(name, description="Recommendations with exact reasons (attnrec).")
        with default_store(self.uri):  # a models:/ source is resolved in the default store
            version = self.client.create_model_version(
                name,
                source=model_uri,
                run_id=run_id,
                tags=tags,
                description=description,
                model_id=model_uri.removeprefix("models:/"),
            )
        self.client.set_registered_model_alias(name, "challenger", version.version)
        return Version(name, str(version.version), run_id, tags)

    def promote(self, version: Version) -> None:
        """Set the alias `champion` to this version; the former champion gets the alias `previous`."""
        champion = self.champion(version.name)
        if champion is not None and champion.number == version.number:
            return
        if champion is not None:
            self.client.set_registered_model_alias(version.name, "previous", champion.number)
        self.client.set_registered_model_alias(version.name, "champion", version.number)

    def champion(self, name: str) -> Version | None:
        """Return the version with the alias "champion", or None if the model or the alias does not exist.

        Raises:
            MlflowException: when the registry cannot be read; that is not the same as "no champion".
        """
        try:
            version = self.client.get_model_version_by_alias(name, "champion")
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise
        return Version(name, str(version.version), version.run_id or "", dict(version.tags))

    def find_version(self, name: str, stage_key: str) -> Version | None:
        """Return the version that was registered from a stage, or None."""
        for version in self.client.search_model_versions(f"name = '{name}'"):
            if version.tags.get(STAGE_KEY) == stage_key:
                return Version(name, str(version.version), version.run_id or "", dict(version.tags))
        return None

    def download_version(self, version: Version) -> Path:
        """Download the model folder of a registered version."""
        return download_model(f"models:/{version.name}/{version.number}", store=self.uri)

    def download(self, run_id: str, path: str, target: Path) -> Path:
        """Download an artifact folder of a run to `target`."""
        return Path(self.client.download_artifacts(run_id, path, str(target)))


def _is_missing(error: MlflowException) -> bool:
    """Tell "does not exist" from every other answer; a missing alias is reported as an invalid parameter."""
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return True
    return error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(error) and "not found" in str(error)


def _dataset(name: str, source: Path, content_hash: str) -> MetaDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two source classes match a local folder; either works
        return MetaDataset(resolve_dataset_source(os.fspath(source)), name=name, digest=content_hash[:32])


def _pinned(packages: tuple[str, ...]) -> list[str]:
    """Pin packages to their installed versions, without local version labels such as +cpu."""
    from importlib.metadata import version

    return [f"{package}=={version(package).partition('+')[0]}" for package in packages]
