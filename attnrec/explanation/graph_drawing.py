"""The picture of paths over a graph: history, neighbours, recommended item, from left to right.

A node is (column, item_id): an item may stand in the history and be a neighbour, too.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from attnrec.explanation.drawing import HEADS, NARROW, OWN, POSITIVE, QUIET, TITLE, WIDTHS, colours, new_figure
from attnrec.explanation.labels import NO_HISTORY, drawn
from attnrec.explanation.paths import BOTH, HISTORY, RECOMMENDED, SEVERAL, find_paths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path
    from networkx import DiGraph

    from attnrec.explanation.explanation import Explanation

Node: TypeAlias = tuple[str, Any]
Places: TypeAlias = dict[Any, tuple[float, float]]

NEIGHBOUR, BEND = "neighbour", "bend"
COLUMNS = {HISTORY: 0, NEIGHBOUR: 1, RECOMMENDED: 2}
COLOURS = {HISTORY: POSITIVE, NEIGHBOUR: OWN, RECOMMENDED: HEADS[1]}
RELATIONS = {
    "by_bipartite": "through common users",
    "by_items": "to items of the same users",
    "by_transitions": "to what came before or after",
    "by_earlier": "to what came before",
    "by_later": "to what came after",
    "items": "to items of the same users",
    "transitions": "to what came before or after",
}
"""What an arrow of a relation means: from an item to items that it attending_item to."""

EXACT = "exact: chances to start at an item and step to the recommended one; times the number of items, contributions"
VIEW = "a view: where attention flows, not how the score was made"
NO_PATH = "no path: the item and those of the history are no neighbours, and have none in common"
ROW = 0.38  # inches
SMALLEST, LARGEST = 50, 500  # of nodes, square points
THINNEST, THICKEST = 0.7, 4.5  # of arrows, points
OUTER = 1.4  # room for labels on both sides, in distances between columns


def graph_of(explanation: "Explanation", *, n: int) -> "DiGraph":
    """The n strongest paths as a graph whose edges lead from who attending_item to whom.

    Returns:
        Nodes (column, item_id), with `title`, and in the history `start`; edges with `step` (share
        of attention), `relation` and `product` (the sum over the paths that use the edge). Of the graph: `exact`.

    Raises:
        ValueError: as `Explanation.paths`.
    """
    from networkx import DiGraph

    paths = find_paths(explanation, n=n)
    titles = explanation.graph().titles if explanation.graph is not None else {}
    graph, end = DiGraph(exact=bool(paths["exact"].any())), (RECOMMENDED, explanation.item_id)

    def join(listener: Node, heard: Node, step: float, relation: str, product: float) -> None:
        before = graph.get_edge_data(listener, heard, {"product": 0.0})["product"]
        graph.add_edge(listener, heard, step=step, relation=relation, product=before + product)

    def add(column: str, item_id: Any, **facts: float) -> Node:
        title = explanation.titles.get(item_id) or titles.get(item_id) or str(item_id)
        graph.add_node((column, item_id), title=title, **facts)
        return column, item_id

    add(*end)
    for path in paths.to_dict("records"):
        start = add(HISTORY, path["item_id"], start=path["start"])
        step = (path["step"], path["relation"], path["product"])
        recommended_step = (path["recommended_step"], path["other_relation"], path["product"])
        if path["attending_item"] == BOTH:
            middle = add(NEIGHBOUR, path["through"])
            join(start, middle, *step)
            join(end, middle, *recommended_step)
        elif path["attending_item"] == HISTORY:
            join(start, end, *step)
        else:
            join(end, start, *recommended_step)
    return graph


def places_of(graph: "DiGraph") -> Places:
    """Where nodes stand, in columns 0 to 2 and rows one apart; the strongest path's on top.

    An edge past the middle column has a place of its own there, (BEND, edge), unless nothing else would be in its way.
    """
    from networkx import multipartite_layout

    columns: dict[int, list[Any]] = {column: [] for column in COLUMNS.values()}
    for node in graph.nodes:
        columns[COLUMNS[node[0]]].append(node)
    rows = {node: row for row, node in enumerate(columns[0])}
    passing = [(BEND, edge) for edge in graph.edges if NEIGHBOUR not in (edge[0][0], edge[1][0])]
    if columns[1] or len(passing) > len(rows):  # two arrows between the same two items
        between = {node: [rows[other] for other in graph.predecessors(node) if other in rows] for node in columns[1]}
        between |= {bend: [rows[end] for end in bend[1] if end in rows] for bend in passing}
        columns[1] = sorted(between, key=lambda node: float(np.mean(between[node])))  # so that few edges cross
    every: Any = graph.copy()
    every.add_nodes_from(columns[1])
    downwards = {column: nodes[::-1] for column, nodes in columns.items() if nodes}
    found = multipartite_layout(every, subset_key=downwards)
    tallest = max(columns.values(), key=len)
    heights = [found[node][1] for node in tallest]
    apart = (max(heights) - min(heights)) / max(1, len(tallest) - 1) or 1.0
    return {node: (float(column), float(found[node][1] / apart)) for column in columns for node in columns[column]}


def new_graph_axes(graph: "DiGraph", *, shown: bool) -> "Axes":
    """Axes of a new figure that has room for these nodes."""
    places = places_of(graph)
    n_rows = max(sum(1 for x, _ in places.values() if x == column) for column in COLUMNS.values())
    return new_figure(WIDTHS[2], 1.5 + ROW * max(3, n_rows), shown=shown).add_subplot()


def draw_graph(explanation: "Explanation", graph: "DiGraph", *, ax: "Axes") -> None:
    """See `Explanation.draw_graph`; the graph is that of `graph_of`."""
    places = places_of(graph)
    heights = [y for _, y in places.values()]
    ax.set_xlim(-OUTER, 2 + OUTER)
    ax.set_ylim(min(heights) - 0.8, max(heights) + 1.2)
    sizes = {node: SMALLEST + (LARGEST - SMALLEST) * graph.nodes[node].get("start", 0.0) for node in graph.nodes}
    _draw_edges(graph, places, sizes, ax=ax)
    for node in graph.nodes:
        _draw_node(node, graph.nodes[node], places[node], sizes[node], ax=ax)
    for column, name in ((HISTORY, "history"), (NEIGHBOUR, "heard by both")):
        if any(node[0] == column for node in graph.nodes):
            ax.text(COLUMNS[column], max(heights) + 0.9, name, ha="center", fontsize=8, color=QUIET)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title(f"paths to {drawn(explanation.title, width=TITLE)}", fontsize=10, loc="left")
    ax.set_xlabel("\n".join(_said(explanation, graph)), fontsize=8)


def _said(explanation: "Explanation", graph: "DiGraph") -> Iterable[str]:
    """What stands below the picture."""
    if explanation.frame.empty:
        yield NO_HISTORY
        return
    if not graph.edges:
        yield NO_PATH
        return
    yield EXACT if graph.graph["exact"] else VIEW
    yield f"arrows: who attending_item to whom, as wide as the product of shares, at most {100 * _widest(graph):.2g} %"


def _widest(graph: "DiGraph") -> float:
    return max(product for *_, product in graph.edges(data="product"))


def _draw_edges(graph: "DiGraph", places: Places, sizes: dict[Node, float], *, ax: "Axes") -> None:
    """Arrows, and what their colours mean where there are several relations."""
    from matplotlib.patches import FancyArrowPatch

    relations = dict.fromkeys(relation for *_, relation in graph.edges(data="relation"))
    alone = [relation for relation in relations if SEVERAL not in relation] if len(relations) > 1 else []
    hues = dict.fromkeys(relations, QUIET) | dict(zip(alone, colours(len(alone) + 2)[2:], strict=True))
    for listener, heard, facts in graph.edges(data=True):
        arrow = FancyArrowPatch(
            places[listener],
            places[heard],
            connectionstyle=_curve(ax, places.get((BEND, (listener, heard)))),  # type: ignore[arg-type]
            arrowstyle="-|>,head_length=3.5,head_width=2",
            linewidth=THINNEST + (THICKEST - THINNEST) * facts["product"] / _widest(graph),
            color=hues[facts["relation"]],
            alpha=0.6,
            shrinkA=sizes[listener] ** 0.5 / 2 + 1,
            shrinkB=sizes[heard] ** 0.5 / 2 + 1,
            zorder=1,
        )
        ax.add_patch(arrow)
    if alone:
        named = {_named(relation): hues[relation] for relation in alone}
        _explain_colours(named if len(alone) == len(relations) else named | {"several of these": QUIET}, ax=ax)


def _named(relation: str) -> str:
    attribute = relation.removeprefix("of_")
    return RELATIONS.get(relation, f"to items of the same {attribute.replace('/', '.')}")


def _explain_colours(hues: dict[str, str], *, ax: "Axes") -> None:
    from matplotlib.patches import Patch

    ax.legend(
        handles=[Patch(color=hue, label=name, alpha=0.6) for name, hue in hues.items()],
        loc="upper right",
        bbox_to_anchor=(1, 1.06),
        fontsize=7,
        frameon=False,
        handlelength=1,
    )


def _curve(ax: "Axes", bend: tuple[float, float] | None) -> "Callable[..., Path]":
    """A connection that leaves and arrives level, and on its way goes through a place."""
    from matplotlib.path import Path

    def connect(start: Any, end: Any, *, shrinkA: float, shrinkB: float, **_: Any) -> Path:  # noqa: N803
        side = np.sign(end[0] - start[0])
        stops = [np.array(start) + [side * shrinkA, 0], np.array(end) - [side * shrinkB, 0]]
        if bend is not None:
            stops.insert(1, ax.transData.transform(bend))
        points, codes = [stops[0]], [Path.MOVETO]
        for before, after in pairwise(stops):
            half = (before[0] + after[0]) / 2
            points += [(half, before[1]), (half, after[1]), after]
            codes += [Path.CURVE4] * 3
        return Path(np.array(points), codes)

    return connect


def _draw_node(node: Node, facts: Mapping[str, Any], place: tuple[float, float], size: float, *, ax: "Axes") -> None:
    """A disc, and its title where there is room: beside it, or above it in the middle."""
    column, _ = node
    ax.scatter(*place, s=size, color=COLOURS[column], zorder=2)
    text = drawn(facts["title"], width=NARROW) + (f"  {facts['start']:.0%}" if "start" in facts else "")
    away = size**0.5 / 2 + 4
    shift, ha, va = {
        HISTORY: ((-away, 0), "right", "center"),
        NEIGHBOUR: ((0, away - 1), "center", "bottom"),
        RECOMMENDED: ((away, 0), "left", "center"),
    }[column]
    ax.annotate(
        text,
        place,
        xytext=shift,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=8,
        zorder=3,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
    )
