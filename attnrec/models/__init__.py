"""The models: one file each, one contract (`base.Model`), one registry."""

from typing import Annotated, Any, cast

from pydantic import Field

from attnrec.dataset import Features
from attnrec.dataset.modalities import modalities
from attnrec.models.base import Model, ModelConfig, EncodedHistories, ReasonsError, check_window
from attnrec.models.ease import EASE, EASEConfig
from attnrec.models.gat import GAT, GATConfig
from attnrec.models.graph.item_encoder import observed_graphs
from attnrec.models.item_knn import ItemKNN, ItemKNNConfig
from attnrec.models.popularity import Popularity, PopularityConfig
from attnrec.models.random_walk import RandomWalk, RandomWalkConfig
from attnrec.models.sequence import PRESETS, SequenceConfig, SequenceModel
from attnrec.models.v_sknn import VSKNN, VSKNNConfig

MODELS: dict[str, tuple[type[Model], type[ModelConfig]]] = {
    "popularity": (Popularity, PopularityConfig),
    "item_knn": (ItemKNN, ItemKNNConfig),
    "ease": (EASE, EASEConfig),
    "v_sknn": (VSKNN, VSKNNConfig),
    "gat": (GAT, GATConfig),
    "random_walk": (RandomWalk, RandomWalkConfig),
    **dict.fromkeys(PRESETS, (SequenceModel, SequenceConfig)),
}
"""Kind in the TOML -> model and its settings. A new model is one file and one line here, or a preset."""

AnyModelConfig = Annotated[
    SequenceConfig | GATConfig | RandomWalkConfig | PopularityConfig | ItemKNNConfig | EASEConfig | VSKNNConfig,
    Field(discriminator="kind"),
]


def build_model(
    config: AnyModelConfig, n_items: int, features: Features | None = None, *, like: Features | None = None
) -> Model:
    """Make an untrained model for a catalogue of `n_items`.

    Args:
        config: of any kind.
        n_items: padding not counted.
        features: of the items, for models that read them (`config.features`, or attributes of their graph); without
            them such a model can be loaded and can score, but cannot learn.
        like: features of an earlier catalogue, whose categories, scales and words are used, so that what was learned
            of them keeps its meaning.

    Raises:
        ValueError: for a column of the features that is missing, empty or of the wrong kind or width.
    """
    model, asked = MODELS[config.kind][0], getattr(config, "features", ())
    if not asked or features is None:
        built = model(config, n_items)
    else:
        assert isinstance(config, SequenceConfig), "only sequence models read features"
        read = modalities(features, asked, text_encoder=config.text_encoder, text_dim=config.text_dim, fit_features=like)
        built = SequenceModel(config, n_items, read)
    if features is not None and isinstance(built, (GAT, SequenceModel)) and built.graph is not None:
        built.graph.describe(features)
    return built


def model_config(kind: str, settings: dict[str, Any]) -> AnyModelConfig:
    """Settings of a model by its kind.

    Raises:
        ValueError: for an unknown kind, an unknown setting or a wrong value.
    """
    if kind not in MODELS:
        raise ValueError(f"model must be one of {sorted(MODELS)}, got {kind!r}")
    return cast(AnyModelConfig, MODELS[kind][1].from_dict(settings | {"kind": kind}))


__all__ = [
    "EASE",
    "GAT",
    "MODELS",
    "PRESETS",
    "VSKNN",
    "AnyModelConfig",
    "EASEConfig",
    "GATConfig",
    "RandomWalk",
    "RandomWalkConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "Model",
    "ModelConfig",
    "Popularity",
    "PopularityConfig",
    "EncodedHistories",
    "ReasonsError",
    "SequenceConfig",
    "SequenceModel",
    "VSKNNConfig",
    "build_model",
    "check_window",
    "model_config",
    "observed_graphs",
]
