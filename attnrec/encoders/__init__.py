"""History encoders: one file each, one interface (`encoder.Encoder`), one registry."""

from collections.abc import Mapping
from typing import Any

from attnrec.config import registered
from attnrec.encoders.attention import AttentionSettings, SelfAttention
from attnrec.encoders.dilated_conv import DilatedConv
from attnrec.encoders.encoder import Encoder
from attnrec.encoders.gated_conv import GatedConv, Gates
from attnrec.encoders.gru import GRU
from attnrec.encoders.hstu import HSTU
from attnrec.encoders.identity import IdentityEncoder
from attnrec.encoders.session_graph import SessionGraph

ENCODERS: dict[str, type[Encoder]] = {
    "self_attention": SelfAttention,
    "dilated_conv": DilatedConv,
    "gated_conv": GatedConv,
    "gru": GRU,
    "hstu": HSTU,
    "none": IdentityEncoder,
    "session_graph": SessionGraph,
}
"""Name in the TOML -> encoder. To add an encoder, write one file and add one line here."""


def build_encoder(
    kind: str,
    *,
    dim: int,
    max_length: int,
    dropout: float = 0.0,
    causal: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Encoder:
    """Build an encoder by its name in the TOML.

    Args:
        kind: a name in `ENCODERS`.
        dim: number of channels of the event vectors and of the states.
        max_length: maximum number of positions.
        dropout: dropout rate, 0 to 1.
        causal: whether a state must not depend on later events.
        settings: fields of the encoder's `Settings`, such as {"layers": 2}.

    Raises:
        ValueError: for an unknown encoder, or an unknown or invalid setting.
    """
    encoder = registered(ENCODERS, kind, setting="encoder")
    checked = encoder.Settings.from_dict(settings or {})
    return encoder(dim, max_length=max_length, dropout=dropout, causal=causal, settings=checked)


__all__ = [
    "ENCODERS",
    "GRU",
    "HSTU",
    "AttentionSettings",
    "DilatedConv",
    "Encoder",
    "GatedConv",
    "Gates",
    "IdentityEncoder",
    "SelfAttention",
    "SessionGraph",
    "build_encoder",
]
