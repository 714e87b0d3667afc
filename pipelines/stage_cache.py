"""Content-addressed stage folders: a folder is named by a hash of its inputs, and a manifest marks it as complete."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnrec.storage import MANIFEST, TEMPORARY, is_done, new_folder, read_json, write_json
from attnrec_pipelines.settings import Home

FORMAT = 2
"""Increase when the meaning of a stage's output changes: every key changes with it."""

SUMMARY = "summary"
"""Key of a manifest: the result of a stage in one line, for the log."""

logger = logging.getLogger("attnrec_pipelines.stages")


def key_of(stage: str, *, inputs: Sequence[str], parameters: Mapping[str, Any]) -> str:
    """Return the key of a stage's output: 16 hex digits of a SHA-256 over its inputs and parameters."""
    content = json.dumps([FORMAT, stage, list(inputs), parameters], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, to be used as an input of a stage."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_of(home: Home, stage: str, key: str) -> Path:
    """Return the folder of a stage's output, whether or not it exists."""
    return home.stages / f"{stage}-{key}"


def build(home: Home, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Build a stage's folder, or return the cached one.

    Args:
        home: where stages are kept.
        stage: name of the stage.
        key: see `key_of`.
        make: fills a temporary folder and returns entries for the manifest, among them `SUMMARY`.

    Returns:
        The complete folder. A killed or failed run does not create it.
    """
    folder = folder_of(home, stage, key)
    if is_done(folder):
        log_stage(stage, read_json(folder / MANIFEST).get(SUMMARY, ""), seconds=None)
        return folder
    started = time.monotonic()
    with new_folder(folder) as target:
        entries = dict(make(target))
        write_json(target / MANIFEST, {"stage": stage, "key": key, **entries})
    log_stage(stage, entries.get(SUMMARY, ""), seconds=time.monotonic() - started)
    return folder


def log_stage(stage: str, summary: str, *, seconds: float | None) -> None:
    """Log one line for a stage: its name, its duration ("cached" if `seconds` is None) and its result."""
    duration = "cached" if seconds is None else f"{seconds:.1f} s"
    logger.info("%s", f"{stage:<13}{duration:>8}  {summary}".rstrip())


def sweep(home: Home, *, older_than_hours: float = 24) -> None:
    """Delete temporary folders that killed runs left behind."""
    limit = time.time() - 3600 * older_than_hours
    for folder in home.stages.glob(f"{TEMPORARY}*"):
        if folder.stat().st_mtime < limit:
            shutil.rmtree(folder, ignore_errors=True)
