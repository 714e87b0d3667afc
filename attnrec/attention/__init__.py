"""The shelf of attention mechanisms: one file each, one interface (`core.Core`), one registry."""

from collections.abc import Mapping
from typing import Any

from attnrec.attention.core import Attended, Core, CoreShape
from attnrec.attention.multi_head import MultiHeadAttention
from attnrec.attention.pooling import AttentionPooling, ItemValues
from attnrec.attention.scaled_dot import ScaledDot

CORES: dict[str, type[Core]] = {
    "scaled_dot": ScaledDot,
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
    "ItemValues",
    "MultiHeadAttention",
    "ScaledDot",
    "build_core",
]
