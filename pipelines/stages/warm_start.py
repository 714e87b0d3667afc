"""What training starts from (`pipeline.init`): nothing, a model folder, or the champion as it was judged.

The champion that serves was refitted on all events, and the days that are asked for today are among them: no metric of
a model that starts from it would be worth anything. So training starts from the champion's own training stage, which
never saw its questions; they are older than today's, as long as split and filters stay the same.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from attnrec.experiment import CHAMPION
from attnrec.storage import is_done
from attnrec.tracking.tracker import EVALUATED, TRAIN_KEY
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.stage_cache import build, digest_of, folder_of, key_of
from attnrec_pipelines.stages.registry import ASKED_KEY, START_KEY, asked_key, check_registry
from attnrec_pipelines.tracked_runs import tracker_of

NOTHING = ""

logger = logging.getLogger(__name__)


def find_start(job: Job, key_with: Callable[[str], str]) -> str:
    """The part of a training stage's key that says what it starts from.

    A second run of a day finds the champion that the first one made. It starts where that one started: its key is the
    same, and nothing is trained twice.

    Args:
        job: experiment and home.
        key_with: the training stage's key, given this part of it.

    Returns:
        "" for nothing, the fingerprint of a folder, or the key of the champion's training stage.

    Raises:
        PipelineError: for a path that is no model folder, or a champion of another experiment.
    """
    init = job.experiment.pipeline.init
    if init is None:
        return NOTHING
    if init != CHAMPION:
        return _fingerprint(Path(init))
    champion = check_registry(job)
    if champion is None:
        logger.info("pipeline.init: there is no champion yet, training starts from scratch")
        return NOTHING
    before = champion.tags.get(START_KEY, NOTHING)
    if key_with(before) == champion.tags[TRAIN_KEY]:
        return before
    if champion.tags.get(ASKED_KEY) != asked_key(job.experiment):
        logger.warning(
            "pipeline.init: %s was trained with another split or filter and may have seen what is asked now, "
            "training starts from scratch",
            champion.label,
        )
        return NOTHING
    logger.info("pipeline.init: training starts from %s, as it was judged", champion.label)
    return champion.tags[TRAIN_KEY]


def start_folder(job: Job, start: str) -> Path | None:
    """The model folder behind what `find_start` gave; the champion's is this home's own stage, or a copy from MLflow.

    Raises:
        PipelineError: when the champion's training run is no longer in MLflow.
    """
    if start == NOTHING:
        return None
    if job.experiment.pipeline.init not in (None, CHAMPION):
        return Path(job.experiment.pipeline.init)
    own = folder_of(job.home, "train", start)
    if is_done(own):
        return own / "model"
    tracker = tracker_of(job)
    run_id = tracker.find_run(start)
    if run_id is None:
        raise PipelineError(
            f"pipeline.init starts from the champion's training {start}, which is neither in {job.home.stages} nor in "
            f"{tracker.uri}; leave pipeline.init out for one run"
        )

    def make(target: Path) -> dict[str, object]:
        tracker.download(run_id, EVALUATED, target)
        return {}

    return build(job.home, "start", key_of("start", inputs=[start], parameters={}), make) / EVALUATED


def _fingerprint(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise PipelineError(f"pipeline.init must be 'champion' or the folder of a model, got {folder}; check the path")
    files = {path.name: digest_of(path) for path in folder.iterdir() if path.is_file()}
    return key_of("init", inputs=[], parameters=files)
