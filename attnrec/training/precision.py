"""Reduced precision for matrix products, where a device has it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


@contextmanager
def reduced_precision(precision: Literal["auto", "float32"], device: torch.device) -> Iterator[None]:
    """Run the block with bfloat16 matrix products.

    On CUDA it is autocast. On a CPU everything stays float32: rounding the inputs of oneDNN's float32 products
    sped the softmax layer up 1.7x but made the small products inside SDPA 8x slower (d = 64, one thread).
    """
    if device.type == "cuda" and precision != "float32":
        with torch.autocast("cuda", dtype=torch.bfloat16):
            yield
    else:
        yield
