"""What is said of memory, where it can be measured."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnrec.training.hardware import free_memory_mb, keep_freed_memory, peak_flops, peak_memory_mb

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says")


@on_linux
def test_the_peak_is_what_this_process_had_at_most():
    before = peak_memory_mb(CPU)
    held = torch.ones(int(before) + 100, 2**18)  # of 4 bytes: as many MB
    del held
    after = peak_memory_mb(CPU)
    assert after > before + 100


@on_linux
def test_a_childs_peak_is_its_own():
    """Training is a child of the flow; getrusage would tell it the flow's peak."""
    held = torch.ones(1000, 2**18)
    code = "import torch; from attnrec.training.hardware import peak_memory_mb as p; print(p(torch.device('cpu')))"
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert 50 < float(said) < 1000 < peak_memory_mb(CPU)
    del held


@on_linux
def test_free_memory_is_what_could_be_had():
    held = torch.ones(500, 2**18)
    less = free_memory_mb(CPU)
    del held
    assert 0 < less < free_memory_mb(CPU) + 100


def test_keeping_freed_memory_can_be_asked_for_twice():
    keep_freed_memory()
    keep_freed_memory()
    assert torch.ones(3).sum() == 3


def test_the_peak_of_a_cpu_is_not_guessed():
    assert peak_flops(CPU) is None
