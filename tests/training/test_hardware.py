"""Memory measurements, on platforms that support them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnrec.training.hardware import free_memory_mb, keep_freed_memory, peak_flops, peak_memory_mb

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@on_linux
def test_peak_memory_includes_memory_that_was_freed():
    before = peak_memory_mb(CPU)
    tensor = torch.ones(int(before) + 100, 2**18)  # a row takes 1 MB
    del tensor
    after = peak_memory_mb(CPU)
    assert after > before + 100


@on_linux
def test_peak_memory_of_a_child_process_excludes_its_parent():
    """Training is a child process of the flow; getrusage would include the flow's peak."""
    tensor = torch.ones(1000, 2**18)
    code = "import torch; from attnrec.training.hardware import peak_memory_mb as p; print(p(torch.device('cpu')))"
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert 50 < float(output) < 1000 < peak_memory_mb(CPU)
    del tensor


@on_linux
def test_free_memory_rises_when_a_tensor_is_deleted():
    tensor = torch.ones(500, 2**18)
    free = free_memory_mb(CPU)
    del tensor
    assert 0 < free < free_memory_mb(CPU) + 100


def test_keep_freed_memory_can_be_called_twice():
    keep_freed_memory()
    keep_freed_memory()
    assert torch.ones(3).sum() == 3


def test_peak_flops_of_a_cpu_are_unknown():
    assert peak_flops(CPU) is None
