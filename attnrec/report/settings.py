"""Settings of the report."""

from pydantic import Field

from attnrec.config import Config


class ReportConfig(Config):
    """Settings of the report that a run writes: the number of users it shows (0: no report)."""

    n_users: int = Field(default=100, ge=0)
