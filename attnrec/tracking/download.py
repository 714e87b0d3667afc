"""Download of model folders from MLflow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException


def download_model(uri: str, *, store: str | None = None) -> Path:
    """Download the model folder of an MLflow model URI such as models:/attnrec@champion.

    Args:
        uri: the model URI.
        store: tracking URI; the default is MLflow's own (MLFLOW_TRACKING_URI).

    Raises:
        FileNotFoundError: if the store has no such model.
    """
    store = store or mlflow.get_tracking_uri()
    try:
        with default_store(store):
            folder = Path(download_artifacts(uri))
    except MlflowException as error:
        raise FileNotFoundError(
            f"no model at {uri} in {store} ({error}); set MLFLOW_TRACKING_URI to the right store"
        ) from None
    return next(folder.glob("artifacts/*/config.json"), folder / "config.json").parent


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Set the tracking URI of MLflow's fluent API inside the block; MLflow also stores it in the environment."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # pyright: ignore[reportArgumentType]  None unsets it
