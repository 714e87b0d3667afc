"""What the machine does during training: memory, arithmetic, and the settings of both that entry points make."""

import ctypes
import sys
from pathlib import Path

import torch

KEEP_BYTES = 32 << 20  # glibc takes no larger threshold
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "A10": 125e12, "T4": 65e12}
"""Dense bfloat16 (T4: float16) matrix operations per second by name, from NVIDIA's data sheets."""


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step, instead of handing it back and faulting it in again."""
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 16 * KEEP_BYTES)
    except (OSError, AttributeError):  # another C library
        return


def peak_memory_mb(device: torch.device) -> float:
    """Most memory this process had: of the GPU where it trains on one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # not getrusage where there is a choice: with it a child begins with what its parent had
    return _linux_says("/proc/self/status", "VmHWM:") or _by_getrusage()


def free_memory_mb(device: torch.device) -> float:
    """Memory that could still be had; not a number where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    return _linux_says("/proc/meminfo", "MemAvailable:") or float("nan")


def _linux_says(file: str, name: str) -> float | None:
    """A line of kilobytes, in MB."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(name)), None)


def _by_getrusage() -> float:
    import resource  # Unix only

    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor / 2**20


def peak_flops(device: torch.device) -> float | None:
    """Operations per second the GPU could do in bfloat16; None for a CPU and for GPUs not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)
