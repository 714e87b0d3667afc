"""The deployment in pipelines/prefect.yaml: a server, a work pool, a worker, one run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PREFECT = [sys.executable, "-m", "prefect"]


@pytest.fixture
def server_environment(tmp_path):
    """Start a Prefect server on the loopback interface, and return the environment of its clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "OMP_NUM_THREADS": "1",
    }
    log = (tmp_path / "server.log").open("w")
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health", seconds=120)
        yield environment
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()


def test_a_worker_runs_the_nightly_deployment(server_environment, first_day, new_home):
    toml, _, _ = first_day

    def prefect(*arguments: str) -> str:
        command = [*PREFECT, "--no-prompt", *arguments]
        process = subprocess.run(command, cwd=ROOT, env=server_environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    prefect("work-pool", "create", "attnrec", "--type", "process")
    prefect("deploy", "--all", "--prefect-file", "pipelines/prefect.yaml")
    schedule = json.loads(prefect("deployment", "inspect", "daily/nightly", "--output", "json"))["schedules"][0]
    assert schedule["schedule"]["cron"] == "30 2 * * *"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    prefect("deployment", "run", "daily/nightly", "-p", f"experiment={toml}", "-p", f"home={new_home}")
    prefect("worker", "start", "--pool", "attnrec", "--run-once")
    assert next((new_home / "recommendations" / "tiny" / "current").glob("part-*.parquet")).is_file()


def wait_for(address: str, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert time.monotonic() < end, f"{address} did not respond within {seconds:g} s"
            time.sleep(0.3)
