"""The training process: python -m attnrec_pipelines.training_process SPEC.json, started by `train`.

With `train.processes` above 1 it is the parent of that many, one per device, each of which comes to `main` again.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from attnrec_pipelines.progress import spinner


def main(spec: Path) -> int:
    """Load what training needs, which takes some seconds, and do the work."""
    parent = os.getppid()
    _end_with(parent)
    n_processes = json.loads(spec.read_text())["experiment"]["train"]["processes"]
    if n_processes > 1 and "WORLD_SIZE" not in os.environ:
        return _start(spec, n_processes)
    with spinner("starting the training process"):
        from attnrec_pipelines.training_work import run
    try:
        return run(spec)
    except RuntimeError:
        if os.getppid() == parent:
            raise
        return 3  # all of us end with the flow: another was faster, and torch misses it


def _start(spec: Path, n_processes: int) -> int:
    """Be torchrun, in this process: it watches its own parent, so that nothing is left running."""
    with spinner(f"starting {n_processes} training processes"):
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import main as torchrun
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the flow, and that ends this
    arguments = ["--standalone", "--nproc-per-node", str(n_processes), "--signals-to-handle", "SIGTERM"]
    try:
        torchrun([*arguments, "-m", "attnrec_pipelines.training_process", str(spec)])
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0


def _end_with(parent: int) -> None:
    """End when the process that started this one is gone (kill -9), so that two never write the same checkpoint."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
