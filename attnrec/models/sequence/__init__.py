"""Sequence models: item encoder x history encoder x readout x objective; the papers' models are presets of these."""

from attnrec.models.sequence.config import SequenceConfig
from attnrec.models.sequence.model import SequenceModel
from attnrec.models.sequence.presets import PRESETS, Kind, Preset

__all__ = ["PRESETS", "Kind", "Preset", "SequenceConfig", "SequenceModel"]
