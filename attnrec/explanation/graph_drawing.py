"""Drawing of graph paths: history items, common neighbours and the recommended item, from left to right.

A node is (column, item_id), because an item can be both in the history and a neighbour.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from attnrec.explanation.drawing import (
    HEAD_COLOURS,
    MUTED,
    NARROW_WIDTH,
    NEUTRAL,
    POSITIVE,
    TITLE_WIDTH,
    WIDTHS,
    colours,
    new_figure,
)
from attnrec.explanation.labels import NO_HISTORY, plot_label
from attnrec.explanation.paths import BOTH, HISTORY, RECOMMENDED, SEPARATOR, find_paths
from attnrec.explanation.score_attribution import ScoreAttribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path
    from networkx import DiGraph

Node: TypeAlias = tuple[str, Any]
Positions: TypeAlias = dict[Any, tuple[float, float]]

NEIGHBOUR, BEND = "neighbour", "bend"
COLUMNS = {HISTORY: 0, NEIGHBOUR: 1, RECOMMENDED: 2}
COLOURS = {HISTORY: POSITIVE, NEIGHBOUR: NEUTRAL, RECOMMENDED: HEAD_COLOURS[1]}
RELATION_LABELS = {
    "by_bipartite": "through common users",
    "by_items": "to items of the same users",
    "by_transitions": "to the previous or next item",
    "by_earlier": "to the previous item",
    "by_later": "to the next item",
    "items": "to items of the same users",
    "transitions": "to the previous or next item",
}
"""Meaning of an arrow of each relation, which points from an item to a neighbour it attends to."""

EXACT = (
    "exact: probability of starting at an item and stepping to the recommended one; x number of items = contribution"
)
ILLUSTRATION = "illustration: where attention flows, not how the score is computed"
NO_PATH = "no path: the item and the history items are not neighbours and have no neighbour in common"
ROW_HEIGHT = 0.38  # inches
MIN_NODE_SIZE, MAX_NODE_SIZE = 50, 500  # square points
MIN_ARROW_WIDTH, MAX_ARROW_WIDTH = 0.7, 4.5  # points
LABEL_MARGIN = 1.4  # on both sides, in distances between columns


def graph_of(attribution: ScoreAttribution, *, n: int) -> "DiGraph":
    """Return the n strongest paths as a graph whose edges point from the attending item to its neighbour.

    Returns:
        Nodes (column, item_id) with `title`, and `start` for history items; edges with `step` (attention weight),
        `relation` and `product` (summed over the paths that use the edge). The graph has the attribute `exact`.

    Raises:
        ValueError: as `Explanation.paths`.
    """
    from networkx import DiGraph

    paths = find_paths(attribution, n=n)
    titles = attribution.neighbourhood().titles if attribution.neighbourhood is not None else {}
    graph, end = DiGraph(exact=bool(paths["exact"].any())), (RECOMMENDED, attribution.item_id)

    def add_edge(source: Node, target: Node, step: float, relation: str, product: float) -> None:
        previous = graph.get_edge_data(source, target, {"product": 0.0})["product"]
        graph.add_edge(source, target, step=step, relation=relation, product=previous + product)

    def add_node(column: str, item_id: Any, **attributes: float) -> Node:
        title = attribution.titles.get(item_id) or titles.get(item_id) or str(item_id)
        graph.add_node((column, item_id), title=title, **attributes)
        return column, item_id

    add_node(*end)
    for path in paths.to_dict("records"):
        start = add_node(HISTORY, path["item_id"], start=path["start"])
        step = (path["step"], path["relation"], path["product"])
        recommended_step = (path["recommended_step"], path["recommended_relation"], path["product"])
        if path["attending_item"] == BOTH:
            middle = add_node(NEIGHBOUR, path["through"])
            add_edge(start, middle, *step)
            add_edge(end, middle, *recommended_step)
        elif path["attending_item"] == HISTORY:
            add_edge(start, end, *step)
        else:
            add_edge(end, start, *recommended_step)
    return graph


def layout_of(graph: "DiGraph") -> Positions:
    """Return node positions: columns 0 to 2, rows one apart, the strongest path on top.

    An edge that passes the middle column gets a position there, (BEND, edge), unless there is nothing to avoid.
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
        columns[1] = sorted(between, key=lambda node: float(np.mean(between[node])))  # fewer crossing edges
    with_bends: Any = graph.copy()
    with_bends.add_nodes_from(columns[1])
    bottom_up = {column: nodes[::-1] for column, nodes in columns.items() if nodes}
    layout = multipartite_layout(with_bends, subset_key=bottom_up)
    tallest = max(columns.values(), key=len)
    heights = [layout[node][1] for node in tallest]
    distance = (max(heights) - min(heights)) / max(1, len(tallest) - 1) or 1.0
    return {node: (float(column), float(layout[node][1] / distance)) for column in columns for node in columns[column]}


def new_graph_axes(graph: "DiGraph", *, use_pyplot: bool) -> "Axes":
    """Return axes of a new figure sized for these nodes."""
    positions = layout_of(graph)
    n_rows = max(sum(1 for x, _ in positions.values() if x == column) for column in COLUMNS.values())
    return new_figure(WIDTHS[2], 1.5 + ROW_HEIGHT * max(3, n_rows), use_pyplot=use_pyplot).add_subplot()


def draw_graph(attribution: ScoreAttribution, graph: "DiGraph", *, ax: "Axes") -> None:
    """Draw the graph of `graph_of`, see `Explanation.draw_graph`."""
    positions = layout_of(graph)
    heights = [y for _, y in positions.values()]
    ax.set_xlim(-LABEL_MARGIN, 2 + LABEL_MARGIN)
    ax.set_ylim(min(heights) - 0.8, max(heights) + 1.2)
    sizes = {
        node: MIN_NODE_SIZE + (MAX_NODE_SIZE - MIN_NODE_SIZE) * graph.nodes[node].get("start", 0.0)
        for node in graph.nodes
    }
    _draw_edges(graph, positions, sizes, ax=ax)
    for node in graph.nodes:
        _draw_node(node, graph.nodes[node], positions[node], sizes[node], ax=ax)
    for column, name in ((HISTORY, "history"), (NEIGHBOUR, "common neighbour")):
        if any(node[0] == column for node in graph.nodes):
            ax.text(COLUMNS[column], max(heights) + 0.9, name, ha="center", fontsize=8, color=MUTED)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title(f"paths to {plot_label(attribution.title, width=TITLE_WIDTH)}", fontsize=10, loc="left")
    ax.set_xlabel("\n".join(_caption(attribution, graph)), fontsize=8)


def _caption(attribution: ScoreAttribution, graph: "DiGraph") -> Iterable[str]:
    """Yield the lines below the drawing."""
    if attribution.frame.empty:
        yield NO_HISTORY
        return
    if not graph.edges:
        yield NO_PATH
        return
    yield EXACT if graph.graph["exact"] else ILLUSTRATION
    width = f"{100 * _largest_product(graph):.2g} %"
    yield f"arrow: from the attending item to its neighbour; width: product of attention weights, up to {width}"


def _largest_product(graph: "DiGraph") -> float:
    return max(product for *_, product in graph.edges(data="product"))


def _draw_edges(graph: "DiGraph", positions: Positions, sizes: dict[Node, float], *, ax: "Axes") -> None:
    """Draw the arrows, and a legend if there are several relations."""
    from matplotlib.patches import FancyArrowPatch

    relations = dict.fromkeys(relation for *_, relation in graph.edges(data="relation"))
    single = [relation for relation in relations if SEPARATOR not in relation] if len(relations) > 1 else []
    edge_colours = dict.fromkeys(relations, MUTED) | dict(zip(single, colours(len(single) + 2)[2:], strict=True))
    for source, target, attributes in graph.edges(data=True):
        arrow = FancyArrowPatch(
            positions[source],
            positions[target],
            connectionstyle=_curve(ax, positions.get((BEND, (source, target)))),  # type: ignore[arg-type]
            arrowstyle="-|>,head_length=3.5,head_width=2",
            linewidth=MIN_ARROW_WIDTH
            + (MAX_ARROW_WIDTH - MIN_ARROW_WIDTH) * attributes["product"] / _largest_product(graph),
            color=edge_colours[attributes["relation"]],
            alpha=0.6,
            shrinkA=sizes[source] ** 0.5 / 2 + 1,
            shrinkB=sizes[target] ** 0.5 / 2 + 1,
            zorder=1,
        )
        ax.add_patch(arrow)
    if single:
        by_label = {_relation_label(relation): edge_colours[relation] for relation in single}
        several = {} if len(single) == len(relations) else {"several of these": MUTED}
        _add_legend(by_label | several, ax=ax)


def _relation_label(relation: str) -> str:
    attribute = relation.removeprefix("of_")
    return RELATION_LABELS.get(relation, f"to items of the same {attribute.replace('/', '.')}")


def _add_legend(colour_by_label: dict[str, str], *, ax: "Axes") -> None:
    from matplotlib.patches import Patch

    ax.legend(
        handles=[Patch(color=colour, label=label, alpha=0.6) for label, colour in colour_by_label.items()],
        loc="upper right",
        bbox_to_anchor=(1, 1.06),
        fontsize=7,
        frameon=False,
        handlelength=1,
    )


def _curve(ax: "Axes", bend: tuple[float, float] | None) -> "Callable[..., Path]":
    """Return a connection style that starts and ends horizontally and passes through a point."""
    from matplotlib.path import Path

    def connect(start: Any, end: Any, *, shrinkA: float, shrinkB: float, **_: Any) -> Path:  # noqa: N803
        side = np.sign(end[0] - start[0])
        stops = [np.array(start) + [side * shrinkA, 0], np.array(end) - [side * shrinkB, 0]]
        if bend is not None:
            stops.insert(1, ax.transData.transform(bend))
        points, codes = [stops[0]], [Path.MOVETO]
        for first, second in pairwise(stops):
            half = (first[0] + second[0]) / 2
            points += [(half, first[1]), (half, second[1]), second]
            codes += [Path.CURVE4] * 3
        return Path(np.array(points), codes)

    return connect


def _draw_node(
    node: Node, attributes: Mapping[str, Any], position: tuple[float, float], size: float, *, ax: "Axes"
) -> None:
    """Draw a disc and its title: beside it in the outer columns, above it in the middle."""
    column, _ = node
    ax.scatter(*position, s=size, color=COLOURS[column], zorder=2)
    text = plot_label(attributes["title"], width=NARROW_WIDTH)
    text += f"  {attributes['start']:.0%}" if "start" in attributes else ""
    offset = size**0.5 / 2 + 4
    shift, ha, va = {
        HISTORY: ((-offset, 0), "right", "center"),
        NEIGHBOUR: ((0, offset - 1), "center", "bottom"),
        RECOMMENDED: ((offset, 0), "left", "center"),
    }[column]
    ax.annotate(
        text,
        position,
        xytext=shift,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=8,
        zorder=3,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
    )
