"""A saved view of an experiment's run list, as the MLflow UI (3.15 and later) keeps it in a tag of the experiment."""

import base64
import json
import zlib
from typing import Any

from attnrec.tracking.run_content import main_metric

VIEW = "attnrec-overview"
"""Key of the view: `?viewStateShareKey=attnrec-overview` in the address of the run list opens it."""

NAME = "attnrec overview"
METRICS = ("test/hit_rate_at_{k}", "test/coverage_at_{k}", "train/seconds")
PARAMS = ("architecture", "dim", "learning_rate")
TAGS = ("attnrec.role", "attnrec.faithful")


def saved_view(metric: str) -> tuple[str, str]:
    """Return the tag of a view with the columns that people compare, sorted by the main metric.

    Args:
        metric: name of the main metric, such as ndcg_at_10.
    """
    k = metric.rsplit("_", 1)[-1]
    metrics = [main_metric(metric), *(name.format(k=k) for name in METRICS)]
    columns = ["attributes.`Models`"]
    for kind, names in (("metrics", metrics), ("params", PARAMS), ("tags", TAGS)):
        columns += [f"{kind}.`{name}`" for name in names]
    state: dict[str, Any] = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{main_metric(metric)}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    content = {"name": NAME, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"}
    return f"mlflow.sharedViewState.{VIEW}", json.dumps(content)
