"""Whether reasons are true, in every run: the stage, the run in MLflow, Prefect's page, and who may not be champion."""

import json
import logging
import shutil
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
from attnrec_pipelines.flows.daily import DailyResult, daily_flow
from attnrec_pipelines.flows.tasks import FAITHFULNESS_COLUMNS as METRICS
from attnrec_pipelines.flows.tasks import faithfulness_task
from attnrec_pipelines.job import Job, make_job
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stage_cache import build
from attnrec_pipelines.stages.evaluate import evaluate_model
from attnrec_pipelines.stages.faithfulness import (
    log_faithfulness,
    measure_faithfulness,
    unfaithful_reason,
    verdict_sentence,
)
from attnrec_pipelines.stages.histories import gather_histories, load_split
from attnrec_pipelines.stages.ingest import ingest_log
from attnrec_pipelines.stages.promote import decide_promotion
from attnrec_pipelines.stages.record import record_run

N_USERS = 20
NOTE = "mlflow.note.content"


def planted(**pos_at_5: float) -> Faithfulness:
    """20 users, for all of whom a method has the same value of every metric."""
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


def stage_with(measured: Faithfulness, folder: Path) -> Path:
    """The folder of a faithfulness stage that found this."""
    folder.mkdir(parents=True)
    save_faithfulness(measured, folder)
    write_json(folder / "manifest.json", {"verdict": faithfulness_verdict(measured).to_json()})
    return folder


def own_copy(home: Path, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """A copy of a home whose runs keep their artifacts in the copy, not in the home it was taken from."""
    shutil.copytree(home, folder, symlinks=True)
    # MLflow remembers by a run's id where its artifacts are, and both homes have the same run
    patch.setattr("mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict())
    places = {
        "experiments": ("artifact_location",),
        "runs": ("artifact_uri",),
        "logged_models": ("artifact_location",),
        "model_versions": ("source", "storage_location"),
    }
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        for table, columns in places.items():
            for column in columns:
                store.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(home), str(folder)))
        store.commit()
    return folder


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """What a logger warns of inside the block; Prefect keeps its records from pytest."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger(name).addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger(name).removeHandler(handler)


def stage(home: Path, name: str) -> Path:
    (folder,) = (home / "stages").glob(f"{name}-*")
    return folder


def store(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def champions_run(home: Path) -> Any:
    """The run that trained the model that serves."""
    client = store(home)
    return client.get_run(client.get_model_version_by_alias("tiny", "champion").run_id)


def artifact(home: Path, path: str) -> bytes:
    """A file of the run that trained the model that serves, from where its home says that it is."""
    folder = urlparse(champions_run(home).info.artifact_uri).path
    assert folder.startswith(str(home))
    return Path(folder, path).read_bytes()


def shown_in_prefect(key: str) -> list[Any]:
    """The data of all artifacts of a key, of whichever run in this session."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), limit=200)
    return [one.data for one in found]


# --- the stage of a daily run -----------------------------------------------------------------------------


def test_the_stage_has_every_method_of_the_same_hundred_users_and_a_verdict(first_day):
    toml, home, _ = first_day
    folder = stage(home, "faithfulness")
    assert sorted(file.name for file in folder.iterdir()) == [
        "curves.parquet", "faithfulness.json", "manifest.json", "per_user.parquet", "permutation.parquet",
    ]  # fmt: skip
    found = load_faithfulness(folder)
    assert tuple(found.methods) == DEFAULT_METHODS
    ids = pd.read_csv(toml.with_name("log.csv"))["user_id"].unique()
    expected = set(ids[fixed_users(ids, n=100)])
    assert len(expected) == 100
    for method, rows in found.per_user.groupby("method"):
        assert set(rows["user_id"]) == expected, method
    assert read_json(folder / "manifest.json")["verdict"] == faithfulness_verdict(found).to_json()


def test_what_is_explained_is_what_the_evaluated_model_would_recommend_next(first_day):
    """Before its refit, from what the test part lets it see: the last event is the answer, and is not seen."""
    toml, home, _ = first_day
    log = pd.read_csv(toml.with_name("log.csv"))
    seen = {user: rows["item_id"].tolist()[:-1] for user, rows in log.sort_values("datetime").groupby("user_id")}
    found = load_faithfulness(stage(home, "faithfulness")).per_user
    assert found["n_events"].tolist() == [min(30, len(seen[user])) for user in found["user_id"]]
    assert not [user for user, item in zip(found["user_id"], found["item_id"], strict=True) if item in seen[user]]


def test_the_run_has_the_metrics_of_its_own_reasons_and_the_verdict(first_day):
    _, home, _ = first_day
    folder, run = stage(home, "faithfulness"), champions_run(home)
    summary = load_faithfulness(folder).summary().set_index("method")
    own = summary.loc["contribution"]
    for name in ("pos_at_5", "neg_at_5", "tau"):
        assert run.data.metrics[f"test/{name}"] == pytest.approx(own[name])
    share = load_faithfulness(folder).interchangeable_share
    assert run.data.metrics["test/interchangeable_share"] == pytest.approx(share)
    assert len(run.data.metrics) <= 25
    verdict = read_json(folder / "manifest.json")["verdict"]
    assert run.data.tags["attnrec.faithful"] == {True: "true", False: "false"}[verdict["faithful"]]
    assert f"Explanations: {verdict['sentence']}." in run.data.tags[NOTE].splitlines()


def test_the_run_has_a_table_of_one_row_a_method_and_figures(first_day):
    _, home, _ = first_day
    written = json.loads(artifact(home, "tables/faithfulness.json"))
    summary = load_faithfulness(stage(home, "faithfulness")).summary()
    assert written["columns"] == list(summary)
    assert [row[0] for row in written["data"]] == list(DEFAULT_METHODS)
    for name in ("faithfulness", "faithfulness_curves"):
        assert artifact(home, f"figures/{name}.png").startswith(b"\x89PNG")


def test_prefect_shows_the_table(first_day):
    _, home, _ = first_day
    summary = load_faithfulness(stage(home, "faithfulness")).summary()
    rows = [
        {"method": row["method"]} | {name: str(round(row[name], 4)) for name in METRICS}
        for row in summary.to_dict("records")
    ]
    assert rows in [json.loads(data) for data in shown_in_prefect("tiny-faithfulness")]


# --- measured otherwise, in the same home: reasons that are worse than a control --------------------------


@dataclass(frozen=True)
class Remeasured:
    """A daily run after [faithfulness] has changed, and what it was given.

    Attributes:
        home, result: of that run.
        before: when each stage was finished before it.
        asked: users and methods that were measured.
        warned: what was said.
    """

    home: Path
    result: DailyResult
    before: dict[str, int]
    asked: list[tuple[int, tuple[str, ...]]]
    warned: list[str]

    def made(self, name: str) -> Path:
        """The stage that this run made."""
        (folder,) = (f for f in (self.home / "stages").glob(f"{name}-*") if f.name not in self.before)
        return folder


def times_of(home: Path) -> dict[str, int]:
    return {m.parent.name: m.stat().st_mtime_ns for m in sorted((home / "stages").glob("*/manifest.json"))}


@pytest.fixture(scope="module")
def remeasured(first_day, tmp_path_factory):
    """Nobody serves yet, and the reasons of the model that is trained are found to be worse than a control."""
    toml, home, _ = first_day
    asked: list[tuple[int, tuple[str, ...]]] = []

    def measure(model, histories, users, *, methods, **given):
        asked.append((len(users), methods))
        return planted(contribution=0.9, random=0.25, recency=0.95)

    overrides = ("faithfulness.n_users=20", 'faithfulness.methods=["contribution", "random", "recency"]')
    with pytest.MonkeyPatch.context() as patch, warnings_of("attnrec_pipelines.flows.tasks") as warned:
        home = own_copy(home, tmp_path_factory.mktemp("remeasured") / "home", patch)
        store(home).delete_registered_model_alias("tiny", "champion")
        before = times_of(home)
        patch.setattr("attnrec_pipelines.stages.faithfulness.measure", measure)
        result = daily_flow(str(toml), overrides, str(home))
    return Remeasured(home, result, before, asked, warned)


def test_only_what_depends_on_the_measurement_is_made_anew(remeasured, first_day):
    after = times_of(remeasured.home)
    assert {name: after[name] for name in remeasured.before} == remeasured.before
    made = sorted(name.rsplit("-", 1)[0] for name in set(after) - set(remeasured.before))
    assert made == ["decide", "faithfulness", "report"]
    assert remeasured.asked == [(20, ("contribution", "random", "recency"))]
    assert remeasured.result.trained.name == first_day[2].trained.name
    assert len(store(remeasured.home).search_runs(["1"])) == 1


def test_a_first_champion_with_untrue_reasons_serves_and_everybody_is_told(remeasured):
    untrue = "pos_at_5 0.900 of its reasons is worse than random's 0.250"
    assert remeasured.result.decision.promoted
    assert untrue in remeasured.result.decision.reason
    assert "recency" not in remeasured.result.decision.reason, "that one is worse still"
    assert remeasured.warned == [untrue]
    assert champions_run(remeasured.home).data.tags["attnrec.faithful"] == "false"


def test_a_run_that_is_recorded_twice_has_one_table_and_one_sentence(remeasured, first_day):
    written = json.loads(artifact(remeasured.home, "tables/faithfulness.json"))
    assert [row[0] for row in written["data"]] == ["contribution", "random", "recency"]
    note = champions_run(remeasured.home).data.tags[NOTE].splitlines()
    assert note.count(verdict_sentence(remeasured.made("faithfulness"))) == 1
    assert verdict_sentence(stage(first_day[1], "faithfulness")) not in note


def test_the_page_is_kept_with_the_champions_run_byte_for_byte(remeasured):
    page = remeasured.result.page
    assert page == remeasured.made("report") / "report.html"
    assert artifact(remeasured.home, "report/report.html") == page.read_bytes()
    assert '"method":"contribution","exact":true,"control":false,"pos_at_5":0.9' in page.read_text()


def test_a_run_may_do_without_either(first_day, tmp_path, monkeypatch):
    toml, home, first = first_day
    home = own_copy(home, tmp_path / "home", monkeypatch)
    for name in ("faithfulness", "report"):
        shutil.rmtree(stage(home, name))
    before = times_of(home)
    with warnings_of("attnrec_pipelines.flows.tasks") as warned:
        result = daily_flow(str(toml), ("faithfulness.n_users=0", "report.n_users=0"), str(home))
    assert times_of(home) == before
    assert warned == []
    assert result.page is None
    assert result.published.resolve().relative_to(home) == first.published.resolve().relative_to(first_day[1])
    assert "measured" not in read_json(home / "current.json")["report_inputs"]
    assert "contributions" not in champions_run(home).data.tags[NOTE]


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
def test_a_measurement_is_used_again_only_where_the_same_was_asked(overrides, same, first_day, tmp_path):
    toml, _, first = first_day
    few = ("faithfulness.n_users=5", 'faithfulness.methods=["contribution", "random"]')
    folders = [
        measure_faithfulness(make_job(str(toml), (*few, *more), str(tmp_path)), first.histories, first.trained)
        for more in ((), overrides)
    ]
    assert (folders[0] == folders[1]) == same
    assert len(list((tmp_path / "stages").glob("faithfulness-*"))) == 2 - same


# --- who may be champion ----------------------------------------------------------------------------------

BETTER = {"contribution": 0.1, "shapley": 0.05, "random": 0.5, "recency": 0.3}
WORSE = BETTER | {"random": 0.05}


@pytest.mark.parametrize(
    ("pos_at_5", "said"),
    [
        (BETTER, ""),  # other methods may be better: only controls look at no score
        (WORSE, "pos_at_5 0.100 of its reasons is worse than random's 0.050"),
        (
            {"contribution": 0.6, "random": 0.5, "recency": 0.6, "popularity": 0.25},
            "pos_at_5 0.600 of its reasons is worse than random's 0.500 and popularity's 0.250",
        ),
        ({"contribution": 0.5, "random": 0.5, "recency": 0.5}, ""),  # not worse, though the verdict says not better
        ({"random": 0.5, "recency": 0.3}, ""),  # no exact reasons
    ],
)
def test_what_speaks_against_reasons_is_every_control_that_does_better(pos_at_5, said, tmp_path):
    folder = tmp_path / "stage"
    folder.mkdir()
    save_faithfulness(planted(**pos_at_5), folder)
    assert unfaithful_reason(folder) == said


@pytest.mark.parametrize(
    ("n_worse", "said"), [(5, ""), (6, "pos_at_5 0.550 of its reasons is worse than random's 0.250")]
)
def test_a_control_that_does_better_by_chance_alone_speaks_against_nothing(n_worse, said, tmp_path):
    measured = planted(contribution=0.25, random=0.25)
    worse = (measured.per_user["method"] == "contribution") & (measured.per_user.groupby("method").cumcount() < n_worse)
    measured.per_user.loc[worse, "pos_at_5"] = 1.25
    folder = tmp_path / "stage"
    folder.mkdir()
    save_faithfulness(measured, folder)
    # all signs of n differences alike: 2 / 2 ** n is .0625 for 5 and .03125 for 6
    assert unfaithful_reason(folder) == said


def test_what_was_not_measured_is_not_held_against_a_model():
    assert unfaithful_reason(None) == ""


@pytest.fixture
def challenge(remeasured, first_day, tmp_path, monkeypatch):
    """Decides about a model as good as the champion, by what was measured of its reasons; no baseline is a rival."""
    toml, _, first = first_day
    trained = tmp_path / "train-by-hand"
    trained.mkdir()
    write_json(trained / "manifest.json", {"key": "by-hand"})
    monkeypatch.setattr("attnrec_pipelines.stages.promote.BASELINES", ())

    def decide(measured: Path | None, *overrides: str):
        job = make_job(str(toml), overrides, str(remeasured.home))
        return decide_promotion(job, first.histories, trained, first.evaluated, measured)

    return decide


def test_a_challenger_whose_reasons_are_worse_than_a_control_is_not_promoted(challenge, tmp_path):
    worse = stage_with(planted(**WORSE), tmp_path / "faithfulness-worse")
    decision = challenge(worse)
    assert (decision.promoted, decision.reason) == (False, "pos_at_5 0.100 of its reasons is worse than random's 0.050")
    assert challenge(worse) == decision, "what was decided stays"


def test_the_same_challenger_is_promoted_with_better_reasons_or_where_nobody_asks(challenge, tmp_path):
    worse = stage_with(planted(**WORSE), tmp_path / "faithfulness-worse")
    better = stage_with(planted(**BETTER), tmp_path / "faithfulness-better")
    assert not challenge(worse).promoted
    for decision in (challenge(better), challenge(worse, "promote.faithful=false"), challenge(None)):
        assert decision.promoted
        assert "the champion has" in decision.reason


# --- models and logs of which there is less to say --------------------------------------------------------


def trained_by_hand(job: Job, histories: Path, kind: str, **settings: Any) -> Path:
    """A training stage with a model that saw the training part and nothing else."""

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


@pytest.fixture
def new_home(first_day, tmp_path):
    """A home with nothing but MLflow's store, which takes seconds to make."""
    (tmp_path / "home").mkdir()
    shutil.copy(first_day[1] / "mlflow.db", tmp_path / "home")
    return tmp_path / "home"


def test_a_model_without_exact_reasons_passes_and_the_verdict_says_that_it_has_none(first_day, challenge, new_home):
    toml, _, first = first_day
    job = make_job(str(toml), ("faithfulness.n_users=8", "tracking.experiment=by-hand"), str(new_home))
    trained = trained_by_hand(job, first.histories, "attnrec", dim=16, layers=1, max_length=30, readout="last")
    folder = measure_faithfulness(job, first.histories, trained)
    verdict = read_json(folder / "manifest.json")["verdict"]
    assert (verdict["faithful"], verdict["numbers"]) == (False, {})
    assert verdict["sentence"].startswith("attnrec-last-d16-L30 has no exact contributions: contribution needs ")
    assert unfaithful_reason(folder) == ""
    assert challenge(folder).promoted
    tracker = tracker_of(job)
    run_id = tracker.open_run("without", stage_key="by-hand", params={}, settings={})
    log_faithfulness(tracker, run_id, folder)
    run = tracker.client.get_run(run_id)
    assert run.data.tags["attnrec.faithful"] == "false"
    assert "test/pos_at_5" not in run.data.metrics, "the model has no reasons of its own"


ONCE = """
name = "once"
[interactions]
path = "log.csv"
[model]
kind = "popularity"
"""


def test_a_log_in_which_no_user_has_two_events_is_a_warning_and_the_run_goes_on(new_home, tmp_path):
    """Who comes back on the last day is asked then, and has one event before; the others come back earlier."""
    first = pd.DataFrame({"user_id": [f"u{n:02}" for n in range(20)], "item_id": ["tea", "cup", "pan", "pot"] * 5})
    again = first.assign(item_id=["cup", "pan", "pot", "tea"] * 5, datetime=["2024-01-11", "2024-01-21"] * 10)
    pd.concat([first.assign(datetime="2024-01-01"), again]).to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "once.toml").write_text(ONCE)
    job = make_job(str(tmp_path / "once.toml"), (), str(new_home))
    log = ingest_log(job, job.experiment.interactions)
    histories = gather_histories(job, log)
    trained = trained_by_hand(job, histories, "popularity")
    evaluated = evaluate_model(job, histories, trained, log)
    with warnings_of("attnrec_pipelines.flows.tasks") as warned:
        measured = faithfulness_task.fn(job, histories, trained)
    assert measured is None
    assert len(warned) == 1
    assert "got 10 with fewer than 2 events and 0 with no recommendable item" in warned[0]
    assert not [folder for folder in job.home.stages.iterdir() if "faithfulness" in folder.name]
    run = tracker_of(job).client.get_run(record_run(job, histories, trained, evaluated, measured))
    assert "attnrec.faithful" not in run.data.tags
    assert "test/ndcg_at_10" in run.data.metrics
    assert decide_promotion(job, histories, trained, evaluated, measured).promoted
