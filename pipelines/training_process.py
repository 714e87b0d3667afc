"""The training process: python -m attnrec_pipelines.training_process SPEC.json, started by the stage `train`.

With `train.processes` above 1 it starts that many workers, one device each. They find each other through a file in the
home and communicate over the loopback interface only; nothing is unpickled.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from attnrec_pipelines.console_log import show_log_lines
from attnrec_pipelines.progress import spinner

PARENT_ENDED = 3
"""Exit code of a process that ended because its parent did."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def main(spec: Path) -> int:
    """Train as specified; with several processes, start the workers."""
    parent = os.getppid()
    _end_with(parent)
    show_log_lines()
    logging.getLogger("attnrec.precision").setLevel(logging.WARNING)  # the manifest and the run have the precision
    n_processes = json.loads(spec.read_text())["experiment"]["train"]["processes"]
    if n_processes > 1 and "WORLD_SIZE" not in os.environ:
        return start_workers(spec, n_processes)
    with spinner("starting the training process"):
        from attnrec_pipelines.training_work import run
    try:
        return run(spec)
    except RuntimeError:
        if os.getppid() == parent:
            raise
        return PARENT_ENDED  # torch reports the end of another worker as an error


def start_workers(spec: Path, n_processes: int) -> int:
    """Start the workers and wait; the first one that fails ends the others and determines the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the flow, and the end of the flow ends this process
    rendezvous = spec.with_name(f"rendezvous-{os.getpid()}")
    shared = {
        "WORLD_SIZE": str(n_processes),
        "ATTNREC_RENDEZVOUS": str(rendezvous),
        "GLOO_SOCKET_IFNAME": LOOPBACK,
        "NCCL_SOCKET_IFNAME": LOOPBACK,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, "-m", "attnrec_pipelines.training_process", str(spec)]
    workers = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(n_processes)
    ]
    try:
        return _wait(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        rendezvous.unlink(missing_ok=True)


def _wait(workers: list[subprocess.Popen[bytes]]) -> int:
    """Return 0 when all workers succeeded, or the exit code of the first one that failed."""
    while True:
        codes = [worker.poll() for worker in workers]
        if failed := [code for code in codes if code]:
            return failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.1)


def _end_with(parent: int) -> None:
    """End when the parent process has ended (kill -9), so that two processes never write the same checkpoint."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(PARENT_ENDED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
