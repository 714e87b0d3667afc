"""What leaves the machine: a folder of config.json, weights.safetensors, vocabulary.parquet. No pickle.

Beside them, where there are any, what only a later warm start reads: moments.safetensors and items.parquet.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from attnrec.dataset import Features, Vocabulary, load_features, save_features
from attnrec.models.base import Model
from attnrec.storage import read_json, save_tensors, write_json

FORMAT = 2
CONFIG, WEIGHTS, VOCABULARY = "config.json", "weights.safetensors", "vocabulary.parquet"
MOMENTS, ITEMS = "moments.safetensors", "items.parquet"


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model with its catalogue.

    Attributes:
        model: ready to score, on the CPU.
        item_ids: item id <-> the model's item row.
        facts: what else is known: name, seed, chosen epoch, hash of the log.
        moments: of the optimizer, "parameter/moment" -> tensor; twice the size of the weights.
        features: of the items.
    """

    model: Model
    item_ids: Vocabulary
    facts: dict[str, Any] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    features: Features | None = None


def save_model(saved: SavedModel, folder: Path) -> None:
    """Write all that is known into an existing `folder`, config last."""
    save_tensors(saved.model.state_dict(), folder / WEIGHTS)
    saved.item_ids.save(folder / VOCABULARY)
    if saved.moments:
        save_tensors(saved.moments, folder / MOMENTS)
    if saved.features is not None:
        save_features(saved.features, saved.item_ids, folder / ITEMS)
    settings = saved.model.config.model_dump(mode="json")
    content = {"format": FORMAT, "model": settings, "event_names": saved.model.event_names, "facts": saved.facts}
    write_json(folder / CONFIG, content)


def load_model(folder: Path) -> SavedModel:
    """Read the model that `save_model` wrote, without what only a warm start needs.

    Raises:
        FileNotFoundError: when `folder` holds no model.
        ValueError: for a format or kind that this version does not know.
    """
    return _load(folder, whole=False)


def _load(folder: Path, *, whole: bool) -> SavedModel:
    from attnrec.models import MODELS, build_model, model_config

    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"a model folder needs {CONFIG}, got {folder}; give the folder that training wrote")
    content = read_json(folder / CONFIG)
    kind = content.get("model", {}).get("kind")
    if content.get("format") != FORMAT or kind not in MODELS:
        raise ValueError(
            f"model format {content.get('format')} of kind {kind!r} is unknown here, where {FORMAT} is read; "
            "train it again, or update attnrec"
        )
    item_ids = Vocabulary.load(folder / VOCABULARY)
    features = load_features(folder / ITEMS, item_ids) if whole and (folder / ITEMS).is_file() else None
    model = build_model(model_config(kind, content["model"]), len(item_ids), features)
    weights, known = load_file(folder / WEIGHTS), model.state_dict()
    # what fuses features with ids is in the file and, without the features, not in the model
    if missing := sorted(known.keys() - weights.keys()):
        raise ValueError(
            f"the model of kind {kind!r} was saved without {missing[0]}, by an older attnrec; train it again"
        )
    model.load_state_dict({name: values for name, values in weights.items() if whole or name in known})
    model.event_names = tuple(content.get("event_names", ()))  # models saved before kept none
    return SavedModel(model.eval(), item_ids, content["facts"], features=features)


def load_whole(folder: Path) -> SavedModel:
    """Read all that `save_model` wrote: the model, and what it left for a warm start.

    Raises:
        FileNotFoundError, ValueError: as `load_model`.
    """
    saved = _load(folder, whole=True)
    return replace(saved, moments=load_file(folder / MOMENTS) if (folder / MOMENTS).is_file() else {})
