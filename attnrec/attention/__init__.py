"""The shelf of attention mechanisms: one file each, one interface (`core.Core`), one registry."""

from collections.abc import Mapping
from typing import Any

from attnrec.attention.adaptive_span import AdaptiveSpan
from attnrec.attention.additive import Additive
from attnrec.attention.bilinear import Bilinear
from attnrec.attention.cosine import Cosine
from attnrec.attention.entmax import Entmax15
from attnrec.attention.global_query import GlobalQuery
from attnrec.attention.hstu import HSTU
from attnrec.attention.hstu_block import HSTUBlock
from attnrec.attention.kernel import Attended, Core, CoreShape
from attnrec.attention.linformer import Linformer
from attnrec.attention.linrec import LinRec
from attnrec.attention.local_global import LocalGlobal
from attnrec.attention.memory import Memory
from attnrec.attention.multi_head import MultiHeadAttention, last_position
from attnrec.attention.pooling import AttentionPooling, ItemValues
from attnrec.attention.relative import RelativeDot
from attnrec.attention.scaled_dot import ScaledDot
from attnrec.attention.sparsemax import Sparsemax
from attnrec.attention.top_k import TopK

CORES: dict[str, type[Core]] = {
    "adaptive_span": AdaptiveSpan,
    "additive": Additive,
    "bilinear": Bilinear,
    "cosine": Cosine,
    "entmax15": Entmax15,
    "global": GlobalQuery,
    "hstu": HSTU,
    "linformer": Linformer,
    "linrec": LinRec,
    "local_global": LocalGlobal,
    "memory": Memory,
    "relative": RelativeDot,
    "scaled_dot": ScaledDot,
    "sparsemax": Sparsemax,
    "top_k": TopK,
}
"""Name in the TOML -> core. A new core is one file and one line here."""


def build_core(kind: str, shape: CoreShape, settings: Mapping[str, Any] | None = None) -> Core:
    """Make a core by its name in the TOML.

    Args:
        kind: a name in `CORES`.
        shape: what it is built for.
        settings: the core's own, such as {"window": 64}.

    Raises:
        ValueError: for an unknown core (the known ones are listed), an unknown or wrong setting, or a core that
            cannot be what the shape asks for.
    """
    if kind not in CORES:
        raise ValueError(f"core must be one of {', '.join(sorted(CORES))}, got {kind!r}")
    return CORES[kind](shape, CORES[kind].Settings.checked(settings or {}))


__all__ = [
    "CORES",
    "Attended",
    "AttentionPooling",
    "Core",
    "CoreShape",
    "HSTUBlock",
    "ItemValues",
    "MultiHeadAttention",
    "ScaledDot",
    "build_core",
    "last_position",
]
