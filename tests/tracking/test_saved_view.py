"""The saved view of an experiment's run list."""

import base64
import json
import zlib

from attnrec.tracking.saved_view import VIEW, saved_view


def test_the_tag_decodes_to_the_columns_that_people_compare():
    tag, content = saved_view("ndcg_at_20")
    assert tag == f"mlflow.sharedViewState.{VIEW}"
    view = json.loads(content)
    assert view["name"] == "attnrec overview"
    encoding, _, packed = view["state"].partition(";")
    assert encoding == "deflate"
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert state["selectedColumns"] == [
        "attributes.`Models`",
        "metrics.`main/ndcg_at_20`",
        "metrics.`test/hit_rate_at_20`",
        "metrics.`test/coverage_at_20`",
        "metrics.`train/seconds`",
        "params.`architecture`",
        "params.`dim`",
        "params.`learning_rate`",
        "tags.`attnrec.role`",
        "tags.`attnrec.faithful`",
    ]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`main/ndcg_at_20`", False)


def test_the_same_metric_gives_the_same_tag():
    assert saved_view("ndcg_at_10") == saved_view("ndcg_at_10")
    assert saved_view("ndcg_at_10") != saved_view("recall_at_10")
