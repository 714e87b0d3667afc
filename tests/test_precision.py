"""Choice of the precision of matrix products, for every kind of backend."""

import logging

import pytest
import torch

from attnrec import precision
from attnrec.precision import (
    Bfloat16Support,
    bfloat16_support,
    describe_precision,
    reduced_precision,
    resolve_precision,
)

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")


@pytest.fixture
def set_support(monkeypatch):
    """Replace the measurement by a given result."""

    def set_to(support: Bfloat16Support) -> None:
        monkeypatch.setattr(precision, "_measure_cpu", lambda: support)

    return set_to


# --- the measurement


def test_the_measurement_detects_whether_the_backend_rounds(matmul_backend):
    precision._measure_cpu.cache_clear()
    try:
        support = bfloat16_support(CPU)
    finally:
        precision._measure_cpu.cache_clear()  # other tests measure the real backend
    assert support.rounds == (matmul_backend == "rounding")
    assert support.speedup is not None
    assert support.speedup > 0
    assert support.rounds or support.speedup == 1


def test_the_backend_is_measured_once_per_process():
    assert bfloat16_support(CPU) is bfloat16_support(CPU)


def test_the_measurement_agrees_with_a_product_of_the_real_backend():
    x = torch.full((64, 32), 1 + 2.0**-9)
    with precision.rounded_matmul():
        product = x @ torch.ones(32, 64)
    assert bool((product == 32).all()) == bfloat16_support(CPU).rounds


def test_the_measurement_draws_no_random_numbers_and_restores_torchs_settings():
    state, setting = torch.get_rng_state(), torch.backends.mkldnn.matmul.fp32_precision
    precision._measure_cpu.__wrapped__()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mkldnn.matmul.fp32_precision == setting


def test_the_speedup_is_the_ratio_of_the_minimum_times(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])

    def function_that_takes(*seconds: float):
        remaining = iter(seconds)

        def function() -> None:
            clock[0] += next(remaining)

        return function

    baseline = function_that_takes(0, 9, 8, *[6.0] * 8)  # the first call is the warm-up
    candidate = function_that_takes(0, *[5.0] * 9, 2)
    assert precision._speedup(baseline, candidate) == pytest.approx(6 / 2)


# --- the choice


@pytest.mark.parametrize(
    ("support", "expected", "reason"),
    [
        (
            Bfloat16Support(rounds=True, speedup=3.1),
            "bfloat16",
            "rounded to bfloat16, at 3.1 times the speed of float32",
        ),
        (
            Bfloat16Support(rounds=True, speedup=0.8),
            "float32",
            "rounded to bfloat16, at 0.8 times the speed of float32",
        ),
        (
            Bfloat16Support(rounds=True, speedup=1.1),
            "float32",
            "rounded to bfloat16, at 1.1 times the speed of float32",
        ),
        (Bfloat16Support(rounds=False, speedup=1.0), "float32", "its backend computes the products in float32"),
    ],
)
def test_auto_uses_bfloat16_only_if_products_are_rounded_and_faster(set_support, support, expected, reason):
    set_support(support)
    assert resolve_precision("auto", CPU) == expected
    description = describe_precision("auto", CPU)
    assert description.startswith(f"{expected} (auto: CPU, ")
    assert reason in description
    with reduced_precision("auto", CPU):
        assert precision.should_round(torch.ones(1)) == (expected == "bfloat16")
    assert not precision.should_round(torch.ones(1))


@pytest.mark.parametrize("rounds", [True, False])
def test_explicit_precisions_do_not_depend_on_the_backend(set_support, rounds):
    set_support(Bfloat16Support(rounds=rounds, speedup=1.0))
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    assert resolve_precision("float32", CPU) == "float32"
    assert describe_precision("float32", CPU) == "float32 (as configured)"
    assert ("computes the products in float32" in describe_precision("bfloat16", CPU)) == (not rounds)
    with reduced_precision("bfloat16", CPU):
        assert precision.should_round(torch.ones(1))


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_cuda_follows_the_capability_of_the_device(monkeypatch, in_hardware, expected):
    def is_supported(including_emulation: bool = True) -> bool:
        return in_hardware or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    reason = "autocast to bfloat16" if in_hardware else "no bfloat16 in hardware"
    assert resolve_precision("auto", CUDA) == expected
    assert describe_precision("auto", CUDA) == f"{expected} (auto: A GPU: {reason})"
    assert resolve_precision("bfloat16", CUDA) == "bfloat16"


def test_bfloat16_on_a_device_without_it_raises(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    for device in (CUDA, META):
        with pytest.raises(ValueError, match=f"needs a CPU or a GPU with bfloat16, got device '{device}'; use 'auto'"):
            resolve_precision("bfloat16", device)
        assert resolve_precision("auto", device) == "float32"


def test_the_choice_is_logged_once(set_support, caplog):
    set_support(Bfloat16Support(rounds=True, speedup=2.0))
    precision._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="attnrec.precision"):
        for _ in range(3):
            with reduced_precision("auto", CPU):
                pass
    precision._log_once.cache_clear()
    assert caplog.messages == [f"precision: {describe_precision('auto', CPU)}"]
