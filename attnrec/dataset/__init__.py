"""From interactions to what models read: vocabulary, histories, batches, splits, features, graph."""

from attnrec.dataset.anonymous import ANONYMOUS_USER, anonymous_history
from attnrec.dataset.batches import Batch, Windows, last_events, user_batches
from attnrec.dataset.features import Features, features_from_frame, load_features, save_features
from attnrec.dataset.graph import (
    Block,
    Edges,
    Graph,
    NeighbourTable,
    Transitions,
    attribute_edges,
    item_co_occurrence,
    graph_from_edges,
    item_transitions,
    sample_blocks,
    sampled_neighbours,
    strongest_neighbours,
    two_hop_graph,
    user_item_edges,
)
from attnrec.dataset.histories import Histories, histories_from_frame, histories_from_parts
from attnrec.dataset.split import (
    Holdout,
    LeakageError,
    Split,
    audit_split,
    join_predefined,
    split_by_time,
    split_predefined,
    split_last,
)
from attnrec.dataset.vocabulary import Vocabulary

__all__ = [
    "ANONYMOUS_USER",
    "Batch",
    "Block",
    "Edges",
    "Features",
    "Graph",
    "Histories",
    "Holdout",
    "LeakageError",
    "NeighbourTable",
    "Split",
    "Transitions",
    "Vocabulary",
    "Windows",
    "attribute_edges",
    "audit_split",
    "item_co_occurrence",
    "features_from_frame",
    "graph_from_edges",
    "histories_from_frame",
    "histories_from_parts",
    "item_transitions",
    "join_predefined",
    "last_events",
    "load_features",
    "sample_blocks",
    "sampled_neighbours",
    "save_features",
    "split_by_time",
    "split_predefined",
    "split_last",
    "strongest_neighbours",
    "two_hop_graph",
    "user_batches",
    "user_item_edges",
    "anonymous_history",
]
