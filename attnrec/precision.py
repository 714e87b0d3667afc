"""Reduced precision for matrix products, where a device has it.

On CUDA it is autocast to bfloat16. On a CPU with bfloat16 units (AMX, AVX512_BF16) the large products (linear
layers, the softmax over the catalogue) round their inputs and add in float32; attention stays float32, whose
small products that mode makes 8x slower.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]

_wanted = False  # set by `reduced_precision`, read by the layers in their forward pass


@contextmanager
def reduced_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the block's large matrix products on `device` in bfloat16.

    Args:
        precision: "auto" is bfloat16 wherever the hardware has it, "bfloat16" also where it is emulated.
        device: where the block runs.
    """
    if precision == "float32" or (precision == "auto" and not has_bfloat16(device)):
        yield
    elif device.type == "cuda":
        with torch.autocast("cuda", dtype=torch.bfloat16):
            yield
    else:
        with _rounding_wanted():
            yield


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def should_round(tensor: torch.Tensor) -> bool:
    """Whether a layer should round the products it makes of `tensor` (see `rounded_matmul`)."""
    if tensor.device.type == "cuda":
        return torch.is_autocast_enabled("cuda")
    return _wanted and tensor.dtype == torch.float32


@contextmanager
def rounded_matmul(on: bool = True) -> Iterator[None]:
    """Float32 matrix products inside the block round their inputs: to bfloat16 on a CPU, to TF32 on CUDA.

    Sums and results stay float32.
    """
    if not on:
        yield
        return
    cpu, cuda = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = cpu.fp32_precision, cuda.fp32_precision
    cpu.fp32_precision, cuda.fp32_precision = "bf16", "tf32"
    try:
        yield
    finally:
        cpu.fp32_precision, cuda.fp32_precision = before


@contextmanager
def _rounding_wanted() -> Iterator[None]:
    global _wanted
    before, _wanted = _wanted, True
    try:
        yield
    finally:
        _wanted = before
