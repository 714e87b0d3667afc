"""The training process: python -m pipelines.training_process SPEC.json, started by `train`."""

import sys
from pathlib import Path

from pipelines.bars import spinner


def main(spec: Path) -> int:
    """Load what training needs, which takes some seconds, and do the work."""
    with spinner("starting the training process"):
        from pipelines.training_work import run
    return run(spec)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
