"""What single kernels promise beyond the contract: exact zeros, gradients, bounded memory, learned choices and spans."""

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
    """A kernel in evaluation, with what it learns away from where it starts."""
    torch.manual_seed(0)
    kernel = build_kernel(name, shape, SETTINGS.get(name) if settings is None else settings).eval()
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return kernel


def tensors_in(result) -> list[torch.Tensor]:
    return [x for x in (result if isinstance(result, tuple | list) else [result]) if isinstance(x, torch.Tensor)]


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor made inside the block."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.numel = max(self.numel, *(x.untyped_storage().nbytes() // x.element_size() for x in tensors_in(made)), 0)
        return made


def largest(kernel, length: int, **asked) -> int:
    """Elements of the largest tensor in a step forward and backward."""
    q, k, v = (x.requires_grad_() for x in make(B, H, length, C))
    with Largest() as seen:
        kernel(q, k, v, **asked).output.sum().backward()
    return seen.numel


# --- all of them


@pytest.mark.parametrize("name", DENSE)
def test_a_single_query_at_the_end_gets_what_it_gets_among_all(name):
    kernel, (q, k, v) = make_kernel(name), make(B, H, L, C)
    up_to_third = (torch.arange(L) < 3)[None, None, None]
    for allowed, place in ((None, L - 1), (up_to_third, 2)):
        among_all = kernel(q, k, v, allowed=allowed, need_weights=True)
        alone = kernel(q[:, :, [place]], k, v, allowed=allowed, need_weights=True)
        torch.testing.assert_close(alone.output, among_all.output[:, :, [place]])
        torch.testing.assert_close(alone.weights, among_all.weights[:, :, [place]])
        without = kernel(q[:, :, [place]], k, v, allowed=allowed)
        torch.testing.assert_close(without.output, alone.output)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [name for name in DENSE if name != "top_k"])
def test_gradients_agree_with_finite_differences(name, padded, causal, need_weights):
    kernel = make_kernel(name).double()
    inputs = [x.requires_grad_() for x in make(B, H, L, C, dtype=torch.float64)]
    allowed = (torch.arange(L) < torch.tensor([[3], [5]]))[:, None, None] if padded else None

    def outcome(*inputs):
        attended = kernel(*inputs[:3], allowed=allowed, causal=causal, need_weights=need_weights)
        return (attended.output, attended.weights) if need_weights else attended.output

    assert torch.autograd.gradcheck(outcome, [*inputs, *kernel.parameters()])


MASKS = [(L,), (1,), (L, L), (L, 1), (H, 1, L), (B, 1, 1, L), (B, 1, L, L), (1, H, L, 1), (B, H, L, L)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("name", ["cosine", "relative", "scaled_dot"])
def test_masks_of_any_shape_hide_the_same_with_weights_and_without(name, mask, causal):
    kernel = make_kernel(name)
    allowed = torch.rand(mask, generator=torch.Generator().manual_seed(1)) > 0.5
    assert not allowed.all() or mask == (1,)
    found = []
    for need_weights in (False, True):
        inputs = [x.requires_grad_() for x in make(B, H, L, C)]
        output = kernel(*inputs, allowed=allowed, causal=causal, need_weights=need_weights).output
        found.append([output, *torch.autograd.grad(output.square().sum(), [*inputs, *kernel.parameters()])])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["bilinear", "cosine", "scaled_dot"])
def test_padding_costs_no_tensor_of_queries_times_keys(name):
    length = 256
    kernel = make_kernel(name, KernelShape(heads=H, channels=C, max_length=length))
    real = (torch.arange(length) < torch.tensor([[100], [256]]))[:, None, None]
    assert largest(kernel, length, allowed=real, need_weights=True) >= B * H * length**2
    assert largest(kernel, length, allowed=real) < length**2
    assert largest(kernel, length, allowed=real, causal=True) == B * length**2  # the mask itself


@pytest.mark.parametrize("name", ["bilinear", "cosine", "global", "scaled_dot"])
def test_causal_attention_without_weights_makes_no_tensor_of_queries_times_keys(name):
    length = 256
    kernel = make_kernel(name, KernelShape(heads=H, channels=C, max_length=length))
    assert largest(kernel, length, causal=True, need_weights=True) >= B * H * length**2
    assert largest(kernel, length, causal=True) < length**2


@pytest.mark.parametrize(
    ("name", "settings"),
    [("top_k", {"k": 0}), ("top_k", {"estimator": "psychic"}), ("adaptive_span", {"ramp": 0}), ("cosine", {"k": 2})],
)
def test_settings_that_make_no_sense_are_refused(name, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        build_kernel(name, SHAPE, settings)


# --- cosine, bilinear


def test_cosines_do_not_depend_on_the_length_of_states():
    kernel, (q, k, v) = make_kernel("cosine"), make(B, H, L, C)
    torch.testing.assert_close(kernel(7 * q, 0.1 * k, v, causal=True).output, kernel(q, k, v, causal=True).output)


def test_the_temperature_starts_at_the_papers():
    # log2(L^2 - L) with L = 5
    assert build_kernel("cosine", SHAPE).scale.tolist() == pytest.approx([4.321928] * H)


def test_a_state_of_zeros_has_equal_cosines_and_a_finite_gradient():
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


def test_a_learned_bias_counts_for_all_pairs_of_its_head_and_bucket_also_far_apart():
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
def test_a_single_query_stands_at_the_last_key_that_it_may_see_in_each_head(need_weights):
    kernel, (q, k, v) = make_kernel("relative"), make(B, H, L, C)
    allowed = torch.arange(L) < torch.tensor([[3, 5, 1], [2, 4, 5]])[:, :, None, None]
    alone = kernel(q[:, :, :1], k, v, allowed=allowed, need_weights=need_weights).output
    for b in range(B):
        for h in range(H):
            place = int(allowed[b, h].sum()) - 1
            among_all = kernel(q[:, :, :1].expand(B, H, L, C), k, v, allowed=allowed[b, h])
            torch.testing.assert_close(alone[b, h, 0], among_all.output[b, h, place])


def test_more_keys_than_there_are_distances_are_refused():
    q, k, v = make(B, H, L + 1, C)
    for queries in (q, q[:, :, :1]):
        with pytest.raises(ValueError, match=r"max_length = 5 keys, got 6; cut the history"):
            make_kernel("relative")(queries, k, v)


# --- additive


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_additive_attention_in_blocks_equals_one_block(monkeypatch, causal, need_weights):
    kernel, found = make_kernel("additive"), []
    for block in (2 * B * H * L * C, 10**9):  # two queries, or all
        monkeypatch.setattr(additive, "BLOCK", block)
        q, k, v = (x.requires_grad_() for x in make(B, H, L, C))
        attended = kernel(q, k, v, causal=causal, need_weights=need_weights)
        inputs = [q, k, v, *kernel.parameters()]
        found.append([attended.output, attended.weights, *torch.autograd.grad(attended.output.sum(), inputs)])
    torch.testing.assert_close(found[0], found[1])


def test_hidden_units_of_all_pairs_are_never_in_memory(monkeypatch):
    length = 64
    kernel = make_kernel("additive", KernelShape(heads=H, channels=C, max_length=length))
    of_one_query = B * H * length * C
    for n_queries in (4, length):
        monkeypatch.setattr(additive, "BLOCK", n_queries * of_one_query)
        # with one block the measure itself is tried: it sees the Q x K x C hidden units
        assert largest(kernel, length, causal=True) == n_queries * of_one_query


def test_hidden_units_are_not_kept_for_the_backward_pass(monkeypatch):
    length, kept = 64, []
    kernel = make_kernel("additive", KernelShape(heads=H, channels=C, max_length=length))
    monkeypatch.setattr(additive, "BLOCK", B * H * length * C)
    q, k, v = (x.requires_grad_() for x in make(B, H, length, C))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        kernel(q, k, v).output.sum()
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() // x.element_size() for x in kept}
    assert 0 < sum(storages.values()) < 10 * B * H * length * C


# --- global


def test_the_global_query_is_the_same_whoever_asks():
    kernel, (q, k, v) = make_kernel("global"), make(B, H, L, C)
    torch.testing.assert_close(kernel(-3 * q, k, v, causal=True).output, kernel(q, k, v, causal=True).output)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_the_linear_prefix_softmax_is_the_quadratic_one(size, padded):
    length, found = 300, []  # several blocks and a bit
    kernel = make_kernel("global", KernelShape(heads=H, channels=C, max_length=length)).double()
    with torch.no_grad():
        kernel.query.mul_(size)
    real = (torch.arange(length) < torch.tensor([[130], [300]]))[:, None, None]
    real[1, ..., :70] = False  # starts with a block that has nothing
    asked = {"allowed": real if padded else None, "causal": True}
    for need_weights in (False, True):
        q, k, v = (x.requires_grad_() for x in make(B, H, length, C, dtype=torch.float64))
        output = kernel(q, k, v, need_weights=need_weights, **asked).output
        found.append([output, *torch.autograd.grad((output**2).sum(), [k, v, kernel.query])])
    torch.testing.assert_close(*found)
    assert found[0][0].isfinite().all()


def test_memory_of_the_global_query_grows_with_the_length_and_not_its_square():
    sizes = []
    for length in (512, 1024):
        kernel = make_kernel("global", KernelShape(heads=H, channels=C, max_length=length))
        sizes.append(largest(kernel, length, causal=True))
    assert sizes[1] <= 2 * sizes[0]


# --- sparsemax, entmax15


@pytest.mark.parametrize(
    ("normalise", "logits", "shares"),
    [
        (sparsemax, [2.0, 0.0, 0.0], [1, 0, 0]),
        (sparsemax, [1.0, 0.5, -1.0], [0.75, 0.25, 0]),  # t = (1 + 0.5 - 1) / 2
        (sparsemax, [0.3, 0.3, 0.3], [1 / 3, 1 / 3, 1 / 3]),
        (entmax15, [3.0, 0.0, 0.0], [1, 0, 0]),
        (entmax15, [0.4, 0.0, -4.0], [(0.1 + 0.49**0.5) ** 2, (0.49**0.5 - 0.1) ** 2, 0]),  # t = .1 - .7
        (entmax15, [5.0, 5.0, 5.0], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_sparse_shares_of_three_keys(normalise, logits, shares):
    everything = torch.ones(1, dtype=torch.bool)
    assert normalise(torch.tensor(logits), everything).tolist() == pytest.approx(shares, abs=1e-6)
    assert normalise(torch.tensor(logits) + 100, everything).tolist() == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize("normalise", [sparsemax, entmax15])
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 1e8])
def test_sparse_shares_sum_to_one_and_are_exactly_zero_where_not_allowed(normalise, size):
    (logits,) = make(64, 300, n=1)
    allowed = make(64, 300, n=1, seed=1)[0] > -1
    allowed[0] = False
    shares = normalise(size * logits, allowed)
    torch.testing.assert_close(shares.sum(-1), allowed.any(-1).float())
    assert (shares >= 0).all()
    assert (shares[~allowed] == 0).all()


def test_sparsemax_keeps_fewer_keys_than_entmax_and_entmax_than_softmax():
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
    assert (normalise(logits, allowed) > 0).sum() < allowed.sum(), "some allowed keys must have no share"
    assert torch.autograd.gradcheck(lambda x: normalise(x, allowed), logits.requires_grad_())


@pytest.mark.parametrize("normalise", [sparsemax, entmax15])
def test_sparse_shares_of_bfloat16_scores_are_float32_and_their_gradient_is_bfloat16(normalise):
    logits = make(4, 9, n=1)[0].bfloat16().requires_grad_()
    shares = normalise(logits, torch.ones(1, dtype=torch.bool))
    assert shares.dtype == torch.float32
    shares[:, 0].sum().backward()
    assert logits.grad.dtype == torch.bfloat16


# --- top_k


def test_no_more_than_k_keys_get_a_share():
    q, k, v = make(B, H, 30, C)
    kernel = build_kernel("top_k", KernelShape(heads=H, channels=C, max_length=30), {"k": 3})
    kept = (kernel(q, k, v, causal=True, need_weights=True).weights > 0).sum(-1)
    assert torch.equal(kept, torch.arange(1, 31).clamp(max=3).expand(B, H, 30))


def test_of_equal_keys_the_earlier_win_however_much_padding_follows():
    kernel = build_kernel("top_k", SHAPE, {"k": 2})
    for length in (3, 5, 300):
        q, _, v = make(B, H, length, C)
        k = torch.ones_like(q)
        weights = kernel(q, k, v, need_weights=True).weights
        assert (weights[..., :2] == 0.5).all()
        assert (weights[..., 2:] == 0).all()
        k[:, :, 2] = 2  # and a better one
        kept = kernel(q.abs(), k, v, need_weights=True).weights > 0
        assert torch.equal(kept, (torch.arange(length) % 2 == 0).expand_as(kept) & (torch.arange(length) < 3))


def test_straight_through_gradients_of_scores_are_those_of_soft_attention():
    found = []
    for name in ("top_k", "scaled_dot"):
        q, k, v = (x.requires_grad_() for x in make(B, H, L, C))
        (direction,) = make(B, H, L, C, seed=1, n=1)
        attended = make_kernel(name)(q, k, v, causal=True, need_weights=True)
        attended.output.backward(direction)
        found.append((q.grad, k.grad))
        torch.testing.assert_close(v.grad, attended.weights.mT @ direction)
    torch.testing.assert_close(*found)


def reinforcing(k: int, heads: int = H, length: int = L):
    shape = KernelShape(heads=heads, channels=C, max_length=length)
    return build_kernel("top_k", shape, {"k": k, "estimator": "reinforce"})


def test_keys_are_drawn_in_training_only():
    kernel, qkv = reinforcing(k=2), make(B, H, L, C)
    torch.manual_seed(0)
    drawn = [kernel.train()(*qkv, need_weights=True).weights for _ in range(2)]
    assert not torch.equal(*drawn)
    assert kernel.log_probability.shape == (B, L)
    best = [kernel.eval()(*qkv, need_weights=True).weights for _ in range(2)]
    assert kernel.log_probability is None
    torch.testing.assert_close(best[0], best[1])
    torch.testing.assert_close(best[0], make_kernel("top_k")(*qkv, need_weights=True).weights)


def test_the_log_probability_is_that_of_drawing_one_key_after_the_other():
    kernel, (q, k, v) = reinforcing(k=2, heads=1), make(200, 1, 1, C)
    k, v = (x[:1, :, 0, None].expand(200, 1, 4, C) + make(1, 1, 4, C, seed=1, n=1)[0] for x in (k, v))
    allowed = torch.tensor([True, True, True, False])
    torch.manual_seed(0)
    chosen = kernel.train()(q, k, v, allowed=allowed, need_weights=True).weights[:, 0, 0] > 0
    odds = torch.softmax((q @ k.mT / C**0.5)[:, 0, 0, :3], dim=-1)
    for row, keys, log_probability in zip(odds, chosen, kernel.log_probability[:, 0], strict=True):
        a, b = row[keys[:3]].tolist()
        assert not keys[3]
        orders = (a * b / (1 - a), b * a / (1 - b))
        assert any(log_probability.exp().item() == pytest.approx(order, rel=1e-4) for order in orders)


def test_who_has_no_choice_has_probability_one():
    kernel, qkv = reinforcing(k=3).train(), [x.requires_grad_() for x in make(B, H, L, C)]
    kernel(*qkv, causal=True)
    assert (kernel.log_probability[:, :3] == 0).all()
    assert (kernel.log_probability[:, 3:] < 0).all()
    kernel.log_probability.sum().backward()
    assert all(x.grad.isfinite().all() for x in qkv[:2])
    assert (qkv[0].grad[:, :, :3] == 0).all()
    assert (qkv[0].grad[:, :, 3:] != 0).any()


def loss_of(output: torch.Tensor) -> torch.Tensor:
    """Something that is not linear in what the two heads bring, (..., 2, C) -> (...)."""
    return 3 * torch.tanh(output[..., 0, :] * output[..., 1, :]).sum(-1) + output[..., 0, 0] ** 2


def expected_loss(q, k, v) -> torch.Tensor:
    """Over all ordered draws of two of four keys by each of two heads; q (2, 1, C), k and v (2, 4, C)."""
    logits = (q @ k.mT / C**0.5)[:, 0]
    drawn = []
    for head in range(2):
        chances = logits[head].softmax(0)
        drawn.append(
            [
                (chances[i] * chances[j] / (1 - chances[i]), logits[head, [i, j]].softmax(0) @ v[head, [i, j]])
                for i, j in permutations(range(4), 2)
            ]
        )
    return sum(p * o * loss_of(torch.stack([x, y])) for (p, x), (o, y) in product(*drawn))


def slopes_of_draws(n: int, baseline: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by q of n draws, with and without the term of the draw, and the one to be expected."""
    q, k, v = (x[0] for x in make(1, 2, 4, C, dtype=torch.float64))
    exact = q[:, :1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(expected_loss(exact, k, v), exact)
    many = exact.detach().expand(n, 2, 1, C).clone().requires_grad_()
    kernel = reinforcing(k=2, heads=2, length=4).train()
    torch.manual_seed(1)
    losses = loss_of(kernel(many, k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)).output[:, :, 0])
    added = reinforce_loss(kernel.log_probability[:, 0], losses, baseline)
    (by_values,) = torch.autograd.grad(losses.mean(), many, retain_graph=True)
    (by_draws,) = torch.autograd.grad(added, many)
    return n * (by_values + by_draws), n * by_values, expected


def test_reinforce_gives_the_gradient_of_the_expected_loss():
    slopes, by_values, expected = slopes_of_draws(40_000, baseline=1.0)
    error = slopes.std(0) / len(slopes) ** 0.5
    assert error.max() < 0.1 * expected.abs().max(), "the test must be able to tell"
    assert ((slopes.mean(0) - expected).abs() < 4 * error).all()
    assert ((by_values.mean(0) - expected).abs() > 10 * error).any(), "without the term it is another gradient"


def test_a_baseline_makes_the_gradient_less_noisy():
    noise = [float(slopes_of_draws(4000, baseline)[0].std(0).sum()) for baseline in (0.0, 20.0)]
    assert noise[0] < 0.5 * noise[1]


def test_the_moving_baseline_is_the_mean_of_what_came_before():
    baseline = MovingBaseline(decay=0.5)
    means = [float(baseline(torch.tensor([[loss, loss + 2.0]]))) for loss in (1.0, 3.0, 0.0)]
    assert means == pytest.approx([0, 2, (2 + 2 * 4) / (1 + 2)])
    assert set(baseline.state_dict()) == {"total", "weight"}, "a checkpoint keeps it"


# --- adaptive_span


def test_spans_start_at_half_and_the_penalty_shrinks_them():
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


def test_a_head_lengthens_its_span_for_a_value_that_lies_far_back():
    kernel = build_kernel("adaptive_span", KernelShape(heads=1, channels=C, max_length=40), {"ramp": 4})
    q, k, _ = make(1, 1, 40, C)
    v = torch.zeros(1, 1, 40, C)
    v[..., 39 - 22, :] = 1  # 22 places before the last one, on the ramp from 20 to 24
    kernel(q[:, :, -1:], k, v).output.sum().backward()
    assert kernel.span_logit.grad > 0


def test_what_lies_beyond_span_and_ramp_has_no_share():
    kernel = build_kernel("adaptive_span", KernelShape(heads=H, channels=C, max_length=40), {"ramp": 4})
    weights = kernel(*make(B, H, 40, C), causal=True, need_weights=True).weights
    assert (weights[..., -1, : 39 - 23] == 0).all()  # span 20, ramp 4
    assert (weights[..., -1, 39 - 23 :] > 0).all()


@pytest.mark.parametrize("name", ["adaptive_span", "relative"])
def test_neither_a_single_query_nor_as_many_as_keys_is_refused(name):
    q, k, v = make(B, H, L, C)
    with pytest.raises(ValueError, match="got 2 queries and 5 keys; pass"):
        make_kernel(name)(q[:, :, :2], k, v)
