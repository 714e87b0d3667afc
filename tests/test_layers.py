"""Linear and Dropout against torch's own and against float64."""

import contextlib

import pytest
import torch
from torch import nn

from attnrec.layers import LARGEST, SMALLEST, Dropout, Linear
from attnrec.precision import has_bfloat16, reduced_precision, rounded_matmul

CPU = torch.device("cpu")


def torchs_settings() -> tuple[str, str]:
    return torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision


UNCHANGED = torchs_settings()

needs_units = pytest.mark.skipif(not has_bfloat16(CPU), reason="needs a processor that multiplies bfloat16")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was():
    yield
    assert torchs_settings() == UNCHANGED


def twins(*, bias: bool = True) -> tuple[Linear, nn.Linear]:
    """Our layer and torch's, 24 -> 20, with the same weights; torch never rounds sums of 16 products or fewer."""
    own, plain = Linear(24, 20, bias=bias), nn.Linear(24, 20, bias=bias)
    plain.load_state_dict(own.state_dict())
    return own, plain


def values_and_gradients(layer: nn.Linear, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of a weighted sum of it with respect to input and parameters."""
    x = x.clone().requires_grad_()
    out = layer(x)
    given = torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view(out.shape)
    (out * given).sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """As bfloat16 holds it, in float64."""
    return tensor.bfloat16().double()


def off_by(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


# --- Linear


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs_own_to_the_bit_unless_rounding_is_wanted(bias):
    own, plain = twins(bias=bias)
    x = torch.randn(3, 2 * LARGEST, 24)
    for found, expected in zip(values_and_gradients(own, x), values_and_gradients(plain, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_double_is_never_rounded(precision):
    own, plain = (layer.double() for layer in twins())
    x = torch.randn(2 * LARGEST, 24, dtype=torch.float64)
    with reduced_precision(precision, CPU):
        assert torch.equal(own(x), plain(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2 * LARGEST + SMALLEST + 5, 24), (3, LARGEST, 24), (7, 24), (0, 24)])
def test_rounded_values_and_gradients_are_within_a_hundredth(bias, shape):
    own, plain = twins(bias=bias)
    x = torch.randn(shape)
    with reduced_precision("bfloat16", CPU):
        found = values_and_gradients(own, x)
    for one, exact in zip(found, values_and_gradients(plain.double(), x.double()), strict=True):
        assert one.dtype == torch.float32
        assert one.shape == exact.shape
        if exact.numel():
            assert off_by(one, exact) < 1e-2 if exact.any() else not one.any()


@needs_units
@pytest.mark.parametrize("n_rows", [1, SMALLEST, SMALLEST + 5, LARGEST + SMALLEST + 5])
def test_inputs_of_all_products_are_rounded_and_added_up_in_float32(n_rows):
    own, _ = twins()
    x, weight, bias = torch.randn(n_rows, 24), own.weight.detach(), own.bias.detach()
    with reduced_precision("auto", CPU):
        out, d_x, d_weight, d_bias = values_and_gradients(own, x)
    given = torch.linspace(-1, 1, n_rows * 20).view(-1, 20)
    assert off_by(out, rounded(x) @ rounded(weight).mT + bias) < 1e-6
    assert off_by(out, x.double() @ weight.double().mT + bias) > 1e-4
    assert off_by(d_x, rounded(given) @ rounded(weight)) < 1e-6
    assert off_by(d_weight, rounded(given).mT @ rounded(x)) < 1e-6
    assert off_by(d_bias, given.double().sum(0)) < 1e-4


@needs_units
def test_a_rows_result_does_not_depend_on_the_rows_beside_it():
    own, _ = twins()
    x = torch.randn(LARGEST + 3, 24)
    with reduced_precision("auto", CPU):
        whole, alone = own(x), torch.cat([own(row[None]) for row in x[-9:]])
    torch.testing.assert_close(whole[-9:], alone, rtol=1e-5, atol=1e-6)


def test_rounding_ends_with_the_block():
    own, plain = twins()
    x = torch.randn(LARGEST, 24)
    with contextlib.suppress(KeyError), reduced_precision("bfloat16", CPU):
        own(x)
        raise KeyError
    assert torch.equal(own(x), plain(x))


def test_a_product_that_fails_leaves_torch_as_it_was():
    own, plain = twins()
    wrong = torch.randn(2 * LARGEST, 23)
    with reduced_precision("bfloat16", CPU), pytest.raises(RuntimeError) as failed:
        own(wrong.expand(2, 2 * LARGEST, 23)[..., :12])
    assert torchs_settings() == UNCHANGED, "also while the traceback is looked at"
    del failed
    with pytest.raises(KeyError), rounded_matmul():
        raise KeyError
    x = torch.randn(LARGEST, 24)
    assert torch.equal(own(x), plain(x))


@pytest.mark.parametrize("nested", ["float32", "auto", "bfloat16"])
def test_a_wish_inside_a_wish_ends_first(nested):
    own, plain = twins()
    x = torch.randn(LARGEST, 24)
    with reduced_precision("bfloat16", CPU):
        expected = own(x)
        with reduced_precision(nested, CPU):
            own(x)
        assert torch.equal(own(x), expected)
    assert torch.equal(own(x), plain(x))


# --- Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_the_share_asked_for_and_scales_the_rest(p):
    n = 200_001
    kept = Dropout(p)(torch.full((n,), 3.0))
    dropped = int((kept == 0).sum())
    assert dropped / n == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    torch.testing.assert_close(kept[kept != 0], torch.full((n - dropped,), 3 / (1 - p)), rtol=2e-4, atol=0)


def test_dropout_keeps_the_mean():
    n, p = 400_000, 0.3
    found = Dropout(p)(torch.ones(n)).double().mean()
    assert found == pytest.approx(1, abs=5 * (p / (1 - p) / n) ** 0.5)


def test_neighbours_are_dropped_apart():
    """Four elements share one draw."""
    kept = Dropout(0.5)(torch.ones(100_000, 4)) > 0
    patterns = (kept * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert (patterns.double() / 100_000 - 1 / 16).abs().max() < 5 * (1 / 16 * 15 / 16 / 100_000) ** 0.5


def test_the_gradient_of_dropout_is_its_mask():
    x = torch.randn(50, 7, requires_grad=True)
    out = Dropout(0.4)(x)
    given = torch.randn(50, 7)
    out.backward(given)
    torch.testing.assert_close(x.grad, given * torch.where(out != 0, out / x, 0.0).detach())
    assert (x.grad == 0).any()


@pytest.mark.parametrize("layer", [Dropout(0.4).eval(), Dropout(0.0)])
def test_dropout_changes_and_draws_nothing_in_evaluation_or_at_rate_0(layer):
    x, state = torch.randn(5, 3), torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_follows_the_seed():
    x, layer, found = torch.ones(3, 5, 7), Dropout(0.5), []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        found.append(layer(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 3, 5)])
def test_dropout_takes_any_shape_also_of_strided_memory(shape):
    x = torch.ones(shape).mT if len(shape) > 1 else torch.ones(shape)
    found = Dropout(0.5)(x)
    assert found.shape == x.shape
    assert set(found.flatten().tolist()) <= {0.0, 2.0}
