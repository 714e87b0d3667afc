"""The training process: one or several workers, killed with its flow, and out of memory."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from attnrec.models.graph import relations as item_relations
from attnrec.models.saved_model import load_model
from attnrec.storage import read_json
from attnrec_pipelines import training_work
from attnrec_pipelines.job import Job, PipelineError, make_job
from attnrec_pipelines.mlflow_runs import tracker_of, training_run
from attnrec_pipelines.stages.train import refit_model, train_model, training_summary

ROOT = Path(__file__).parents[2]
TWO = ("train.processes=2", "train.epochs=1")
TRAIN = """
import sys
from pathlib import Path
from attnrec_pipelines.job import make_job
from attnrec_pipelines.stages.train import train_model
job = make_job(sys.argv[1], tuple(sys.argv[3:]), sys.argv[2])
print(train_model(job, next(job.home.stages.glob("histories-*"))))
"""


@pytest.fixture
def ingested(first_day, tmp_path) -> tuple[Path, Path]:
    """The experiment, and a home of its own with histories and nothing after."""
    toml, first, _ = first_day
    shutil.copytree(next((first / "stages").glob("histories-*")), tmp_path / "stages" / folder_name(first))
    return toml, tmp_path


@pytest.fixture
def in_this_process(monkeypatch):
    """The training process without the process, so that a test can reach into it."""

    def here(command, **settings):
        return subprocess.CompletedProcess(command, training_work.run(Path(command[-1])))

    monkeypatch.setattr(subprocess, "run", here)


def folder_name(home: Path) -> str:
    return next((home / "stages").glob("histories-*")).name


def job_of(ingested: tuple[Path, Path], *overrides: str) -> tuple[Job, Path]:
    toml, home = ingested
    return make_job(str(toml), overrides, str(home)), home / "stages" / folder_name(home)


def test_two_processes_train_one_model_and_the_first_one_reports(ingested, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job, histories = job_of(ingested, *TWO)
    trained = train_model(job, histories)
    assert load_model(trained / "model").metadata["epoch"] == 1
    manifest = read_json(trained / "manifest.json")
    assert (manifest["processes"], manifest["device"], manifest["n_epochs"]) == (2, "cpu", 1)
    assert "tokens/s on 2 x cpu (1 thread)" in training_summary(manifest)
    tracker, run_id = tracker_of(job), training_run(job, histories, trained)
    for name in ("train/loss", "train/peak_mb", "train/seconds", "val/ndcg_at_10"):
        assert [point.step for point in tracker.client.get_metric_history(run_id, name)] == [1]
    assert not list(job.home.stages.glob("work-*"))


def test_a_flow_that_is_killed_leaves_none_of_its_processes(ingested):
    toml, home = ingested
    command = [sys.executable, "-c", TRAIN, str(toml), str(home), "train.processes=2"]
    command += ["train.epochs=100000", "train.patience=100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    flow = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(home.glob("stages/work-train-*/checkpoint.safetensors")), seconds=60)
    left = psutil.Process(flow.pid).children(recursive=True)
    assert len(left) >= 3, "the parent of the workers, and two workers"
    addresses = {connection.laddr.ip for process in left for connection in listening(process)}
    assert addresses <= {"127.0.0.1", "::1"}, "nothing listens on an interface that others can reach"
    flow.kill()
    _, said = flow.communicate()
    wait_until(lambda: not any(process.is_running() for process in left), seconds=10)
    assert "Traceback" not in said


def test_an_error_in_one_of_two_processes_is_one_line(ingested):
    job, histories = job_of(ingested, *TWO, "train.learning_rate=1e30")
    with pytest.raises(PipelineError, match=r"^training failed: training stops on a non-finite loss.*diverged\.json$"):
        train_model(job, histories)


def test_a_step_that_does_not_fit_into_memory_is_one_line(ingested, in_this_process, monkeypatch):
    def full(*arguments, **settings):
        raise MemoryError("a step must fit into memory, got 8 windows x 5 positions")

    monkeypatch.setattr(training_work, "train", full)
    job, histories = job_of(ingested)
    with pytest.raises(PipelineError, match=r"^training failed: a step must fit into memory, got 8 windows x 5"):
        train_model(job, histories)


@pytest.mark.parametrize("model", ["model.graph=transitions", "model.graph=items"])
def test_a_graph_that_sees_the_test_part_ends_training_before_it_begins(ingested, model, in_this_process, monkeypatch):
    def whole(function):
        return lambda histories, **made: function(histories.up_to(np.diff(histories.offsets)), **made)

    for name in ("item_transitions", "user_item_edges"):
        monkeypatch.setattr(item_relations, name, whole(getattr(item_relations, name)))
    monkeypatch.setattr(training_work, "train", None)
    job, histories = job_of(ingested, model)
    with pytest.raises(PipelineError, match=r"^training failed: .* training events, .*; build the graph from"):
        train_model(job, histories)
    assert not list(job.home.stages.glob("train-*"))


def test_a_model_over_a_graph_is_trained_and_fitted_again_on_all_events(ingested, in_this_process):
    job, histories = job_of(ingested, "model.graph=transitions", "train.epochs=1")
    trained = train_model(job, histories)
    refitted = refit_model(job, histories, trained)
    tables = [load_model(folder / "model").model.item_vectors() for folder in (trained, refitted)]
    assert all(table[1:].any(1).all() for table in tables)
    assert not torch.equal(*tables)


def test_waiting_threads_sleep_sooner_wherever_torch_is_imported():
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    look = """
import os, sys
class Look:
    def find_spec(self, name, *more):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.meta_path.remove(self)
sys.meta_path.insert(0, Look())
"""
    for module in (
        "attnrec_pipelines.flows.daily",
        "attnrec_pipelines.training_work",
        "attnrec_pipelines.cli.app, attnrec.layers",
    ):
        command = [sys.executable, "-c", f"{look}import {module}"]
        said = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
        assert said.strip() == "10000"


def listening(process: psutil.Process) -> list:
    return [found for found in process.net_connections(kind="inet") if found.status == psutil.CONN_LISTEN]


def wait_until(happened, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
