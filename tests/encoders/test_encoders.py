"""Contract tests of every encoder in ENCODERS, and tests of single encoders."""

from itertools import pairwise
from math import erf, sqrt

import numpy as np
import pytest
import torch

from attnrec.config import SettingsError
from attnrec.encoders import ENCODERS, build_encoder
from attnrec.encoders.session_graph import AFTER, BEFORE, BOTH, SELF, edge_types, first_positions

B, L, D = 3, 9, 6
LENGTHS = torch.tensor([9, 5, 0])


# --- references: each encoder again, in float64 and one position at a time


def learned(module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().double().numpy() for name, parameter in module.named_parameters()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, weights, name):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))


def conv(x, weights, name, *, dilation=1):
    """Each output is a sum over the taps of the positions from 0 on."""
    kernel, out = weights[f"{name}.conv.weight"], np.zeros((len(x), len(weights[f"{name}.conv.bias"])))
    n_taps = kernel.shape[2]
    for t in range(len(x)):
        out[t] = weights[f"{name}.conv.bias"]
        for tap in range(n_taps):
            source = t - (n_taps - 1 - tap) * dilation
            if source >= 0:
                out[t] += kernel[:, :, tap] @ x[source]
    return out


def gru(encoder, x):
    weights, states = learned(encoder), x
    for layer in range(encoder.settings.layers):
        w_in, w_state = weights[f"gru.weight_ih_l{layer}"], weights[f"gru.weight_hh_l{layer}"]
        b_in, b_state = weights[f"gru.bias_ih_l{layer}"], weights[f"gru.bias_hh_l{layer}"]
        h, outputs = np.zeros(w_state.shape[1]), []
        for vector in states:
            (r_in, z_in, n_in), (r_state, z_state, n_state) = (
                np.split(w_in @ vector + b_in, 3),
                np.split(w_state @ h + b_state, 3),
            )
            z = sigmoid(z_in + z_state)
            h = (1 - z) * np.tanh(n_in + sigmoid(r_in + r_state) * n_state) + z * h
            outputs.append(h)
        states = np.array(outputs)
    if "project_out.weight" in weights:
        states = states @ weights["project_out.weight"].T + weights["project_out.bias"]
    return states


def dilated_conv(encoder, x):
    weights = learned(encoder)
    for number, dilation in enumerate(encoder.settings.dilations * encoder.settings.repeats):
        block = f"blocks.{number}"
        inner = np.maximum(
            0, layer_norm(conv(x, weights, f"{block}.near", dilation=dilation), weights, f"{block}.norm_near")
        )
        far = conv(inner, weights, f"{block}.far", dilation=2 * dilation)
        x = x + np.maximum(0, layer_norm(far, weights, f"{block}.norm_far"))
    return x


def gated_conv(encoder, x):
    weights = learned(encoder)

    def excite(squeezed, block):
        first, second = f"{block}.channel_gate.excite.0", f"{block}.channel_gate.excite.2"
        hidden = np.maximum(0, weights[f"{first}.weight"] @ squeezed + weights[f"{first}.bias"])
        return weights[f"{second}.weight"] @ hidden + weights[f"{second}.bias"]

    for number in range(encoder.settings.layers):
        block = f"blocks.{number}"
        inner = gelu(conv(layer_norm(x, weights, f"{block}.norm"), weights, f"{block}.conv"))
        if encoder.settings.channel_gate != "none":
            logits = np.array([excite(inner[: t + 1].mean(0), block) for t in range(len(x))])
            if encoder.settings.channel_gate == "mean_and_max":
                logits += np.array([excite(inner[: t + 1].max(0), block) for t in range(len(x))])
            inner = inner * sigmoid(logits)
        if encoder.settings.spatial_gate:
            squeezed = np.stack([inner.mean(1), inner.max(1)], axis=1)
            inner = inner * sigmoid(conv(squeezed, weights, f"{block}.spatial_gate.conv"))
        x = x + inner
    return layer_norm(x, weights, "norm_out")


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def heads_of(x, n_heads):
    return np.split(x, n_heads, axis=1)


def self_attention(encoder, x):
    weights, n_heads = learned(encoder), encoder.settings.heads
    x = x + weights["position_embedding.embedding.weight"][: len(x)]
    for number in range(encoder.settings.layers):
        block = f"blocks.{number}"
        qkv = linear(layer_norm(x, weights, f"{block}.norm_attention"), weights, f"{block}.attention.project_in")
        mixed = []
        for q, k, v in zip(*(heads_of(part, n_heads) for part in np.split(qkv, 3, axis=1)), strict=True):
            exponentials = np.tril(np.exp(q @ k.T / sqrt(q.shape[1])))
            mixed.append(exponentials / exponentials.sum(1, keepdims=True) @ v)
        x = x + linear(np.concatenate(mixed, axis=1), weights, f"{block}.attention.project_out")
        hidden = gelu(linear(layer_norm(x, weights, f"{block}.norm_network"), weights, f"{block}.network.0"))
        x = x + linear(hidden, weights, f"{block}.network.3")
    return layer_norm(x, weights, "norm_out")


def hstu(encoder, x):
    weights, n_heads = learned(encoder), encoder.settings.heads
    x = x + weights["position_embedding.embedding.weight"][: len(x)]
    for number in range(encoder.settings.layers):
        block = f"blocks.{number}"
        projected = linear(layer_norm(x, weights, f"{block}.norm_in"), weights, f"{block}.project_in")
        u, *vqk = np.split(projected * sigmoid(projected), 4, axis=1)
        offsets = np.arange(len(x)) - np.arange(len(x))[:, None] + L - 1
        bias, mixed = weights[f"{block}.kernel.position_bias"][offsets], []
        for v, q, k in zip(*(heads_of(part, n_heads) for part in vqk), strict=True):
            scores = q @ k.T + bias
            mixed.append(np.tril(scores * sigmoid(scores)) / L @ v)
        attended = layer_norm(np.concatenate(mixed, axis=1), weights, f"{block}.norm_attended")
        x = x + linear(attended * u, weights, f"{block}.project_out")
    return layer_norm(x, weights, "norm_out")


def session_graph(encoder, x, items=None):
    """Nodes, edges and weights from the pairs of consecutive items."""
    weights, items = learned(encoder), list(range(len(x))) if items is None else items
    nodes = {
        item: np.mean([vector for vector, other in zip(x, items, strict=True) if other == item], 0) for item in items
    }
    after = set(pairwise(items))
    for to_self, from_before, from_after, from_both in weights["type_vectors"]:
        updated = {}
        for i in nodes:
            logits = {i: to_self @ (nodes[i] * nodes[i])}
            for j in nodes:
                kinds = {(True, True): from_both, (True, False): from_before, (False, True): from_after}
                kind = kinds.get(((j, i) in after, (i, j) in after))
                if j != i and kind is not None:
                    logits[j] = kind @ (nodes[i] * nodes[j])
            exponentials = {j: np.exp(max(e, 0.2 * e)) for j, e in logits.items()}
            updated[i] = sum(e * nodes[j] for j, e in exponentials.items()) / sum(exponentials.values())
        nodes = updated
    positions = weights["embedding.weight"][: len(x)][::-1]
    return np.stack([nodes[item] for item in items]) + positions


REFERENCES = {
    "self_attention": self_attention,
    "dilated_conv": dilated_conv,
    "gated_conv": gated_conv,
    "gru": gru,
    "hstu": hstu,
    "none": lambda encoder, x: x,
    "session_graph": session_graph,
}
"""Name in ENCODERS -> reference(encoder, vectors (L, D)) -> states (L, D), in float64."""

SETTINGS = {
    "self_attention": {"heads": 3},
    "hstu": {"heads": 2},
    "dilated_conv": {"dilations": [1, 2], "repeats": 2},
    "gated_conv": {"layers": 2, "kernel_size": 3, "spatial_kernel_size": 4, "reduction": 1},
    "gru": {"layers": 2, "hidden": 5},
    "gru_plain": {"kind": "gru"},
    "dilated_conv_default": {"kind": "dilated_conv"},
    "gated_conv_mean": {"kind": "gated_conv", "channel_gate": "mean", "reduction": 1},
    "gated_conv_no_channel": {"kind": "gated_conv", "channel_gate": "none"},
    "gated_conv_no_spatial": {"kind": "gated_conv", "spatial_gate": False, "reduction": 1},
    "gated_conv_no_gates": {"kind": "gated_conv", "channel_gate": "none", "spatial_gate": False},
    "session_graph_deep": {"kind": "session_graph", "layers": 2},
}
NEVER_CAUSAL = ("session_graph",)
VARIANTS = [*ENCODERS, *(name for name in SETTINGS if name not in ENCODERS)]


def kind_of(name: str) -> str:
    return SETTINGS.get(name, {}).get("kind", name)


def build(name: str, *, dropout: float = 0.0):
    settings = {key: value for key, value in SETTINGS.get(name, {}).items() if key != "kind"}
    kind = kind_of(name)
    return build_encoder(kind, dim=D, max_length=L, dropout=dropout, causal=kind not in NEVER_CAUSAL, settings=settings)


@pytest.fixture(params=VARIANTS)
def name(request) -> str:
    return request.param


@pytest.fixture
def encoder(name):
    """Each encoder in evaluation mode, with parameters that differ from their initial values."""
    torch.manual_seed(0)
    encoder = build(name, dropout=0.5).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(7))


# --- the contract


def test_states_equal_a_float64_reference_one_position_at_a_time(name, encoder, vectors):
    states = encoder(vectors, lengths=LENGTHS).detach().numpy()
    for b, length in enumerate(LENGTHS.tolist()):
        if length:
            expected = REFERENCES[kind_of(name)](encoder, vectors[b, :length].double().numpy())
            np.testing.assert_allclose(states[b, :length], expected, atol=1e-5)


def test_states_have_the_shape_of_the_vectors(encoder, vectors):
    for length in (1, 2, L):
        lengths = torch.full((B,), length)
        assert encoder(vectors[:, :length], lengths=lengths).shape == (B, length, D)
        assert encoder(vectors[:, :length], lengths=lengths, times=torch.zeros(B, length)).shape == (B, length, D)


def test_a_state_depends_on_its_event_and_not_on_later_events(name, encoder, vectors):
    if kind_of(name) in NEVER_CAUSAL:
        pytest.skip("it uses the whole history and rejects causal=True (see below)")
    full = torch.full((B,), L)
    before = encoder(vectors, lengths=full)
    for position in (0, 3, L - 1):
        other = vectors.clone()
        other[:, position:] = 30.0 * torch.randn(B, L - position, D, generator=torch.Generator().manual_seed(1))
        after = encoder(other, lengths=full)
        torch.testing.assert_close(after[:, :position], before[:, :position])
        assert (after[:, position] != before[:, position]).any(-1).all()


def test_a_state_depends_on_the_previous_event(name, encoder, vectors):
    if name == "none":
        pytest.skip("without an encoder a state is the vector of its event")
    other = vectors.clone()
    other[:, 2] = -other[:, 2]
    full = torch.full((B,), L)
    assert not torch.allclose(encoder(other, lengths=full)[:, 3], encoder(vectors, lengths=full)[:, 3])


@pytest.mark.parametrize("filling", [0.0, 50.0])
def test_padding_has_no_effect_and_gets_zeros(encoder, vectors, filling):
    padding = torch.arange(L) >= LENGTHS[:, None]
    states = encoder(vectors.masked_fill(padding[..., None], filling), lengths=LENGTHS)
    assert (states[padding] == 0).all()
    for b, length in enumerate(LENGTHS.tolist()):
        alone = encoder(vectors[b : b + 1, : max(1, length)], lengths=LENGTHS[b : b + 1])
        torch.testing.assert_close(states[b : b + 1, :length], alone[:, :length])


def test_an_empty_history_gets_zeros(encoder, vectors):
    assert (encoder(vectors[:1], lengths=torch.tensor([0])) == 0).all()
    assert (encoder(vectors[:1, :1], lengths=torch.tensor([0])) == 0).all()


def test_gradients_are_finite_and_reach_every_parameter_and_every_event(name, vectors):
    torch.manual_seed(0)
    encoder = build(name).train()
    vectors.requires_grad_()
    times = torch.arange(B * L).view(B, L) ** 3
    states = encoder(vectors, lengths=LENGTHS, times=times)
    (states * torch.randn(states.shape)).sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in encoder.parameters())
    assert vectors.grad.isfinite().all()
    real = torch.arange(L) < LENGTHS[:, None]
    assert vectors.grad[real].any(-1).all()
    assert not vectors.grad[~real].any()


def test_dropout_applies_in_training_only(name, vectors):
    torch.manual_seed(0)
    encoder = build(name, dropout=0.5)
    full = torch.full((B,), L)
    assert not torch.equal(encoder(vectors, lengths=full), encoder(vectors, lengths=full))
    encoder.eval()
    assert torch.equal(encoder(vectors, lengths=full), encoder(vectors, lengths=full))


def test_the_same_seed_gives_the_same_encoder(name, vectors):
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(build(name)(vectors, lengths=LENGTHS))
    assert torch.equal(*outputs)


def test_an_encoder_cites_its_paper(encoder):
    assert "arXiv:" in encoder.paper or "doi:" in encoder.paper


def test_an_unknown_encoder_raises_an_error_that_lists_all_encoders():
    with pytest.raises(
        ValueError, match="one of dilated_conv, gated_conv, gru, hstu, none, self_attention, session_graph, got 'lstm'"
    ):
        build_encoder("lstm", dim=D, max_length=L)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gru", {"hiden": 5}, r"hiden: unknown key; did you mean hidden\?"),
        ("gru", {"layers": 0}, "layers: Input should be greater than or equal to 1, got 0"),
        ("dilated_conv", {"dilations": [1, 0]}, r"dilations\.1: Input should be greater than or equal to 1, got 0"),
        ("dilated_conv", {"dilations": []}, "dilations: .* at least 1 item"),
        (
            "self_attention",
            {"positions": "relative", "attention": "linrec"},
            "positions = 'relative' needs attention = 'scaled_dot', got attention = 'linrec'",
        ),
        ("self_attention", {"heads": 4}, "heads must divide dim, got heads=4 and dim=6"),
        ("self_attention", {"attention": "linformer"}, "can't be causal"),
        ("hstu", {"positions": "rotary"}, "got positions = 'rotary'"),
        ("session_graph", {}, r"session_graph can't be causal, .* set objective = 'last_item'"),
        ("session_graph", {"layers": 0}, "layers: Input should be greater than or equal to 1, got 0"),
        ("gated_conv", {"channel_gate": "max"}, "channel_gate: Input should be 'mean_and_max', 'mean' or 'none'"),
    ],
)
def test_invalid_settings_are_rejected_in_one_line(kind, settings, message):
    with pytest.raises((SettingsError, ValueError), match=message) as caught:
        build_encoder(kind, dim=D, max_length=L, settings=settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["self_attention", "hstu", "session_graph"])
def test_bidirectional_states_depend_on_later_events_but_not_on_padding(kind, vectors):
    torch.manual_seed(0)
    encoder = build_encoder(kind, dim=D, max_length=L, causal=False).eval()
    other = vectors.clone()
    other[:, 1] = -other[:, 1]
    before, after = encoder(vectors, lengths=LENGTHS), encoder(other, lengths=LENGTHS)
    assert (after[:2, 0] != before[:2, 0]).any(-1).all()
    padding = torch.arange(L) >= LENGTHS[:, None]
    torch.testing.assert_close(encoder(vectors + 9 * padding[..., None], lengths=LENGTHS), before)


@pytest.mark.parametrize("positions", ["learned", "rotary", "relative", "none"])
def test_the_order_of_earlier_events_matters_unless_positions_are_none(positions, vectors):
    torch.manual_seed(0)
    encoder = build_encoder(
        "self_attention", dim=D, max_length=L, settings={"positions": positions, "layers": 1, "heads": 3}
    ).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    swapped = vectors[:, [1, 0, *range(2, L)]]
    full = torch.full((B,), L)
    before, after = (encoder(x, lengths=full)[:, -1] for x in (vectors, swapped))
    assert torch.allclose(before, after, atol=1e-5) == (positions == "none")


@pytest.mark.parametrize("positions", ["learned", "rotary", "relative"])
def test_the_last_state_alone_equals_that_among_all_states(positions, vectors):
    torch.manual_seed(0)
    encoder = build_encoder("self_attention", dim=D, max_length=L, settings={"positions": positions, "heads": 3}).eval()
    lengths = torch.tensor([9, 5, 1])
    states = encoder(vectors, lengths=lengths)[torch.arange(B), lengths - 1]
    torch.testing.assert_close(encoder.at_last_position(vectors, lengths=lengths), states, rtol=1e-4, atol=1e-5)


def test_attention_weights_are_returned_per_layer_and_causal(vectors):
    torch.manual_seed(0)
    encoder = build_encoder("self_attention", dim=D, max_length=L).eval()
    layers = encoder.attention_weights(vectors, lengths=LENGTHS)
    assert [weights.shape for weights in layers] == [(B, 2, L, L)] * 2
    for weights in layers:
        torch.testing.assert_close(weights.sum(-1), torch.ones(B, 2, L))
        assert (weights.triu(1) == 0).all()
    assert build_encoder("gru", dim=D, max_length=L).attention_weights(vectors, lengths=LENGTHS) == []
    other = build_encoder("self_attention", dim=D, max_length=L, settings={"attention": "linrec"})
    assert other.attention_weights(vectors, lengths=LENGTHS) == [None, None]


# --- single encoders


def test_a_gru_projects_its_states_only_if_its_width_differs():
    assert build("gru").project_out is not None
    assert build("gru_plain").project_out is None


@pytest.mark.parametrize(
    ("settings", "receptive_field"),
    # each block adds (kernel size - 1) * (d + 2 d) positions
    [({}, 1 + 2 * 3 * (1 + 2 + 4 + 8)), ({"dilations": [1, 4], "repeats": 2, "kernel_size": 2}, 1 + 2 * 3 * (1 + 4))],
)
def test_the_receptive_field_of_dilated_convolutions(settings, receptive_field):
    torch.manual_seed(0)
    encoder = build_encoder("dilated_conv", dim=D, max_length=120, settings=settings)
    assert encoder.receptive_field == receptive_field
    vectors = torch.randn(1, 120, D, requires_grad=True)
    encoder(vectors, lengths=torch.tensor([120]))[0, -1].sum().backward()
    used = vectors.grad[0].any(-1)
    assert used[-receptive_field]
    assert not used[:-receptive_field].any()


def test_gates_are_between_0_and_1_and_aligned_with_the_events(vectors):
    encoder = build("gated_conv").eval()
    gates = encoder.gates(vectors, lengths=LENGTHS)
    assert len(gates) == encoder.settings.layers
    real = torch.arange(L) < LENGTHS[:, None]
    for layer in gates:
        assert layer.channel.shape == (B, L, D)
        assert layer.spatial.shape == (B, L)
        for gate in (layer.channel, layer.spatial):
            assert ((gate[real] > 0) & (gate[real] < 1)).all()
            assert (gate[~real] == 0).all()


def test_gates_are_causal(vectors):
    encoder = build("gated_conv").eval()
    full = torch.full((B,), L)
    other = vectors.clone()
    other[:, 4:] = 20.0 * torch.randn(B, L - 4, D, generator=torch.Generator().manual_seed(1))
    for before, after in zip(encoder.gates(vectors, lengths=full), encoder.gates(other, lengths=full), strict=True):
        for name in ("channel", "spatial"):
            torch.testing.assert_close(getattr(after, name)[:, :4], getattr(before, name)[:, :4])
            assert not torch.allclose(getattr(after, name)[:, 4:], getattr(before, name)[:, 4:])


def test_the_returned_gates_are_those_of_the_states(vectors):
    # one layer, before the final norm: state - vector = convolution * channel gate * spatial gate
    encoder = build_encoder("gated_conv", dim=D, max_length=L, settings={"layers": 1}).eval()
    (gates,) = encoder.gates(vectors, lengths=torch.full((B,), L))
    (block,) = encoder.blocks
    ungated = torch.nn.functional.gelu(block.conv(block.norm(vectors)))
    torch.testing.assert_close(block(vectors)[0] - vectors, ungated * gates.channel * gates.spatial[..., None])


def test_a_gate_that_is_switched_off_does_not_exist(vectors):
    without = {"gated_conv_no_channel": "channel", "gated_conv_no_spatial": "spatial"}
    for name, missing in without.items():
        encoder = build(name).eval()
        (first, *_) = encoder.gates(vectors, lengths=LENGTHS)
        assert getattr(first, missing) is None
        assert getattr(first, "spatial" if missing == "channel" else "channel") is not None
        assert not any(f"{missing}_gate" in key for key in encoder.state_dict())


def test_a_channel_gate_has_at_least_one_hidden_unit(vectors):
    encoder = build_encoder("gated_conv", dim=D, max_length=L, settings={"reduction": 100})
    assert encoder(vectors, lengths=LENGTHS).isfinite().all()


def test_a_channel_gate_depends_on_events_outside_the_convolutions(vectors):
    # kernels of 2 in one layer: only the running squeezes connect the first event with the last state
    settings = {"layers": 1, "kernel_size": 2, "spatial_kernel_size": 1, "reduction": 1}
    other = vectors.clone()
    other[:, 0] = 5.0
    full = torch.full((B,), L)
    for gate, depends in {"mean_and_max": True, "mean": True, "none": False}.items():
        torch.manual_seed(0)
        encoder = build_encoder("gated_conv", dim=D, max_length=L, settings=settings | {"channel_gate": gate}).eval()
        same = torch.allclose(encoder(other, lengths=full)[:, -1], encoder(vectors, lengths=full)[:, -1])
        assert same is not depends


@pytest.fixture
def session() -> torch.Tensor:
    """Items of nine events: 1 and 2 alternate, 2 repeats, 3 is between 2 and 4; a shorter history; an empty one."""
    return torch.tensor([[1, 2, 1, 2, 2, 3, 4, 1, 5], [7, 7, 7, 8, 7, 0, 0, 0, 0], [0] * 9])


@pytest.mark.parametrize("layers", [1, 2])
def test_a_repeated_item_is_one_node_of_the_session_graph(layers, session, vectors):
    torch.manual_seed(0)
    encoder = build_encoder("session_graph", dim=D, max_length=L, causal=False, settings={"layers": layers}).eval()
    states = encoder(vectors, lengths=LENGTHS, items=session).detach().numpy()
    for b in (0, 1):
        n = int(LENGTHS[b])
        expected = session_graph(encoder, vectors[b, :n].double().numpy(), session[b, :n].tolist())
        np.testing.assert_allclose(states[b, :n], expected, atol=1e-5)
    assert not np.allclose(states[0], encoder(vectors, lengths=LENGTHS)[0].detach().numpy(), atol=1e-3)


def test_edges_of_a_session_graph_connect_consecutive_items(session):
    positions = first_positions(session, session[..., None], LENGTHS)
    assert positions[0].tolist() == [0, 1, 0, 1, 1, 5, 6, 0, 8]
    assert positions[1, :5].tolist() == [0, 0, 0, 3, 0]
    types = edge_types(positions, LENGTHS)
    first, second, third, fourth, fifth = 0, 1, 5, 6, 8
    assert types[0, first, second] == types[0, second, first] == BOTH
    assert (types[0, third, second], types[0, second, third]) == (BEFORE, AFTER)
    assert (types[0, fourth, third], types[0, first, fourth], types[0, fifth, first]) == (BEFORE,) * 3
    assert types[0].diagonal().tolist() == [SELF, SELF, 0, 0, 0, SELF, SELF, 0, SELF]
    assert types[0, first, third] == types[0, third, fifth] == 0
    assert types[1].count_nonzero() == 4, "two items, each with an edge to itself and to the other"
    assert types[2].count_nonzero() == 0


def test_states_of_a_session_graph_are_the_weighted_sum_of_the_events(session, vectors):
    torch.manual_seed(0)
    encoder = build_encoder("session_graph", dim=D, max_length=L, causal=False).eval()
    (weights,) = encoder.attention_weights(vectors, lengths=LENGTHS, items=session)
    assert weights.shape == (B, 1, L, L)
    real = (torch.arange(L) < LENGTHS[:, None]).float()
    torch.testing.assert_close(weights[:, 0].sum(-1), real)
    assert not (weights[:, 0] * (1 - real)[:, None]).any()
    with torch.no_grad():
        encoder.embedding.weight.zero_()
    torch.testing.assert_close(weights[:, 0] @ vectors, encoder(vectors, lengths=LENGTHS, items=session))


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_and_cpu_agree(encoder, vectors):
    on_cpu = encoder(vectors, lengths=LENGTHS)
    on_cuda = encoder.cuda()(vectors.cuda(), lengths=LENGTHS.cuda())
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-4)
