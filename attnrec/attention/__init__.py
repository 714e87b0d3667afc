"""The shelf of attention mechanisms: one file each, one interface (`core.Core`), one registry."""

from attnrec.attention.core import Attended, Core
from attnrec.attention.multi_head import MultiHeadAttention
from attnrec.attention.pooling import AttentionPooling, ItemValues
from attnrec.attention.scaled_dot import ScaledDot

CORES: dict[str, type[ScaledDot]] = {"scaled_dot": ScaledDot}
"""Name in the TOML -> core. A new core is one file and one line here."""

__all__ = ["CORES", "Attended", "AttentionPooling", "Core", "ItemValues", "MultiHeadAttention", "ScaledDot"]
