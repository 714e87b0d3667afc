"""The contract of the graph layers, for every layer in GRAPH_LAYERS and both forms of a graph."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnrec.attention.graph import GRAPH_LAYERS, GraphShape, Segments, Table, blocks, build_graph_layer
from attnrec.layers import Dropout

S, N, H, C = 9, 7, 2, 3
SHAPE = GraphShape(source_dim=4, target_dim=5, heads=H, channels=C)
EDGES = [(0, 0), (1, 0), (2, 0), (1, 0), (3, 1), (0, 2), (4, 3), (4, 3), (5, 5)] + [(k % S, 6) for k in range(20)]
"""(source, target): target 0 has an edge twice, 1 and 2 have one, 3 one edge twice, 4 none, 6 is a hub."""


@dataclass
class World:
    x_source: torch.Tensor
    x_target: torch.Tensor
    graph: Segments

    @property
    def leaves(self) -> list[torch.Tensor]:
        edges = self.graph.edges
        return [self.x_source, self.x_target] + ([] if edges is None else [edges])


def world(edge_dim=0, *, dtype=torch.float32) -> World:
    random = torch.Generator().manual_seed(3)
    sources, targets = torch.tensor(EDGES).T
    x_source, x_target = torch.randn(S, 4, generator=random), torch.randn(N, 5, generator=random)
    edges = torch.randn(len(EDGES), edge_dim, generator=random)
    x_source, x_target, edges = (x.to(dtype).requires_grad_() for x in (x_source, x_target, edges))
    offsets = torch.nn.functional.pad(torch.bincount(targets, minlength=N).cumsum(0), (1, 0))
    return World(x_source, x_target, Segments(sources, targets, offsets, edges if edge_dim else None))


def table_of(graph: Segments, *, width: int) -> Table:
    """The same edges in `width` places, with nonsense in those that are empty."""
    neighbours, real = torch.full((N, width), -7), torch.zeros(N, width, dtype=torch.bool)
    edges = None if graph.edges is None else torch.full((N, width, graph.edges.shape[1]), torch.nan)
    places = torch.arange(len(graph.sources)) - graph.offsets[graph.targets]
    neighbours[graph.targets, places], real[graph.targets, places] = graph.sources, True
    if edges is not None:
        edges[graph.targets, places] = graph.edges
    return Table(neighbours, real, edges)


def make(name, shape=SHAPE, **settings):
    """A layer with what it learns away from where it starts."""
    torch.manual_seed(0)
    layer = build_graph_layer(name, shape, settings)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def gradients(output, leaves):
    """Of a sum of the output in which every number has another factor."""
    return torch.autograd.grad((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum(), leaves)


@pytest.fixture(params=GRAPH_LAYERS)
def name(request) -> str:
    return request.param


@pytest.fixture(params=[0, 2], ids=["no edge features", "edge features"])
def edge_dim(request) -> int:
    return request.param


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 8 edges, so that the hub's 20 lie in four of them."""
    monkeypatch.setitem(blocks.BLOCK, "cpu", 8 * H * C)


# --- references: each layer again, in float64 and one target at a time


def learned(layer, name):
    return layer.get_parameter(name).detach().double().numpy()


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def gat_energy(layer, values, target, features):
    target = target @ learned(layer, "project_target.weight").T
    energy = values.reshape(-1, H, C) * learned(layer, "attention_source")
    energy = energy + target.reshape(H, C) * learned(layer, "attention_target")
    if features is not None:
        projected = features @ learned(layer, "project_edges.weight").T
        energy = energy + projected.reshape(-1, H, C) * learned(layer, "attention_edges")
    return leaky(energy.sum(-1))


def gatv2_energy(layer, values, target, features):
    hidden = values + target @ learned(layer, "project_target.weight").T + learned(layer, "project_target.bias")
    if features is not None:
        hidden = hidden + features @ learned(layer, "project_edges.weight").T
    return (leaky(hidden.reshape(-1, H, C)) * learned(layer, "attention")).sum(-1)


ENERGIES = {"gat": gat_energy, "gatv2": gatv2_energy}
"""Name in GRAPH_LAYERS -> energy(layer, projected sources, one target, features of its edges), (edges, H)."""


def reference(name, layer, given):
    x_source, x_target = (x.detach().double().numpy() for x in (given.x_source, given.x_target))
    features = None if given.graph.edges is None else given.graph.edges.detach().double().numpy()
    values = x_source @ learned(layer, "project_source.weight").T
    values = values + (learned(layer, "project_source.bias") if name == "gatv2" else 0)
    output, weights = np.zeros((N, H, C)), np.zeros((len(EDGES), H))
    for target in range(N):
        here = [place for place, edge in enumerate(EDGES) if edge[1] == target]
        if here:
            pooled = values[[EDGES[place][0] for place in here]]
            of_edges = None if features is None else features[here]
            odds = np.exp(ENERGIES[name](layer, pooled, x_target[target], of_edges))
            weights[here] = odds / odds.sum(0)
            output[target] = (weights[here][..., None] * pooled.reshape(-1, H, C)).sum(0)
    return output.reshape(N, -1) + learned(layer, "bias"), weights


def test_output_and_weights_equal_a_float64_reference(name, edge_dim):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim))
    attended = layer(given.x_source, given.x_target, graph=given.graph, need_weights=True)
    output, weights = reference(name, layer, given)
    np.testing.assert_allclose(attended.output.detach().numpy(), output, atol=1e-6)
    np.testing.assert_allclose(attended.weights.detach().numpy(), weights, atol=1e-6)


def test_gradients_of_output_and_weights_are_those_of_finite_differences(name, edge_dim):
    given, layer = world(edge_dim, dtype=torch.float64), make(name, replace(SHAPE, edge_dim=edge_dim)).double()

    def attend(x_source, x_target, *edges):
        graph = replace(given.graph, edges=edges[0] if edges else None)
        attended = layer(x_source, x_target, graph=graph, need_weights=True)
        return attended.output, attended.weights, *(parameter.sum() for parameter in layer.parameters())

    assert torch.autograd.gradcheck(attend, given.leaves)
    parameters = dict(layer.named_parameters())
    for parameter_name, parameter in parameters.items():

        def attend_with(changed, parameter_name=parameter_name):
            call = (given.x_source.detach(), given.x_target.detach()), {"graph": given.graph, "need_weights": True}
            attended = torch.func.functional_call(layer, parameters | {parameter_name: changed}, *call)
            return attended.output, attended.weights

        assert torch.autograd.gradcheck(attend_with, parameter.detach().requires_grad_()), parameter_name


# --- PyG's layers, with the same weights

THEIR_NAMES = {
    "project_source": {"gat": "lin_src", "gatv2": "lin_l"},
    "project_target": {"gat": "lin_dst", "gatv2": "lin_r"},
    "project_edges": "lin_edge",
    "attention": "att",
    "attention_source": "att_src",
    "attention_target": "att_dst",
    "attention_edges": "att_edge",
    "residual": "res",
}


def peer(name, layer, *, self_loops=False):
    """PyG's layer that computes the same, and its parameters in the order of ours."""
    with warnings.catch_warnings():  # it uses torch.jit, and typing, in deprecated ways
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.nn import GATConv, GATv2Conv

        shape, settings = layer.shape, layer.settings
        asked = {
            "heads": shape.heads,
            "concat": settings.heads_are == "concatenated",
            "edge_dim": shape.edge_dim or None,
        }
        asked |= {"negative_slope": settings.negative_slope, "bias": settings.bias, "residual": settings.residual}
        asked |= {"add_self_loops": self_loops} | ({"share_weights": settings.shared} if name == "gatv2" else {})
        one_kind = name == "gat" and settings.shared
        width = shape.source_dim if one_kind else (shape.source_dim, shape.target_dim)
        theirs = {"gat": GATConv, "gatv2": GATv2Conv}[name](width, shape.channels, **asked)
    parameters = []
    for parameter_name, parameter in layer.named_parameters():
        part, _, rest = parameter_name.partition(".")
        their_name = THEIR_NAMES.get(part, part)
        their_name = their_name if isinstance(their_name, str) else their_name[name]
        their_name = "lin" if one_kind and part == "project_source" else their_name
        parameters.append(theirs.get_parameter(".".join(filter(None, [their_name, rest]))))
        parameters[-1].data.copy_(parameter.data.view_as(parameters[-1]))
    return theirs, parameters


EVERY_SETTING = [
    {},
    {"heads_are": "averaged", "residual": True, "negative_slope": 0.05},
    {"bias": False, "residual": True},
]


def assert_equal_to_peer(name, layer, given, graph, *, x_target=None, aligned=lambda weights: weights):
    """Value, weights and every gradient; `graph` is the world's in any form, x_target None the world's."""
    theirs, parameters = peer(name, layer)
    edge_index = torch.stack([given.graph.sources, given.graph.targets])
    x_target = given.x_target if x_target is None else x_target
    expected, (_, weights) = theirs(
        (given.x_source, x_target), edge_index, given.graph.edges, return_attention_weights=True
    )
    attended = layer(given.x_source, x_target, graph=graph, need_weights=True)
    torch.testing.assert_close(attended.output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(aligned(attended.weights), weights, atol=1e-5, rtol=1e-5)
    inputs = [x for x in given.leaves if x is not given.x_target or x_target is given.x_target]
    ours = gradients(attended.output, inputs + list(layer.parameters()))
    for found, wanted in zip(ours, gradients(expected, inputs + parameters), strict=True):
        torch.testing.assert_close(found, wanted.view_as(found), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", EVERY_SETTING, ids=str)
def test_segments_equal_pyg_in_value_and_every_gradient(name, edge_dim, settings):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim), **settings)
    assert_equal_to_peer(name, layer, given, given.graph)


@pytest.mark.parametrize("width", [20, 23])
def test_a_table_as_wide_as_the_largest_degree_equals_pyg_in_value_and_every_gradient(name, edge_dim, width):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim))
    table = table_of(given.graph, width=width)
    assert_equal_to_peer(name, layer, given, table, aligned=lambda weights: weights[table.real])


def test_nodes_of_one_kind_share_a_projection_as_in_pyg(name):
    given = world()
    layer = make(name, GraphShape(source_dim=4, target_dim=4, heads=H, channels=C), shared=True)
    theirs, parameters = peer(name, layer)
    graph = Segments.from_edges(given.graph.sources, given.graph.targets, n_targets=S)
    expected = theirs(given.x_source, torch.stack([graph.sources, graph.targets]))
    output = layer(given.x_source, graph=graph).output
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(given.x_source, given.x_source.clone(), graph=graph).output, output)
    ours = gradients(output, [given.x_source, *layer.parameters()])
    for found, wanted in zip(ours, gradients(expected, [given.x_source, *parameters]), strict=True):
        torch.testing.assert_close(found, wanted.view_as(found), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_equal_pyg(name, seed):
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, N - 1, (300,), generator=random)
    sources = (torch.randint(0, S**3, (300,), generator=random) ** (1 / 3)).long()  # some far more often than others
    given = world()
    given.graph = Segments.from_edges(sources, targets, n_targets=N, edges=torch.randn(300, 2, requires_grad=True))
    assert_equal_to_peer(name, make(name, replace(SHAPE, edge_dim=2)), given, given.graph)


def test_self_loops_are_added_only_where_the_graph_is_asked_and_then_as_pyg_does(name, edge_dim):
    given = world(edge_dim)
    layer = make(name, GraphShape(source_dim=4, target_dim=4, heads=H, channels=C, edge_dim=edge_dim))
    theirs, _ = peer(name, layer, self_loops=True)
    x_target = given.x_source[:N] + 1
    edge_index = torch.stack([given.graph.sources, given.graph.targets])
    expected = theirs((given.x_source, x_target), edge_index, given.graph.edges)
    looped = given.graph.with_self_loops()
    assert len(looped.sources) == len(EDGES) - sum(source == target for source, target in EDGES) + N
    torch.testing.assert_close(layer(given.x_source, x_target, graph=looped).output, expected, atol=1e-5, rtol=1e-5)
    without = layer(given.x_source, x_target, graph=given.graph).output
    torch.testing.assert_close(without[4], layer.bias, msg="target 4 has no edge, and gets none")


# --- what weights are


def test_weights_are_shares_of_each_targets_edges(name):
    given, layer = world(), make(name)
    weights = layer(given.x_source, given.x_target, graph=given.graph, need_weights=True).weights
    assert layer.weights_are == "shares"
    assert weights.shape == (len(EDGES), H)
    assert (weights >= 0).all()
    sums = torch.zeros(N, H).index_add(0, given.graph.targets, weights)
    torch.testing.assert_close(sums, torch.ones(N, H) * (given.graph.offsets.diff() > 0)[:, None])


def test_weights_of_a_table_lie_where_its_neighbours_do(name):
    given, layer = world(), make(name)
    table = table_of(given.graph, width=21)
    weights = layer(given.x_source, given.x_target, graph=table, need_weights=True).weights
    in_order = layer(given.x_source, given.x_target, graph=given.graph, need_weights=True).weights
    assert weights.shape == (N, 21, H)
    torch.testing.assert_close(weights[table.real], in_order)
    assert (weights[~table.real] == 0).all()


def test_weights_are_none_unless_asked_for(name):
    given, layer = world(), make(name)
    assert layer(given.x_source, given.x_target, graph=given.graph).weights is None
    assert layer(given.x_source, given.x_target, graph=table_of(given.graph, width=20)).weights is None


def test_equal_energies_give_equal_shares_and_an_edge_that_stands_twice_counts_twice(name):
    given, layer = world(), make(name, bias=False)
    with torch.no_grad():
        for parameter_name, parameter in layer.named_parameters():
            if parameter_name.startswith("attention"):
                parameter.zero_()
    output = layer(given.x_source, given.x_target, graph=given.graph).output
    values = layer.project_source(given.x_source)
    torch.testing.assert_close(output[0], (values[0] + 2 * values[1] + values[2]) / 4)
    torch.testing.assert_close(output[3], values[4], msg="(v4 + v4) / 2")


def test_the_order_of_a_targets_edges_changes_nothing_but_the_order_of_weights(name, edge_dim):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim))
    mixed = torch.randperm(len(EDGES), generator=torch.Generator().manual_seed(1))
    mixed = mixed[given.graph.targets[mixed].argsort(stable=True)]
    edges = None if given.graph.edges is None else given.graph.edges[mixed]
    other = replace(given.graph, sources=given.graph.sources[mixed], edges=edges)
    assert not torch.equal(other.sources, given.graph.sources)
    before = layer(given.x_source, given.x_target, graph=given.graph, need_weights=True)
    after = layer(given.x_source, given.x_target, graph=other, need_weights=True)
    torch.testing.assert_close(after.output, before.output)
    torch.testing.assert_close(after.weights, before.weights[mixed])


def test_gat_ranks_sources_the_same_for_every_target_and_gatv2_does_not(name):
    given, layer = world(), make(name)
    everyone = Segments.from_edges(torch.arange(S).repeat(N), torch.arange(N).repeat_interleave(S), n_targets=N)
    weights = layer(given.x_source, 3 * given.x_target, graph=everyone, need_weights=True).weights
    orders = {tuple(order) for order in weights.view(N, S, H)[..., 0].argsort(1).tolist()}
    assert (len(orders) == 1) == (name == "gat")


# --- dropout


def test_dropped_weights_make_the_output_and_whole_ones_are_returned(name):
    given, layer = world(), make(name, dropout=0.5, bias=False).train()
    torch.manual_seed(5)
    attended = layer(given.x_source, given.x_target, graph=given.graph, need_weights=True)
    whole = layer.eval()(given.x_source, given.x_target, graph=given.graph, need_weights=True)
    torch.testing.assert_close(attended.weights, whole.weights)
    torch.manual_seed(5)
    dropped = Dropout(0.5)(whole.weights)
    assert 0 < (dropped == 0).sum() < dropped.numel()
    values = layer.project_source(given.x_source).view(S, H, C)
    expected = torch.zeros(N, H, C).index_add(0, given.graph.targets, dropped[..., None] * values[given.graph.sources])
    torch.testing.assert_close(attended.output, expected.flatten(1))


def test_what_is_dropped_depends_on_the_seed_and_not_on_the_blocks(name, monkeypatch):
    given, layer = world(), make(name, dropout=0.5).train()

    def drawn(seed, edges_per_block, graph=given.graph):
        monkeypatch.setitem(blocks.BLOCK, "cpu", edges_per_block * H * C)
        torch.manual_seed(seed)
        output = layer(given.x_source, given.x_target, graph=graph).output
        return output, *gradients(output, [given.x_source, given.x_target, *layer.parameters()])

    first = drawn(0, 1)
    for again in (drawn(0, 7), drawn(0, 1000), drawn(0, 7, table_of(given.graph, width=20))):
        torch.testing.assert_close(again, first)
    assert not torch.allclose(drawn(1, 1)[0], first[0])


# --- the edges of the domain


def test_a_target_without_edges_gets_bias_and_residual_alone(name):
    given, layer = world(), make(name, residual=True)
    output = layer(given.x_source, given.x_target, graph=given.graph).output
    torch.testing.assert_close(output[4], layer.bias + layer.residual(given.x_target[4]))
    bare = make(name, bias=False)(given.x_source, given.x_target, graph=given.graph).output
    assert (bare[4] == 0).all()
    assert (bare[3] != 0).all()


@pytest.mark.parametrize("n_sources", [S, 0])
@pytest.mark.parametrize("form", ["segments", "table", "table of no places"])
def test_a_graph_without_edges_gives_zeros_and_gradients_of_zero(name, edge_dim, form, n_sources):
    layer = make(name, replace(SHAPE, edge_dim=edge_dim), bias=False)
    nobody, width = torch.zeros(0, dtype=torch.int64), 0 if form == "table of no places" else 3
    edges = torch.zeros(N, width, edge_dim) if edge_dim else None
    graph = Table(torch.full((N, width), 99), torch.zeros(N, width, dtype=torch.bool), edges)
    if form == "segments":
        edges = torch.zeros(0, edge_dim) if edge_dim else None
        graph = Segments(nobody, nobody, torch.zeros(N + 1, dtype=torch.int64), edges)
    x_source, x_target = torch.randn(n_sources, 4, requires_grad=True), torch.randn(N, 5, requires_grad=True)
    attended = layer(x_source, x_target, graph=graph, need_weights=True)
    assert (attended.output == 0).all()
    assert attended.output.shape == (N, H * C)
    assert attended.weights.shape == ((0, H) if form == "segments" else (N, width, H))
    found = torch.autograd.grad(attended.output.sum(), [x_source, x_target, *layer.parameters()], allow_unused=True)
    assert all((gradient == 0).all() for gradient in found if gradient is not None)


def test_a_graph_of_one_node_and_of_none(name):
    layer = make(name, GraphShape(source_dim=4, target_dim=4, heads=H, channels=C), bias=False)
    x, itself = torch.randn(1, 4), torch.zeros(1, dtype=torch.int64)
    attended = layer(x, graph=Segments.from_edges(itself, itself, n_targets=1), need_weights=True)
    torch.testing.assert_close(attended.output, layer.project_source(x))
    assert (attended.weights == 1).all()
    nobody = torch.zeros(0, dtype=torch.int64)
    assert layer(x[:0], graph=Segments.from_edges(nobody, nobody, n_targets=0)).output.shape == (0, H * C)


@pytest.mark.parametrize("size", [1e4, 1e-30, 0])
def test_gradients_are_finite_at_extreme_inputs(name, edge_dim, size):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim))
    x_source, x_target = (size * x.detach() for x in (given.x_source, given.x_target))
    graph = replace(given.graph, edges=None if given.graph.edges is None else size * given.graph.edges.detach())
    leaves = [x_source.requires_grad_(), x_target.requires_grad_(), *layer.parameters()]
    output = layer(x_source, x_target, graph=graph).output
    assert all(found.isfinite().all() for found in [output, *gradients(output, leaves)])


def test_gradients_come_for_what_asks_for_them_alone(name, edge_dim):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim))
    everything = [*given.leaves, *layer.parameters()]
    full = gradients(layer(given.x_source, given.x_target, graph=given.graph).output, everything)
    for asked, wanted in zip(everything, full, strict=True):
        for leaf in everything:
            leaf.requires_grad_(leaf is asked)
        output = layer(given.x_source, given.x_target, graph=given.graph).output
        torch.testing.assert_close(gradients(output, [asked])[0], wanted)


def test_a_hub_of_many_edges_keeps_four_digits_as_in_pyg(name, monkeypatch):
    monkeypatch.setitem(blocks.BLOCK, "cpu", 2**16)
    given, layer, n_edges = world(), make(name), 50_000
    sources = torch.randint(0, S, (n_edges,), generator=torch.Generator().manual_seed(0))
    given.graph = Segments.from_edges(sources, torch.zeros_like(sources), n_targets=N)
    theirs, parameters = peer(name, layer)
    expected = theirs((given.x_source, given.x_target), torch.stack([given.graph.sources, given.graph.targets]))
    wanted = gradients(expected, [given.x_source, given.x_target, *parameters])
    output = layer(given.x_source, given.x_target, graph=given.graph).output
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    ours = gradients(output, [given.x_source, given.x_target, *layer.parameters()])
    for found, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(found, other.view_as(found), atol=1e-4, rtol=1e-4)
    exact = layer.double()(given.x_source.double(), given.x_target.double(), graph=given.graph).output
    torch.testing.assert_close(output.double(), exact, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_are_computed_in_float32(name, edge_dim, dtype):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim))
    halves = [x.detach().to(dtype) for x in given.leaves]
    wholes = [x.float() for x in halves]
    wanted = layer(*wholes[:2], graph=replace(given.graph, edges=wholes[2] if edge_dim else None)).output
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(*halves[:2], graph=replace(given.graph, edges=halves[2] if edge_dim else None)).output
    torch.testing.assert_close(output, wanted, rtol=0, atol=0)


# --- memory


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor made inside the block."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self.numel = max(self.numel, tensor.numel())
        return made


def test_no_tensor_has_channels_for_every_edge(name, monkeypatch):
    monkeypatch.setitem(blocks.BLOCK, "cpu", 1000)
    given, layer, n_edges = world(), make(name, replace(SHAPE, channels=16)), 5000
    random = torch.Generator().manual_seed(0)
    sources, targets = (torch.randint(0, n, (n_edges,), generator=random) for n in (S, N))
    graph = Segments.from_edges(sources, targets, n_targets=N)
    with Largest() as found:
        output = layer(given.x_source, given.x_target, graph=graph).output
        forward = found.numel
        output.sum().backward()
    assert forward == n_edges * H, "energies and weights"
    assert found.numel == n_edges * H


# --- bad input


def test_a_layer_refuses_what_does_not_fit_it(name):
    given, layer = world(), make(name)
    x_source, x_target, graph = given.x_source, given.x_target, given.graph
    with pytest.raises(ValueError, match=r"4 and 5 wide, got \(4, 4\); build"):
        layer(x_source, x_target[:, :4], graph=graph)
    with pytest.raises(ValueError, match="each target, got 7 for 6; give"):
        layer(x_source, x_target[:6], graph=graph)
    with pytest.raises(ValueError, match="got rows 0 to 8 of 8; give"):
        layer(x_source[:8], x_target, graph=graph)
    sources = graph.sources.clone()
    sources[3] = -1
    with pytest.raises(ValueError, match="got rows -1 to 8 of 9"):
        layer(x_source, x_target, graph=replace(graph, sources=sources))
    with pytest.raises(ValueError, match=r"the 0 edge features that .*, got 2; build the layer with edge_dim = 2"):
        layer(x_source, x_target, graph=world(2).graph)
    with pytest.raises(ValueError, match=r"the 3 edge features that .*, got 0"):
        make(name, replace(SHAPE, edge_dim=3))(x_source, x_target, graph=graph)


def test_settings_that_can_not_be_are_refused(name):
    with pytest.raises(ValueError, match=r"got 4 and 5; set shared = false"):
        build_graph_layer(name, SHAPE, {"shared": True})
    with pytest.raises(ValueError, match="dropout"):
        build_graph_layer(name, SHAPE, {"dropout": 1.0})
    with pytest.raises(ValueError, match="hedas_are"):
        build_graph_layer(name, SHAPE, {"hedas_are": "averaged"})


def test_an_unknown_layer_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="one of gat, gatv2, got 'gcn'"):
        build_graph_layer("gcn", SHAPE)


def test_every_layer_names_its_paper_and_starts_the_same_with_the_same_seed(name):
    assert "arXiv" in GRAPH_LAYERS[name].paper
    first, second = make(name).state_dict(), make(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpu_gives_what_the_cpu_gives(name, edge_dim):
    given, layer = world(edge_dim), make(name, replace(SHAPE, edge_dim=edge_dim))
    expected = layer(given.x_source, given.x_target, graph=given.graph, need_weights=True)
    wanted = gradients(expected.output, [*given.leaves, *layer.parameters()])
    x_source, x_target = (x.detach().cuda().requires_grad_() for x in (given.x_source, given.x_target))
    rows = [x.cuda() for x in (given.graph.sources, given.graph.targets, given.graph.offsets)]
    edges = None if given.graph.edges is None else given.graph.edges.detach().cuda().requires_grad_()
    layer = layer.cuda()
    found = layer(x_source, x_target, graph=Segments(*rows, edges), need_weights=True)
    torch.testing.assert_close(found.output.cpu(), expected.output, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.weights.cpu(), expected.weights, atol=1e-5, rtol=1e-4)
    leaves = [x_source, x_target, *([] if edges is None else [edges]), *layer.parameters()]
    target = torch.linspace(-1, 1, found.output.numel()).view_as(found.output).cuda()
    for on_gpu, on_cpu in zip(torch.autograd.grad((found.output * target).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-5, rtol=1e-4)
