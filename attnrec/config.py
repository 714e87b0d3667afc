"""Base class of all settings: frozen pydantic models that reject unknown keys, with one-line error messages."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

PLUGIN_GROUP = "attnrec.plugins"
"""Entry-point group of installed packages whose modules register models, attention kernels, encoders or losses."""

T = TypeVar("T")


class SettingsError(ValueError):
    """An unknown setting, or a setting with an invalid value."""


class PluginError(ValueError):
    """A plugin module that cannot be imported."""


class Config(BaseModel):
    """Immutable settings.

    Raises:
        pydantic.ValidationError: for an unknown key, or a value of the wrong type or outside its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Validate user-supplied settings.

        Raises:
            SettingsError: one line with the first invalid key or value and, for an unknown key, the closest valid one.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(first_error(error, config_class=cls)) from None

    @classmethod
    def class_of_kind(cls, kind: str | int) -> type["Config"] | None:
        """Return the subclass that a registry has for `kind`; None for a class that is not looked up by kind."""
        del kind
        return None


def first_error(
    error: ValidationError, *, config_class: type[BaseModel], hidden_parts: frozenset[str] = frozenset()
) -> str:
    """Return one line "path: message (and N more)" for the first problem of a validation error.

    A check of several keys has no path; its message names the keys.

    Args:
        error: the error that pydantic raised.
        config_class: the class that was validated; its fields are suggested for an unknown key.
        hidden_parts: parts of a path that are left out of the message, such as the tags of a union.
    """
    # unknown keys first: a misspelt key often causes the other problems, such as a missing required key
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    path, error_type, context = list(first["loc"]), first["type"], first.get("ctx", {})
    message = {"missing": "is required"}.get(error_type)
    if error_type == "extra_forbidden":
        *parents, name = path
        message = f"unknown key{_suggestion(str(name), _keys(config_class, parents), 'keys')}"
    elif error_type == "union_tag_invalid":
        path.append(context["discriminator"].strip("'"))
        tags = context["expected_tags"].replace(chr(39), "").split(", ")
        message = f"unknown {context['tag']!r}{_suggestion(context['tag'], tags, 'values')}"
    if message is None:
        value = f", got {first['input']!r}" if not isinstance(first["input"], dict) else ""
        message = first["msg"].removeprefix("Value error, ") + value
    shown_path = ".".join(str(part) for part in path if part not in hidden_parts)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{shown_path}: {message}{more}" if shown_path else f"{message}{more}"


def _suggestion(name: str, valid: list[str], plural: str) -> str:
    return _did_you_mean(name, valid) or f"; valid {plural} are {', '.join(valid)}"


def _did_you_mean(name: str, valid: list[str]) -> str:
    closest = get_close_matches(name, valid, n=1)
    return f"; did you mean {closest[0]}?" if closest else ""


def _keys(config_class: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the valid keys at `path`. Below a union, a part of the path may be the tag (`kind`) of one member."""
    candidates: list[type[BaseModel]] = [config_class]
    for part in path:
        kinds = [(model, model.model_fields.get("kind")) for model in candidates] if len(candidates) > 1 else []
        tagged = [model for model, kind in kinds if kind is not None and part in get_args(kind.annotation)]
        tagged += [found for model in candidates if issubclass(model, Config) and (found := model.class_of_kind(part))]
        fields = [model.model_fields[part] for model in candidates if part in model.model_fields]
        candidates = tagged or [model for field in fields for model in _models(field.annotation)]
    return sorted({name for model in candidates for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def load_plugins(names: Sequence[str]) -> None:
    """Import modules by name, so that they register their models, attention kernels, encoders and losses.

    Raises:
        PluginError: for a module that cannot be imported.
    """
    for name in names:
        try:
            import_module(name)
        except Exception as error:
            raise PluginError(
                f"plugins must be importable modules, got {name!r} ({type(error).__name__}: {error}); "
                "install the package or correct the name"
            ) from error


@cache
def load_installed_plugins() -> None:
    """Import the modules that installed packages name in the entry-point group "attnrec.plugins", once per process.

    Raises:
        PluginError: for a module that cannot be imported.
    """
    load_plugins([entry.module for entry in entry_points(group=PLUGIN_GROUP)])


def registered(registry: Mapping[str, T], name: str, *, setting: str) -> T:
    """Look up a name in a registry; an unknown name loads the installed plugins first.

    Args:
        registry: name -> entry.
        name: the value of the setting.
        setting: its name, for the error message.

    Raises:
        ValueError: for a name that is not registered.
        PluginError: for an installed plugin that cannot be imported.
    """
    if name not in registry:
        load_installed_plugins()
    if name not in registry:
        names = sorted(registry)
        raise ValueError(f"{setting} must be one of {', '.join(names)}, got {name!r}{_did_you_mean(name, names)}")
    return registry[name]
