"""attnrec: attention-based recommendation models whose scores decompose exactly over the user's history.

Public names are imported on first access, so that `import attnrec` stays fast.
"""

from importlib import import_module
from typing import Any

_MODULES = {  # public name -> module that defines it
    "Explanation": "attnrec.explanation",
    "MODELS": "attnrec.models",
    "Recommender": "attnrec.recommender",
    "SampleLog": "attnrec.sample",
    "evaluate": "attnrec.evaluation",
    "explain": "attnrec.recommender",
    "fit": "attnrec.fitting",
    "histories_from_frame": "attnrec.dataset",
    "ingest": "attnrec.ingestion",
    "load": "attnrec.loading",
    "load_experiment": "attnrec.experiment",
    "sample_log": "attnrec.sample",
    "split_by_time": "attnrec.dataset",
    "split_last": "attnrec.dataset",
    "text_vectors": "attnrec.dataset.text",
    "train": "attnrec.training",
}

__version__ = "0.1.0"
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'attnrec' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
