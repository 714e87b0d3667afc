"""Recommendation models: one file each, one contract (`base.Model`), one registry (`MODELS`)."""

from attnrec.models.base import (
    MODELS,
    EncodedHistories,
    Model,
    ModelConfig,
    ReasonsError,
    TrainedConfig,
    check_max_length,
    observed_graphs,
)
from attnrec.models.ease import EASE, EASEConfig
from attnrec.models.gat import GAT, GATConfig
from attnrec.models.item_knn import ItemKNN, ItemKNNConfig
from attnrec.models.popularity import Popularity, PopularityConfig
from attnrec.models.random_walk import RandomWalk, RandomWalkConfig
from attnrec.models.registry import AnyModelConfig, build_model, model_config, register_model
from attnrec.models.sequence import PRESETS, Preset, SequenceConfig, SequenceModel, register_preset
from attnrec.models.v_sknn import VSKNN, VSKNNConfig

register_model(Popularity, PopularityConfig)
register_model(ItemKNN, ItemKNNConfig)
register_model(EASE, EASEConfig)
register_model(VSKNN, VSKNNConfig)
register_model(GAT, GATConfig)
register_model(RandomWalk, RandomWalkConfig)
for _kind, _preset in tuple(PRESETS.items()):
    register_preset(_kind, _preset)

__all__ = [
    "EASE",
    "GAT",
    "MODELS",
    "PRESETS",
    "VSKNN",
    "AnyModelConfig",
    "EASEConfig",
    "EncodedHistories",
    "GATConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "Model",
    "ModelConfig",
    "Popularity",
    "PopularityConfig",
    "Preset",
    "RandomWalk",
    "RandomWalkConfig",
    "ReasonsError",
    "SequenceConfig",
    "SequenceModel",
    "TrainedConfig",
    "VSKNNConfig",
    "build_model",
    "check_max_length",
    "model_config",
    "observed_graphs",
    "register_model",
    "register_preset",
]
