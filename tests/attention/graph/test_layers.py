"""Contract tests of the graph layers, for every layer in GRAPH_LAYERS and both graph formats."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnrec.attention.graph import GRAPH_LAYERS, GraphShape, PaddedNeighbours, SortedEdges, blocks, build_graph_layer
from attnrec.layers import Dropout

S, N, H, C = 9, 7, 2, 3
SHAPE = GraphShape(source_dim=4, target_dim=5, heads=H, channels=C)
EDGES = [(0, 0), (1, 0), (2, 0), (1, 0), (3, 1), (0, 2), (4, 3), (4, 3), (5, 5)] + [(k % S, 6) for k in range(20)]
"""(source, target): target 0 has a duplicate edge, 1 and 2 have one edge, 3 one edge twice, 4 none, 6 is a hub."""

NATIVE = ["gat", "gatv2"]
"""Layers that have a torch-geometric layer of the same name with the prefix `pyg_`."""

VALUES = {
    "gat": "project_source",
    "gatv2": "project_source",
    "pyg_gat": "conv.lin_src",
    "pyg_gatv2": "conv.lin_l",
    "pyg_transformer": "conv.lin_value",
}
"""Name in GRAPH_LAYERS -> the module that projects sources to values."""

SCORING = {
    "gat": "attention",
    "gatv2": "attention",
    "pyg_gat": "conv.att",
    "pyg_gatv2": "conv.att",
    "pyg_transformer": "conv.lin_query",
}
"""Name in GRAPH_LAYERS -> the prefix of the parameters without which all attention logits are equal."""


@dataclass
class Inputs:
    x_source: torch.Tensor
    x_target: torch.Tensor
    graph: SortedEdges

    @property
    def leaves(self) -> list[torch.Tensor]:
        features = self.graph.edge_features
        return [self.x_source, self.x_target] + ([] if features is None else [features])


def make_inputs(edge_dim=0, *, dtype=torch.float32) -> Inputs:
    random = torch.Generator().manual_seed(3)
    sources, targets = torch.tensor(EDGES).T
    x_source, x_target = torch.randn(S, 4, generator=random), torch.randn(N, 5, generator=random)
    features = torch.randn(len(EDGES), edge_dim, generator=random)
    x_source, x_target, features = (x.to(dtype).requires_grad_() for x in (x_source, x_target, features))
    offsets = F.pad(torch.bincount(targets, minlength=N).cumsum(0), (1, 0))
    return Inputs(x_source, x_target, SortedEdges(sources, targets, offsets, features if edge_dim else None))


def padded(graph: SortedEdges, *, width: int) -> PaddedNeighbours:
    """The same edges, padded to `width` with invalid rows and NaN features."""
    neighbours, real = torch.full((N, width), -7), torch.zeros(N, width, dtype=torch.bool)
    features = None if graph.edge_features is None else torch.full((N, width, graph.edge_features.shape[1]), torch.nan)
    columns = torch.arange(len(graph.sources)) - graph.offsets[graph.targets]
    neighbours[graph.targets, columns], real[graph.targets, columns] = graph.sources, True
    if features is not None:
        features[graph.targets, columns] = graph.edge_features
    return PaddedNeighbours(neighbours, real, features)


def make_layer(name, shape=SHAPE, **settings):
    """A layer whose parameters differ from their initial values."""
    torch.manual_seed(0)
    layer = build_graph_layer(name, shape, settings)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def gradients(output, leaves):
    """Gradients of a weighted sum of the output, each element with another weight."""
    return torch.autograd.grad((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum(), leaves)


@pytest.fixture(params=GRAPH_LAYERS)
def name(request) -> str:
    return request.param


@pytest.fixture(params=NATIVE)
def native(request) -> str:
    return request.param


@pytest.fixture(params=[0, 2], ids=["no edge features", "edge features"])
def edge_dim(request) -> int:
    return request.param


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 8 edges, so that the hub's 20 edges span four of them."""
    monkeypatch.setitem(blocks.BLOCK, "cpu", 8 * H * C)


# --- references: each native layer again, in float64 and one target at a time


def learned(layer, name):
    return layer.get_parameter(name).detach().double().numpy()


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def gat_logits(layer, values, target, features):
    target = target @ learned(layer, "project_target.weight").T
    logits = values.reshape(-1, H, C) * learned(layer, "attention_source")
    logits = logits + target.reshape(H, C) * learned(layer, "attention_target")
    if features is not None:
        projected = features @ learned(layer, "project_edges.weight").T
        logits = logits + projected.reshape(-1, H, C) * learned(layer, "attention_edges")
    return leaky(logits.sum(-1))


def gatv2_logits(layer, values, target, features):
    hidden = values + target @ learned(layer, "project_target.weight").T + learned(layer, "project_target.bias")
    if features is not None:
        hidden = hidden + features @ learned(layer, "project_edges.weight").T
    return (leaky(hidden.reshape(-1, H, C)) * learned(layer, "attention")).sum(-1)


LOGITS = {"gat": gat_logits, "gatv2": gatv2_logits}
"""Name -> logits(layer, projected sources, one target, features of its edges), (edges, H)."""


def reference(name, layer, inputs):
    x_source, x_target = (x.detach().double().numpy() for x in (inputs.x_source, inputs.x_target))
    features = inputs.graph.edge_features
    features = None if features is None else features.detach().double().numpy()
    values = x_source @ learned(layer, "project_source.weight").T
    values = values + (learned(layer, "project_source.bias") if name == "gatv2" else 0)
    output, weights = np.zeros((N, H, C)), np.zeros((len(EDGES), H))
    for target in range(N):
        edges = [number for number, edge in enumerate(EDGES) if edge[1] == target]
        if edges:
            of_sources = values[[EDGES[number][0] for number in edges]]
            of_edges = None if features is None else features[edges]
            exponentials = np.exp(LOGITS[name](layer, of_sources, x_target[target], of_edges))
            weights[edges] = exponentials / exponentials.sum(0)
            output[target] = (weights[edges][..., None] * of_sources.reshape(-1, H, C)).sum(0)
    return output.reshape(N, -1) + learned(layer, "bias"), weights


def test_output_and_weights_equal_a_float64_reference(native, edge_dim):
    inputs, layer = make_inputs(edge_dim), make_layer(native, replace(SHAPE, edge_dim=edge_dim))
    attended = layer(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True)
    output, weights = reference(native, layer, inputs)
    np.testing.assert_allclose(attended.output.detach().numpy(), output, atol=1e-6)
    np.testing.assert_allclose(attended.weights.detach().numpy(), weights, atol=1e-6)


def test_gradients_of_output_and_weights_equal_finite_differences(name, edge_dim):
    inputs = make_inputs(edge_dim, dtype=torch.float64)
    layer = make_layer(name, replace(SHAPE, edge_dim=edge_dim)).double()

    def attend(x_source, x_target, *features):
        graph = replace(inputs.graph, edge_features=features[0] if features else None)
        attended = layer(x_source, x_target, graph=graph, need_weights=True)
        return attended.output, attended.weights, *(parameter.sum() for parameter in layer.parameters())

    assert torch.autograd.gradcheck(attend, inputs.leaves)
    parameters = dict(layer.named_parameters())
    for parameter_name, parameter in parameters.items():

        def attend_with(changed, parameter_name=parameter_name):
            arguments = (inputs.x_source.detach(), inputs.x_target.detach())
            options = {"graph": inputs.graph, "need_weights": True}
            replaced = parameters | {parameter_name: changed}
            attended = torch.func.functional_call(layer, replaced, arguments, options)
            return attended.output, attended.weights

        assert torch.autograd.gradcheck(attend_with, parameter.detach().requires_grad_()), parameter_name


# --- native layers equal torch-geometric's with the same weights

PYG_NAMES = {
    "project_source": {"gat": "lin_src", "gatv2": "lin_l"},
    "project_target": {"gat": "lin_dst", "gatv2": "lin_r"},
    "project_edges": "lin_edge",
    "attention": "att",
    "attention_source": "att_src",
    "attention_target": "att_dst",
    "attention_edges": "att_edge",
    "residual": "res",
}


def pyg_peer(native, layer, *, self_loops=False):
    """The torch-geometric layer with the weights of `layer`, and its parameters in the same order."""
    conv = build_graph_layer(f"pyg_{native}", layer.shape, layer.settings.model_dump()).conv
    conv.add_self_loops = self_loops
    one_projection, parameters = native == "gat" and layer.settings.share_weights, []
    for parameter_name, parameter in layer.named_parameters():
        part, _, rest = parameter_name.partition(".")
        pyg_name = PYG_NAMES.get(part, part)
        pyg_name = pyg_name if isinstance(pyg_name, str) else pyg_name[native]
        pyg_name = "lin" if one_projection and part == "project_source" else pyg_name
        parameters.append(conv.get_parameter(".".join(filter(None, [pyg_name, rest]))))
        parameters[-1].data.copy_(parameter.data.view_as(parameters[-1]))
    return conv, parameters


SETTINGS = [
    {},
    {"concat": False, "residual": True, "negative_slope": 0.05},
    {"bias": False, "residual": True},
]


def assert_equal_to_pyg(native, layer, inputs, graph, *, flatten=lambda weights: weights):
    """Compare output, weights and every gradient; `graph` holds the edges of the inputs in either format."""
    conv, parameters = pyg_peer(native, layer)
    edge_index = torch.stack([inputs.graph.sources, inputs.graph.targets])
    expected, (_, weights) = conv(
        (inputs.x_source, inputs.x_target), edge_index, inputs.graph.edge_features, return_attention_weights=True
    )
    attended = layer(inputs.x_source, inputs.x_target, graph=graph, need_weights=True)
    torch.testing.assert_close(attended.output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flatten(attended.weights), weights, atol=1e-5, rtol=1e-5)
    actual = gradients(attended.output, inputs.leaves + list(layer.parameters()))
    for gradient, reference_gradient in zip(actual, gradients(expected, inputs.leaves + parameters), strict=True):
        torch.testing.assert_close(gradient, reference_gradient.view_as(gradient), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sorted_edges_equal_pyg_in_value_and_every_gradient(native, edge_dim, settings):
    inputs, layer = make_inputs(edge_dim), make_layer(native, replace(SHAPE, edge_dim=edge_dim), **settings)
    assert_equal_to_pyg(native, layer, inputs, inputs.graph)


@pytest.mark.parametrize("width", [20, 23])
def test_padded_neighbours_equal_pyg_in_value_and_every_gradient(native, edge_dim, width):
    inputs, layer = make_inputs(edge_dim), make_layer(native, replace(SHAPE, edge_dim=edge_dim))
    table = padded(inputs.graph, width=width)
    assert_equal_to_pyg(native, layer, inputs, table, flatten=lambda weights: weights[table.real])


def test_shared_projections_equal_pyg(native):
    inputs = make_inputs()
    layer = make_layer(native, GraphShape(source_dim=4, target_dim=4, heads=H, channels=C), share_weights=True)
    conv, parameters = pyg_peer(native, layer)
    graph = SortedEdges.from_edges(inputs.graph.sources, inputs.graph.targets, n_targets=S)
    expected = conv((inputs.x_source, inputs.x_source), torch.stack([graph.sources, graph.targets]))
    output = layer(inputs.x_source, graph=graph).output
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(inputs.x_source, inputs.x_source.clone(), graph=graph).output, output)
    actual = gradients(output, [inputs.x_source, *layer.parameters()])
    for gradient, reference_gradient in zip(actual, gradients(expected, [inputs.x_source, *parameters]), strict=True):
        torch.testing.assert_close(gradient, reference_gradient.view_as(gradient), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_equal_pyg(native, seed):
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, N - 1, (300,), generator=random)
    sources = (torch.randint(0, S**3, (300,), generator=random) ** (1 / 3)).long()  # a skewed distribution
    features = torch.randn(300, 2, requires_grad=True)
    inputs = make_inputs()
    inputs.graph = SortedEdges.from_edges(sources, targets, n_targets=N, edge_features=features)
    assert_equal_to_pyg(native, make_layer(native, replace(SHAPE, edge_dim=2)), inputs, inputs.graph)


def test_self_loops_equal_pyg_and_are_added_by_the_graph_alone(native, edge_dim):
    inputs = make_inputs(edge_dim)
    layer = make_layer(native, GraphShape(source_dim=4, target_dim=4, heads=H, channels=C, edge_dim=edge_dim))
    conv, _ = pyg_peer(native, layer, self_loops=True)
    x_target = inputs.x_source[:N] + 1
    edge_index = torch.stack([inputs.graph.sources, inputs.graph.targets])
    expected = conv((inputs.x_source, x_target), edge_index, inputs.graph.edge_features)
    looped = inputs.graph.add_self_loops()
    assert len(looped.sources) == len(EDGES) - sum(source == target for source, target in EDGES) + N
    torch.testing.assert_close(layer(inputs.x_source, x_target, graph=looped).output, expected, atol=1e-5, rtol=1e-5)
    without = layer(inputs.x_source, x_target, graph=inputs.graph).output
    torch.testing.assert_close(without[4], layer.bias, msg="target 4 has no edge, and gets none")


# --- weights


def test_weights_sum_to_1_over_the_edges_of_each_target(name):
    inputs, layer = make_inputs(), make_layer(name)
    weights = layer(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True).weights
    assert layer.weights_kind == "normalised"
    assert weights.shape == (len(EDGES), H)
    assert (weights >= 0).all()
    sums = torch.zeros(N, H).index_add(0, inputs.graph.targets, weights)
    torch.testing.assert_close(sums, torch.ones(N, H) * (inputs.graph.offsets.diff() > 0)[:, None])


def test_weights_of_padded_neighbours_have_their_layout(name):
    inputs, layer = make_inputs(), make_layer(name)
    table = padded(inputs.graph, width=21)
    weights = layer(inputs.x_source, inputs.x_target, graph=table, need_weights=True).weights
    in_order = layer(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True).weights
    assert weights.shape == (N, 21, H)
    torch.testing.assert_close(weights[table.real], in_order)
    assert (weights[~table.real] == 0).all()


def test_weights_are_none_unless_requested(name):
    inputs, layer = make_inputs(), make_layer(name)
    assert layer(inputs.x_source, inputs.x_target, graph=inputs.graph).weights is None
    assert layer(inputs.x_source, inputs.x_target, graph=padded(inputs.graph, width=20)).weights is None


def test_equal_logits_give_equal_weights_and_duplicate_edges_count_twice(name):
    inputs, layer = make_inputs(), make_layer(name, bias=False)
    with torch.no_grad():
        for parameter_name, parameter in layer.named_parameters():
            if parameter_name.startswith(SCORING[name]):
                parameter.zero_()
    output = layer(inputs.x_source, inputs.x_target, graph=inputs.graph).output
    values = layer.get_submodule(VALUES[name])(inputs.x_source)
    torch.testing.assert_close(output[0], (values[0] + 2 * values[1] + values[2]) / 4)
    torch.testing.assert_close(output[3], values[4], msg="(v4 + v4) / 2")


def test_the_order_of_edges_only_changes_the_order_of_weights(name, edge_dim):
    inputs, layer = make_inputs(edge_dim), make_layer(name, replace(SHAPE, edge_dim=edge_dim))
    mixed = torch.randperm(len(EDGES), generator=torch.Generator().manual_seed(1))
    mixed = mixed[inputs.graph.targets[mixed].argsort(stable=True)]
    features = None if inputs.graph.edge_features is None else inputs.graph.edge_features[mixed]
    other = replace(inputs.graph, sources=inputs.graph.sources[mixed], edge_features=features)
    assert not torch.equal(other.sources, inputs.graph.sources)
    before = layer(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True)
    after = layer(inputs.x_source, inputs.x_target, graph=other, need_weights=True)
    torch.testing.assert_close(after.output, before.output)
    torch.testing.assert_close(after.weights, before.weights[mixed])


def test_only_gat_ranks_sources_the_same_for_every_target(name):
    inputs, layer = make_inputs(), make_layer(name)
    complete = SortedEdges.from_edges(torch.arange(S).repeat(N), torch.arange(N).repeat_interleave(S), n_targets=N)
    weights = layer(inputs.x_source, 3 * inputs.x_target, graph=complete, need_weights=True).weights
    orders = {tuple(order) for order in weights.view(N, S, H)[..., 0].argsort(1).tolist()}
    assert (len(orders) == 1) == (name in ("gat", "pyg_gat"))


# --- dropout


def test_dropout_applies_to_the_output_and_not_to_the_returned_weights(name):
    inputs, layer = make_inputs(), make_layer(name, dropout=0.5, bias=False).train()
    torch.manual_seed(5)
    attended = layer(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True)
    full = layer.eval()(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True)
    torch.testing.assert_close(attended.weights, full.weights)
    torch.manual_seed(5)
    dropped = (Dropout(0.5) if name in NATIVE else torch.nn.Dropout(0.5))(full.weights)
    assert 0 < (dropped == 0).sum() < dropped.numel()
    values = layer.get_submodule(VALUES[name])(inputs.x_source).view(S, H, C)
    expected = torch.zeros(N, H, C).index_add(
        0, inputs.graph.targets, dropped[..., None] * values[inputs.graph.sources]
    )
    torch.testing.assert_close(attended.output, expected.flatten(1))


def test_dropout_depends_on_the_seed_and_not_on_the_block_size(native, monkeypatch):
    inputs, layer = make_inputs(), make_layer(native, dropout=0.5).train()

    def drawn(seed, edges_per_block, graph=inputs.graph):
        monkeypatch.setitem(blocks.BLOCK, "cpu", edges_per_block * H * C)
        torch.manual_seed(seed)
        output = layer(inputs.x_source, inputs.x_target, graph=graph).output
        return output, *gradients(output, [inputs.x_source, inputs.x_target, *layer.parameters()])

    first = drawn(0, 1)
    for again in (drawn(0, 7), drawn(0, 1000), drawn(0, 7, padded(inputs.graph, width=20))):
        torch.testing.assert_close(again, first)
    assert not torch.allclose(drawn(1, 1)[0], first[0])


# --- edge cases


def test_a_target_without_edges_gets_only_bias_and_residual(name):
    inputs, layer = make_inputs(), make_layer(name, residual=True)
    output = layer(inputs.x_source, inputs.x_target, graph=inputs.graph).output
    if name in NATIVE:
        expected = layer.bias + layer.residual(inputs.x_target[4])
    elif name == "pyg_transformer":
        expected = layer.conv.lin_skip(inputs.x_target[4])
    else:
        expected = layer.conv.bias + layer.conv.res(inputs.x_target[4])
    torch.testing.assert_close(output[4], expected)
    bare = make_layer(name, bias=False)(inputs.x_source, inputs.x_target, graph=inputs.graph).output
    assert (bare[4] == 0).all()
    assert (bare[3] != 0).all()


@pytest.mark.parametrize("n_sources", [S, 0])
@pytest.mark.parametrize("form", ["sorted edges", "table", "empty table"])
def test_a_graph_without_edges_gives_zeros_and_gradients_of_zero(name, edge_dim, form, n_sources):
    layer = make_layer(name, replace(SHAPE, edge_dim=edge_dim), bias=False)
    no_edges, width = torch.zeros(0, dtype=torch.int64), 0 if form == "empty table" else 3
    edges = torch.zeros(N, width, edge_dim) if edge_dim else None
    graph = PaddedNeighbours(torch.full((N, width), 99), torch.zeros(N, width, dtype=torch.bool), edges)
    if form == "sorted edges":
        edges = torch.zeros(0, edge_dim) if edge_dim else None
        graph = SortedEdges(no_edges, no_edges, torch.zeros(N + 1, dtype=torch.int64), edges)
    x_source, x_target = torch.randn(n_sources, 4, requires_grad=True), torch.randn(N, 5, requires_grad=True)
    attended = layer(x_source, x_target, graph=graph, need_weights=True)
    assert (attended.output == 0).all()
    assert attended.output.shape == (N, H * C)
    assert attended.weights.shape == ((0, H) if form == "sorted edges" else (N, width, H))
    all_gradients = torch.autograd.grad(
        attended.output.sum(), [x_source, x_target, *layer.parameters()], allow_unused=True
    )
    assert all((gradient == 0).all() for gradient in all_gradients if gradient is not None)


def test_graphs_with_one_node_and_with_none(name):
    layer = make_layer(name, GraphShape(source_dim=4, target_dim=4, heads=H, channels=C), bias=False)
    x, itself = torch.randn(1, 4), torch.zeros(1, dtype=torch.int64)
    attended = layer(x, graph=SortedEdges.from_edges(itself, itself, n_targets=1), need_weights=True)
    torch.testing.assert_close(attended.output, layer.get_submodule(VALUES[name])(x))
    assert (attended.weights == 1).all()
    no_edges = torch.zeros(0, dtype=torch.int64)
    assert layer(x[:0], graph=SortedEdges.from_edges(no_edges, no_edges, n_targets=0)).output.shape == (0, H * C)


@pytest.mark.parametrize("size", [1e4, 1e-30, 0])
def test_gradients_are_finite_at_extreme_inputs(name, edge_dim, size):
    inputs, layer = make_inputs(edge_dim), make_layer(name, replace(SHAPE, edge_dim=edge_dim))
    x_source, x_target = (size * x.detach() for x in (inputs.x_source, inputs.x_target))
    graph = replace(
        inputs.graph,
        edge_features=None if inputs.graph.edge_features is None else size * inputs.graph.edge_features.detach(),
    )
    leaves = [x_source.requires_grad_(), x_target.requires_grad_(), *layer.parameters()]
    output = layer(x_source, x_target, graph=graph).output
    assert all(x.isfinite().all() for x in [output, *gradients(output, leaves)])


def test_gradients_are_computed_for_any_single_leaf(name, edge_dim):
    inputs, layer = make_inputs(edge_dim), make_layer(name, replace(SHAPE, edge_dim=edge_dim))
    everything = [*inputs.leaves, *layer.parameters()]
    full = gradients(layer(inputs.x_source, inputs.x_target, graph=inputs.graph).output, everything)
    for selected, expected in zip(everything, full, strict=True):
        for leaf in everything:
            leaf.requires_grad_(leaf is selected)
        output = layer(inputs.x_source, inputs.x_target, graph=inputs.graph).output
        torch.testing.assert_close(gradients(output, [selected])[0], expected)


def test_a_hub_of_50_000_edges_keeps_four_digits_as_in_pyg(native, monkeypatch):
    monkeypatch.setitem(blocks.BLOCK, "cpu", 2**16)
    inputs, layer, n_edges = make_inputs(), make_layer(native), 50_000
    sources = torch.randint(0, S, (n_edges,), generator=torch.Generator().manual_seed(0))
    inputs.graph = SortedEdges.from_edges(sources, torch.zeros_like(sources), n_targets=N)
    conv, parameters = pyg_peer(native, layer)
    expected = conv((inputs.x_source, inputs.x_target), torch.stack([inputs.graph.sources, inputs.graph.targets]))
    expected_gradients = gradients(expected, [inputs.x_source, inputs.x_target, *parameters])
    output = layer(inputs.x_source, inputs.x_target, graph=inputs.graph).output
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    actual = gradients(output, [inputs.x_source, inputs.x_target, *layer.parameters()])
    for gradient, reference_gradient in zip(actual, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference_gradient.view_as(gradient), atol=1e-4, rtol=1e-4)
    exact = layer.double()(inputs.x_source.double(), inputs.x_target.double(), graph=inputs.graph).output
    torch.testing.assert_close(output.double(), exact, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_are_computed_in_float32(name, edge_dim, dtype):
    inputs, layer = make_inputs(edge_dim), make_layer(name, replace(SHAPE, edge_dim=edge_dim))
    halves = [x.detach().to(dtype) for x in inputs.leaves]
    wholes = [x.float() for x in halves]
    expected = layer(*wholes[:2], graph=replace(inputs.graph, edge_features=wholes[2] if edge_dim else None)).output
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(*halves[:2], graph=replace(inputs.graph, edge_features=halves[2] if edge_dim else None)).output
    torch.testing.assert_close(output, expected, rtol=0, atol=0)


# --- memory


class Largest(TorchDispatchMode):
    """Records the largest number of elements of any tensor created inside the block."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self.numel = max(self.numel, tensor.numel())
        return made


def test_no_tensor_has_channels_for_every_edge(native, monkeypatch):
    monkeypatch.setitem(blocks.BLOCK, "cpu", 1000)
    inputs, layer, n_edges = make_inputs(), make_layer(native, replace(SHAPE, channels=16)), 5000
    random = torch.Generator().manual_seed(0)
    sources, targets = (torch.randint(0, n, (n_edges,), generator=random) for n in (S, N))
    graph = SortedEdges.from_edges(sources, targets, n_targets=N)
    with Largest() as record:
        output = layer(inputs.x_source, inputs.x_target, graph=graph).output
        forward = record.numel
        output.sum().backward()
    assert forward == n_edges * H, "logits and weights"
    assert record.numel == n_edges * H


# --- invalid input


def test_a_layer_rejects_matrices_and_graphs_of_other_sizes(name):
    inputs, layer = make_inputs(), make_layer(name)
    x_source, x_target, graph = inputs.x_source, inputs.x_target, inputs.graph
    with pytest.raises(ValueError, match=r"4 and 5 wide, got \(4, 4\); build"):
        layer(x_source, x_target[:, :4], graph=graph)
    with pytest.raises(ValueError, match="one segment or row per target, got 7 for 6; pass"):
        layer(x_source, x_target[:6], graph=graph)
    with pytest.raises(ValueError, match="must be rows of x_source, got rows 0 to 8 of 8; pass"):
        layer(x_source[:8], x_target, graph=graph)
    sources = graph.sources.clone()
    sources[3] = -1
    with pytest.raises(ValueError, match="got rows -1 to 8 of 9"):
        layer(x_source, x_target, graph=replace(graph, sources=sources))
    with pytest.raises(ValueError, match=r"the 0 edge features that .*, got 2; build the layer with edge_dim = 2"):
        layer(x_source, x_target, graph=make_inputs(2).graph)
    with pytest.raises(ValueError, match=r"the 3 edge features that .*, got 0"):
        make_layer(name, replace(SHAPE, edge_dim=3))(x_source, x_target, graph=graph)


def test_invalid_settings_are_rejected(name):
    with pytest.raises(ValueError, match=r"got 4 and 5; set share_weights = false"):
        build_graph_layer(name, SHAPE, {"share_weights": True})
    with pytest.raises(ValueError, match="dropout"):
        build_graph_layer(name, SHAPE, {"dropout": 1.0})
    with pytest.raises(ValueError, match="hedas"):
        build_graph_layer(name, SHAPE, {"hedas": 2})


@pytest.mark.parametrize("setting", [{"share_weights": True}, {"negative_slope": 0.1}])
def test_pyg_transformer_rejects_settings_that_it_does_not_have(setting):
    shape = GraphShape(source_dim=4, target_dim=4, heads=H, channels=C)
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is not a setting of pyg_transformer, got .*; leave"):
        build_graph_layer("pyg_transformer", shape, setting)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_pyg_transformer_equals_the_formula_of_its_paper(edge_dim, settings):
    settings = {name: value for name, value in settings.items() if name != "negative_slope"}
    inputs, layer = make_inputs(edge_dim), make_layer("pyg_transformer", replace(SHAPE, edge_dim=edge_dim), **settings)
    attended = layer(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True)
    conv, graph, shift = layer.conv, inputs.graph, 0
    if graph.edge_features is not None:
        shift = conv.lin_edge(graph.edge_features).view(-1, H, C)
    keys, values = (
        part(inputs.x_source).view(-1, H, C)[graph.sources] + shift for part in (conv.lin_key, conv.lin_value)
    )
    exponentials = ((conv.lin_query(inputs.x_target).view(-1, H, C)[graph.targets] * keys).sum(-1) / C**0.5).exp()
    weights = exponentials / torch.zeros(N, H).index_add(0, graph.targets, exponentials)[graph.targets]
    output = torch.zeros(N, H, C).index_add(0, graph.targets, weights[..., None] * values)
    output = output.flatten(1) if layer.settings.concat else output.mean(1)
    output = output + (conv.lin_skip(inputs.x_target) if layer.settings.residual else 0)
    torch.testing.assert_close(attended.weights, weights)
    torch.testing.assert_close(attended.output, output)


def test_an_unknown_layer_raises_an_error_that_lists_all_layers():
    with pytest.raises(
        ValueError, match="layer must be one of gat, gatv2, pyg_gat, pyg_gatv2, pyg_transformer, got 'gcn'"
    ):
        build_graph_layer("gcn", SHAPE)


def test_every_layer_cites_its_paper_and_initialises_from_the_seed(name):
    assert "arXiv" in GRAPH_LAYERS[name].paper
    first, second = make_layer(name).state_dict(), make_layer(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_and_cpu_agree(name, edge_dim):
    inputs, layer = make_inputs(edge_dim), make_layer(name, replace(SHAPE, edge_dim=edge_dim))
    expected = layer(inputs.x_source, inputs.x_target, graph=inputs.graph, need_weights=True)
    expected_gradients = gradients(expected.output, [*inputs.leaves, *layer.parameters()])
    x_source, x_target = (x.detach().cuda().requires_grad_() for x in (inputs.x_source, inputs.x_target))
    rows = [x.cuda() for x in (inputs.graph.sources, inputs.graph.targets, inputs.graph.offsets)]
    edges = None if inputs.graph.edge_features is None else inputs.graph.edge_features.detach().cuda().requires_grad_()
    layer = layer.cuda()
    attended = layer(x_source, x_target, graph=SortedEdges(*rows, edges), need_weights=True)
    torch.testing.assert_close(attended.output.cpu(), expected.output, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(attended.weights.cpu(), expected.weights, atol=1e-5, rtol=1e-4)
    leaves = [x_source, x_target, *([] if edges is None else [edges]), *layer.parameters()]
    target = torch.linspace(-1, 1, attended.output.numel()).view_as(attended.output).cuda()
    for on_gpu, on_cpu in zip(
        torch.autograd.grad((attended.output * target).sum(), leaves), expected_gradients, strict=True
    ):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-5, rtol=1e-4)
