"""The stages ingest and histories: predefined splits, filters, unordered logs, and Prefect artifacts."""

import json

import pandas as pd
import pytest

from attnrec_pipelines.flows.ingest import ingest_flow
from attnrec_pipelines.job import make_job
from attnrec_pipelines.stages.histories import gather_histories, load_split
from attnrec_pipelines.stages.ingest import ingest_log, ingest_logs

PREDEFINED = """
name = "predefined"
[interactions]
path = "train.csv"
datetime = "none"
[split]
kind = "predefined"
test_path = "test.csv"
validation_fraction = 0.5
[model]
kind = "gat"
"""


def test_a_predefined_split_keeps_its_test_rows_for_the_test_part(tmp_path):
    (tmp_path / "predefined.toml").write_text(PREDEFINED)
    (tmp_path / "train.csv").write_text("user_id,item_id\na,x\na,y\nb,x\nb,z\n")
    (tmp_path / "test.csv").write_text("user_id,item_id\na,z\nb,w\n")
    job = make_job(str(tmp_path / "predefined.toml"), (), str(tmp_path / "home"))
    folder = gather_histories(job, *ingest_logs(job))
    histories, split = load_split(job.experiment, folder)
    assert not histories.ordered
    assert list(histories.item_ids.decode(split.test.targets)) == ["z", "w"]
    assert list(split.train.lengths) == [1, 1]
    assert len(split.validation.targets) == 2


def test_events_of_rare_items_are_filtered_out_and_counted(first_day, tmp_path):
    toml, _, _ = first_day
    (tmp_path / "log.csv").write_text("user_id,item_id,datetime\na,x,1\na,y,2\nb,x,3\nb,rare,4\nc,y,5\n")
    overrides = (f"interactions.path={tmp_path / 'log.csv'}", "dataset.min_item_events=2")
    job = make_job(str(toml), overrides, str(tmp_path / "home"))
    folder = gather_histories(job, ingest_log(job, job.experiment.interactions))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["events"], manifest["filtered_out"]) == (4, 1)
    assert manifest["summary"] == "3 users, 2 items, 4 events, 1 events filtered out"


def test_a_log_without_order_is_an_error_for_a_sequence_model(first_day, new_home, tmp_path, in_this_process):
    from attnrec_pipelines.stages.train import train_model

    toml, _, _ = first_day
    log = tmp_path / "without-order.csv"
    pd.DataFrame({"user_id": list("aaabbb"), "item_id": list("xyzxyw")}).to_csv(log, index=False)
    overrides = (f"interactions.path={log}", "interactions.datetime=none")
    job = make_job(str(toml), overrides, str(new_home))
    histories = gather_histories(job, ingest_log(job, job.experiment.interactions))
    with pytest.raises(RuntimeError, match="attnrec needs ordered histories, got a log without order"):
        train_model(job, histories)


def test_prefect_shows_rejected_rows_by_reason(first_day, tmp_path):
    from prefect.client.orchestration import get_client

    toml, _, _ = first_day
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,datetime\na,x,1\n,x,2\nb,,3\nb,y,never\n")
    ingest_flow(str(toml), ("name=shown", f"interactions.path={log}"), str(tmp_path / "home"))
    with get_client(sync_client=True) as client:
        (table,) = [artifact for artifact in client.read_artifacts(limit=200) if artifact.key == "shown-rejected"]
    rows = {row["reason"]: row["rows"] for row in json.loads(table.data)}
    assert rows == {"missing user_id": "1", "missing item_id": "1", "unparsable datetime": "1"}


def test_prefect_shows_metrics_and_a_sample_of_a_daily_run(first_day):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        keys = {artifact.key for artifact in client.read_artifacts(limit=200)}
    assert {"tiny-rejected", "tiny-metrics", "tiny-recommendations", "tiny-decision", "tiny-mlflow"} <= keys
