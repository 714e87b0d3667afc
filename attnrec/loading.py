"""`attnrec.load`: a model from a folder or from MLflow's registry."""

from pathlib import Path

from attnrec.recommender import Recommender, load_folder


def load(source: str | Path) -> Recommender:
    """Load a model for use.

    Args:
        source: a model folder, or an MLflow address such as "models:/attnrec@champion" or "runs:/ID/model".

    Raises:
        FileNotFoundError: when there is no model at `source`.
    """
    if str(source).startswith(("models:/", "runs:/")):
        from attnrec.tracking.tracker import download_model

        return load_folder(download_model(str(source)))
    return load_folder(source)
