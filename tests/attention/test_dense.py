"""Tests of single dense kernels: exact zeros, gradients, memory, sampled keys, learned spans."""

from itertools import permutations, product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnrec.attention import KernelShape, additive, build_kernel
from attnrec.attention.positions import distance_buckets
from attnrec.attention.sparse_softmax import entmax15, sparsemax
from attnrec.attention.top_k import MovingBaseline, reinforce_loss

B, H, L, C = 2, 3, 5, 4
SHAPE = KernelShape(heads=H, channels=C, max_length=L)
SETTINGS = {"adaptive_span": {"ramp": 1.5}, "top_k": {"k": 2}}
DENSE = [
    "adaptive_span",
    "additive",
    "bilinear",
    "cosine",
    "entmax15",
    "global",
    "relative",
    "scaled_dot",
    "sparsemax",
    "top_k",
]


def make(*shape: int, seed: int = 7, n: int = 3, dtype: torch.dtype = torch.float32):
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=random, dtype=dtype) for _ in range(n))


def make_kernel(name: str, shape: KernelShape = SHAPE, settings: dict | None = None):
    """A kernel in evaluation mode, with parameters that differ from their initial values."""
    torch.manual_seed(0)
    kernel = build_kernel(name, shape, SETTINGS.get(name) if settings is None else settings).eval()
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return kernel


def tensors_in(result) -> list[torch.Tensor]:
    return [x for x in (result if isinstance(result, tuple | list) else [result]) if isinstance(x, torch.Tensor)]


class Largest(TorchDispatchMode):
    """Records the largest number of elements of any tensor created inside the block."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.numel = max(self.numel, *(x.untyped_storage().nbytes() // x.element_size() for x in tensors_in(made)), 0)
        return made


def largest(kernel, length: int, **options) -> int:
    """Elements of the largest tensor in a forward and backward pass."""
    q, k, v = (x.requires_grad_() for x in make(B, H, length, C))
    with Largest() as record:
        kernel(q, k, v, **options).output.sum().backward()
    return record.numel


# --- all dense kernels


@pytest.mark.parametrize("name", DENSE)
def test_a_single_last_query_gets_the_same_result_as_among_all_queries(name):
    kernel, (q, k, v) = make_kernel(name), make(B, H, L, C)
    up_to_third = (torch.arange(L) < 3)[None, None, None]
    for allowed, position in ((None, L - 1), (up_to_third, 2)):
        among_all = kernel(q, k, v, allowed=allowed, need_weights=True)
        alone = kernel(q[:, :, [position]], k, v, allowed=allowed, need_weights=True)
        torch.testing.assert_close(alone.output, among_all.output[:, :, [position]])
        torch.testing.assert_close(alone.weights, among_all.weights[:, :, [position]])
        without = kernel(q[:, :, [position]], k, v, allowed=allowed)
        torch.testing.assert_close(without.output, alone.output)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [name for name in DENSE if name != "top_k"])
def test_gradients_agree_with_finite_differences(name, padded, causal, need_weights):
    kernel = make_kernel(name).double()
    inputs = [x.requires_grad_() for x in make(B, H, L, C, dtype=torch.float64)]
    allowed = (torch.arange(L) < torch.tensor([[3], [5]]))[:, None, None] if padded else None

    def results(*inputs):
        attended = kernel(*inputs[:3], allowed=allowed, causal=causal, need_weights=need_weights)
        return (attended.output, attended.weights) if need_weights else attended.output

    assert torch.autograd.gradcheck(results, [*inputs, *kernel.parameters()])


MASKS = [(L,), (1,), (L, L), (L, 1), (H, 1, L), (B, 1, 1, L), (B, 1, L, L), (1, H, L, 1), (B, H, L, L)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("name", ["cosine", "relative", "scaled_dot"])
def test_masks_of_any_shape_have_the_same_effect_with_and_without_weights(name, mask, causal):
    kernel = make_kernel(name)
    allowed = torch.rand(mask, generator=torch.Generator().manual_seed(1)) > 0.5
    assert not allowed.all() or mask == (1,)
    results = []
    for need_weights in (False, True):
        inputs = [x.requires_grad_() for x in make(B, H, L, C)]
        output = kernel(*inputs, allowed=allowed, causal=causal, need_weights=need_weights).output
        results.append([output, *torch.autograd.grad(output.square().sum(), [*inputs, *kernel.parameters()])])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["bilinear", "cosine", "scaled_dot"])
def test_padding_creates_no_tensor_of_queries_times_keys(name):
    length = 256
    kernel = make_kernel(name, KernelShape(heads=H, channels=C, max_length=length))
    real = (torch.arange(length) < torch.tensor([[100], [256]]))[:, None, None]
    assert largest(kernel, length, allowed=real, need_weights=True) >= B * H * length**2
    assert largest(kernel, length, allowed=real) < length**2
    assert largest(kernel, length, allowed=real, causal=True) == B * length**2  # the mask itself


@pytest.mark.parametrize("name", ["bilinear", "cosine", "global", "scaled_dot"])
def test_causal_attention_without_weights_creates_no_tensor_of_queries_times_keys(name):
    length = 256
    kernel = make_kernel(name, KernelShape(heads=H, channels=C, max_length=length))
    assert largest(kernel, length, causal=True, need_weights=True) >= B * H * length**2
    assert largest(kernel, length, causal=True) < length**2


@pytest.mark.parametrize(
    ("name", "settings"),
    [("top_k", {"k": 0}), ("top_k", {"estimator": "psychic"}), ("adaptive_span", {"ramp": 0}), ("cosine", {"k": 2})],
)
def test_invalid_settings_are_rejected(name, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        build_kernel(name, SHAPE, settings)


# --- cosine, bilinear


def test_cosine_attention_does_not_depend_on_the_norm_of_states():
    kernel, (q, k, v) = make_kernel("cosine"), make(B, H, L, C)
    torch.testing.assert_close(kernel(7 * q, 0.1 * k, v, causal=True).output, kernel(q, k, v, causal=True).output)


def test_the_initial_scale_is_that_of_the_paper():
    # log2(L^2 - L) with L = 5
    assert build_kernel("cosine", SHAPE).scale.tolist() == pytest.approx([4.321928] * H)


def test_a_zero_query_has_equal_weights_and_a_finite_gradient():
    kernel, (q, k, v) = make_kernel("cosine"), make(B, H, L, C)
    q = torch.zeros_like(q).requires_grad_()
    attended = kernel(q, k, v, need_weights=True)
    torch.testing.assert_close(attended.weights, torch.full((B, H, L, L), 1 / L))
    attended.output.sum().backward()
    assert q.grad.isfinite().all()


def test_bilinear_attention_starts_as_scaled_dot_product():
    qkv = make(B, H, L, C)
    expected = build_kernel("scaled_dot", SHAPE)(*qkv, causal=True).output
    torch.testing.assert_close(build_kernel("bilinear", SHAPE)(*qkv, causal=True).output, expected)


# --- relative


def test_relative_attention_starts_as_scaled_dot_product():
    qkv = make(B, H, L, C)
    expected = build_kernel("scaled_dot", SHAPE)(*qkv, causal=True).output
    torch.testing.assert_close(build_kernel("relative", SHAPE)(*qkv, causal=True).output, expected)


def test_a_learned_bias_applies_to_all_pairs_of_its_head_and_bucket():
    length = 40
    kernel = build_kernel("relative", KernelShape(heads=H, channels=C, max_length=length))
    bucket = distance_buckets(torch.tensor(-15), max_distance=length)
    with torch.no_grad():
        kernel.by_distance.bias[1, bucket] = 100.0
    weights = kernel(*make(B, H, length, C), causal=True, need_weights=True).weights
    offsets = torch.arange(length) - torch.arange(length)[:, None]
    chosen = distance_buckets(offsets, max_distance=length) == bucket
    assert chosen[30].sum() > 1, "far distances share a bucket"
    torch.testing.assert_close((weights[:, 1] * chosen).sum(-1), chosen.any(-1).float().expand(B, -1))
    assert ((weights[:, 0] * chosen).sum(-1) < 0.9).all()


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_single_query_is_at_its_last_allowed_key_in_each_head(need_weights):
    kernel, (q, k, v) = make_kernel("relative"), make(B, H, L, C)
    allowed = torch.arange(L) < torch.tensor([[3, 5, 1], [2, 4, 5]])[:, :, None, None]
    alone = kernel(q[:, :, :1], k, v, allowed=allowed, need_weights=need_weights).output
    for b in range(B):
        for h in range(H):
            position = int(allowed[b, h].sum()) - 1
            among_all = kernel(q[:, :, :1].expand(B, H, L, C), k, v, allowed=allowed[b, h])
            torch.testing.assert_close(alone[b, h, 0], among_all.output[b, h, position])


def test_more_keys_than_max_length_are_rejected():
    q, k, v = make(B, H, L + 1, C)
    for queries in (q, q[:, :, :1]):
        with pytest.raises(ValueError, match=r"max_length = 5 keys, got 6; shorten the history"):
            make_kernel("relative")(queries, k, v)


# --- additive


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_additive_attention_in_blocks_equals_one_block(monkeypatch, causal, need_weights):
    kernel, results = make_kernel("additive"), []
    for block in (2 * B * H * L * C, 10**9):  # two queries, or all
        monkeypatch.setattr(additive, "BLOCK", block)
        q, k, v = (x.requires_grad_() for x in make(B, H, L, C))
        attended = kernel(q, k, v, causal=causal, need_weights=need_weights)
        inputs = [q, k, v, *kernel.parameters()]
        results.append([attended.output, attended.weights, *torch.autograd.grad(attended.output.sum(), inputs)])
    torch.testing.assert_close(results[0], results[1])


def test_hidden_units_of_all_pairs_are_never_in_memory(monkeypatch):
    length = 64
    kernel = make_kernel("additive", KernelShape(heads=H, channels=C, max_length=length))
    per_query = B * H * length * C
    for n_queries in (4, length):
        monkeypatch.setattr(additive, "BLOCK", n_queries * per_query)
        # a single block checks the measurement itself: it finds the Q x K x C hidden units
        assert largest(kernel, length, causal=True) == n_queries * per_query


def test_hidden_units_are_not_saved_for_the_backward_pass(monkeypatch):
    length, saved = 64, []
    kernel = make_kernel("additive", KernelShape(heads=H, channels=C, max_length=length))
    monkeypatch.setattr(additive, "BLOCK", B * H * length * C)
    q, k, v = (x.requires_grad_() for x in make(B, H, length, C))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        kernel(q, k, v).output.sum()
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() // x.element_size() for x in saved}
    assert 0 < sum(storages.values()) < 10 * B * H * length * C


# --- global


def test_global_attention_ignores_the_queries():
    kernel, (q, k, v) = make_kernel("global"), make(B, H, L, C)
    torch.testing.assert_close(kernel(-3 * q, k, v, causal=True).output, kernel(q, k, v, causal=True).output)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_the_linear_prefix_softmax_equals_the_quadratic_one(size, padded):
    length, results = 300, []  # several blocks and a part of one
    kernel = make_kernel("global", KernelShape(heads=H, channels=C, max_length=length)).double()
    with torch.no_grad():
        kernel.query.mul_(size)
    real = (torch.arange(length) < torch.tensor([[130], [300]]))[:, None, None]
    real[1, ..., :70] = False  # the first block is empty
    options = {"allowed": real if padded else None, "causal": True}
    for need_weights in (False, True):
        q, k, v = (x.requires_grad_() for x in make(B, H, length, C, dtype=torch.float64))
        output = kernel(q, k, v, need_weights=need_weights, **options).output
        results.append([output, *torch.autograd.grad((output**2).sum(), [k, v, kernel.query])])
    torch.testing.assert_close(*results)
    assert results[0][0].isfinite().all()


def test_memory_of_global_attention_is_linear_in_the_length():
    sizes = []
    for length in (512, 1024):
        kernel = make_kernel("global", KernelShape(heads=H, channels=C, max_length=length))
        sizes.append(largest(kernel, length, causal=True))
    assert sizes[1] <= 2 * sizes[0]


# --- sparsemax, entmax15


@pytest.mark.parametrize(
    ("normalise", "logits", "weights"),
    [
        (sparsemax, [2.0, 0.0, 0.0], [1, 0, 0]),
        (sparsemax, [1.0, 0.5, -1.0], [0.75, 0.25, 0]),  # t = (1 + 0.5 - 1) / 2
        (sparsemax, [0.3, 0.3, 0.3], [1 / 3, 1 / 3, 1 / 3]),
        (entmax15, [3.0, 0.0, 0.0], [1, 0, 0]),
        (entmax15, [0.4, 0.0, -4.0], [(0.1 + 0.49**0.5) ** 2, (0.49**0.5 - 0.1) ** 2, 0]),  # t = .1 - .7
        (entmax15, [5.0, 5.0, 5.0], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_sparse_weights_of_three_keys(normalise, logits, weights):
    all_allowed = torch.ones(1, dtype=torch.bool)
    assert normalise(torch.tensor(logits), all_allowed).tolist() == pytest.approx(weights, abs=1e-6)
    assert normalise(torch.tensor(logits) + 100, all_allowed).tolist() == pytest.approx(weights, abs=1e-5)


@pytest.mark.parametrize("normalise", [sparsemax, entmax15])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 1e8])
def test_sparse_weights_sum_to_1_and_are_exactly_0_where_not_allowed(normalise, size):
    (logits,) = make(64, 300, n=1)
    allowed = make(64, 300, n=1, seed=1)[0] > -1
    allowed[0] = False
    weights = normalise(size * logits, allowed)
    torch.testing.assert_close(weights.sum(-1), allowed.any(-1).float())
    assert (weights >= 0).all()
    assert (weights[~allowed] == 0).all()


def test_sparsemax_keeps_fewer_keys_than_entmax_which_keeps_fewer_than_softmax():
    q, k, v = make(1, 1, 50, C)
    kept = {}
    for name in ("sparsemax", "entmax15", "scaled_dot"):
        kernel = build_kernel(name, KernelShape(heads=1, channels=C, max_length=50))
        kept[name] = (kernel(2 * q, k, v, need_weights=True).weights > 0).sum(-1).double().mean()
    assert 1 < kept["sparsemax"] < kept["entmax15"] < 25 < kept["scaled_dot"] == 50


@pytest.mark.parametrize("normalise", [sparsemax, entmax15])
def test_sparse_gradients_agree_with_finite_differences(normalise):
    (logits,) = make(20, 7, n=1, dtype=torch.float64)
    allowed = make(20, 7, n=1, seed=1)[0] > -1
    allowed[0] = False
    assert (normalise(logits, allowed) > 0).sum() < allowed.sum(), "some allowed keys must have weight 0"
    assert torch.autograd.gradcheck(lambda x: normalise(x, allowed), logits.requires_grad_())


@pytest.mark.parametrize("normalise", [sparsemax, entmax15])
def test_sparse_weights_of_bfloat16_logits_are_float32_and_their_gradient_is_bfloat16(normalise):
    logits = make(4, 9, n=1)[0].bfloat16().requires_grad_()
    weights = normalise(logits, torch.ones(1, dtype=torch.bool))
    assert weights.dtype == torch.float32
    weights[:, 0].sum().backward()
    assert logits.grad.dtype == torch.bfloat16


# --- top_k


def test_at_most_k_keys_get_weight():
    q, k, v = make(B, H, 30, C)
    kernel = build_kernel("top_k", KernelShape(heads=H, channels=C, max_length=30), {"k": 3})
    kept = (kernel(q, k, v, causal=True, need_weights=True).weights > 0).sum(-1)
    assert torch.equal(kept, torch.arange(1, 31).clamp(max=3).expand(B, H, 30))


def test_ties_go_to_the_earlier_key_for_any_amount_of_padding():
    kernel = build_kernel("top_k", SHAPE, {"k": 2})
    for length in (3, 5, 300):
        q, _, v = make(B, H, length, C)
        k = torch.ones_like(q)
        weights = kernel(q, k, v, need_weights=True).weights
        assert (weights[..., :2] == 0.5).all()
        assert (weights[..., 2:] == 0).all()
        k[:, :, 2] = 2  # a better key
        kept = kernel(q.abs(), k, v, need_weights=True).weights > 0
        assert torch.equal(kept, (torch.arange(length) % 2 == 0).expand_as(kept) & (torch.arange(length) < 3))


def test_straight_through_gradients_of_scores_equal_those_of_soft_attention():
    score_gradients = []
    for name in ("top_k", "scaled_dot"):
        q, k, v = (x.requires_grad_() for x in make(B, H, L, C))
        (direction,) = make(B, H, L, C, seed=1, n=1)
        attended = make_kernel(name)(q, k, v, causal=True, need_weights=True)
        attended.output.backward(direction)
        score_gradients.append((q.grad, k.grad))
        torch.testing.assert_close(v.grad, attended.weights.mT @ direction)
    torch.testing.assert_close(*score_gradients)


def reinforce_kernel(k: int, heads: int = H, length: int = L):
    shape = KernelShape(heads=heads, channels=C, max_length=length)
    return build_kernel("top_k", shape, {"k": k, "estimator": "reinforce"})


def test_keys_are_sampled_in_training_only():
    kernel, qkv = reinforce_kernel(k=2), make(B, H, L, C)
    torch.manual_seed(0)
    sampled = [kernel.train()(*qkv, need_weights=True).weights for _ in range(2)]
    assert not torch.equal(*sampled)
    assert kernel.log_probability.shape == (B, L)
    best = [kernel.eval()(*qkv, need_weights=True).weights for _ in range(2)]
    assert kernel.log_probability is None
    torch.testing.assert_close(best[0], best[1])
    torch.testing.assert_close(best[0], make_kernel("top_k")(*qkv, need_weights=True).weights)


def test_the_log_probability_is_that_of_sampling_without_replacement():
    kernel, (q, k, v) = reinforce_kernel(k=2, heads=1), make(200, 1, 1, C)
    k, v = (x[:1, :, 0, None].expand(200, 1, 4, C) + make(1, 1, 4, C, seed=1, n=1)[0] for x in (k, v))
    allowed = torch.tensor([True, True, True, False])
    torch.manual_seed(0)
    chosen = kernel.train()(q, k, v, allowed=allowed, need_weights=True).weights[:, 0, 0] > 0
    probabilities = torch.softmax((q @ k.mT / C**0.5)[:, 0, 0, :3], dim=-1)
    for row, keys, log_probability in zip(probabilities, chosen, kernel.log_probability[:, 0], strict=True):
        a, b = row[keys[:3]].tolist()
        assert not keys[3]
        orders = (a * b / (1 - a), b * a / (1 - b))
        assert any(log_probability.exp().item() == pytest.approx(order, rel=1e-4) for order in orders)


def test_queries_with_at_most_k_keys_have_probability_1():
    kernel, qkv = reinforce_kernel(k=3).train(), [x.requires_grad_() for x in make(B, H, L, C)]
    kernel(*qkv, causal=True)
    assert (kernel.log_probability[:, :3] == 0).all()
    assert (kernel.log_probability[:, 3:] < 0).all()
    kernel.log_probability.sum().backward()
    assert all(x.grad.isfinite().all() for x in qkv[:2])
    assert (qkv[0].grad[:, :, :3] == 0).all()
    assert (qkv[0].grad[:, :, 3:] != 0).any()


def loss_of(output: torch.Tensor) -> torch.Tensor:
    """A nonlinear function of the outputs of both heads, (..., 2, C) -> (...)."""
    return 3 * torch.tanh(output[..., 0, :] * output[..., 1, :]).sum(-1) + output[..., 0, 0] ** 2


def expected_loss(q, k, v) -> torch.Tensor:
    """Expectation over all ordered samples of two of four keys by each of two heads; q (2, 1, C), k and v (2, 4, C)."""
    logits = (q @ k.mT / C**0.5)[:, 0]
    samples = []
    for head in range(2):
        p = logits[head].softmax(0)
        samples.append(
            [
                (p[i] * p[j] / (1 - p[i]), logits[head, [i, j]].softmax(0) @ v[head, [i, j]])
                for i, j in permutations(range(4), 2)
            ]
        )
    return sum(p * r * loss_of(torch.stack([x, y])) for (p, x), (r, y) in product(*samples))


def gradients_of_samples(n: int, baseline: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients with respect to q of n samples, with and without the REINFORCE term, and the exact gradient."""
    q, k, v = (x[0] for x in make(1, 2, 4, C, dtype=torch.float64))
    exact = q[:, :1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(expected_loss(exact, k, v), exact)
    many = exact.detach().expand(n, 2, 1, C).clone().requires_grad_()
    kernel = reinforce_kernel(k=2, heads=2, length=4).train()
    torch.manual_seed(1)
    losses = loss_of(kernel(many, k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)).output[:, :, 0])
    added = reinforce_loss(kernel.log_probability[:, 0], losses, baseline)
    (by_values,) = torch.autograd.grad(losses.mean(), many, retain_graph=True)
    (by_samples,) = torch.autograd.grad(added, many)
    return n * (by_values + by_samples), n * by_values, expected


def test_reinforce_gives_the_gradient_of_the_expected_loss():
    estimates, by_values, expected = gradients_of_samples(40_000, baseline=1.0)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert error.max() < 0.1 * expected.abs().max(), "the test must have enough samples"
    assert ((estimates.mean(0) - expected).abs() < 4 * error).all()
    assert ((by_values.mean(0) - expected).abs() > 10 * error).any(), "without the term the gradient is biased"


def test_a_baseline_reduces_the_variance_of_the_gradient():
    noise = [float(gradients_of_samples(4000, baseline)[0].std(0).sum()) for baseline in (0.0, 20.0)]
    assert noise[0] < 0.5 * noise[1]


def test_the_moving_baseline_is_the_moving_average_of_earlier_losses():
    baseline = MovingBaseline(decay=0.5)
    means = [float(baseline(torch.tensor([[loss, loss + 2.0]]))) for loss in (1.0, 3.0, 0.0)]
    assert means == pytest.approx([0, 2, (2 + 2 * 4) / (1 + 2)])
    assert set(baseline.state_dict()) == {"total", "weight"}, "a checkpoint saves it"


# --- adaptive_span


def test_spans_start_at_half_of_max_length_and_the_penalty_shrinks_them():
    assert build_kernel("adaptive_span", SHAPE).penalty() is None
    kernel = build_kernel("adaptive_span", SHAPE, {"span_weight": 3.0})
    assert kernel.spans().tolist() == [L / 2] * H
    assert kernel.penalty().item() == 3.0 * 0.5
    optimizer = torch.optim.SGD(kernel.parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        kernel.penalty().backward()
        optimizer.step()
    assert (kernel.spans() < L / 2 - 0.5).all()


def test_a_useful_distant_value_lengthens_the_span():
    kernel = build_kernel("adaptive_span", KernelShape(heads=1, channels=C, max_length=40), {"ramp": 4})
    q, k, _ = make(1, 1, 40, C)
    v = torch.zeros(1, 1, 40, C)
    v[..., 39 - 22, :] = 1  # 22 positions before the last one, on the ramp from 20 to 24
    kernel(q[:, :, -1:], k, v).output.sum().backward()
    assert kernel.span_logit.grad > 0


def test_keys_beyond_span_and_ramp_have_weight_0():
    kernel = build_kernel("adaptive_span", KernelShape(heads=H, channels=C, max_length=40), {"ramp": 4})
    weights = kernel(*make(B, H, 40, C), causal=True, need_weights=True).weights
    assert (weights[..., -1, : 39 - 23] == 0).all()  # span 20, ramp 4
    assert (weights[..., -1, 39 - 23 :] > 0).all()


@pytest.mark.parametrize("name", ["adaptive_span", "relative"])
def test_a_number_of_queries_other_than_1_or_the_number_of_keys_is_rejected(name):
    q, k, v = make(B, H, L, C)
    with pytest.raises(ValueError, match="got 2 queries and 5 keys; pass"):
        make_kernel(name)(q[:, :, :2], k, v)
