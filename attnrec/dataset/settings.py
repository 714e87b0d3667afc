"""Settings of the data: the tables `[dataset]` and `[split]` of an experiment."""

from datetime import datetime
from typing import Literal

from pydantic import Field, model_validator

from attnrec.config import Config


class DatasetConfig(Config):
    """The `[dataset]` table: which items and then which users are dropped before the split.

    Attributes:
        min_item_events: drop items with fewer events than this. Default 1: keep all.
        min_user_events: drop users with fewer remaining events than this. Default 1: keep all.
    """

    min_item_events: int = Field(default=1, ge=1)
    min_user_events: int = Field(default=1, ge=1)


class SplitConfig(Config):
    """The `[split]` table: how the log is split into train, validation and test (see `attnrec.dataset.split`).

    Attributes:
        kind: "time" (default) splits all users at the same two points in time. "last" takes each user's last event as
            test and the one before as validation (leave-one-out). "predefined" reads the test events from `test_path`.
        test_days: length of the test period for kind "time", in days before the last event. Default 7.
        validation_days: length of the validation period before it for kind "time", in days. Default 7.
        cutoff: start of the test period for kind "time" (without offset: UTC). Default: from `test_days`.
        test_path: file or glob of the test interactions for kind "predefined", in the format of `[interactions]`.
        validation_fraction: share of each user's train events, the last ones, that is validation for kind
            "predefined". Between 0 and 1, default 0.1.
    """

    kind: Literal["time", "last", "predefined"] = "time"
    test_days: float = Field(default=7, gt=0)
    validation_days: float = Field(default=7, gt=0)
    cutoff: datetime | None = None
    test_path: str | None = None
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _check_test_path(self) -> "SplitConfig":
        if self.kind == "predefined" and self.test_path is None:
            raise ValueError("kind 'predefined' needs the test interactions, got no test_path; set split.test_path")
        return self
