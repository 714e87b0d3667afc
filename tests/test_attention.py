"""The contract of the shelf, for every core in CORES, and the two layers around a core."""

import numpy as np
import pytest
import torch

from attnrec.attention import CORES, AttentionPooling, CoreShape, ItemValues, MultiHeadAttention, build_core

B, H, L, C = 2, 3, 5, 4
SHAPE = CoreShape(heads=H, channels=C, max_length=L)


def scaled_dot(q, k, v, allowed):
    """Softmax of scaled products, in float64 and one query at a time."""
    output, weights = np.zeros(v.shape), np.zeros((*q.shape[:3], k.shape[2]))
    for b, h, i in np.ndindex(q.shape[:3]):
        places = np.flatnonzero(allowed[b, h, i])
        if len(places):
            odds = np.exp([q[b, h, i] @ k[b, h, j] / np.sqrt(q.shape[-1]) for j in places])
            weights[b, h, i, places] = odds / odds.sum()
            output[b, h, i] = weights[b, h, i] @ v[b, h]
    return output, weights


REFERENCES = {"scaled_dot": scaled_dot}


@pytest.fixture(params=CORES)
def name(request) -> str:
    return request.param


@pytest.fixture
def core(name):
    torch.manual_seed(0)
    return build_core(name, SHAPE).eval()


@pytest.fixture
def qkv():
    random = torch.Generator().manual_seed(7)
    return tuple(torch.randn(B, H, L, C, generator=random) for _ in range(3))


@pytest.fixture
def real() -> torch.Tensor:
    """The first history has three events and two of padding, the second five: (B, 1, 1, L)."""
    return (torch.arange(L) < torch.tensor([[3], [5]]))[:, None, None]


MASKS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize(("padded", "causal"), MASKS)
def test_output_and_weights_equal_a_float64_reference(name, core, qkv, real, padded, causal):
    allowed = torch.ones(B, H, L, L, dtype=torch.bool)
    if padded:
        allowed &= real
    if causal:
        allowed &= torch.ones(L, L, dtype=torch.bool).tril()
    attended = core(*qkv, allowed=real if padded else None, causal=causal, need_weights=True)
    output, weights = REFERENCES[name](*(x.double().numpy() for x in qkv), allowed.numpy())
    np.testing.assert_allclose(attended.output.numpy(), output, atol=1e-6)
    np.testing.assert_allclose(attended.weights.numpy(), weights, atol=1e-6)


@pytest.mark.parametrize(("padded", "causal"), MASKS)
def test_the_output_is_the_same_whether_weights_are_asked_for_or_not(core, qkv, real, padded, causal):
    allowed = real if padded else None
    with_weights = core(*qkv, allowed=allowed, causal=causal, need_weights=True)
    without = core(*qkv, allowed=allowed, causal=causal, need_weights=False)
    assert without.weights is None
    torch.testing.assert_close(without.output, with_weights.output)


def test_weights_are_aligned_with_the_keys_and_mean_what_the_core_declares(core, qkv, real):
    weights = core(*qkv, allowed=real, causal=True, need_weights=True).weights
    if core.weights_are is None:
        assert weights is None
        return
    assert weights.shape == (B, H, L, L)
    assert weights.isfinite().all()
    if core.weights_are == "shares":
        assert (weights >= 0).all()
        assert (weights.sum(-1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("causal", [False, True])
def test_padding_gets_no_attention_and_changes_nothing(core, qkv, real, causal):
    q, k, v = qkv
    hidden = ~real.mT  # (B, 1, L, 1)
    clean = core(q, k, v, allowed=real, causal=causal, need_weights=True)
    other = core(
        q,
        k.masked_fill(hidden, 50.0),
        v.masked_fill(hidden, -9.0),
        allowed=real,
        causal=causal,
        need_weights=True,
    )
    torch.testing.assert_close(other.output, clean.output)
    if clean.weights is not None:
        assert (clean.weights[0, ..., 3:] == 0).all()


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_query_does_not_see_later_keys(core, qkv, need_weights):
    q, k, v = (x.clone() for x in qkv)
    before = core(q, k, v, causal=True, need_weights=need_weights).output
    k[:, :, 3:], v[:, :, 3:] = 40.0, -40.0
    after = core(q, k, v, causal=True, need_weights=need_weights).output
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3])
    assert not torch.allclose(after[:, :, 3:], before[:, :, 3:])


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_query_that_may_attend_to_nothing_gets_zeros(core, qkv, need_weights):
    allowed = torch.ones(B, 1, L, L, dtype=torch.bool)
    allowed[0, 0, 2] = False
    attended = core(*qkv, allowed=allowed, need_weights=need_weights)
    assert (attended.output[0, :, 2] == 0).all()
    assert (attended.output[0, :, 1] != 0).any()
    if attended.weights is not None:
        assert (attended.weights[0, :, 2] == 0).all()


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_gradients_are_finite_also_where_nothing_is_allowed(core, qkv, size):
    q, k, v = ((x * size).requires_grad_() for x in qkv)
    allowed = torch.ones(B, 1, 1, L, dtype=torch.bool)
    allowed[0] = False
    core(q, k, v, allowed=allowed, causal=True, need_weights=True).output.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    assert v.grad[1].abs().sum() > 0
    assert (v.grad[0] == 0).all()


# --- multi-head attention around each core


def test_multi_head_attention_gives_states_and_weights_of_each_head(name):
    torch.manual_seed(0)
    layer = MultiHeadAttention(12, heads=3, core=build_core(name, SHAPE))
    attended = layer(torch.randn(B, L, 12), causal=True, need_weights=True)
    assert attended.output.shape == (B, L, 12)
    assert attended.weights is None or attended.weights.shape == (B, 3, L, L)


def test_heads_do_not_see_each_others_channels():
    torch.manual_seed(0)
    layer = MultiHeadAttention(4, heads=2, core=build_core("scaled_dot", SHAPE))
    with torch.no_grad():
        layer.project_in.weight.copy_(torch.eye(4).repeat(3, 1))
        layer.project_out.weight.copy_(torch.eye(4))
    x = torch.randn(1, L, 4)
    before = layer(x).output
    x[..., 2:] += torch.randn(1, L, 2)
    torch.testing.assert_close(layer(x).output[..., :2], before[..., :2])


@pytest.mark.parametrize(
    "layer",
    [
        lambda: MultiHeadAttention(10, heads=3, core=build_core("scaled_dot", SHAPE)),
        lambda: AttentionPooling(10, heads=3),
    ],
)
def test_a_width_that_heads_do_not_divide_is_refused(layer):
    with pytest.raises(ValueError, match="must be a multiple of"):
        layer()


# --- the readout


@pytest.fixture
def pooling() -> AttentionPooling:
    torch.manual_seed(0)
    return AttentionPooling(8, heads=2)


@pytest.fixture
def states_values() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return torch.randn(3, L, 8, generator=random), torch.randn(3, L, 8, generator=random)


def test_the_parts_at_the_end_sum_to_what_training_saw_there(pooling, states_values):
    lengths = torch.tensor([L, 2, 1])
    trained = pooling.everywhere(*states_values)
    parts = pooling.at_end(*states_values, lengths=lengths).output
    torch.testing.assert_close(parts.sum(1), trained[torch.arange(3), lengths - 1])


def test_shares_of_the_readout_sum_to_one_over_real_events(pooling, states_values):
    weights = pooling.at_end(*states_values, lengths=torch.tensor([L, 2, 0])).weights
    assert weights.shape == (3, 2, 1, L)
    torch.testing.assert_close(weights.sum(-1), torch.tensor([1.0, 1.0, 0.0])[:, None, None].expand(3, 2, 1))
    assert (weights[1, ..., 2:] == 0).all()


def test_a_user_without_events_gets_zeros(pooling, states_values):
    assert (pooling.at_end(*states_values, lengths=torch.tensor([L, 2, 0])).output[2] == 0).all()


def test_an_events_part_is_its_share_of_its_own_value(pooling, states_values):
    states, values = states_values
    attended = pooling.at_end(states, values, lengths=torch.tensor([L, 2, 1]))
    shares = attended.weights[:, :, 0].mT.repeat_interleave(8 // 2, dim=2)  # (B, L, dim), head by head
    torch.testing.assert_close(attended.output, shares * values)


def test_the_value_of_an_event_looks_at_its_own_item_alone():
    torch.manual_seed(0)
    network, items = ItemValues(8), torch.randn(2, L, 8)
    before = network(items)
    items[:, 1] += torch.randn(2, 8)
    changed = (network(items) != before).any(-1)
    assert changed[:, 1].all()
    assert changed.sum() == 2
