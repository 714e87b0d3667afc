"""Input of the models from interaction logs: vocabularies, histories, batches, splits, features and graphs."""

from attnrec.dataset.anonymous import ANONYMOUS_USER, anonymous_history
from attnrec.dataset.batches import Batch, last_events, user_batches
from attnrec.dataset.features import Features, features_from_frame, load_features, save_features
from attnrec.dataset.graph import (
    Block,
    Edges,
    Graph,
    HeteroGraphs,
    NeighbourTable,
    Transitions,
    attribute_edges,
    from_hetero_data,
    graph_from_edges,
    item_co_occurrence,
    item_transitions,
    sample_blocks,
    sampled_neighbours,
    strongest_neighbours,
    to_hetero_data,
    two_hop_graph,
    user_item_edges,
)
from attnrec.dataset.histories import Histories
from attnrec.dataset.history_builder import histories_from_frame, histories_from_parts
from attnrec.dataset.split import Holdout, Split, join_predefined, split_by_time, split_last, split_predefined
from attnrec.dataset.split_audit import LeakageError, audit_split
from attnrec.dataset.vocabulary import Vocabulary
from attnrec.dataset.windows import Windows

__all__ = [
    "ANONYMOUS_USER",
    "Batch",
    "Block",
    "Edges",
    "Features",
    "Graph",
    "HeteroGraphs",
    "Histories",
    "Holdout",
    "LeakageError",
    "NeighbourTable",
    "Split",
    "Transitions",
    "Vocabulary",
    "Windows",
    "anonymous_history",
    "attribute_edges",
    "audit_split",
    "features_from_frame",
    "from_hetero_data",
    "graph_from_edges",
    "histories_from_frame",
    "histories_from_parts",
    "item_co_occurrence",
    "item_transitions",
    "join_predefined",
    "last_events",
    "load_features",
    "sample_blocks",
    "sampled_neighbours",
    "save_features",
    "split_by_time",
    "split_last",
    "split_predefined",
    "strongest_neighbours",
    "to_hetero_data",
    "two_hop_graph",
    "user_batches",
    "user_item_edges",
]
