"""Settings of the faithfulness measurement of a run."""

from pydantic import Field, field_validator

from attnrec.attribution import METHODS
from attnrec.config import Config
from attnrec.faithfulness.measurement import DEFAULT_METHODS


class FaithfulnessConfig(Config):
    """Settings of the faithfulness measurement.

    Attributes:
        n_users: number of test users that are measured; 0 skips the measurement.
        methods: attribution methods; those that the model does not support are skipped. "contribution" and "random"
            are required for the verdict. Of the default ones, shapley, integrated_gradients and leave_one_out take
            most of the time.
    """

    n_users: int = Field(default=100, ge=0)
    methods: tuple[str, ...] = DEFAULT_METHODS

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        # the error of the experiment adds the name of the setting and its value
        unknown = [name for name in methods if name not in METHODS]
        if unknown:
            raise ValueError(f"each must be one of {', '.join(METHODS)}; remove {unknown[0]!r}")
        missing = [name for name in ("contribution", "random") if name not in methods]
        if missing:
            raise ValueError(f"must include contribution and random for a verdict; add {' and '.join(missing)}")
        return methods
