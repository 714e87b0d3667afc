"""Contract tests of every kernel in ATTENTION_KERNELS, and tests of the two layers around a kernel."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attnrec.attention import (
    ATTENTION_KERNELS,
    AttentionPooling,
    ItemValues,
    KernelShape,
    MultiHeadAttention,
    build_kernel,
)

B, H, L, C = 2, 3, 5, 4
SHAPE = KernelShape(heads=H, channels=C, max_length=L)
TIMES = torch.tensor([[100, 160, 3760, 0, 0], [0, 1, 1, 86_400, 10**9]])


# --- references: each kernel again, in float64 and one query at a time


def learned(kernel, name):
    return getattr(kernel, name).detach().double().numpy()


def softmax(scores):
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def pooled(scores, allowed, v, normalise=softmax):
    """Output and weights of each query if `normalise` turns its allowed scores (B, H, Q, K) into weights."""
    weights = np.zeros(scores.shape)
    for b, h, i in np.ndindex(scores.shape[:3]):
        keys = np.flatnonzero(allowed[b, h, i])
        if len(keys):
            weights[b, h, i, keys] = normalise(scores[b, h, i, keys])
    return weights @ v, weights


def products(q, k):
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])


def scaled_dot(kernel, q, k, v, allowed):
    return pooled(products(q, k), allowed, v)


def additive(kernel, q, k, v, allowed):
    queries, keys = q @ learned(kernel, "project_query"), k @ learned(kernel, "project_key")
    hidden = np.tanh(queries[:, :, :, None] + keys[:, :, None])
    return pooled(np.einsum("bhqkc,hc->bhqk", hidden, learned(kernel, "vector")), allowed, v)


def adaptive_span(kernel, q, k, v, allowed):
    span = SHAPE.max_length / (1 + np.exp(-learned(kernel, "span_logit")))
    positions, ramp = np.arange(k.shape[2]), kernel.settings.ramp
    distance = np.abs(positions[:, None] - positions)
    mask = np.clip((ramp + span[:, None, None] - distance) / ramp, 0, 1)
    assert ((mask > 0) & (mask < 1)).any(), "the test data must have keys on the ramp"
    assert (mask == 0).any(), "and keys beyond it"
    with np.errstate(divide="ignore"):
        return pooled(products(q, k) + np.log(mask), allowed, v)


def bilinear(kernel, q, k, v, allowed):
    return pooled(q @ learned(kernel, "weight") @ k.swapaxes(-1, -2), allowed, v)


def cosine(kernel, q, k, v, allowed):
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    return pooled(learned(kernel, "scale")[:, None, None] * (q @ k.swapaxes(-1, -2)), allowed, v)


def entmax(power):
    """Weights max(0, s - t) ** power that sum to 1: t by bisection."""

    def normalise(scores):
        scores = scores * (1 if power == 1 else 1 / power)
        low, high = scores.max() - 1, scores.max()
        for _ in range(100):
            middle = (low + high) / 2
            above = (np.maximum(0, scores - middle) ** power).sum() > 1
            low, high = (middle, high) if above else (low, middle)
        return np.maximum(0, scores - low) ** power

    return lambda kernel, q, k, v, allowed: pooled(products(q, k), allowed, v, normalise)


def global_query(kernel, q, k, v, allowed):
    scores = np.einsum("bhkc,hc->bhk", np.tanh(k), learned(kernel, "query"))
    return pooled(np.broadcast_to(scores[:, :, None], allowed.shape), allowed, v)


def top_k(kernel, q, k, v, allowed):
    def normalise(scores):
        kept = scores >= np.sort(scores)[-kernel.settings.k :][0]
        return softmax(np.where(kept, scores, -np.inf))

    return pooled(products(q, k), allowed, v, normalise)


def hstu(kernel, q, k, v, allowed):
    positions, times = np.arange(L), TIMES.numpy()
    position_bias = learned(kernel, "position_bias")[positions - positions[:, None] + SHAPE.max_length - 1]
    gaps = np.abs(times[:, :, None] - times[:, None])
    buckets = np.floor(np.log(np.maximum(gaps, 1)) / 0.301).astype(int)
    assert len(np.unique(buckets)) > 5, "the test data must have gaps of many lengths"
    scores = q @ k.swapaxes(-1, -2) + position_bias + learned(kernel, "time_bias")[buckets][:, None]
    weights = allowed * scores / (1 + np.exp(-scores)) / SHAPE.max_length
    return weights @ v, weights


def linformer(kernel, q, k, v, allowed):
    assert (allowed == allowed[:, :, :1]).all(), "linformer supports masks of keys only"
    k, v = (x * allowed[:, :, 0, :, None] for x in (k, v))
    slot_keys, slot_values = learned(kernel, "project_keys").T @ k, learned(kernel, "project_values").T @ v
    scores = products(q, slot_keys)
    return pooled(scores, np.ones(scores.shape), slot_values)[0], None


def linrec(kernel, q, k, v, allowed):
    q, k = (np.where(x > 0, x, np.expm1(x)) for x in (q, k))
    weights = np.zeros(allowed.shape)
    for b, h, i in np.ndindex(allowed.shape[:3]):
        keys = k[b, h] * allowed[b, h, i, :, None]
        columns = keys / np.linalg.norm(keys, axis=0)
        weights[b, h, i] = columns @ (q[b, h, i] / np.linalg.norm(q[b, h, i])) / np.sqrt(C)
    return weights @ v, weights


def local_global(kernel, q, k, v, allowed):
    causal = not np.triu(allowed, 1).any()
    near, first = (kernel.settings.window - 1 if causal else kernel.settings.window // 2), kernel.settings.n_global
    mask = [[abs(i - j) <= near or j < first or (i < first and not causal) for j in range(L)] for i in range(L)]
    assert mask[4] == [True, False, False, True, True], "the sequence must be longer than the window"
    return pooled(products(q, k), allowed & np.array(mask), v)


def memory(kernel, q, k, v, allowed):
    slot_keys, slot_values = (np.tile(learned(kernel, name), (B, 1, 1, 1)) for name in ("slot_keys", "slot_values"))
    n_slots = kernel.settings.n_slots
    slots = np.repeat(allowed.any(-1, keepdims=True), n_slots, axis=-1)
    scores = products(q, np.concatenate([slot_keys, k], axis=2))
    values = np.concatenate([slot_values, v], axis=2)
    output, weights = pooled(scores, np.concatenate([slots, allowed], axis=-1), values)
    return output, weights[..., n_slots:]


def relative(kernel, q, k, v, allowed):
    offsets = np.arange(L) - np.arange(L)[:, None]
    buckets = np.abs(offsets) + 16 * (offsets > 0)  # distances below 8 have one bucket each
    return pooled(products(q, k) + learned(kernel.by_distance, "bias")[:, buckets], allowed, v)


REFERENCES = {
    "adaptive_span": adaptive_span,
    "additive": additive,
    "bilinear": bilinear,
    "cosine": cosine,
    "entmax15": entmax(2),
    "global": global_query,
    "hstu": hstu,
    "linformer": linformer,
    "linrec": linrec,
    "local_global": local_global,
    "memory": memory,
    "relative": relative,
    "scaled_dot": scaled_dot,
    "sparsemax": entmax(1),
    "top_k": top_k,
}
"""Name in ATTENTION_KERNELS -> reference(kernel, q, k, v, allowed) -> (output, weights)."""

SETTINGS = {
    "adaptive_span": {"ramp": 1.5},
    "linformer": {"rank": 3},
    "local_global": {"window": 2, "n_global": 1},
    "memory": {"n_slots": 2},
    "top_k": {"k": 2},
}
"""Settings for which each mechanism has an effect on five keys."""

IGNORES_QUERIES = {"global"}
"""Kernels whose output does not depend on the queries, which therefore get no gradient."""

MIXES_KEYS = {"linformer"}
"""Kernels that attend to mixtures of all keys: they reject causality and masks that differ by query."""


def attend(kernel, q, k, v, **options):
    """Call the kernel, with times if it needs them."""
    return kernel(q, k, v, times=TIMES if kernel.needs_times else None, **options)


def supports(kernel, causal: bool) -> bool:
    """Whether the kernel supports the causal mask; assert that it raises otherwise."""
    if kernel.shape.causal or not causal:
        return True
    with pytest.raises(ValueError, match="can't be causal"):
        attend(kernel, *torch.zeros(3, B, H, L, C), causal=True)
    return False


@pytest.fixture(params=ATTENTION_KERNELS)
def name(request) -> str:
    return request.param


@pytest.fixture
def kernel(name):
    """Each kernel, with parameters that differ from their initial values."""
    torch.manual_seed(0)
    kernel = build_kernel(name, replace(SHAPE, causal=name not in MIXES_KEYS), SETTINGS.get(name)).eval()
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return kernel


@pytest.fixture
def qkv():
    random = torch.Generator().manual_seed(7)
    return tuple(torch.randn(B, H, L, C, generator=random) for _ in range(3))


@pytest.fixture
def real() -> torch.Tensor:
    """The first history has three events and two positions of padding, the second five events: (B, 1, 1, L)."""
    return (torch.arange(L) < torch.tensor([[3], [5]]))[:, None, None]


MASKS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize(("padded", "causal"), MASKS)
def test_output_and_weights_equal_a_float64_reference(name, kernel, qkv, real, padded, causal):
    if not supports(kernel, causal):
        return
    allowed = torch.ones(B, H, L, L, dtype=torch.bool)
    if padded:
        allowed &= real
    if causal:
        allowed &= torch.ones(L, L, dtype=torch.bool).tril()
    attended = attend(kernel, *qkv, allowed=real if padded else None, causal=causal, need_weights=True)
    output, weights = REFERENCES[name](kernel, *(x.double().numpy() for x in qkv), allowed.numpy())
    np.testing.assert_allclose(attended.output.detach().numpy(), output, atol=1e-6)
    assert (attended.weights is None) == (weights is None)
    if weights is not None:
        np.testing.assert_allclose(attended.weights.detach().numpy(), weights, atol=1e-6)


@pytest.mark.parametrize(("padded", "causal"), MASKS)
def test_need_weights_does_not_change_the_output(kernel, qkv, real, padded, causal):
    if not supports(kernel, causal):
        return
    allowed = real if padded else None
    with_weights = attend(kernel, *qkv, allowed=allowed, causal=causal, need_weights=True)
    without = attend(kernel, *qkv, allowed=allowed, causal=causal, need_weights=False)
    assert without.weights is None
    torch.testing.assert_close(without.output, with_weights.output)


def test_weights_are_aligned_with_the_keys_and_of_the_declared_kind(kernel, qkv, real):
    weights = attend(kernel, *qkv, allowed=real, causal=kernel.shape.causal, need_weights=True).weights
    if kernel.weights_kind is None:
        assert weights is None
        return
    assert weights.shape == (B, H, L, L)
    assert weights.isfinite().all()
    if kernel.weights_kind == "normalised":
        assert (weights >= 0).all()
        assert (weights.sum(-1) <= 1 + 1e-5).all()
    else:
        assert (weights < 0).any(), "otherwise they are normalised"


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_gets_no_attention_and_changes_nothing(kernel, qkv, real, causal, need_weights):
    if not supports(kernel, causal):
        return
    q, k, v = qkv
    hidden = ~real.mT  # (B, 1, L, 1)
    options = {"allowed": real, "causal": causal, "need_weights": need_weights}
    clean = kernel(q, k, v, times=TIMES, **options)
    other = kernel(
        q,
        k.masked_fill(hidden, 50.0),
        v.masked_fill(hidden, -9.0),
        times=TIMES.masked_fill(hidden[:, 0, :, 0], 7),
        **options,
    )
    # times change the queries at padding, but no other query
    compared = real.mT.expand_as(q) if kernel.needs_times else torch.ones_like(q, dtype=torch.bool)
    torch.testing.assert_close(other.output[compared], clean.output[compared])
    if clean.weights is not None:
        assert (clean.weights[0, ..., 3:] == 0).all()


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_query_does_not_attend_to_later_keys(kernel, qkv, need_weights):
    if not supports(kernel, causal=True):
        return
    q, k, v = (x.clone() for x in qkv)
    before = attend(kernel, q, k, v, causal=True, need_weights=need_weights).output
    k[:, :, 3:], v[:, :, 3:] = 40.0, -40.0
    after = attend(kernel, q, k, v, causal=True, need_weights=need_weights).output
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3])
    assert not torch.allclose(after[:, :, 3:], before[:, :, 3:])


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_query_without_an_allowed_key_gets_zeros(name, kernel, qkv, need_weights):
    allowed = torch.ones(B, 1, L, L, dtype=torch.bool)
    allowed[0, 0, 2] = False
    if name in MIXES_KEYS:
        with pytest.raises(ValueError, match="differs by query"):
            attend(kernel, *qkv, allowed=allowed, need_weights=need_weights)
        return
    attended = attend(kernel, *qkv, allowed=allowed, need_weights=need_weights)
    assert (attended.output[0, :, 2] == 0).all()
    assert (attended.output[0, :, 1] != 0).any()
    if attended.weights is not None:
        assert (attended.weights[0, :, 2] == 0).all()


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_history_without_events_gets_zeros(kernel, qkv, causal, need_weights):
    if not supports(kernel, causal):
        return
    allowed = torch.tensor([False, True])[:, None, None, None].expand(B, 1, 1, L)
    attended = attend(kernel, *qkv, allowed=allowed, causal=causal, need_weights=need_weights)
    assert (attended.output[0] == 0).all()
    assert (attended.output[1] != 0).any()
    both = attend(kernel, *qkv, causal=causal, need_weights=need_weights)
    torch.testing.assert_close(attended.output[1], both.output[1])


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_gradients_are_finite_without_an_allowed_key(name, kernel, qkv, size, need_weights):
    q, k, v = ((x * size).requires_grad_() for x in qkv)
    allowed = torch.ones(B, 1, 1, L, dtype=torch.bool)
    allowed[0] = False
    options = {"allowed": allowed, "causal": kernel.shape.causal, "need_weights": need_weights}
    attend(kernel, q, k, v, **options).output.sum().backward()
    assert (q.grad is None) == (name in IGNORES_QUERIES)
    used = [x for x in (q, k, v, *kernel.parameters()) if x is not q or name not in IGNORES_QUERIES]
    assert all(x.grad.isfinite().all() for x in used)
    assert v.grad[1].abs().sum() > 0
    assert (v.grad[0] == 0).all()


# --- multi-head attention around each kernel


def test_multi_head_attention_returns_states_and_weights_of_each_head(name):
    torch.manual_seed(0)
    kernel = build_kernel(name, replace(SHAPE, causal=name not in MIXES_KEYS))
    layer = MultiHeadAttention(12, heads=3, kernel=kernel)
    attended = layer(torch.randn(B, L, 12), causal=kernel.shape.causal, need_weights=True, times=TIMES)
    assert attended.output.shape == (B, L, 12)
    if kernel.weights_kind is None:
        assert attended.weights is None
    else:
        assert attended.weights.shape == (B, 3, L, L)


def test_heads_are_independent():
    torch.manual_seed(0)
    layer = MultiHeadAttention(4, heads=2, kernel=build_kernel("scaled_dot", SHAPE))
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
        lambda: MultiHeadAttention(10, heads=3, kernel=build_kernel("scaled_dot", SHAPE)),
        lambda: AttentionPooling(10, heads=3),
    ],
)
def test_a_dim_that_heads_do_not_divide_is_rejected(layer):
    with pytest.raises(ValueError, match=r"heads must divide dim, got .*heads=3 and dim=10"):
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


def test_the_terms_at_the_last_position_sum_to_the_user_vector_of_training(pooling, states_values):
    lengths = torch.tensor([L, 2, 1])
    users = pooling.at_all_positions(*states_values)
    parts = pooling.at_last_position(*states_values, lengths=lengths).output
    torch.testing.assert_close(parts.sum(1), users[torch.arange(3), lengths - 1])


def test_pooling_weights_sum_to_1_over_events(pooling, states_values):
    weights = pooling.at_last_position(*states_values, lengths=torch.tensor([L, 2, 0])).weights
    assert weights.shape == (3, 2, 1, L)
    torch.testing.assert_close(weights.sum(-1), torch.tensor([1.0, 1.0, 0.0])[:, None, None].expand(3, 2, 1))
    assert (weights[1, ..., 2:] == 0).all()


def test_pooling_an_empty_history_gives_zeros(pooling, states_values):
    assert (pooling.at_last_position(*states_values, lengths=torch.tensor([L, 2, 0])).output[2] == 0).all()


def test_the_term_of_an_event_is_its_weight_times_its_value(pooling, states_values):
    states, values = states_values
    attended = pooling.at_last_position(states, values, lengths=torch.tensor([L, 2, 1]))
    weights = attended.weights[:, :, 0].mT.repeat_interleave(8 // 2, dim=2)  # (B, L, dim), head by head
    torch.testing.assert_close(attended.output, weights * values)


def test_the_value_of_an_event_depends_on_its_item_alone():
    torch.manual_seed(0)
    network, items = ItemValues(8), torch.randn(2, L, 8)
    before = network(items)
    items[:, 1] += torch.randn(2, 8)
    changed = (network(items) != before).any(-1)
    assert changed[:, 1].all()
    assert changed.sum() == 2
