"""One Prefect server for all flow tests, one daily run that many tests share, and the command in this process."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

EXPERIMENT = """
name = "tiny"
[interactions]
path = "{log}"
[split]
kind = "last"
[model]
dim = 16
layers = 1
max_length = 30
[train]
epochs = 3
batch_size = 32
learning_rate = 0.003
threads = 1
[score]
k = 5
users_per_shard = 60
[tracking]
registered_model = "tiny"
"""

ARTIFACT_COLUMNS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns of MLflow's store that contain paths of artifacts, by table."""


def write_experiment(folder: Path, log: Path | None = None) -> Path:
    """Write an experiment that trains in a second; the default log has 150 users of the synthetic shop log."""
    from attnrec.sample import sample_log

    folder.mkdir(parents=True, exist_ok=True)
    if log is None:
        log = folder / "log.csv"
        sample_log(n_users=150, n_items=60, n_pairs=10, mean_events=15).interactions.to_csv(log, index=False)
    toml = folder / "tiny.toml"
    toml.write_text(EXPERIMENT.format(log=log))
    return toml


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory):
    """Start a temporary server with its own database; the user's Prefect and MLflow settings are not used."""
    from attnrec_pipelines.settings import ENVIRONMENT

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture(scope="session")
def tiny_experiment(prefect_server):
    """Return `write_experiment`."""
    return write_experiment


@pytest.fixture(scope="session")
def make_home(tmp_path_factory):
    """Create a home with an empty MLflow store, which takes seconds to create and is therefore copied."""
    from mlflow import MlflowClient

    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        shutil.copy(store, folder)
        return folder

    return make


@pytest.fixture
def new_home(make_home, tmp_path):
    """Return an empty home of this test."""
    return make_home(tmp_path / "home")


@pytest.fixture(scope="session")
def first_day(prefect_server, make_home, tmp_path_factory):
    """Run the daily flow once and return its experiment file, home and result; tests must not change the home."""
    from attnrec_pipelines.flows.daily import daily_flow

    folder = tmp_path_factory.mktemp("first-day")
    toml, home = write_experiment(folder), make_home(folder / "home")
    result = daily_flow(str(toml), home=str(home))
    return toml, home, result


@pytest.fixture(scope="session")
def copy_home():
    """Copy a home; the copied runs keep their artifacts in the copy, so that the original stays as it is."""

    def copy(home: Path, folder: Path) -> Path:
        shutil.copytree(home, folder, symlinks=True)
        with closing(sqlite3.connect(folder / "mlflow.db")) as store:
            for table, columns in ARTIFACT_COLUMNS.items():
                for column in columns:
                    store.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(home), str(folder)))
            store.commit()
        forget_artifact_folders()
        return folder

    return copy


@pytest.fixture
def copied_home(first_day, copy_home, tmp_path):
    """Return a copy of the first day's home that the test may change."""
    return copy_home(first_day[1], tmp_path / "home")


@pytest.fixture(autouse=True)
def original_and_copied_runs_are_distinct():
    """MLflow caches artifact folders by run id, and a copied home has the same run ids as the original."""
    forget_artifact_folders()


def forget_artifact_folders() -> None:
    """Clear MLflow's cache of artifact folders, if MLflow is imported."""
    utils = sys.modules.get("mlflow.tracking._tracking_service.utils")
    if utils is not None:
        cache = utils._artifact_repos_cache
        assert isinstance(cache, OrderedDict), "this version of MLflow caches artifact folders otherwise"
        cache.clear()


@pytest.fixture(scope="session")
def training_in_this_process():
    """Return a context manager in which training starts no process, whose start takes longer than a small training."""

    def run(command, **settings):
        from attnrec_pipelines import training_work

        return subprocess.CompletedProcess(command, training_work.run(Path(command[-1])))

    @contextmanager
    def patched():
        with pytest.MonkeyPatch.context() as patch:
            replacement = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
            patch.setattr("attnrec_pipelines.stages.train.subprocess", replacement)
            yield

    return patched


@pytest.fixture
def in_this_process(training_in_this_process):
    """Train in this process during a test, which may also patch the training."""
    with training_in_this_process():
        yield


@pytest.fixture(scope="session")
def stage_times():
    """Return the times at which the stages of a home were completed, by folder name."""

    def times(home: Path) -> dict[str, int]:
        return {m.parent.name: m.stat().st_mtime_ns for m in sorted((home / "stages").glob("*/manifest.json"))}

    return times


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run the command `attnrec` in this process, which is faster than a process of its own."""
    from attnrec_pipelines.cli import queries
    from attnrec_pipelines.cli.app import main

    def run(*arguments: object, width: int = 200) -> subprocess.CompletedProcess[str]:
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ATTNREC_HOME"):
            monkeypatch.setenv(name, "set by the command")  # so that it is removed after the test
            monkeypatch.delenv(name)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(queries.out, "_width", width)
        monkeypatch.setattr(sys, "argv", ["attnrec", *map(str, arguments)])
        interrupt = signal.getsignal(signal.SIGINT)
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as exit_:
                main()
        finally:
            signal.signal(signal.SIGINT, interrupt)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(exit_.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def command_in_process_of_its_own():
    """Run the command `attnrec` as a user does, with Prefect's own temporary server."""

    def run(*arguments: object, cwd: Path = Path(__file__).parents[2]) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
        environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [str(Path(sys.executable).with_name("attnrec")), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run


def pytest_collection_modifyitems(items):
    """Ignore warnings of Prefect and MLflow; elsewhere a warning is an error."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
