"""Hardware: memory use, peak arithmetic, and allocator settings of the training process."""

import ctypes
import sys
from pathlib import Path

import torch

KEEP_BYTES = 32 << 20  # the largest threshold that glibc accepts
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "A10": 125e12, "T4": 65e12}
"""Dense bfloat16 (T4: float16) matrix operations per second by GPU name, from NVIDIA's data sheets."""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step, instead of returning it to the kernel and page-faulting again."""
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 16 * KEEP_BYTES)
    except (OSError, AttributeError):  # another C library
        return


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process in MB: allocated GPU memory for a CUDA device, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # getrusage is only the fallback: its peak of a child process includes the parent's memory at the fork
    return _read_proc_mb("/proc/self/status", "VmHWM:") or _peak_from_getrusage()


def free_memory_mb(device: torch.device) -> float:
    """Return the available memory in MB; NaN if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    return _read_proc_mb("/proc/meminfo", "MemAvailable:") or float("nan")


def _read_proc_mb(file: str, name: str) -> float | None:
    """Read a line in kB from a file in /proc and return it in MB; None without the file or the line."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(name)), None)


def _peak_from_getrusage() -> float:
    import resource  # Unix only

    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor / 2**20


def peak_flops(device: torch.device) -> float | None:
    """Return the GPU's peak bfloat16 operations per second; None for a CPU and for GPUs not in `PEAK_FLOPS`."""
    if device.type != "cuda":
        return None
    device_name = torch.cuda.get_device_name(device)
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)
