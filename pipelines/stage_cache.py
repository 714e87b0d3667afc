"""Content-addressed stages: a folder is named by what it was made from, and one with a manifest is done."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnrec.storage import MANIFEST, TEMPORARY, is_done, new_folder, write_json
from attnrec_pipelines.settings import Home

FORMAT = 1
"""Raised when a stage's output changes its meaning: all keys change with it."""

logger = logging.getLogger(__name__)


def key_of(stage: str, *, inputs: Sequence[str], parameters: Mapping[str, Any]) -> str:
    """The name of a stage's output: 16 hex digits of what it is made from."""
    facts = json.dumps([FORMAT, stage, list(inputs), parameters], sort_keys=True, default=str)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """The content of a file, as an input of a stage."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_of(home: Home, stage: str, key: str) -> Path:
    """Where the output of a stage is, or will be."""
    return home.stages / f"{stage}-{key}"


def build(home: Home, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Make a stage's folder unless it is there; `make` fills a folder beside and returns facts for its manifest.

    Returns:
        The finished folder. A killed or failed run leaves none.
    """
    folder = folder_of(home, stage, key)
    if is_done(folder):
        logger.info("%s: done before (%s)", stage, folder.name)
        return folder
    started = time.monotonic()
    with new_folder(folder) as target:
        facts = dict(make(target))
        write_json(target / MANIFEST, {"stage": stage, "key": key, **facts})
    logger.info("%s: made in %.1f s (%s)", stage, time.monotonic() - started, folder.name)
    return folder


def sweep(home: Home, *, older_than_hours: float = 24) -> None:
    """Remove what killed runs left behind."""
    limit = time.time() - 3600 * older_than_hours
    for left in home.stages.glob(f"{TEMPORARY}*"):
        if left.stat().st_mtime < limit:
            shutil.rmtree(left, ignore_errors=True)
