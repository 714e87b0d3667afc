"""The models: one file each, one contract (`base.Model`), one registry."""

from typing import Annotated, Any, cast

from pydantic import Field

from attnrec.models.base import Model, ModelConfig, Reading, ReasonsError
from attnrec.models.ease import EASE, EASEConfig
from attnrec.models.gat import GAT, GATConfig
from attnrec.models.item_knn import ItemKNN, ItemKNNConfig
from attnrec.models.popularity import Popularity, PopularityConfig
from attnrec.models.sasrec import SASRec, SASRecConfig
from attnrec.models.v_sknn import VSKNN, VSKNNConfig

MODELS: dict[str, tuple[type[Model], type[ModelConfig]]] = {
    "popularity": (Popularity, PopularityConfig),
    "item_knn": (ItemKNN, ItemKNNConfig),
    "ease": (EASE, EASEConfig),
    "v_sknn": (VSKNN, VSKNNConfig),
    "sasrec": (SASRec, SASRecConfig),
    "gat": (GAT, GATConfig),
}
"""Kind in the TOML -> model and its settings. A new model is one file and one line here."""

AnyModelConfig = Annotated[
    SASRecConfig | GATConfig | PopularityConfig | ItemKNNConfig | EASEConfig | VSKNNConfig,
    Field(discriminator="kind"),
]


def build_model(config: AnyModelConfig, n_items: int) -> Model:
    """Make an untrained model for a catalogue of `n_items`."""
    return MODELS[config.kind][0](config, n_items)


def model_config(kind: str, settings: dict[str, Any]) -> AnyModelConfig:
    """Settings of a model by its kind.

    Raises:
        ValueError: for an unknown kind, an unknown setting or a wrong value.
    """
    if kind not in MODELS:
        raise ValueError(f"model must be one of {sorted(MODELS)}, got {kind!r}")
    return cast(AnyModelConfig, MODELS[kind][1].checked(settings))


__all__ = [
    "EASE",
    "GAT",
    "MODELS",
    "VSKNN",
    "AnyModelConfig",
    "EASEConfig",
    "GATConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "Model",
    "ModelConfig",
    "Popularity",
    "PopularityConfig",
    "Reading",
    "ReasonsError",
    "SASRec",
    "SASRecConfig",
    "VSKNNConfig",
    "build_model",
    "model_config",
]
