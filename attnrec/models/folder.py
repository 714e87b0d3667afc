"""What leaves the machine: a folder of config.json, weights.safetensors, vocabulary.parquet. No pickle."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from attnrec.dataset import Vocabulary
from attnrec.models.base import Model
from attnrec.storage import read_json, save_tensors, write_json

FORMAT = 1
CONFIG, WEIGHTS, VOCABULARY = "config.json", "weights.safetensors", "vocabulary.parquet"


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model with its catalogue.

    Attributes:
        model: ready to score, on the CPU.
        item_ids: item id <-> the model's item row.
        facts: what else is known: name, seed, chosen epoch, hash of the log.
    """

    model: Model
    item_ids: Vocabulary
    facts: dict[str, Any] = field(default_factory=dict)


def save_model(saved: SavedModel, folder: Path) -> None:
    """Write the three files into an existing `folder`, config last."""
    save_tensors(saved.model.state_dict(), folder / WEIGHTS)
    saved.item_ids.save(folder / VOCABULARY)
    settings = saved.model.config.model_dump(mode="json")
    write_json(folder / CONFIG, {"format": FORMAT, "model": settings, "facts": saved.facts})


def load_model(folder: Path) -> SavedModel:
    """Read what `save_model` wrote.

    Raises:
        FileNotFoundError: when `folder` holds no model.
        ValueError: for a format or kind that this version does not know.
    """
    from attnrec.models import MODELS, build_model, model_config

    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"a model folder needs {CONFIG}, got {folder}; give the folder that training wrote")
    content = read_json(folder / CONFIG)
    kind = content.get("model", {}).get("kind")
    if content.get("format") != FORMAT or kind not in MODELS:
        raise ValueError(f"model format {content.get('format')} of kind {kind!r} is unknown here; update attnrec")
    item_ids = Vocabulary.load(folder / VOCABULARY)
    model = build_model(model_config(kind, content["model"]), len(item_ids))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return SavedModel(model.eval(), item_ids, content["facts"])
