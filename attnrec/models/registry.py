"""Registry of models: kind -> model class and config class.

A model of another package registers with one call, `register_model(MyModel, MyConfig)`, and is then available by its
kind in `attnrec.fit(model=...)`, in `[model] kind = "..."` of an experiment and in saved model folders.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError, PydanticKnownError

from attnrec.config import load_installed_plugins, registered
from attnrec.dataset import Features
from attnrec.models.base import MODELS, Model, ModelConfig

M = TypeVar("M", bound=Model)
DEFAULT_KIND = "attnrec"


def register_model(model: type[M], config: type[ModelConfig] | None = None) -> type[M]:
    """Make a model available by its `kind`.

    Usable as a class decorator on a model with the class attribute `Config`.

    Args:
        model: the class; its `kind` is the name.
        config: its settings; default `model.Config`.

    Returns:
        The class.

    Raises:
        ValueError: for a kind that is already registered, or a class without kind or config.
    """
    kind, config = getattr(model, "kind", None), config or getattr(model, "Config", None)
    if not isinstance(kind, str) or not isinstance(config, type) or not issubclass(config, ModelConfig):
        raise ValueError(
            f"a model needs the class attribute kind and a subclass of ModelConfig, got kind={kind!r} and {config} for "
            f"{model.__name__}; write register_model({model.__name__}, MyConfig)"
        )
    add_kind(kind, model, config)
    return model


def add_kind(kind: str, model: type[Model], config: type[ModelConfig]) -> None:
    """Register a model class under a kind; one class may have several kinds, as the presets of sequence models do.

    Raises:
        ValueError: for a kind that is already registered with other classes.
    """
    if MODELS.get(kind, (model, config)) != (model, config):
        raise ValueError(
            f"the kind of a model must be unique, got {kind!r}, which is {MODELS[kind][0].__name__}; choose another"
        )
    MODELS[kind] = (model, config)


def model_config(kind: str, settings: Mapping[str, Any]) -> ModelConfig:
    """Validate the settings of a model.

    Args:
        kind: a key of `MODELS`.
        settings: without `kind`; missing ones have the model's defaults.

    Raises:
        ValueError: for an unknown kind, an unknown setting or an invalid value.
    """
    _, config = registered(MODELS, kind, setting="model")
    return config.from_dict({**settings, "kind": kind})


def build_model(
    config: ModelConfig, n_items: int, features: Features | None = None, *, fit_features: Features | None = None
) -> Model:
    """Build an untrained model for a catalogue of `n_items`.

    Args:
        config: settings of any registered model.
        n_items: number of items, without padding.
        features: item features, for models that use them (`config.features`, or attributes of their graph). Without
            them such a model can be loaded and can score, but cannot be trained.
        fit_features: features of an earlier catalogue whose categories, scales and vocabulary are reused, so that
            learned feature weights keep their meaning.

    Raises:
        ValueError: for a feature column that is missing, empty or of the wrong type or width.
    """
    model, _ = registered(MODELS, config.kind, setting="model")
    return model.from_config(config, n_items, features=features, fit_features=fit_features)


def _validate(value: Any) -> Any:
    """Validate a mapping by the config class of its kind; errors keep the path below the kind."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind", DEFAULT_KIND)
    if kind not in MODELS:
        load_installed_plugins()
    if kind not in MODELS:
        tags = ", ".join(repr(name) for name in MODELS)
        raise PydanticKnownError(
            "union_tag_invalid", {"discriminator": "'kind'", "tag": str(kind), "expected_tags": tags}
        )
    config, custom_error = MODELS[kind][1], cast(Any, PydanticCustomError)  # which is typed for literal strings
    try:
        return config(**{**value, "kind": kind})
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            config.__name__,
            [
                {
                    "type": custom_error(problem["type"], problem["msg"], problem.get("ctx")),
                    "loc": (kind, *problem["loc"]),
                    "input": problem["input"],
                }
                for problem in error.errors()
            ],
        ) from None


AnyModelConfig = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_validate)]
"""Settings of any registered model, as the type of a pydantic field: the class follows from `kind`."""
