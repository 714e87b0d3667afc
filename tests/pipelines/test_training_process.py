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
def ingested(first_day, new_home) -> tuple[Path, Path]:
    """Return the experiment and a home that has only the first day's histories and an empty MLflow store."""
    toml, _, first = first_day
    shutil.copytree(first.histories, new_home / "stages" / first.histories.name)
    return toml, new_home


def job_of(ingested: tuple[Path, Path], *overrides: str) -> tuple[Job, Path]:
    """Return the job and the histories stage."""
    toml, home = ingested
    return make_job(str(toml), overrides, str(home)), next((home / "stages").glob("histories-*"))


def test_two_processes_train_one_model_and_only_the_first_one_logs(ingested, monkeypatch):
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


def test_processes_end_when_their_flow_is_killed_and_listen_on_loopback_only(ingested):
    toml, home = ingested
    command = [sys.executable, "-c", TRAIN, str(toml), str(home), "train.processes=2"]
    command += ["train.epochs=100000", "train.patience=100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    flow = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: any(home.glob("stages/work-train-*/checkpoint.safetensors")), seconds=180)
        processes = psutil.Process(flow.pid).children(recursive=True)
        assert len(processes) >= 3, "the parent of the workers, and two workers"
        addresses = {connection.laddr.ip for process in processes for connection in listening(process)}
        assert addresses <= {"127.0.0.1", "::1"}, "a port can be reached from other machines"
    finally:
        flow.kill()
    _, errors = flow.communicate()
    wait_until(lambda: not any(process.is_running() for process in processes), seconds=30)
    assert "Traceback" not in errors


def test_an_error_in_one_of_two_workers_is_one_line(ingested):
    job, histories = job_of(ingested, *TWO, "train.learning_rate=1e30")
    with pytest.raises(PipelineError, match=r"^training failed: training stops on a non-finite loss.*diverged\.json$"):
        train_model(job, histories)


def test_running_out_of_memory_is_an_error_of_one_line(ingested, in_this_process, monkeypatch):
    def out_of_memory(*arguments, **settings):
        raise MemoryError("a step must fit into memory, got 8 windows x 5 positions")

    monkeypatch.setattr(training_work, "train", out_of_memory)
    job, histories = job_of(ingested)
    with pytest.raises(PipelineError, match=r"^training failed: a step must fit into memory, got 8 windows x 5"):
        train_model(job, histories)


@pytest.mark.parametrize("model", ["model.graph=transitions", "model.graph=items"])
def test_a_graph_built_from_test_events_is_an_error_before_training(ingested, model, in_this_process, monkeypatch):
    def with_test_events(function):
        return lambda histories, **options: function(histories.up_to(np.diff(histories.offsets)), **options)

    for name in ("item_transitions", "user_item_edges"):
        monkeypatch.setattr(item_relations, name, with_test_events(getattr(item_relations, name)))
    monkeypatch.setattr(training_work, "train", None)
    job, histories = job_of(ingested, model)
    with pytest.raises(PipelineError, match=r"^training failed: .* training events, .*; build the graph from"):
        train_model(job, histories)
    assert not list(job.home.stages.glob("train-*"))


def test_a_graph_model_is_trained_and_refitted_on_all_events(ingested, in_this_process):
    job, histories = job_of(ingested, "model.graph=transitions", "train.epochs=1")
    trained = train_model(job, histories)
    refitted = refit_model(job, histories, trained)
    tables = [load_model(folder / "model").model.item_vectors() for folder in (trained, refitted)]
    assert all(table[1:].any(1).all() for table in tables)
    assert not torch.equal(*tables)


def test_waiting_threads_sleep_early_because_the_variable_is_set_before_torch_is_imported():
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    print_at_import = """
import os, sys
class PrintAtImport:
    def find_spec(self, name, *more):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, PrintAtImport())
"""
    for module in (
        "attnrec_pipelines.flows.daily",
        "attnrec_pipelines.training_work",
        "attnrec_pipelines.cli.app, attnrec.layers",
    ):
        command = [sys.executable, "-c", f"{print_at_import}import {module}"]
        assert subprocess.check_output(command, cwd=ROOT, env=environment, text=True) == "10000\n", module


def listening(process: psutil.Process) -> list:
    """Return the ports on which a process listens."""
    connections = process.net_connections(kind="inet")
    return [connection for connection in connections if connection.status == psutil.CONN_LISTEN]


def wait_until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition was not met within {seconds:g} s"
        time.sleep(0.05)
