"""Linear and Dropout compared with torch's layers and with float64."""

import contextlib

import pytest
import torch
from torch import nn

from attnrec.layers import MAX_BLOCK_ROWS, MIN_BLOCK_ROWS, Dropout, Linear
from attnrec.precision import reduced_precision, rounded_matmul

CPU = torch.device("cpu")


def matmul_settings() -> tuple[str, str]:
    return torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision


UNCHANGED = matmul_settings()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def check_that_torchs_settings_are_restored():
    yield
    assert matmul_settings() == UNCHANGED


def layers_with_equal_weights(*, bias: bool = True) -> tuple[Linear, nn.Linear]:
    """Our layer and torch's, 24 -> 20; oneDNN never rounds sums of 16 or fewer products."""
    ours, torchs = Linear(24, 20, bias=bias), nn.Linear(24, 20, bias=bias)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def values_and_gradients(layer: nn.Linear, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of a weighted sum of it with respect to input and parameters."""
    x = x.clone().requires_grad_()
    out = layer(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view(out.shape)
    (out * weights).sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def relative_error(values: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest difference as a share of the largest exact value."""
    return float((values.double() - exact).abs().max() / exact.abs().max())


# --- Linear


@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torchs_linear_outside_reduced_precision(bias):
    ours, torchs = layers_with_equal_weights(bias=bias)
    x = torch.randn(3, 2 * MAX_BLOCK_ROWS, 24)
    for value, expected in zip(values_and_gradients(ours, x), values_and_gradients(torchs, x), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_float64_is_never_rounded(precision):
    ours, torchs = (layer.double() for layer in layers_with_equal_weights())
    x = torch.randn(2 * MAX_BLOCK_ROWS, 24, dtype=torch.float64)
    with reduced_precision(precision, CPU):
        assert torch.equal(ours(x), torchs(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(2 * MAX_BLOCK_ROWS + MIN_BLOCK_ROWS + 5, 24), (3, MAX_BLOCK_ROWS, 24), (7, 24), (0, 24)]
)
def test_reduced_precision_is_within_one_percent_of_float64(bias, shape):
    ours, torchs = layers_with_equal_weights(bias=bias)
    x = torch.randn(shape)
    with reduced_precision("bfloat16", CPU):
        values = values_and_gradients(ours, x)
    for value, exact in zip(values, values_and_gradients(torchs.double(), x.double()), strict=True):
        assert value.dtype == torch.float32
        assert value.shape == exact.shape
        if exact.numel():
            assert relative_error(value, exact) < 1e-2 if exact.any() else not value.any()


@pytest.mark.parametrize("n_rows", [1, MIN_BLOCK_ROWS, MIN_BLOCK_ROWS + 5, MAX_BLOCK_ROWS + MIN_BLOCK_ROWS + 5])
def test_all_products_round_their_inputs_if_the_backend_does_and_are_added_in_float32(n_rows, matmul_backend):
    ours, _ = layers_with_equal_weights()
    x, weight, bias = torch.randn(n_rows, 24), ours.weight.detach(), ours.bias.detach()
    with reduced_precision("bfloat16", CPU):
        out, d_x, d_weight, d_bias = values_and_gradients(ours, x)

    def product_input(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.bfloat16() if matmul_backend == "rounding" else tensor).double()

    d_out = torch.linspace(-1, 1, n_rows * 20).view(-1, 20)
    assert relative_error(out, product_input(x) @ product_input(weight).mT + bias) < 1e-6
    assert (relative_error(out, x.double() @ weight.double().mT + bias) > 1e-4) == (matmul_backend == "rounding")
    assert relative_error(d_x, product_input(d_out) @ product_input(weight)) < 1e-6
    assert relative_error(d_weight, product_input(d_out).mT @ product_input(x)) < 1e-6
    assert relative_error(d_bias, d_out.double().sum(0)) < 1e-4


@pytest.mark.usefixtures("matmul_backend")
def test_the_result_of_a_row_does_not_depend_on_the_other_rows():
    ours, _ = layers_with_equal_weights()
    x = torch.randn(MAX_BLOCK_ROWS + 3, 24)
    with reduced_precision("bfloat16", CPU):
        together, alone = ours(x), torch.cat([ours(row[None]) for row in x[-9:]])
    torch.testing.assert_close(together[-9:], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("matmul_backend")
def test_rounding_ends_with_the_block():
    ours, torchs = layers_with_equal_weights()
    x = torch.randn(MAX_BLOCK_ROWS, 24)
    with contextlib.suppress(KeyError), reduced_precision("bfloat16", CPU):
        ours(x)
        raise KeyError
    assert torch.equal(ours(x), torchs(x))


def test_a_failing_product_restores_torchs_settings():
    ours, torchs = layers_with_equal_weights()
    wrong = torch.randn(2 * MAX_BLOCK_ROWS, 23)
    with reduced_precision("bfloat16", CPU), pytest.raises(RuntimeError) as failed:
        ours(wrong.expand(2, 2 * MAX_BLOCK_ROWS, 23)[..., :12])
    assert matmul_settings() == UNCHANGED, "while the traceback still exists"
    del failed
    with pytest.raises(KeyError), rounded_matmul():
        raise KeyError
    x = torch.randn(MAX_BLOCK_ROWS, 24)
    assert torch.equal(ours(x), torchs(x))


@pytest.mark.usefixtures("matmul_backend")
@pytest.mark.parametrize("nested", ["float32", "auto", "bfloat16"])
def test_a_nested_block_restores_the_precision_of_the_outer_block(nested):
    ours, torchs = layers_with_equal_weights()
    x = torch.randn(MAX_BLOCK_ROWS, 24)
    with reduced_precision("bfloat16", CPU):
        expected = ours(x)
        with reduced_precision(nested, CPU):
            ours(x)
        assert torch.equal(ours(x), expected)
    assert torch.equal(ours(x), torchs(x))


# --- Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_a_share_p_and_scales_the_other_elements(p):
    n = 200_001
    kept = Dropout(p)(torch.full((n,), 3.0))
    dropped = int((kept == 0).sum())
    assert dropped / n == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    torch.testing.assert_close(kept[kept != 0], torch.full((n - dropped,), 3 / (1 - p)), rtol=2e-4, atol=0)


def test_dropout_keeps_the_mean():
    n, p = 400_000, 0.3
    mean = Dropout(p)(torch.ones(n)).double().mean()
    assert mean == pytest.approx(1, abs=5 * (p / (1 - p) / n) ** 0.5)


def test_the_four_elements_of_one_random_number_are_dropped_independently():
    kept = Dropout(0.5)(torch.ones(100_000, 4)) > 0
    patterns = (kept * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert (patterns.double() / 100_000 - 1 / 16).abs().max() < 5 * (1 / 16 * 15 / 16 / 100_000) ** 0.5


def test_the_gradient_of_dropout_is_its_mask():
    x = torch.randn(50, 7, requires_grad=True)
    out = Dropout(0.4)(x)
    d_out = torch.randn(50, 7)
    out.backward(d_out)
    torch.testing.assert_close(x.grad, d_out * torch.where(out != 0, out / x, 0.0).detach())
    assert (x.grad == 0).any()


@pytest.mark.parametrize("layer", [Dropout(0.4).eval(), Dropout(0.0)])
def test_dropout_in_evaluation_or_with_p_0_is_the_identity_and_draws_no_random_numbers(layer):
    x, state = torch.randn(5, 3), torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_depends_on_the_seed():
    x, layer, outputs = torch.ones(3, 5, 7), Dropout(0.5), []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        outputs.append(layer(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 3, 5)])
def test_dropout_accepts_any_shape_and_strides(shape):
    x = torch.ones(shape).mT if len(shape) > 1 else torch.ones(shape)
    out = Dropout(0.5)(x)
    assert out.shape == x.shape
    assert set(out.flatten().tolist()) <= {0.0, 2.0}
