"""Faithfulness of the reasons in a daily run: the stage, the MLflow run, Prefect's page, and the promotion."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd
import pytest
from mlflow import MlflowClient

from attnrec.faithfulness import DEFAULT_METHODS, Faithfulness, faithfulness_verdict
from attnrec.faithfulness.files import load_faithfulness, save_faithfulness
from attnrec.models import build_model, model_config
from attnrec.models.saved_model import SavedModel, save_model
from attnrec.storage import read_json, write_json
from attnrec.tracking.examples import fixed_users
from attnrec.tracking.tags import DESCRIPTION, FAITHFUL
from attnrec_pipelines.flows.daily import DailyResult, daily_flow
from attnrec_pipelines.flows.tasks import FAITHFULNESS_COLUMNS, faithfulness_task
from attnrec_pipelines.job import Job, make_job
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stage_cache import build
from attnrec_pipelines.stages.evaluate import evaluate_model
from attnrec_pipelines.stages.faithfulness import (
    measure_faithfulness,
    unfaithful_reason,
    verdict_sentence,
)
from attnrec_pipelines.stages.histories import gather_histories, load_split
from attnrec_pipelines.stages.ingest import ingest_log
from attnrec_pipelines.stages.promote import decide_promotion
from attnrec_pipelines.stages.record import log_faithfulness, record_run

N_USERS = 20


def planted(**pos_at_5: float) -> Faithfulness:
    """Return the result of 20 users, for all of whom a method has the same value of every metric."""
    metrics = ("pos_at_5", "neg_at_5", "deletion", "insertion", "comprehensiveness", "sufficiency", "tau", "stability")
    users = pd.DataFrame({"user_id": [f"user-{n:04}" for n in range(N_USERS)], "item_id": "tea", "n_events": 9})
    per_user = [users.assign(method=name, **dict.fromkeys(metrics, value)) for name, value in pos_at_5.items()]
    curves = [
        pd.DataFrame({"method": name, "curve": curve, "share": [0.0, 1.0], "probability": [value, 0.0]})
        for name, value in pos_at_5.items()
        for curve in ("deletion", "reverse_deletion", "insertion")
    ]
    permutation = users[["user_id", "n_events"]].assign(largest_weight=0.5, median_distance=0.1)
    return Faithfulness(
        "planted", pd.concat(per_user, ignore_index=True), pd.concat(curves, ignore_index=True), permutation, {}, {}
    )


def saved(measured: Faithfulness, folder: Path) -> Path:
    """Write the files of a result."""
    folder.mkdir(parents=True)
    save_faithfulness(measured, folder)
    return folder


def stage_with(measured: Faithfulness, folder: Path) -> Path:
    """Write a faithfulness stage with this result and its verdict."""
    saved(measured, folder)
    write_json(folder / "manifest.json", {"verdict": faithfulness_verdict(measured).to_json()})
    return folder


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """Collect the warnings of a logger inside the block; Prefect keeps its records from pytest."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger(name).addHandler(handler)
    try:
        yield warnings
    finally:
        logging.getLogger(name).removeHandler(handler)


def stage(home: Path, name: str) -> Path:
    (folder,) = (home / "stages").glob(f"{name}-*")
    return folder


def store(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def run_of_champion(home: Path) -> Any:
    """Return the training run of the champion."""
    client = store(home)
    return client.get_run(client.get_model_version_by_alias("tiny", "champion").run_id)


def artifact(home: Path, path: str) -> bytes:
    """Read an artifact of the champion's training run, which must lie in the home."""
    folder = urlparse(run_of_champion(home).info.artifact_uri).path
    assert folder.startswith(str(home))
    return Path(folder, path).read_bytes()


def prefect_artifacts(key: str) -> list[Any]:
    """Return the data of all Prefect artifacts with a key, of any run in this session."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    chosen = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        return [artifact.data for artifact in client.read_artifacts(artifact_filter=chosen, limit=200)]


# --- the stage of a daily run -----------------------------------------------------------------------------


def test_the_stage_measures_every_method_on_the_same_hundred_users(first_day):
    toml, home, _ = first_day
    folder = stage(home, "faithfulness")
    assert sorted(file.name for file in folder.iterdir()) == [
        "curves.parquet", "faithfulness.json", "manifest.json", "per_user.parquet", "permutation.parquet",
    ]  # fmt: skip
    measured = load_faithfulness(folder)
    assert tuple(measured.methods) == DEFAULT_METHODS
    ids = pd.read_csv(toml.with_name("log.csv"))["user_id"].unique()
    expected = set(ids[fixed_users(ids, n=100)])
    assert len(expected) == 100
    for method, rows in measured.per_user.groupby("method"):
        assert set(rows["user_id"]) == expected, method
    assert read_json(folder / "manifest.json")["verdict"] == faithfulness_verdict(measured).to_json()


def test_the_explained_item_is_a_recommendation_from_the_history_before_the_test_event(first_day):
    """The model before its refit is measured: each user's last event is the test target and not in the history."""
    toml, home, _ = first_day
    log = pd.read_csv(toml.with_name("log.csv"))
    seen = {user: rows["item_id"].tolist()[:-1] for user, rows in log.sort_values("datetime").groupby("user_id")}
    per_user = load_faithfulness(stage(home, "faithfulness")).per_user
    assert per_user["n_events"].tolist() == [min(30, len(seen[user])) for user in per_user["user_id"]]
    pairs = zip(per_user["user_id"], per_user["item_id"], strict=True)
    assert not [user for user, item in pairs if item in seen[user]]


def test_the_run_has_the_metrics_of_the_contributions_and_the_verdict(first_day):
    _, home, _ = first_day
    folder, run = stage(home, "faithfulness"), run_of_champion(home)
    summary = load_faithfulness(folder).summary().set_index("method")
    contribution = summary.loc["contribution"]
    for name in ("pos_at_5", "neg_at_5", "tau"):
        assert run.data.metrics[f"test/{name}"] == pytest.approx(contribution[name])
    share = load_faithfulness(folder).interchangeable_share
    assert run.data.metrics["test/interchangeable_share"] == pytest.approx(share)
    assert len(run.data.metrics) <= 25
    verdict = read_json(folder / "manifest.json")["verdict"]
    assert run.data.tags[FAITHFUL] == {True: "true", False: "false"}[verdict["faithful"]]
    assert f"Explanations: {verdict['sentence']}." in run.data.tags[DESCRIPTION].splitlines()


def test_the_run_has_a_table_with_a_row_per_method_and_figures(first_day):
    _, home, _ = first_day
    written = json.loads(artifact(home, "tables/faithfulness.json"))
    summary = load_faithfulness(stage(home, "faithfulness")).summary()
    assert written["columns"] == list(summary)
    assert [row[0] for row in written["data"]] == list(DEFAULT_METHODS)
    for name in ("faithfulness", "faithfulness_curves"):
        assert artifact(home, f"figures/{name}.png").startswith(b"\x89PNG")


def test_prefect_shows_the_table_of_methods(first_day):
    _, home, _ = first_day
    summary = load_faithfulness(stage(home, "faithfulness")).summary()
    rows = [
        {"method": row["method"]} | {name: str(round(row[name], 4)) for name in FAITHFULNESS_COLUMNS}
        for row in summary.to_dict("records")
    ]
    assert rows in [json.loads(data) for data in prefect_artifacts("tiny-faithfulness")]


# --- a second run in the same home, whose reasons are worse than a control ---------------------------------


@dataclass(frozen=True)
class SecondRun:
    """A daily run after [faithfulness] has changed.

    Attributes:
        home, result: of that run.
        before: completion times of the stages before it.
        measurements: number of users and methods of each measurement.
        warnings: what it logged.
    """

    home: Path
    result: DailyResult
    before: dict[str, int]
    measurements: list[tuple[int, tuple[str, ...]]]
    warnings: list[str]

    def new_stage(self, name: str) -> Path:
        """Return the stage that this run built."""
        (folder,) = (f for f in (self.home / "stages").glob(f"{name}-*") if f.name not in self.before)
        return folder


@pytest.fixture(scope="module")
def second_run(first_day, copy_home, stage_times, tmp_path_factory):
    """Run again without a champion; the reasons of the model, which is not trained again, are worse than a control."""
    toml, home, _ = first_day
    measurements: list[tuple[int, tuple[str, ...]]] = []

    def measure(model, histories, users, *, methods, **options):
        measurements.append((len(users), methods))
        return planted(contribution=0.9, random=0.25, recency=0.95)

    overrides = ("faithfulness.n_users=20", 'faithfulness.methods=["contribution", "random", "recency"]')
    with pytest.MonkeyPatch.context() as patch, warnings_of("attnrec_pipelines.flows.tasks") as warnings:
        home = copy_home(home, tmp_path_factory.mktemp("second-run") / "home")
        store(home).delete_registered_model_alias("tiny", "champion")
        before = stage_times(home)
        patch.setattr("attnrec_pipelines.stages.faithfulness.measure", measure)
        result = daily_flow(str(toml), overrides, str(home))
    return SecondRun(home, result, before, measurements, warnings)


def test_only_stages_that_depend_on_the_measurement_are_built_again(second_run, first_day, stage_times):
    after = stage_times(second_run.home)
    assert {name: after[name] for name in second_run.before} == second_run.before
    built = sorted(name.rsplit("-", 1)[0] for name in set(after) - set(second_run.before))
    assert built == ["faithfulness", "promote", "report"]
    assert second_run.measurements == [(20, ("contribution", "random", "recency"))]
    assert second_run.result.trained.name == first_day[2].trained.name
    assert len(store(second_run.home).search_runs(["1"])) == 3, "the model and two baselines"


def test_a_first_champion_with_unfaithful_reasons_serves_with_a_warning(second_run):
    reason = "pos@5 of its reasons, 0.900, is worse than random (0.250)"
    assert second_run.result.decision.promoted
    assert reason in second_run.result.decision.reason
    assert "recency" not in second_run.result.decision.reason, "recency is worse than the reasons"
    assert second_run.warnings == [reason]
    assert run_of_champion(second_run.home).data.tags[FAITHFUL] == "false"


def test_a_run_that_is_recorded_twice_has_one_table_and_one_verdict(second_run, first_day):
    written = json.loads(artifact(second_run.home, "tables/faithfulness.json"))
    assert [row[0] for row in written["data"]] == ["contribution", "random", "recency"]
    description = run_of_champion(second_run.home).data.tags[DESCRIPTION]
    assert description.count(verdict_sentence(second_run.new_stage("faithfulness"))) == 1
    assert verdict_sentence(stage(first_day[1], "faithfulness")) not in description


def test_the_report_is_an_artifact_of_the_champions_run_and_linked_in_its_description(second_run):
    page = second_run.result.page
    assert page == second_run.new_stage("report") / "report.html"
    assert artifact(second_run.home, "report/report.html") == page.read_bytes()
    assert '"method":"contribution","exact":true,"control":false,"pos_at_5":0.9' in page.read_text()
    assert run_of_champion(second_run.home).data.tags[DESCRIPTION].count("/artifacts/report/report.html)") == 1


def test_a_run_without_faithfulness_and_report_succeeds(first_day, copy_home, stage_times, tmp_path):
    toml, home, first = first_day
    home = copy_home(home, tmp_path / "home")
    for name in ("faithfulness", "report"):
        shutil.rmtree(stage(home, name))
    before = stage_times(home)
    with warnings_of("attnrec_pipelines.flows.tasks") as warnings:
        result = daily_flow(str(toml), ("faithfulness.n_users=0", "report.n_users=0"), str(home))
    assert stage_times(home) == before
    assert warnings == []
    assert result.page is None
    assert result.published.resolve().relative_to(home) == first.published.resolve().relative_to(first_day[1])
    assert "measured" not in read_json(home / "current.json")["report_inputs"]
    assert "Explanations:" not in run_of_champion(home).data.tags[DESCRIPTION]


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ((), True),
        (("report.n_users=3", "score.k=3", "promote.faithful=false"), True),
        (("faithfulness.n_users=6",), False),
        (('faithfulness.methods=["random", "contribution", "recency"]',), False),
        (("evaluate.filter_viewed=false",), False),
        (("seed=1",), False),
    ],
)
def test_a_measurement_is_cached_by_its_own_settings_only(overrides, same, first_day, tmp_path):
    toml, _, first = first_day
    few = ("faithfulness.n_users=5", 'faithfulness.methods=["contribution", "random"]')
    folders = [
        measure_faithfulness(make_job(str(toml), (*few, *more), str(tmp_path)), first.histories, first.trained)
        for more in ((), overrides)
    ]
    assert (folders[0] == folders[1]) == same
    assert len(list((tmp_path / "stages").glob("faithfulness-*"))) == 2 - same


# --- promotion ----------------------------------------------------------------------------------------------

BETTER = {"contribution": 0.1, "shapley": 0.05, "random": 0.5, "recency": 0.3}
WORSE = BETTER | {"random": 0.05}
WORSE_REASON = "pos@5 of its reasons, 0.100, is worse than random (0.050)"


@pytest.mark.parametrize(
    ("pos_at_5", "reason"),
    [
        (BETTER, ""),  # shapley is better, but it is not a control
        (WORSE, WORSE_REASON),
        (
            {"contribution": 0.6, "random": 0.5, "recency": 0.6, "popularity": 0.25},
            "pos@5 of its reasons, 0.600, is worse than random (0.500) and popularity (0.250)",
        ),
        ({"contribution": 0.5, "random": 0.5, "recency": 0.5}, ""),  # equal, although the verdict is "not faithful"
        ({"random": 0.5, "recency": 0.3}, ""),  # no exact contributions
    ],
)
def test_the_reason_against_promotion_names_every_control_that_is_better(pos_at_5, reason, tmp_path):
    assert unfaithful_reason(saved(planted(**pos_at_5), tmp_path / "stage")) == reason


@pytest.mark.parametrize(
    ("n_worse", "reason"), [(5, ""), (6, "pos@5 of its reasons, 0.550, is worse than random (0.250)")]
)
def test_a_control_that_is_better_by_chance_is_no_reason_against_promotion(n_worse, reason, tmp_path):
    measured = planted(contribution=0.25, random=0.25)
    worse = (measured.per_user["method"] == "contribution") & (measured.per_user.groupby("method").cumcount() < n_worse)
    measured.per_user.loc[worse, "pos_at_5"] = 1.25
    # all n differences have the same sign: 2 / 2 ** n is .0625 for 5 and .03125 for 6
    assert unfaithful_reason(saved(measured, tmp_path / "stage")) == reason


def test_missing_measurements_are_no_reason_against_promotion():
    assert unfaithful_reason(None) == ""


@pytest.fixture
def decide(second_run, first_day, tmp_path, monkeypatch):
    """Decide about a challenger with the champion's metrics and a given faithfulness; baselines are left out."""
    toml, _, first = first_day
    trained = tmp_path / "train-by-hand"
    trained.mkdir()
    write_json(trained / "manifest.json", {"key": "by-hand"})
    monkeypatch.setattr("attnrec_pipelines.stages.promote.BASELINES", ())

    def decision(measured: Path | None, *overrides: str):
        job = make_job(str(toml), overrides, str(second_run.home))
        return decide_promotion(job, first.histories, trained, first.evaluated, measured)

    return decision


def test_a_challenger_whose_reasons_are_worse_than_a_control_is_not_promoted(decide, tmp_path):
    worse = stage_with(planted(**WORSE), tmp_path / "faithfulness-worse")
    decision = decide(worse)
    assert (decision.promoted, decision.reason) == (False, WORSE_REASON)
    assert decide(worse) == decision, "the cached decision is the same"


def test_the_same_challenger_is_promoted_with_better_reasons_or_without_the_rule(decide, tmp_path):
    worse = stage_with(planted(**WORSE), tmp_path / "faithfulness-worse")
    better = stage_with(planted(**BETTER), tmp_path / "faithfulness-better")
    assert not decide(worse).promoted
    for decision in (decide(better), decide(worse, "promote.faithful=false"), decide(None)):
        assert decision.promoted
        assert "the champion has" in decision.reason


# --- models without contributions, and logs with nothing to measure ----------------------------------------


def trained_by_hand(job: Job, histories: Path, kind: str, **settings: Any) -> Path:
    """Build a training stage whose model has observed the train part and has untrained weights."""

    def make(target: Path) -> dict[str, Any]:
        _, split = load_split(job.experiment, histories)
        model = build_model(model_config(kind, settings), split.train.n_items)
        model.observe(split.train)
        model.refresh()
        (target / "model").mkdir()
        save_model(SavedModel(model, split.train.item_ids), target / "model")
        write_json(target / "epochs.json", [])
        numbers = ("best_epoch", "n_epochs", "seconds", "wall_seconds", "tokens_per_second", "padding", "peak_mb")
        return dict.fromkeys(numbers, 0) | {"device": "cpu", "threads": 1, "processes": 1, "init": ""}

    return build(job.home, "train", f"by-hand-{kind}", make)


def test_a_model_without_contributions_is_promoted_and_its_verdict_is_not_faithful(first_day, decide, new_home):
    toml, _, first = first_day
    job = make_job(str(toml), ("faithfulness.n_users=8", "tracking.experiment=by-hand"), str(new_home))
    trained = trained_by_hand(job, first.histories, "attnrec", dim=16, layers=1, max_length=30, readout="last")
    folder = measure_faithfulness(job, first.histories, trained)
    verdict = read_json(folder / "manifest.json")["verdict"]
    assert (verdict["faithful"], verdict["numbers"]) == (False, {})
    assert verdict["sentence"].startswith("attnrec-last-d16-L30 has no exact contributions: contribution needs ")
    assert unfaithful_reason(folder) == ""
    assert decide(folder).promoted
    tracker = tracker_of(job)
    run_id = tracker.open_run("without", stage_key="by-hand", params={}, settings={})
    log_faithfulness(tracker, run_id, folder)
    run = tracker.client.get_run(run_id)
    assert run.data.tags[FAITHFUL] == "false"
    assert "test/pos_at_5" not in run.data.metrics, "the model has no contributions"


ONCE = """
name = "once"
[interactions]
path = "log.csv"
[model]
kind = "popularity"
"""


def test_a_log_in_which_no_user_has_two_events_is_a_warning_and_the_run_continues(new_home, tmp_path):
    """Test users return on the last day and have one event before it; the others return earlier."""
    first = pd.DataFrame({"user_id": [f"u{n:02}" for n in range(20)], "item_id": ["tea", "cup", "pan", "pot"] * 5})
    again = first.assign(item_id=["cup", "pan", "pot", "tea"] * 5, datetime=["2024-01-11", "2024-01-21"] * 10)
    pd.concat([first.assign(datetime="2024-01-01"), again]).to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "once.toml").write_text(ONCE)
    job = make_job(str(tmp_path / "once.toml"), (), str(new_home))
    log = ingest_log(job, job.experiment.interactions)
    histories = gather_histories(job, log)
    trained = trained_by_hand(job, histories, "popularity")
    evaluated = evaluate_model(job, histories, trained, log)
    with warnings_of("attnrec_pipelines.stages.faithfulness") as warnings:
        measured = faithfulness_task.fn(job, histories, trained)
    assert measured is None
    assert len(warnings) == 1
    assert "got 10 with fewer than 2 events and 0 with no recommendable item" in warnings[0]
    assert not [folder for folder in job.home.stages.iterdir() if "faithfulness" in folder.name]
    run = tracker_of(job).client.get_run(record_run(job, histories, trained, evaluated, measured))
    assert FAITHFUL not in run.data.tags
    assert "main/ndcg_at_10" in run.data.metrics
    assert decide_promotion(job, histories, trained, evaluated, measured).promoted
