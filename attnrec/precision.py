"""Reduced precision of matrix products: autocast on CUDA, products with bfloat16 inputs on a CPU.

On CUDA, bfloat16 means autocast of the model. On a CPU the large products (linear layers, the softmax over the
catalogue) round their inputs to bfloat16 and accumulate in float32; attention stays float32, because the same mode
makes its small products 8x slower.

Whether a CPU backend (oneDNN on x86, Arm Compute Library on Arm) rounds these products, and whether that is faster,
cannot be derived from processor flags: with AVX512_BF16 but without AMX the products can be exact. It is therefore
measured once per process.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]

MIN_SPEEDUP = 1.2
"""Speedup that "auto" requires for bfloat16. Clearly above 1, so that noise of the measurement does not decide."""

logger = logging.getLogger(__name__)

_rounding_requested = False  # set by `reduced_precision`, read by the layers in their forward pass


@dataclass(frozen=True)
class Bfloat16Support:
    """What a device does when bfloat16 is requested.

    Attributes:
        rounds: whether matrix products round their inputs to bfloat16.
        speedup: time of a float32 product over the time of a bfloat16 product; 1 where products are not rounded, and
            None where it was not measured (CUDA).
    """

    rounds: bool
    speedup: float | None = None

    @property
    def is_faster(self) -> bool:
        """Whether "auto" uses bfloat16."""
        return self.rounds and (self.speedup is None or self.speedup >= MIN_SPEEDUP)


@contextmanager
def reduced_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the large matrix products inside the block in the given precision. Logs the choice once per process.

    Args:
        precision: "float32"; "bfloat16"; or "auto": bfloat16 if the device rounds products and is faster with it, else
            float32. On a CPU whose backend does not round, "bfloat16" computes the products in float32.
        device: the device that computes the block.

    Raises:
        ValueError: for "bfloat16" on a device that supports it neither in hardware nor by emulation.
    """
    chosen = resolve_precision(precision, device)
    _log_once(precision, device)
    if chosen == "float32":
        yield
    elif device.type == "cuda":
        with torch.autocast("cuda", dtype=torch.bfloat16):
            yield
    else:
        with _request_rounding():
            yield


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision that "auto" selects on `device`; other values are returned as they are.

    Raises:
        ValueError: as in `reduced_precision`.
    """
    if precision == "auto":
        return "bfloat16" if bfloat16_support(device).is_faster else "float32"
    if precision == "bfloat16" and not _has_bfloat16(device):
        raise ValueError(
            f"precision 'bfloat16' needs a CPU or a GPU with bfloat16, got device {str(device)!r}; use 'auto'"
        )
    return precision


def describe_precision(precision: Precision, device: torch.device) -> str:
    """Return one line with the precision that is used on `device` and the reason, for logs.

    Raises:
        ValueError: as in `reduced_precision`.
    """
    chosen = resolve_precision(precision, device)
    if precision == "float32":
        return "float32 (as configured)"
    support, prefix = bfloat16_support(device), "auto: " if precision == "auto" else ""
    if device.type == "cpu":
        n_threads = torch.get_num_threads()
        name = f"CPU, {n_threads} thread{'s' * (n_threads > 1)}"
        reason = f"products are rounded to bfloat16, at {support.speedup or 1:.1f} times the speed of float32"
        if not support.rounds:
            reason = "its backend computes the products in float32"
    else:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        reason = "autocast to bfloat16" if support.rounds else "no bfloat16 in hardware"
    return f"{chosen} ({prefix}{name}: {reason})"


def bfloat16_support(device: torch.device) -> Bfloat16Support:
    """Return what `device` does when bfloat16 is requested: measured on a CPU, the capability of a CUDA device."""
    if device.type == "cpu":
        return _measure_cpu()
    if device.type == "cuda":
        return Bfloat16Support(torch.cuda.is_bf16_supported(including_emulation=False))
    return Bfloat16Support(rounds=False)


def should_round(tensor: torch.Tensor) -> bool:
    """Return whether a layer should compute products of `tensor` with `rounded_matmul`."""
    if tensor.device.type == "cuda":
        return torch.is_autocast_enabled("cuda")
    return _rounding_requested and tensor.dtype == torch.float32


@contextmanager
def rounded_matmul(enabled: bool = True) -> Iterator[None]:
    """Let float32 matrix products inside the block round their inputs: to bfloat16 on a CPU, to TF32 on CUDA.

    Sums and results stay float32. A CPU backend without such products ignores the setting.
    """
    if not enabled:
        yield
        return
    cpu, cuda = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = cpu.fp32_precision, cuda.fp32_precision
    cpu.fp32_precision, cuda.fp32_precision = "bf16", "tf32"
    try:
        yield
    finally:
        cpu.fp32_precision, cuda.fp32_precision = before


@cache
def _measure_cpu() -> Bfloat16Support:
    """Multiply (256, 128) by (128, 256) with and without rounding; about 10 ms, without random numbers."""
    # 1 + 2^-9 is rounded to 1, so that the 128 terms add up to 128 instead of 128.25
    left, right = torch.full((256, 128), 1 + 2.0**-9), torch.ones(128, 256)

    def multiply() -> torch.Tensor:
        return torch.mm(left, right)

    def multiply_rounded() -> torch.Tensor:
        with rounded_matmul():
            return torch.mm(left, right)

    with torch.inference_mode():
        if not bool((multiply_rounded() == 128).all()):
            return Bfloat16Support(rounds=False, speedup=1.0)
        return Bfloat16Support(rounds=True, speedup=_speedup(multiply, multiply_rounded))


def _speedup(baseline: Callable[[], object], candidate: Callable[[], object]) -> float:
    """Return the minimum time of `baseline` over that of `candidate`, of 10 alternating calls after a warm-up."""
    times: dict[Callable[[], object], list[float]] = {baseline: [], candidate: []}
    for _ in range(11):
        for function, seconds in times.items():
            started = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - started)
    return min(times[baseline][1:]) / min(times[candidate][1:])


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())


@cache
def _log_once(precision: Precision, device: torch.device) -> None:
    logger.info("precision: %s", describe_precision(precision, device))


@contextmanager
def _request_rounding() -> Iterator[None]:
    global _rounding_requested
    before, _rounding_requested = _rounding_requested, True
    try:
        yield
    finally:
        _rounding_requested = before
