"""The training process: python -m pipelines.training_process SPEC.json, started by `train`."""

import os
import sys
import threading
import time
from pathlib import Path

from pipelines.bars import spinner


def main(spec: Path) -> int:
    """Load what training needs, which takes some seconds, and do the work."""
    _end_with_parent()
    with spinner("starting the training process"):
        from pipelines.training_work import run
    return run(spec)


def _end_with_parent() -> None:
    """End when the flow's process is gone (kill -9), so that two never write the same checkpoint."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
