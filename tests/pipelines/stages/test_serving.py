"""The registered model, used by people who have only MLflow: pyfunc, `mlflow models serve`, attnrec.load."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

import attnrec

ASK = {
    "dataframe_split": {
        "columns": ["user_id", "item_id", "datetime"],
        "data": [
            ["me", "tea-010", "2025-03-01T00:00:00Z"],
            ["me", "lamp-025", "2025-03-02T00:00:00Z"],
            ["stranger", "never heard of", "2025-03-01T00:00:00Z"],
        ],
    },
    "params": {"k": 3},
}

LOAD = """
import json, sys
try:
    import attnrec
except ModuleNotFoundError:
    pass
else:
    sys.exit("attnrec can be imported here, so this proves nothing")
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tiny@champion")
ask = json.loads(sys.argv[2])
frame = pd.DataFrame(**ask["dataframe_split"])
print("ANSWER" + model.predict(frame, params=ask["params"]).to_json(orient="records"))
"""


@pytest.fixture
def bare_environment(tmp_path):
    """Site-packages without the link to this checkout: -S skips .pth files, and the folder is named instead."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    return kept | {"PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}


def check(rows: list[dict]) -> None:
    """Three places each, reasons that add up, and for a stranger nothing but what everyone likes."""
    assert [(row["user_id"], row["rank"]) for row in rows] == [
        *[("me", rank) for rank in (1, 2, 3)],
        *[("stranger", rank) for rank in (1, 2, 3)],
    ]
    for row in rows:
        told = sum(reason["contribution"] for reason in row["reasons"])
        assert row["score"] == pytest.approx(told + row["other_events"] + row["item_bias"], abs=1e-4)
    assert {reason["item_id"] for row in rows for reason in row["reasons"]} <= {"tea-010", "lamp-025"}
    assert all(row["reasons"] == [] for row in rows if row["user_id"] == "stranger")


def test_it_answers_where_attnrec_is_not_installed(first_day, bare_environment, tmp_path):
    _, home, _ = first_day
    command = [sys.executable, "-S", "-c", LOAD, f"sqlite:///{home / 'mlflow.db'}", json.dumps(ASK)]
    done = subprocess.run(command, cwd=tmp_path, env=bare_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout.partition("ANSWER")[2]))


def test_it_answers_under_mlflow_models_serve(first_day, tmp_path):
    _, home, _ = first_day
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny@champion", "-p", str(port)]
    command += ["--host", "127.0.0.1", "--env-manager", "local"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    log = (tmp_path / "serve.log").open("w")
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        answer = ask_server(f"http://127.0.0.1:{port}/invocations", seconds=120)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()
    check(answer["predictions"])


def test_attnrec_loads_the_champion_by_its_alias(first_day, monkeypatch):
    _, home, _ = first_day
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    recommender = attnrec.load("models:/tiny@champion")
    found = recommender.recommend(history=["tea-010", "lamp-025"], k=3)
    assert len(found) == 3
    assert recommender.metadata["mode"] == "refit"


def test_a_model_that_is_not_there_is_one_clear_error(first_day, monkeypatch):
    _, home, _ = first_day
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    with pytest.raises(FileNotFoundError, match="no model at models:/nobody@champion"):
        attnrec.load("models:/nobody@champion")


def ask_server(address: str, *, seconds: float) -> dict:
    body = json.dumps(ASK).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < end, "the server did not answer in time"
            time.sleep(0.5)
