"""A Prefect server for all flow tests, and one daily run that several of them look at."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

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


def write_experiment(folder: Path, log: Path | None = None) -> Path:
    """A TOML file for a log (default: 150 users of the sample log) that trains in a second."""
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
    """A temporary server and database; nothing is read from or left in the person's own."""
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
    """Writes the experiment into a folder, and gives its path."""
    return write_experiment


@pytest.fixture(scope="session")
def first_day(prefect_server, tmp_path_factory):
    """The experiment, home and result of one daily run. Look, do not change."""
    from attnrec_pipelines.flows.daily import daily_flow

    folder = tmp_path_factory.mktemp("first-day")
    toml, home = write_experiment(folder), folder / "home"
    result = daily_flow(str(toml), home=str(home))
    return toml, home, result


@pytest.fixture
def stage_times():
    """Says when each stage folder of a home was finished, by name."""

    def times(home: Path) -> dict[str, int]:
        return {m.parent.name: m.stat().st_mtime_ns for m in sorted((home / "stages").glob("*/manifest.json"))}

    return times


def read(path: Path) -> object:
    """A JSON file."""
    return json.loads(path.read_text())


def pytest_collection_modifyitems(items):
    """Ignore warnings of Prefect and MLflow; elsewhere a warning is an error."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
