"""`attnrec.load`: load a model from a folder or from the MLflow model registry."""

from pathlib import Path

from attnrec.recommender import Recommender, load_folder


def load(source: str | Path) -> Recommender:
    """Load a saved model.

    Args:
        source: a model folder, or an MLflow model URI such as "models:/attnrec@champion" or "runs:/ID/model".

    Returns:
        The model without user histories; add them with `with_histories`, or pass `history=[...]` to its methods.

    Raises:
        FileNotFoundError: when there is no model at `source`.
    """
    if str(source).startswith(("models:/", "runs:/")):
        from attnrec.tracking.download import download_model

        return load_folder(download_model(str(source)))
    return load_folder(source)
