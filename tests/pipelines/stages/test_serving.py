"""The registered model, loaded with MLflow only (pyfunc), served by `mlflow models serve`, and by attnrec.load."""

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

REQUEST = {
    "dataframe_split": {
        "columns": ["user_id", "item_id", "datetime"],
        "data": [
            ["me", "tea-010", "2025-03-01T00:00:00Z"],
            ["me", "lamp-025", "2025-03-02T00:00:00Z"],
            ["new-user", "unknown", "2025-03-01T00:00:00Z"],
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
    sys.exit("attnrec must not be installed in this test")
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tiny@champion")
request = json.loads(sys.argv[2])
frame = pd.DataFrame(**request["dataframe_split"])
print("RESPONSE" + model.predict(frame, params=request["params"]).to_json(orient="records"))
"""


@pytest.fixture
def environment_without_attnrec(tmp_path):
    """Return an environment with site-packages, but without this checkout: -S skips its .pth file."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    return kept | {"PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}


def check(rows: list[dict]) -> None:
    """Check three ranks per user and scores that are sums; a new user has no reasons, only the item bias."""
    assert [(row["user_id"], row["rank"]) for row in rows] == [
        *[("me", rank) for rank in (1, 2, 3)],
        *[("new-user", rank) for rank in (1, 2, 3)],
    ]
    for row in rows:
        reasons = sum(reason["contribution"] for reason in row["reasons"])
        assert row["score"] == pytest.approx(reasons + row["other_events"] + row["item_bias"], abs=1e-4)
    assert {reason["item_id"] for row in rows for reason in row["reasons"]} <= {"tea-010", "lamp-025"}
    assert all(row["reasons"] == [] for row in rows if row["user_id"] == "new-user")


def test_the_registered_model_predicts_without_attnrec_installed(first_day, environment_without_attnrec, tmp_path):
    _, home, _ = first_day
    command = [sys.executable, "-S", "-c", LOAD, f"sqlite:///{home / 'mlflow.db'}", json.dumps(REQUEST)]
    process = subprocess.run(
        command, cwd=tmp_path, env=environment_without_attnrec, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    check(json.loads(process.stdout.partition("RESPONSE")[2]))


def test_the_registered_model_is_served_by_mlflow_models_serve(first_day, tmp_path):
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
        response = post_request(f"http://127.0.0.1:{port}/invocations", seconds=120)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()
    check(response["predictions"])


def test_attnrec_loads_the_champion_by_its_alias(first_day, monkeypatch):
    _, home, _ = first_day
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    recommender = attnrec.load("models:/tiny@champion")
    assert len(recommender.recommend(history=["tea-010", "lamp-025"], k=3)) == 3
    assert recommender.metadata["mode"] == "refit"


def test_loading_a_model_that_does_not_exist_is_an_error_of_one_line(first_day, monkeypatch):
    _, home, _ = first_day
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    with pytest.raises(FileNotFoundError, match="no model at models:/nobody@champion"):
        attnrec.load("models:/nobody@champion")


def post_request(address: str, *, seconds: float) -> dict:
    body = json.dumps(REQUEST).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except OSError:
            assert time.monotonic() < end, f"the server did not respond within {seconds:g} s"
            time.sleep(0.5)
