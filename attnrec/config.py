"""The base of every setting: frozen, and an unknown key is an error that one line can say."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self

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
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a person's hand.

        Raises:
            SettingsError: naming the first wrong key or value, and what it may have been meant to be.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(first_problem(error, known=tuple(cls.model_fields))) from None


def first_problem(
    error: ValidationError, *, known: tuple[str, ...] = (), left_out: frozenset[str] = frozenset()
) -> str:
    """One line for a person: where, what, and how many more.

    Args:
        error: what pydantic found.
        known: names that an unknown key may have been meant to be.
        left_out: parts of a place that say nothing to a person, such as the tag of a union.
    """
    problems = error.errors()
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"] if part not in left_out) or "experiment"
    what = {"extra_forbidden": "unknown key", "missing": "is needed"}.get(first["type"])
    if first["type"] == "extra_forbidden" and known:
        near = get_close_matches(where, known, n=1)
        what = f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known are {', '.join(known)}"
    if what is None:
        came = f", got {first['input']!r}" if not isinstance(first["input"], dict) else ""
        what = first["msg"].removeprefix("Value error, ") + came
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {what}{more}"
