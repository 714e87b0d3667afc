"""What MLflow is told of a run, and the registry of served models; with `served_model` and `signature` all that
imports mlflow.

All calls name their run, so that they work from any thread (the fluent API is per thread).
"""

import getpass
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from attnrec.tracking.signature import EXAMPLE, SIGNATURE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGE_KEY = "attnrec.stage_key"
TRAIN_KEY = "attnrec.train_key"
EXPERIMENT = "attnrec.experiment"
EVALUATED = "evaluated_model"
"""Artifact folder of the model that was judged; the served one may have been refitted on all events."""

REQUIREMENTS = ("torch", "torch-geometric", "pandas", "numpy", "pyarrow", "pydantic", "safetensors")


@dataclass(frozen=True)
class Version:
    """A registered model.

    Attributes:
        name, number: "attnrec", "3".
        run_id: the run that trained it.
        tags: among them the keys of the stages that made it.
    """

    name: str
    number: str
    run_id: str
    tags: dict[str, str]

    @property
    def label(self) -> str:
        """How recommendations name it: attnrec/3."""
        return f"{self.name}/{self.number}"


class Tracker:
    """One MLflow experiment and one registered model.

    Args:
        uri: the tracking store, such as sqlite:////data/mlflow.db or http://127.0.0.1:5000.
        experiment: name of the experiment; made when it is not there.
        artifacts: folder for artifacts when there is no server between (SQLite); ignored for http addresses.
    """

    def __init__(self, uri: str, *, experiment: str, artifacts: Path) -> None:
        for name in ("alembic", "mlflow.store.db.utils"):  # dozens of lines when a new SQLite file is made
            logging.getLogger(name).setLevel(logging.WARNING)
        self.uri = uri
        self.client = MlflowClient(uri, registry_uri=uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            place = None if uri.startswith("http") else (artifacts / experiment).absolute().as_uri()
            self.experiment_id = self.client.create_experiment(experiment, artifact_location=place)
        else:
            self.experiment_id = found.experiment_id

    def open_run(self, name: str, *, stage_key: str, params: dict[str, Any], settings: dict[str, Any]) -> str:
        """Start a run; one that a killed process left open for the same stage is marked KILLED.

        Args:
            name: says what the run is: sasrec-pooling-d64-L100.
            stage_key: of the training stage.
            params: the few settings people compare.
            settings: the resolved experiment, kept as experiment.json.

        Returns:
            The run's id.
        """
        open_here = f"tags.`{STAGE_KEY}` = '{stage_key}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment_id], open_here):
            self.client.set_terminated(run.info.run_id, status=RunStatus.to_string(RunStatus.KILLED))
        tags = {STAGE_KEY: stage_key, "mlflow.user": getpass.getuser(), "mlflow.source.name": "attnrec"}
        run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self.client.log_dict(run_id, settings, "experiment.json")
        return run_id

    def find_run(self, stage_key: str) -> str | None:
        """The newest run of a stage that neither failed nor was killed, or None."""
        runs = self.client.search_runs([self.experiment_id], f"tags.`{STAGE_KEY}` = '{stage_key}'")
        alive = [run for run in runs if run.info.status in ("RUNNING", "FINISHED")]
        return alive[0].info.run_id if alive else None

    def close_run(self, run_id: str, *, failed: bool = False) -> None:
        """Say that the run ended."""
        self.client.set_terminated(run_id, status="FAILED" if failed else "FINISHED")

    def log_dataset(self, run_id: str, *, name: str, source: Path, content_hash: str) -> MetaDataset:
        """Say what the run was trained on; the digest is the log's content hash."""
        dataset = _dataset(name, source, content_hash)
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])
        return dataset

    def log_metrics(self, run_id: str, metrics: dict[str, float], *, step: int = 0) -> None:
        """All metrics of an epoch or an evaluation, in one call; values that are not finite are left out."""
        now = round(1000 * time.time())
        finite = [Metric(name, value, now, step) for name, value in metrics.items() if math.isfinite(value)]
        self.client.log_batch(run_id, metrics=finite)

    def log_figure(self, run_id: str, figure: "Figure", path: str) -> None:
        """A matplotlib figure as PNG, and its memory given back."""
        from matplotlib import pyplot

        self.client.log_figure(run_id, figure, path)
        pyplot.close(figure)

    def log_table(self, run_id: str, table: pd.DataFrame, path: str) -> None:
        """A table as JSON that the UI compares across runs, in place of what an earlier evaluation left there."""
        self.client.log_dict(run_id, {"columns": [], "data": []}, path)  # MLflow appends to what is there
        self.client.log_table(run_id, table.astype(object), path)  # MLflow looks for texts as objects

    def log_file(self, run_id: str, file: Path, path: str) -> str:
        """A file below `path`; where MLflow has a server, the address of its page, else that of the file."""
        self.client.log_artifact(run_id, str(file), path)
        if not self.uri.startswith("http"):
            return file.absolute().as_uri()
        run = self.client.get_run(run_id).info
        return f"{self.uri}/#/experiments/{run.experiment_id}/runs/{run_id}/artifacts/{path}/{file.name}"

    def log_folder(self, run_id: str, folder: Path, path: str) -> None:
        """A folder of files."""
        self.client.log_artifacts(run_id, str(folder), path)

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Tags of a run; "mlflow.note.content" is its description, in markdown."""
        for name, value in tags.items():
            self.client.set_tag(run_id, name, value)

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Log processor, memory, disk, network (and GPU) every 10 s while the block runs."""
        monitor = SystemMetricsMonitor(run_id, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def log_model(self, run_id: str, folder: Path, *, metrics: dict[str, float], dataset: MetaDataset) -> str:
        """Log a model folder as a pyfunc without pickle, with its test metrics on the dataset.

        Returns:
            The model's address, models:/m-....
        """
        package = Path(__file__).parent
        with _default_store(self.uri), mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # the signature is given; MLflow's advice to infer it resets filters, so it is not shown instead
            warnings.showwarning = lambda *told, **more: None
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(package / "served_model.py"),
                artifacts={"model_dir": str(folder)},
                code_paths=[str(package)],
                signature=SIGNATURE,
                input_example=EXAMPLE,
                pip_requirements=_pinned(REQUIREMENTS),
            )
            assert logged.model_id is not None, "MLflow 3 gives every logged model an id"
            mlflow.log_metrics(metrics, model_id=logged.model_id, dataset=dataset)
        return logged.model_uri

    def register(self, name: str, model_uri: str, *, run_id: str, tags: dict[str, str], description: str) -> Version:
        """Make a version of the registered model `name`; alias `challenger` moves to it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.client.get_registered_model(name)
            except MlflowException:
                self.client.create_registered_model(name, description="Recommendations with exact reasons (attnrec).")
        with _default_store(self.uri):  # where a models:/ source is looked up
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
        """Serve this version: what was champion becomes `previous`, then it becomes `champion`."""
        champion = self.champion(version.name)
        if champion is not None and champion.number == version.number:
            return
        if champion is not None:
            self.client.set_registered_model_alias(version.name, "previous", champion.number)
        self.client.set_registered_model_alias(version.name, "champion", version.number)

    def champion(self, name: str) -> Version | None:
        """The version that is served, or None."""
        try:
            found = self.client.get_model_version_by_alias(name, "champion")
        except MlflowException:
            return None
        return Version(name, str(found.version), found.run_id or "", dict(found.tags))

    def find_version(self, name: str, stage_key: str) -> Version | None:
        """The version that a stage registered before, or None: registering again does nothing."""
        for found in self.client.search_model_versions(f"name = '{name}'"):
            if found.tags.get(STAGE_KEY) == stage_key:
                return Version(name, str(found.version), found.run_id or "", dict(found.tags))
        return None

    def download_version(self, version: Version) -> Path:
        """The model folder of a registered version."""
        return download_model(f"models:/{version.name}/{version.number}", store=self.uri)

    def download(self, run_id: str, path: str, target: Path) -> Path:
        """An artifact folder of a run, copied below `target`."""
        return Path(self.client.download_artifacts(run_id, path, str(target)))


def download_model(uri: str, *, store: str | None = None) -> Path:
    """The model folder behind an MLflow address such as models:/attnrec@champion.

    Args:
        uri: the address.
        store: the tracking store to ask; default MLflow's own default (MLFLOW_TRACKING_URI).

    Raises:
        FileNotFoundError: when MLflow knows no such model.
    """
    store = store or mlflow.get_tracking_uri()
    try:
        with _default_store(store):
            folder = Path(download_artifacts(uri))
    except MlflowException as error:
        raise FileNotFoundError(f"no model at {uri} in {store} ({error}); set MLFLOW_TRACKING_URI") from None
    return next(folder.glob("artifacts/*/config.json"), folder / "config.json").parent


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """Let MLflow's fluent functions use `uri` inside the block; they keep it in the environment, too."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # pyright: ignore[reportArgumentType]  None is "not set"


def _dataset(name: str, source: Path, content_hash: str) -> MetaDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two classes could read a local folder; both are right
        return MetaDataset(resolve_dataset_source(os.fspath(source)), name=name, digest=content_hash[:32])


def _pinned(packages: tuple[str, ...]) -> list[str]:
    """Requirements at the installed versions; a local build tag such as +cpu is left out."""
    from importlib.metadata import version

    return [f"{package}=={version(package).partition('+')[0]}" for package in packages]
