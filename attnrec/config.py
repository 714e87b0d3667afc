"""The base of every setting: frozen, and an unknown key is an error that one line can say."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class SettingsError(ValueError):
    """A setting that does not exist or has a wrong value."""


class Config(BaseModel):
    """Settings that cannot change once made.

    Raises:
        pydantic.ValidationError: for a key that does not exist or a value of the wrong type or range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a person's hand.

        Raises:
            SettingsError: naming the first wrong key or value, and what it may have been meant to be.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(first_error(error, of=cls)) from None


def first_error(error: ValidationError, *, of: type[BaseModel], left_out: frozenset[str] = frozenset()) -> str:
    """One line for a person: where, what, and how many more.

    Args:
        error: what pydantic found.
        of: the settings that were to be made.
        left_out: parts of a place that say nothing to a person, such as the tag of a union.
    """
    # an unknown key first: it may be the one that another problem misses
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    place, kind, said = list(first["loc"]), first["type"], first.get("ctx", {})
    what = {"missing": "is needed"}.get(kind)
    if kind == "extra_forbidden":
        *path, name = place
        what = f"unknown key{_meant(str(name), _keys(of, path))}"
    elif kind == "union_tag_invalid":
        place.append(said["discriminator"].strip("'"))
        what = f"unknown {said['tag']!r}{_meant(said['tag'], said['expected_tags'].replace(chr(39), '').split(', '))}"
    where = ".".join(str(part) for part in place if part not in left_out) or "experiment"
    if what is None:
        came = f", got {first['input']!r}" if not isinstance(first["input"], dict) else ""
        what = first["msg"].removeprefix("Value error, ") + came
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {what}{more}"


def _meant(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"


def _keys(settings: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Keys of the settings at `path`; where several kinds are possible, a part of the path is the tag of one."""
    at: list[type[BaseModel]] = [settings]
    for part in path:
        kinds = [(model, model.model_fields.get("kind")) for model in at] if len(at) > 1 else []
        tagged = [model for model, kind in kinds if kind is not None and part in get_args(kind.annotation)]
        fields = [model.model_fields[part] for model in at if part in model.model_fields]
        at = tagged or [model for field in fields for model in _models(field.annotation)]
    return sorted({name for model in at for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
