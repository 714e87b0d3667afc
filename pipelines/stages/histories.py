"""Stage: histories as flat arrays, built from clean interactions, and their split into train, validation and test."""

from pathlib import Path

import numpy as np

from attnrec.dataset import (
    Histories,
    Split,
    audit_split,
    histories_from_parts,
    join_predefined,
    split_by_time,
    split_last,
    split_predefined,
)
from attnrec.experiment import Experiment
from attnrec.storage import read_json
from attnrec_pipelines.job import Job
from attnrec_pipelines.stage_cache import SUMMARY, build, key_of


def gather_histories(job: Job, log: Path, test_log: Path | None = None) -> Path:
    """Build the histories of an ingested log; the events of a predefined test log are appended per user."""
    dataset = job.experiment.dataset
    logs = [log] if test_log is None else [log, test_log]
    hashes = [read_json(folder / "manifest.json")["content_hash"] for folder in logs]
    key = key_of("histories", inputs=hashes, parameters=dataset.model_dump())

    def make(target: Path) -> dict[str, object]:
        parts = [_histories_of(folder, job.experiment) for folder in logs]
        histories, n_test = parts[0], None
        if test_log is not None:
            histories, n_test = join_predefined(parts[0], parts[1], seed=job.experiment.seed)
            np.save(target / "n_test.npy", n_test, allow_pickle=False)
        histories.save(target / "histories")
        n_read = sum(read_json(folder / "manifest.json")["accepted"] for folder in logs)
        n_filtered = n_read - histories.n_events
        filtered = f", {n_filtered:,} events filtered out" if n_filtered else ""
        counts = f"{histories.n_users:,} users, {histories.n_items:,} items, {histories.n_events:,} events"
        return {
            "events": histories.n_events,
            "filtered_out": n_filtered,
            "logs": [folder.name for folder in logs],
            SUMMARY: counts + filtered,
        }

    return build(job.home, "histories", key, make)


def load_split(experiment: Experiment, folder: Path) -> tuple[Histories, Split]:
    """Load a histories stage and split it by the settings of the experiment.

    Raises:
        LeakageError: if training histories contain validation or test events.
    """
    histories = Histories.load(folder / "histories")
    settings = experiment.split
    if settings.kind == "last":
        split = split_last(histories)
    elif settings.kind == "time":
        days = {"test_days": settings.test_days, "validation_days": settings.validation_days}
        split = split_by_time(histories, settings.cutoff, **days)
    else:
        n_test = np.load(folder / "n_test.npy")
        split = split_predefined(histories, n_test, validation_fraction=settings.validation_fraction)
    audit_split(split)
    return histories, split


def _histories_of(log: Path, experiment: Experiment) -> Histories:
    manifest = read_json(log / "manifest.json")
    return histories_from_parts(
        sorted(log.glob("interactions/part=*/*.parquet")),
        time_kind=manifest["time_kind"],
        content_hash=manifest["content_hash"],
        min_item_events=experiment.dataset.min_item_events,
        min_user_events=experiment.dataset.min_user_events,
    )
