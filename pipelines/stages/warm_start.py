"""Warm start (`pipeline.init`): training starts from scratch, from a model folder, or from the champion.

The served champion was refitted on all events, which include the validation and test events of today's split: metrics
of a model that starts from it would be worthless. Training therefore starts from the champion's training stage, which
was not trained on its own validation and test events; these are older than today's as long as split and filters do not
change.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from attnrec.experiment import CHAMPION
from attnrec.storage import is_done
from attnrec.tracking.tags import EVALUATED_MODEL, INIT_KEY, SPLIT_KEY, TRAIN_KEY
from attnrec_pipelines.job import Job, PipelineError
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stage_cache import SUMMARY, build, digest_of, folder_of, key_of
from attnrec_pipelines.stages.champion import check_registry, split_key

FROM_SCRATCH = ""

logger = logging.getLogger(__name__)


def find_init(job: Job, key_with: Callable[[str], str]) -> str:
    """Return the part of a training stage's key that identifies the initial model.

    A second run of a day finds the champion that the first run made. It starts from the same initial model as that
    champion did: the key is the same, and nothing is trained twice.

    Args:
        job: experiment and home.
        key_with: returns the training stage's key for a given initial model.

    Returns:
        `FROM_SCRATCH`, the fingerprint of a model folder, or the key of the champion's training stage.

    Raises:
        PipelineError: for a path that is not a model folder, or a champion of another experiment.
    """
    init = job.experiment.pipeline.init
    if init is None:
        return FROM_SCRATCH
    if init != CHAMPION:
        return _fingerprint(Path(init))
    champion = check_registry(job)
    if champion is None:
        logger.info("warm start: there is no champion yet, training starts from scratch")
        return FROM_SCRATCH
    champion_init = champion.tags.get(INIT_KEY, FROM_SCRATCH)
    if key_with(champion_init) == champion.tags[TRAIN_KEY]:
        return champion_init
    if champion.tags.get(SPLIT_KEY) != split_key(job.experiment):
        logger.warning(
            "warm start: %s was trained with another split or filter and may have seen today's test events; "
            "training starts from scratch",
            champion.label,
        )
        return FROM_SCRATCH
    logger.info("warm start: training starts from %s, as it was before its refit", champion.label)
    return champion.tags[TRAIN_KEY]


def init_folder(job: Job, init: str) -> Path | None:
    """Return the model folder that `find_init` identified; the champion's is a stage of this home or an MLflow copy.

    Raises:
        PipelineError: when the champion's training run is no longer in MLflow.
    """
    if init == FROM_SCRATCH:
        return None
    if job.experiment.pipeline.init not in (None, CHAMPION):
        return Path(job.experiment.pipeline.init)
    local = folder_of(job.home, "train", init)
    if is_done(local):
        return local / "model"
    tracker = tracker_of(job)
    run_id = tracker.find_run(init)
    if run_id is None:
        raise PipelineError(
            f"pipeline.init needs the champion's training stage {init}, which is neither in {job.home.stages} nor in "
            f"{tracker.uri}; remove pipeline.init for one run"
        )

    def make(target: Path) -> dict[str, object]:
        tracker.download(run_id, EVALUATED_MODEL, target)
        return {SUMMARY: "initial model downloaded from MLflow"}

    return build(job.home, "init", key_of("init", inputs=[init], parameters={}), make) / EVALUATED_MODEL


def _fingerprint(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise PipelineError(f"pipeline.init must be 'champion' or a model folder, got {folder}; check the path")
    files = {path.name: digest_of(path) for path in folder.iterdir() if path.is_file()}
    return key_of("init-folder", inputs=[], parameters=files)
