"""Time and memory of the graph attention layers beside PyG's: python benchmarks/bench_graph_attention.py run|table.

run: forward and backward, 64 -> 4 heads x 16, one thread, each in a process of its own. "segments" are random edges
sorted by target, ten for each of as many nodes of one kind; "table" has 20 neighbours for each of as many targets;
"pyg" is GATConv and GATv2Conv on the segments' edges. Our graph is made anew for each call, from sorted edges.
table: the newest lines as Markdown. Needs Linux.
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
| layer | side | edges | s | x PyG | MB of a call | part of PyG's | MB of the process |
|---|---|---|---|---|---|---|---|"""

Line = dict[str, Any]


def main() -> None:
    """Measure all that is asked for, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("run", "table", "one"))
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--edges", nargs="+", type=int, default=list(EDGES[:2]))
    options = parser.parse_args()
    if options.part == "one":  # what `run` starts
        print(json.dumps(measure(options.layers[0], options.sides[0], options.edges[0])))
    elif options.part == "run":
        for asked in product(options.edges, options.layers, options.sides):
            run(*asked)
    else:
        print(table())


def run(n_edges: int, layer: str, side: str) -> None:
    """Append what a process of its own finds."""
    command = [sys.executable, __file__, "one", "--layers", layer, "--sides", side, "--edges", str(n_edges)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    line: Line = {"data": "random", "model": layer, "readout": side, "split": "-", "seed": 0, "metrics": {}}
    line |= {"device": "cpu", "threads": 1, "edges": n_edges, "dim": DIM, "heads": HEADS}
    line |= found | {"tokens_per_second": n_edges / found["seconds"]}
    append("graph_attention", line)
    print(f"{layer:5} {side:8} {n_edges:9,} {found['seconds']:7.3f} s x {found['calls']} {found['peak_mb']:7.0f} MB")


def measure(layer: str, side: str, n_edges: int) -> Line:
    """Seconds of a call, its memory beyond its inputs, and that of the process at its largest."""
    import resource

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    call = prepared(layer, side, n_edges)
    found = timed(call, argparse.Namespace(device="cpu", threads=1, seconds=120))
    return found | {"process_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def prepared(layer: str, side: str, n_edges: int) -> Any:
    """A call with everything it needs but the graph's own form."""
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
    """Their layer of the same shape: GATConv shares its projection, as ours is told to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch_geometric.nn import GATConv, GATv2Conv
    kind = {"gat": GATConv, "gatv2": GATv2Conv}[layer]
    return kind(DIM, DIM // HEADS, heads=HEADS, add_self_loops=False)


def table() -> str:
    """One row per layer, side and number of edges, from the newest line of each."""
    lines = [json.loads(line) for line in (RESULTS / "graph_attention.jsonl").read_text().splitlines()]
    newest = {(line["model"], line["edges"], line["readout"]): line for line in lines}
    rows = [HEAD]
    for (layer, n_edges, side), line in sorted(newest.items()):
        peer = newest.get((layer, n_edges, "pyg"))
        times, part = "-", "-"
        if peer and side == "segments":  # a table is another graph
            times = f"{peer['seconds'] / line['seconds']:.1f}"
            part = f"{100 * line['peak_mb'] / peer['peak_mb']:.0f} %"
        cells = [layer, side, f"{n_edges:,}", f"{line['seconds']:.2f}", times]
        cells += [f"{line['peak_mb']:,.0f}", part, f"{line['process_mb']:,}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
