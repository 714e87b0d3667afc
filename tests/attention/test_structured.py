"""Tests of single kernels and of their parts: windows, linear cost, times, memory slots, blocks, positions."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnrec.attention import KernelShape, build_kernel, hstu, local_global
from attnrec.attention.blocks import to_bands, to_blocks
from attnrec.attention.compressed import HistoryCompressor
from attnrec.attention.hstu_block import HSTUBlock
from attnrec.attention.positions import RelativeBias, RotaryPositions, by_distance, distance_buckets

H, C = 2, 4
CAUSAL_OR_NOT = pytest.mark.parametrize("causal", [False, True])


class Largest(TorchDispatchMode):
    """Records the largest number of elements of any tensor created inside the block."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


def make(kind, *, max_length=1, causal=True, **settings):
    torch.manual_seed(0)
    return build_kernel(kind, KernelShape(heads=H, channels=C, max_length=max_length, causal=causal), settings).eval()


def sequences(length, *, n_users=3, learned=False):
    random = torch.Generator().manual_seed(length)
    return [torch.randn(n_users, H, length, C, generator=random).requires_grad_(learned) for _ in range(3)]


def padded_to(lengths, width):
    """Mask of real events, (B, 1, 1, width)."""
    return (torch.arange(width) < torch.tensor(lengths)[:, None])[:, None, None]


def value_and_gradients(kernel, qkv, **options):
    output = kernel(*qkv, **options).output
    target = torch.linspace(-1, 1, output.numel()).view_as(output)
    return [output.detach(), *torch.autograd.grad((output * target).sum(), qkv)]


def largest(kernel, length, **options):
    qkv = sequences(length)
    with Largest() as record:
        kernel(*qkv, **options)
    return record.numel


# --- local and global


@CAUSAL_OR_NOT
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("window", "n_global"), [(8, 3), (7, 1), (4, 0), (1, 2), (3, 9)])
@pytest.mark.parametrize("length", [1, 3, 8, 9, 31, 40])
def test_bands_equal_masked_dense_attention_in_value_and_gradients(
    monkeypatch, length, window, n_global, padded, causal
):
    monkeypatch.setattr(local_global, "MAX_DENSE_WINDOWS", 0)  # bands for short sequences, too
    kernel = make("local_global", window=window, n_global=n_global)
    allowed = padded_to([length, (length + 1) // 2, 0], length) if padded else None
    qkv = sequences(length, learned=True)
    banded = value_and_gradients(kernel, qkv, allowed=allowed, causal=causal)
    dense = value_and_gradients(kernel, qkv, allowed=allowed, causal=causal, need_weights=True)
    for actual, expected in zip(banded, dense, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@CAUSAL_OR_NOT
@pytest.mark.parametrize("length", [9, 40])
def test_a_mask_that_differs_by_query_works_at_any_length(length, causal):
    kernel = make("local_global", window=4, n_global=2)
    allowed = torch.rand(3, 1, length, length, generator=torch.Generator().manual_seed(1)) < 0.5
    qkv = sequences(length)
    without = kernel(*qkv, allowed=allowed, causal=causal).output
    torch.testing.assert_close(without, kernel(*qkv, allowed=allowed, causal=causal, need_weights=True).output)


def visible_keys(kernel, query, **options):
    weights = kernel(*sequences(9, n_users=1), need_weights=True, **options).weights[0, 0, query]
    return torch.nonzero(weights).flatten().tolist()


def test_a_causal_window_contains_the_query_and_the_positions_before_it():
    kernel = make("local_global", window=3, n_global=1)
    assert visible_keys(kernel, 6, causal=True) == [0, 4, 5, 6]
    assert visible_keys(kernel, 1, causal=True) == [0, 1]
    assert visible_keys(kernel, 0, causal=True) == [0]


def test_a_bidirectional_window_has_half_on_each_side_and_global_positions_attend_to_all():
    kernel = make("local_global", window=4, n_global=2, causal=False)
    assert visible_keys(kernel, 5) == [0, 1, 3, 4, 5, 6, 7]
    assert visible_keys(kernel, 1) == list(range(9))


@CAUSAL_OR_NOT
@pytest.mark.parametrize(("kind", "settings"), [("local_global", {"window": 8, "n_global": 2}), ("linrec", {})])
@pytest.mark.parametrize("padded", [False, True])
def test_memory_is_linear_in_the_length(kind, settings, causal, padded):
    kernel = make(kind, **settings)

    def elements(length, **options):
        allowed = padded_to([length, 5, 0], length) if padded else None
        return largest(kernel, length, allowed=allowed, causal=causal, **options)

    assert elements(2048) <= 2.01 * elements(1024)
    assert elements(512, need_weights=True) >= 512 * 512, "the measurement must find the weights"


def test_local_global_needs_as_many_queries_as_keys():
    q, k, v = sequences(4)
    with pytest.raises(ValueError, match=r"as many queries as keys, got 2 queries and 4 keys; use scaled_dot"):
        make("local_global")(q[:, :, :2], k, v)


# --- linformer


def test_linformer_rejects_causality():
    with pytest.raises(ValueError, match=r"can't be causal.*got a causal shape; set attention = 'local_global'"):
        make("linformer", max_length=5)
    with pytest.raises(ValueError, match=r"can't be causal.*got causal=True"):
        make("linformer", max_length=5, causal=False)(*sequences(5), causal=True)


def test_linformer_rejects_more_keys_than_max_length():
    with pytest.raises(ValueError, match=r"at most max_length = 5 keys, got 6; shorten the history"):
        make("linformer", max_length=5, causal=False)(*sequences(6))


def test_linformer_rejects_a_mask_that_differs_by_query():
    with pytest.raises(ValueError, match=r"differs by query, \(5, 5\); pass a mask of keys"):
        make("linformer", max_length=5, causal=False)(*sequences(5), allowed=torch.ones(5, 5, dtype=torch.bool))


def test_padding_does_not_change_the_output_of_linformer():
    kernel = make("linformer", max_length=9, causal=False, rank=3)
    q, k, v = sequences(9)
    padded = kernel(q, k, v, allowed=padded_to([4, 4, 4], 9)).output[:, :, :4]
    torch.testing.assert_close(kernel(q[:, :, :4], k[:, :, :4], v[:, :, :4]).output, padded)


# --- linrec


@CAUSAL_OR_NOT
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
def test_linear_and_quadratic_linrec_agree(length, padded, causal):
    kernel = make("linrec")
    allowed = padded_to([length, (length + 1) // 2, 0], length) if padded else None
    qkv = sequences(length, learned=True)
    linear = value_and_gradients(kernel, qkv, allowed=allowed, causal=causal)
    quadratic = value_and_gradients(kernel, qkv, allowed=allowed, causal=causal, need_weights=True)
    for actual, expected in zip(linear, quadratic, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@CAUSAL_OR_NOT
def test_the_output_of_linrec_is_its_weights_times_the_values(causal):
    q, k, v = sequences(7)
    attended = make("linrec")(q, k, v, causal=causal, need_weights=True)
    torch.testing.assert_close(attended.output, attended.weights @ v)
    assert (attended.weights < 0).any()


@pytest.mark.parametrize("need_weights", [False, True])
def test_linrec_has_finite_gradients_where_a_column_of_keys_is_zero(need_weights):
    q, k, v = sequences(3)
    k = torch.zeros_like(k).requires_grad_()
    output = make("linrec")(q, k, v, causal=True, need_weights=need_weights).output
    output.sum().backward()
    assert (output == 0).all()
    assert k.grad.isfinite().all()


# --- HSTU


DAY = 86_400


@pytest.fixture
def hstu_kernel():
    kernel = make("hstu", max_length=6)
    with torch.no_grad():
        for bias in kernel.parameters():
            bias.normal_()
    return kernel


def test_hstu_uses_no_times_after_the_query(hstu_kernel):
    qkv, times = sequences(5), torch.tensor([[0, 9, 99, 500, 3 * DAY]]).repeat(3, 1)
    before = hstu_kernel(*qkv, causal=True, times=times).output
    times[:, 3:] += 40 * DAY
    after = hstu_kernel(*qkv, causal=True, times=times).output
    assert (after[:, :, :3] == before[:, :, :3]).all()
    assert not torch.allclose(after[:, :, 3:], before[:, :, 3:])


def test_hstu_depends_on_time_gaps_and_not_on_dates(hstu_kernel):
    qkv, times = sequences(5), torch.tensor([[0, 9, 99, 500, 3 * DAY]]).repeat(3, 1)
    before = hstu_kernel(*qkv, times=times).output
    torch.testing.assert_close(hstu_kernel(*qkv, times=times + 20_000 * DAY).output, before, rtol=0, atol=0)


def test_hstu_without_times_equals_a_time_bias_of_zero(hstu_kernel):
    qkv, times = sequences(5), torch.tensor([[0, 9, 99, 500, 3 * DAY]]).repeat(3, 1)
    without = hstu_kernel(*qkv, causal=True).output
    torch.nn.init.zeros_(hstu_kernel.time_bias)
    torch.testing.assert_close(hstu_kernel(*qkv, causal=True, times=times).output, without)


def test_time_gaps_have_logarithmic_buckets():
    gaps = torch.tensor([0, 1, -1, 60, -60, DAY, 2**62])
    # log(60) / 0.301 = 13.6, log(86400) / 0.301 = 37.8, log(2 ** 62) / 0.301 = 142.8
    assert hstu.time_buckets(gaps, n_buckets=128).tolist() == [0, 0, 0, 13, 13, 37, 127]


def test_the_position_bias_of_hstu_does_not_depend_on_the_length(hstu_kernel):
    q, k, v = sequences(6)
    long = hstu_kernel(q, k, v, causal=True).output
    short = hstu_kernel(q[:, :, :4], k[:, :, :4], v[:, :, :4], causal=True).output
    torch.testing.assert_close(short, long[:, :, :4])


def test_keys_of_hstu_do_not_compete(hstu_kernel):
    q, k, v = sequences(5)
    before = hstu_kernel(q, k, v, need_weights=True).weights
    k[:, :, 2] += 1
    after = hstu_kernel(q, k, v, need_weights=True).weights
    torch.testing.assert_close(after[..., [0, 1, 3, 4]], before[..., [0, 1, 3, 4]])


def test_hstu_rejects_more_keys_than_max_length(hstu_kernel):
    with pytest.raises(
        ValueError, match=r"at most max_length = 6 of them, got 7 queries and 7 keys; shorten the history"
    ):
        hstu_kernel(*sequences(7))


@pytest.fixture
def block(hstu_kernel):
    torch.manual_seed(1)
    return HSTUBlock(H * C, heads=H, kernel=hstu_kernel, dropout=0.5).eval()


def test_the_hstu_block_gates_the_attention_output(block):
    x = torch.randn(2, 5, H * C)
    u, v, q, k = torch.nn.functional.silu(block.project_in(block.norm_in(x))).chunk(4, dim=-1)
    q, k, v = (part.unflatten(-1, (H, C)).transpose(1, 2) for part in (q, k, v))
    attended = block.kernel(q, k, v, causal=True).output.transpose(1, 2).flatten(2)
    expected = x + block.project_out(torch.nn.functional.layer_norm(attended, (H * C,)) * u)
    torch.testing.assert_close(block(x, causal=True), expected)


def test_the_hstu_block_respects_causality_padding_and_times(block):
    x, times = torch.randn(2, 5, H * C), torch.arange(0, 500, 100).repeat(2, 1)
    before = block(x, causal=True, times=times)
    assert not torch.allclose(block(x, causal=True), before), "times must have an effect"
    x[:, 3:] += 1
    torch.testing.assert_close(block(x, causal=True, times=times)[:, :3], before[:, :3])
    padded = block(x, causal=False, allowed=padded_to([3, 3], 5))
    torch.testing.assert_close(padded[:, :3], block(x[:, :3], causal=False))


def test_the_hstu_block_rejects_a_kernel_of_other_heads(hstu_kernel):
    with pytest.raises(ValueError, match=r"got 2 heads of 4 channels in a block with dim=8 and heads=4"):
        HSTUBlock(8, heads=4, kernel=hstu_kernel, dropout=0.0)


# --- memory slots


@pytest.mark.parametrize("need_weights", [False, True])
def test_slots_get_weight_in_addition_to_the_history(need_weights):
    kernel = make("memory", n_slots=6)
    q, k, v = sequences(4)
    attended = kernel(torch.zeros_like(q), k, v, allowed=padded_to([4, 2, 0], 4), need_weights=need_weights)
    slots = kernel.slot_values.sum(-2)  # a query of zeros gives 6 slots and n events equal weights
    torch.testing.assert_close(attended.output[0, :, 0], (slots + v[0].sum(-2)) / 10)
    torch.testing.assert_close(attended.output[1, :, 0], (slots + v[1, :, :2].sum(-2)) / 8)
    assert (attended.output[2] == 0).all()
    if need_weights:
        assert attended.weights.shape == (3, H, 4, 4)
        torch.testing.assert_close(attended.weights.sum(-1)[:, 0, 0], torch.tensor([4 / 10, 2 / 8, 0]))


def test_memory_attention_works_with_fewer_queries_than_keys():
    kernel = make("memory", n_slots=2)
    q, k, v = sequences(5)
    with_weights = kernel(q[:, :, :2], k, v, need_weights=True)
    assert with_weights.weights.shape == (3, H, 2, 5)
    torch.testing.assert_close(kernel(q[:, :, :2], k, v).output, with_weights.output)


def test_slots_get_a_gradient():
    kernel = make("memory", n_slots=2)
    kernel(*sequences(4), causal=True).output.square().sum().backward()
    assert all((slots.grad != 0).any() for slots in kernel.parameters())


# --- compressed memory


def compress(items, *, block, lengths, query=None):
    layer = HistoryCompressor(items.shape[-1], block=block)
    if query is not None:
        layer.query.data = query
    memory, allowed = layer(items, lengths=torch.tensor(lengths))
    return memory.detach(), allowed


def test_each_block_is_initially_compressed_to_its_mean():
    items = torch.arange(1.0, 6.0)[None, :, None].repeat(4, 1, 2)
    memory, allowed = compress(items, block=2, lengths=[5, 3, 1, 0])
    expected = [[(1 + 2) / 2, (3 + 4) / 2, 5], [(1 + 2) / 2, 3, 0], [1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(memory[..., 0], torch.tensor(expected))
    assert allowed.tolist() == [[True, True, True], [True, True, False], [True, False, False], [False] * 3]


@pytest.mark.parametrize("length", [1, 24, 25, 26, 60])
def test_a_block_is_pooled_with_the_learned_query(length):
    random = torch.Generator().manual_seed(length)
    items, query = torch.randn(2, length, 3, generator=random), torch.randn(3, generator=random)
    lengths = [length, (length + 1) // 2]
    memory, _ = compress(items, block=25, lengths=lengths, query=query)
    assert memory.shape == (2, -(-length // 25), 3)
    for b, n in enumerate(lengths):
        for start in range(0, n, 25):
            block = items[b, start : min(n, start + 25)].double().numpy()
            exponentials = np.exp(block @ query.double().numpy() / np.sqrt(3))
            np.testing.assert_allclose(
                memory[b, start // 25].numpy(), exponentials / exponentials.sum() @ block, atol=1e-6
            )


def test_new_events_do_not_change_the_vectors_of_earlier_blocks():
    items, query = torch.randn(1, 9, 3), torch.ones(3)
    before, _ = compress(items[:, :6], block=3, lengths=[6], query=query)
    after, _ = compress(items, block=3, lengths=[8], query=query)
    torch.testing.assert_close(after[:, :2], before)


def test_padding_does_not_change_the_compressed_memory():
    items = torch.randn(2, 7, 3)
    before, _ = compress(items, block=3, lengths=[4, 0], query=torch.ones(3))
    items[0, 4:], items[1] = 1e6, -1e6
    after, _ = compress(items, block=3, lengths=[4, 0], query=torch.ones(3))
    assert (after == before).all()


def test_no_events_give_an_empty_memory():
    memory, allowed = compress(torch.randn(2, 0, 3), block=25, lengths=[0, 0])
    assert memory.shape == (2, 0, 3)
    assert allowed.shape == (2, 0)


def test_compression_has_gradients_and_linear_memory():
    layer = HistoryCompressor(8, block=25)
    sizes = []
    for length in (1000, 2000):
        with Largest() as record:
            memory, _ = layer(torch.randn(2, length, 8), lengths=torch.tensor([length, 9]))
        sizes.append(record.numel)
    assert sizes[1] <= 2.01 * sizes[0]
    memory.square().sum().backward()
    assert (layer.query.grad != 0).all()


# --- blocks and positions


def test_blocks_are_padded_and_bands_include_their_neighbours():
    x = torch.arange(1, 6)[:, None]
    assert to_blocks(x, 2).squeeze(-1).tolist() == [[1, 2], [3, 4], [5, 0]]
    assert to_bands(x, 2, after=0).squeeze(-1).tolist() == [[0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 5, 0]]
    assert to_bands(x, 2, after=1).squeeze(-1).tolist()[1:] == [[1, 2, 3, 4, 5, 0], [3, 4, 5, 0, 0, 0]]


def test_rotated_products_depend_on_the_distance_alone():
    rotary = RotaryPositions(8)
    q, k = (x[:, :, None].expand(-1, -1, 30, -1) for x in torch.randn(2, 2, 3, 8))  # one vector at all positions
    rotated_q, rotated_k = rotary(q, k)
    products = rotated_q @ rotated_k.mT
    for distance in (-29, -7, 0, 1, 12):
        diagonal = products.diagonal(distance, dim1=-2, dim2=-1)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(products[..., 0, 0], products[..., 0, 5])


def test_rotation_preserves_norms_and_the_first_position():
    x = torch.randn(2, 3, 10, 6)
    rotated = RotaryPositions(6).rotate(x)
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotated[:, :, 0], x[:, :, 0])


def test_the_first_pair_of_channels_rotates_by_one_radian_per_position():
    rotated = RotaryPositions(2).rotate(torch.tensor([1.0, 0.0]).expand(1, 1, 4, 2))
    angles = torch.arange(4.0)
    torch.testing.assert_close(rotated[0, 0], torch.stack([angles.cos(), angles.sin()], dim=-1))


def test_an_odd_number_of_channels_is_rejected():
    with pytest.raises(ValueError, match=r"need an even number of channels per head, got 3; change dim or heads"):
        RotaryPositions(3)


def test_values_by_distance_expand_to_a_matrix_of_queries_and_keys():
    values = torch.tensor([-2, -1, 0, 1, 2])
    assert by_distance(values, 3).tolist() == [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]]
    assert by_distance(values, 2).tolist() == [[0, 1], [-1, 0]]
    assert by_distance(values, 1).tolist() == [[0]]


def test_distances_are_bucketed_as_in_t5():
    offsets = torch.tensor([0, -1, -7, -8, -11, -12, -127, -500, 1, 7, 8, 127])
    # one bucket for each of eight near distances, then log(distance / 8) / log(128 / 8) * 8 more; later keys from 16
    expected = [0, 1, 7, 8, 8, 9, 15, 15, 17, 23, 24, 31]
    assert distance_buckets(offsets, max_distance=128).tolist() == expected


@pytest.mark.parametrize("max_length", [1, 5, 8, 9, 200])
def test_relative_biases_depend_on_head_and_distance(max_length):
    layer = RelativeBias(H, max_length)
    torch.nn.init.normal_(layer.bias)
    biases = layer(max_length)
    assert biases.shape == (H, max_length, max_length)
    for i, j in [(0, 0), (max_length - 1, 0), (0, max_length - 1)]:
        bucket = distance_buckets(torch.tensor(j - i), max_distance=max_length)
        assert (biases[:, i, j] == layer.bias[:, bucket]).all()
    assert (layer(max_length // 2 + 1) == biases[:, : max_length // 2 + 1, : max_length // 2 + 1]).all()
