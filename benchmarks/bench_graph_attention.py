"""Graph attention layers compared with PyG: python benchmarks/bench_graph_attention.py run|table.

run: time and memory of a forward and a backward pass, 64 -> 4 heads x 16, one thread, each in a separate process.
"segments": random edges sorted by target, ten per node, sources and targets of the same kind; "table": 20 neighbours
per target; "pyg": GATConv and GATv2Conv on the edges of "segments". Our graph object is created in every call from
sorted edges.
table: print the newest lines as Markdown. Needs Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from itertools import product
from typing import Any

from bench_attention import timed
from record import RESULTS, append

LAYERS, SIDES = ("gat", "gatv2"), ("segments", "table", "pyg")
EDGES = (1_000_000, 4_000_000, 10_000_000)
DIM, HEADS, DEGREE, NEIGHBOURS = 64, 4, 10, 20
HEAD = """\
| layer | side | edges | s | x PyG | MB of a call | share of PyG's | MB of the process |
|---|---|---|---|---|---|---|---|"""

Line = dict[str, Any]


def main() -> None:
    """Measure all combinations, or print the table of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("run", "table", "one"))
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--edges", nargs="+", type=int, default=list(EDGES[:2]))
    options = parser.parse_args()
    if options.part == "one":  # started by `run`
        print(json.dumps(measure(options.layers[0], options.sides[0], options.edges[0])))
    elif options.part == "run":
        for combination in product(options.edges, options.layers, options.sides):
            run(*combination)
    else:
        print(table())


def run(n_edges: int, layer: str, side: str) -> None:
    """Measure in a separate process and append the line."""
    command = [sys.executable, __file__, "one", "--layers", layer, "--sides", side, "--edges", str(n_edges)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    result = json.loads(process.stdout.splitlines()[-1])
    line: Line = {"data": "random", "model": layer, "readout": side, "split": "-", "seed": 0, "metrics": {}}
    line |= {"device": "cpu", "threads": 1, "edges": n_edges, "dim": DIM, "heads": HEADS}
    line |= result | {"tokens_per_second": n_edges / result["seconds"]}
    append("graph_attention", line)
    print(f"{layer:5} {side:8} {n_edges:9,} {result['seconds']:7.3f} s x {result['calls']} {result['peak_mb']:7.0f} MB")


def measure(layer: str, side: str, n_edges: int) -> Line:
    """Measure seconds of a call, the memory that it adds, and the peak memory of the process."""
    import resource

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    call = prepare(layer, side, n_edges)
    result = timed(call, argparse.Namespace(device="cpu", threads=1, seconds=120))
    return result | {"process_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def prepare(layer: str, side: str, n_edges: int) -> Any:
    """Return a call with prepared inputs; it creates the graph object itself."""
    import torch

    from attnrec.attention.graph import GraphShape, PaddedNeighbours, SortedEdges, build_graph_layer

    nodes = n_edges // (NEIGHBOURS if side == "table" else DEGREE)
    x, d_output = torch.randn(nodes, DIM, requires_grad=True), torch.randn(nodes, DIM)
    sources = torch.randint(0, nodes, (n_edges,))
    targets = torch.randint(0, nodes, (n_edges,)).sort().values
    offsets = torch.nn.functional.pad(torch.bincount(targets, minlength=nodes).cumsum(0), (1, 0))
    shape = GraphShape(DIM, DIM, heads=HEADS, channels=DIM // HEADS)
    ours = build_graph_layer(layer, shape, {"share_weights": layer == "gat"})
    theirs, edge_index = (pyg(layer), torch.stack([sources, targets])) if side == "pyg" else (None, None)
    neighbours, real = sources.view(-1, NEIGHBOURS), torch.ones(n_edges // NEIGHBOURS, NEIGHBOURS, dtype=torch.bool)

    def call() -> None:
        if theirs is not None:
            output = theirs(x, edge_index)
        else:
            graph = PaddedNeighbours(neighbours, real) if side == "table" else SortedEdges(sources, targets, offsets)
            output = ours(x, graph=graph).output
        output.backward(d_output)
        for leaf in (x, *(theirs or ours).parameters()):
            leaf.grad = None

    return call


def pyg(layer: str) -> Any:
    """Return PyG's layer of the same shape; GATConv shares its projection, as does ours with `shared`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.nn import GATConv, GATv2Conv
    kind = {"gat": GATConv, "gatv2": GATv2Conv}[layer]
    return kind(DIM, DIM // HEADS, heads=HEADS, add_self_loops=False)


def table() -> str:
    """Return one row per layer, side and number of edges, from the newest line of each."""
    lines = [json.loads(line) for line in (RESULTS / "graph_attention.jsonl").read_text().splitlines()]
    newest = {(line["model"], line["edges"], line["readout"]): line for line in lines}
    rows = [HEAD]
    for (layer, n_edges, side), line in sorted(newest.items()):
        peer = newest.get((layer, n_edges, "pyg"))
        times, part = "-", "-"
        if peer and side == "segments":  # "table" is a different graph
            times = f"{peer['seconds'] / line['seconds']:.1f}"
            part = f"{100 * line['peak_mb'] / peer['peak_mb']:.0f} %"
        cells = [layer, side, f"{n_edges:,}", f"{line['seconds']:.2f}", times]
        cells += [f"{line['peak_mb']:,.0f}", part, f"{line['process_mb']:,}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
