"""The base of every setting: frozen, and an unknown key is an error."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Settings that cannot change once made.

    Raises:
        pydantic.ValidationError: for a key that does not exist or a value of the wrong type or range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
