"""Attention mechanisms: one file each, one interface (`kernel.AttentionKernel`), one registry (`ATTENTION_KERNELS`)."""

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
from attnrec.attention.kernel import AttentionKernel, AttentionOutput, KernelShape
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
from attnrec.config import registered

ATTENTION_KERNELS: dict[str, type[AttentionKernel]] = {
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
"""Name in the TOML -> kernel. To add a kernel, write one file and add one line here."""


def build_kernel(kind: str, shape: KernelShape, settings: Mapping[str, Any] | None = None) -> AttentionKernel:
    """Build an attention kernel by its name in the TOML.

    Args:
        kind: a name in `ATTENTION_KERNELS`.
        shape: the sizes it is built for.
        settings: fields of the kernel's `Settings`, such as {"window": 64}.

    Raises:
        ValueError: for an unknown kernel, an unknown or invalid setting, or a kernel that does not support the shape.
    """
    kernel = registered(ATTENTION_KERNELS, kind, setting="attention")
    return kernel(shape, kernel.Settings.from_dict(settings or {}))


__all__ = [
    "ATTENTION_KERNELS",
    "AttentionOutput",
    "AttentionPooling",
    "AttentionKernel",
    "KernelShape",
    "HSTUBlock",
    "ItemValues",
    "MultiHeadAttention",
    "ScaledDot",
    "build_kernel",
    "last_position",
]
