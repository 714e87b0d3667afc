"""Sequence models: item encoder, history encoder, readout and training objective; published models are presets."""

from attnrec.models.registry import add_kind
from attnrec.models.sequence.config import SequenceConfig
from attnrec.models.sequence.model import SequenceModel
from attnrec.models.sequence.presets import PRESETS, Preset


def register_preset(kind: str, preset: Preset) -> None:
    """Make default settings of the sequence model available under a kind.

    Args:
        kind: the name, for `fit(model=...)` and `[model] kind = "..."`.
        preset: the settings.

    Raises:
        ValueError: for a kind that is already registered.
    """
    if PRESETS.get(kind, preset) is not preset:
        raise ValueError(f"the kind of a preset must be unique, got {kind!r}, which is registered; choose another")
    add_kind(kind, SequenceModel, SequenceConfig)
    PRESETS[kind] = preset


__all__ = ["PRESETS", "Preset", "SequenceConfig", "SequenceModel", "register_preset"]
