"""Item attributes as graphs: one bipartite graph item -> attribute value per category column."""

from attnrec.dataset.features import Features
from attnrec.dataset.graph.compressed import Graph, graph_from_edges


def attribute_edges(features: Features, n_items: int) -> dict[str, Graph]:
    """Build one graph item -> value per category column.

    Targets are the values, rows 0 to n_values - 1 in the order of the column's category names. `transposed` gives the
    edges value -> item. An item has one edge per value, and none if it has no value.

    Args:
        features: item features.
        n_items: items in the catalogue; item rows are 1 to n_items.

    Returns:
        Column name -> graph with node types ("item", "attribute_COLUMN").

    Raises:
        ValueError: if the features are not aligned with a catalogue of `n_items` items.
    """
    if features.n_rows != n_items + 1:
        raise ValueError(
            f"features must have n_items + 1 = {n_items + 1} rows, padding included, got {features.n_rows}; "
            "load them with the item vocabulary of the log"
        )
    return {
        name: graph_from_edges(
            rows, codes, n_sources=n_items + 1, n_targets=len(names), node_types=("item", f"attribute_{name}")
        )
        for name, (rows, codes, names) in features.categories.items()
    }
