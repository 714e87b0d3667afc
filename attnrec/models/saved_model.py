"""Saved models: a folder of config.json, weights.safetensors and vocabulary.parquet, without pickle.

Optional files, which only a warm start reads: moments.safetensors (of the optimizer) and items.parquet (item features).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from attnrec.config import load_installed_plugins
from attnrec.dataset import Features, Vocabulary, load_features, save_features
from attnrec.models.base import MODELS, Model
from attnrec.models.registry import build_model, model_config
from attnrec.storage import read_json, save_tensors, write_json

FORMAT = 3
CONFIG, WEIGHTS, VOCABULARY = "config.json", "weights.safetensors", "vocabulary.parquet"
MOMENTS, ITEMS = "moments.safetensors", "items.parquet"


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model with its vocabulary, metadata, and the data for a warm start.

    Attributes:
        model: ready for scoring, on the CPU.
        item_ids: item id <-> item row of the model.
        metadata: name, seed, best epoch and hash of the log, if available.
        moments: moments of the optimizer, "parameter/moment" -> tensor; twice the size of the weights.
        features: features of the items.
    """

    model: Model
    item_ids: Vocabulary
    metadata: dict[str, Any] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    features: Features | None = None


def save_model(saved: SavedModel, folder: Path) -> None:
    """Write a model to an existing folder; config.json is written last."""
    save_tensors(saved.model.state_dict(), folder / WEIGHTS)
    saved.item_ids.save(folder / VOCABULARY)
    if saved.moments:
        save_tensors(saved.moments, folder / MOMENTS)
    if saved.features is not None:
        save_features(saved.features, saved.item_ids, folder / ITEMS)
    settings = saved.model.config.model_dump(mode="json")
    content = {"format": FORMAT, "model": settings, "event_names": saved.model.event_names, "metadata": saved.metadata}
    write_json(folder / CONFIG, content)


def load_model(folder: Path) -> SavedModel:
    """Read a model for scoring, without the files for a warm start.

    Raises:
        FileNotFoundError: if `folder` contains no model.
        ValueError: for an unknown format or an unregistered kind.
    """
    return _load(folder, with_features=False)


def load_with_warm_start(folder: Path) -> SavedModel:
    """Read a model and the files for a warm start.

    Raises:
        FileNotFoundError, ValueError: as `load_model`.
    """
    saved = _load(folder, with_features=True)
    return replace(saved, moments=load_file(folder / MOMENTS) if (folder / MOMENTS).is_file() else {})


def _load(folder: Path, *, with_features: bool) -> SavedModel:
    content = _read_config(folder)
    item_ids = Vocabulary.load(folder / VOCABULARY)
    has_features = with_features and (folder / ITEMS).is_file()
    features = load_features(folder / ITEMS, item_ids) if has_features else None
    settings = content["model"]
    model = build_model(model_config(settings["kind"], settings), len(item_ids), features)
    weights, expected = load_file(folder / WEIGHTS), model.state_dict()
    if missing := sorted(expected.keys() - weights.keys()):
        raise ValueError(
            f"saved weights must contain all parameters of the model, {missing[0]} is missing in {folder}; "
            "the model was saved by another version of attnrec, train it again"
        )
    # without item features the model has no fusion layer, whose weights are in the file
    model.load_state_dict({name: values for name, values in weights.items() if with_features or name in expected})
    model.event_names = tuple(content["event_names"])
    return SavedModel(model.eval(), item_ids, content["metadata"], features=features)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"a model folder needs {CONFIG}, got {folder}; pass a folder that save_model wrote")
    content = read_json(folder / CONFIG)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"the format of a saved model must be {FORMAT}, got {content.get('format')} in {folder}; "
            "train the model again, or update attnrec"
        )
    kind = content["model"]["kind"]
    if kind not in MODELS:
        load_installed_plugins()
    if kind not in MODELS:
        raise ValueError(
            f"the kind of a saved model must be registered, got {kind!r} in {folder}; "
            "import the module that registers it before loading"
        )
    return content
