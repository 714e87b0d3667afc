"""Prefect artifacts of a flow run. Published after the files are written: a failing artifact must not fail the run."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from attnrec.ingestion import rejected_by_reason

logger = logging.getLogger(__name__)


def show_rejected(experiment: str, log: Path) -> None:
    """Show rejected rows by reason, with an example each."""
    rows = rejected_by_reason(log)
    show_table(f"{experiment}-rejected", rows.astype(str).to_dict("records"), "Rejected rows by reason")


def show_table(name: str, rows: Sequence[Mapping[Any, Any]], description: str) -> None:
    """Show a table."""
    _publish(lambda: create_table_artifact([dict(row) for row in rows], key=_slug(name), description=description), name)


def show_metrics(experiment: str, metrics: dict[str, dict[str, float]], names: Sequence[str]) -> None:
    """Show test metrics, one row per model."""
    rows = [{"model": model} | {name: round(values[name], 4) for name in names} for model, values in metrics.items()]
    show_table(f"{experiment}-metrics", rows, "Test metrics")


def show_recommendations(experiment: str, frame: pd.DataFrame) -> None:
    """Show a sample of the published recommendations."""
    show_table(f"{experiment}-recommendations", frame.astype(str).to_dict("records"), "Sample of recommendations")


def show_link(name: str, link: str, text: str) -> None:
    """Show a link to a page that the run wrote."""
    _publish(lambda: create_link_artifact(link, link_text=text, key=_slug(name)), name)


def show_text(name: str, markdown: str) -> None:
    """Show markdown text."""
    _publish(lambda: create_markdown_artifact(markdown, key=_slug(name)), name)


def _publish(create: Callable[[], Any], name: str) -> None:
    try:
        create()
    except Exception as error:  # no server, or no flow run; the results are in files
        logger.debug("artifact %s was not published: %s", name, error)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
