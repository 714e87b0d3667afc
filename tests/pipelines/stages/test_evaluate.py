"""The stage evaluate: files, segments, the MLflow run, warnings, and terminal output."""

import json
import logging
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from rich.console import Console

from attnrec.evaluation.list_quality import measure_beyond_accuracy
from attnrec.models import PopularityConfig, build_model
from attnrec.models.saved_model import SavedModel, save_model
from attnrec.storage import read_json, write_json
from attnrec.tracking.tags import DESCRIPTION, TRAIN_KEY, UNDERPERFORMING
from attnrec.tracking.tracker import Version
from attnrec_pipelines.cli.printing import print_metrics
from attnrec_pipelines.flows.tasks import evaluate_task
from attnrec_pipelines.flows.train import train_flow
from attnrec_pipelines.job import Job, make_job
from attnrec_pipelines.mlflow_runs import tracker_of
from attnrec_pipelines.stage_cache import build
from attnrec_pipelines.stages.evaluate import evaluate_champion, evaluate_model
from attnrec_pipelines.stages.evaluation_files import segments_table, shorten, tables_of, underperforming_segments
from attnrec_pipelines.stages.histories import gather_histories, load_split
from attnrec_pipelines.stages.ingest import ingest_log
from attnrec_pipelines.stages.record import record_run

NDCG = "ndcg_at_10"
N_EACH = 60
EXPERIMENT = """
name = "sides"
[interactions]
path = "log.csv"
[items]
path = "items.csv"
id = "item_id"
columns = { "kind (shop)" = "category", price = "number" }
[users]
path = "users.csv"
id = "user_id"
columns = { side = "category" }
[split]
kind = "last"
[model]
kind = "popularity"
"""


def write_world(folder: Path) -> Path:
    """Write a log in which a popularity model predicts the last items of users in the east, but not in the west.

    Users in the west end with an item that only they have, users in the east with one of the eight popular items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(2 * N_EACH):
        side = "east" if number < N_EACH else "west"
        last = f"p{(number + 4) % 8}" if side == "east" else f"rare-{number:03}"
        items = [*(f"p{(number + step) % 8}" for step in range(4)), last]
        rows += [(f"{side}-{number:03}", item, 86_400 * day) for day, item in enumerate(items)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    log.to_csv(folder / "log.csv", index=False)
    users = pd.DataFrame({"user_id": log["user_id"].unique()})
    users.assign(side=users["user_id"].str[:4]).to_csv(folder / "users.csv", index=False)
    items = pd.DataFrame({"item_id": log["item_id"].unique(), "price": 3})
    kinds = items["item_id"].map(lambda item: ["a", "b"][int(item[-1]) % 2])
    items.assign(**{"kind (shop)": kinds}).to_csv(folder / "items.csv", index=False)
    (folder / "sides.toml").write_text(EXPERIMENT)
    return folder / "sides.toml"


def prepare_stages(toml: Path, home: Path, *overrides: str) -> tuple[Job, Path, Path, Path]:
    """Return the arguments of `evaluate_model`: the job, and the stages histories, train (popularity) and ingest."""
    job = make_job(str(toml), overrides, str(home))
    log = ingest_log(job, job.experiment.interactions)
    histories = gather_histories(job, log)

    def make(target: Path) -> dict[str, object]:
        _, split = load_split(job.experiment, histories)
        model = build_model(PopularityConfig(), split.train.n_items)
        model.observe(split.train)
        (target / "model").mkdir()
        save_model(SavedModel(model, split.train.item_ids), target / "model")
        write_json(target / "epochs.json", [])
        numbers = dict.fromkeys(
            ("best_epoch", "n_epochs", "seconds", "wall_seconds", "tokens_per_second", "padding"), 0
        )
        return numbers | {"peak_mb": 1, "device": "cpu", "threads": 1, "processes": 1, "init": ""}

    return job, histories, build(job.home, "train", "by-hand", make), log


@pytest.fixture(scope="module")
def world(make_home, tmp_path_factory):
    """Evaluate once; return the arguments of `evaluate_model` and its folder, which tests must not change."""
    folder = tmp_path_factory.mktemp("sides")
    arguments = prepare_stages(write_world(folder), make_home(folder / "home"))
    return arguments, evaluate_model(*arguments)


@pytest.fixture(scope="module")
def recorded(world):
    """Log that evaluation to MLflow; return the client and the run id."""
    (job, histories, trained, _), evaluated = world
    run_id = record_run(job, histories, trained, evaluated)
    return MlflowClient(job.home.tracking_uri), run_id


def artifact(client: MlflowClient, run_id: str, path: str, folder: Path) -> Path:
    return Path(client.download_artifacts(run_id, path, str(folder)))


# --- files ----------------------------------------------------------------------------------------------


def test_user_columns_are_segments_and_underperforming_segments_are_named(world):
    _, evaluated = world
    table = segments_table(evaluated, NDCG)
    assert list(dict.fromkeys(table["segment"])) == [
        "all users", "history_length", "activity", "popularity_group", "side",
    ]  # fmt: skip
    sides = table[table["segment"] == "side"].set_index("group")
    assert sides["n_users"].to_dict() == {"east": N_EACH, "west": N_EACH}
    assert sides["mean"]["west"] == 0
    assert sides["mean"]["east"] == pytest.approx(2 * table["mean"][0])
    assert sides["underperforming"].to_dict() == {"east": False, "west": True}
    (sentence,) = underperforming_segments(evaluated)
    assert sentence.startswith(
        f"ndcg@10 of side west is 0.0000, 100% below the mean {table['mean'][0]:.4f} of all users"
    )


def test_every_model_is_in_every_table(world):
    _, evaluated = world
    tables = tables_of(evaluated)
    assert list(tables) == ["segments", "exposure", "popularity_groups"]
    for table in tables.values():
        assert table.columns[0] == "model"
        assert set(table["model"]) == {"challenger", "popularity", "item_knn"}
    assert set(tables["segments"]["metric"]) == {NDCG, "hit_rate_at_10"}
    shares = tables["exposure"].groupby("model")["share"].sum()
    assert shares.tolist() == pytest.approx([1, 1, 1])


def test_metrics_and_values_per_user_include_measures_beyond_accuracy(world):
    _, evaluated = world
    names = {
        "novelty_at_10",
        "popularity_lift_at_10",
        "diversity_kind (shop)_at_10",
        "miscalibration_kind (shop)_at_10",
    }
    for model, results in read_json(evaluated / "metrics.json").items():
        frame = pd.read_parquet(evaluated / f"{model}.parquet")
        assert names <= set(frame), model
        for name in names:
            low, high = results["intervals"][name]
            assert low <= results["metrics"][name] <= high
            assert frame[name].mean() == pytest.approx(results["metrics"][name])
    # east-000 has viewed p0 to p3 and is recommended p4 to p7: two of each kind, as in the history
    frame = pd.read_parquet(evaluated / "challenger.parquet").set_index("user_id")
    assert frame["miscalibration_kind (shop)_at_10"]["east-000"] == pytest.approx(0)
    assert frame["diversity_kind (shop)_at_10"]["east-000"] == pytest.approx(4 / 6)


def test_k_is_that_of_the_promotion_metric(tmp_path):
    evaluated = evaluate_model(*prepare_stages(write_world(tmp_path), tmp_path / "home", "promote.metric=recall_at_5"))
    assert set(tables_of(evaluated)["segments"]["metric"]) == {"recall_at_5", "hit_rate_at_5"}
    assert "novelty_at_5" in pd.read_parquet(evaluated / "challenger.parquet")


# --- caching --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "old", "new"), [("items", "p0,3,a", "p0,3,b"), ("users", "east-000,east", "east-000,west")]
)
def test_an_evaluation_is_cached_until_a_table_changes(table, old, new, tmp_path):
    toml = write_world(tmp_path)
    first = evaluate_model(*prepare_stages(toml, tmp_path / "home"))
    assert evaluate_model(*prepare_stages(toml, tmp_path / "home")) == first
    path = tmp_path / f"{table}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    arguments = prepare_stages(toml, tmp_path / "home")
    second = evaluate_model(*arguments)
    assert second != first
    changed = {"items": "metrics.json", "users": "segments.parquet"}[table]
    assert (second / changed).read_bytes() != (first / changed).read_bytes()


def test_a_later_evaluation_of_the_same_run_replaces_its_tables(new_home, tmp_path):
    toml = write_world(tmp_path)
    job, histories, trained, log = prepare_stages(toml, new_home)
    run_id = record_run(job, histories, trained, evaluate_model(job, histories, trained, log))
    evaluated = evaluate_model(job, histories, trained)
    assert record_run(job, histories, trained, evaluated) == run_id
    client = MlflowClient(job.home.tracking_uri)
    written = json.loads(artifact(client, run_id, "tables/segments.json", tmp_path).read_text())
    table = tables_of(evaluated)["segments"]
    assert written["columns"] == list(table)
    assert len(written["data"]) == len(table)
    assert "side" not in {row[2] for row in written["data"]}
    assert client.get_run(run_id).data.tags[UNDERPERFORMING] == str(len(underperforming_segments(evaluated)))


# --- logs without tables or times, other models ----------------------------------------------------------


def test_without_tables_of_items_and_users_their_segments_and_metrics_are_left_out(world):
    (job, histories, trained, _), _ = world
    evaluated = evaluate_model(job, histories, trained)
    assert list(dict.fromkeys(segments_table(evaluated, NDCG)["segment"])) == [
        "all users", "history_length", "activity", "popularity_group",
    ]  # fmt: skip
    columns = set(pd.read_parquet(evaluated / "challenger.parquet"))
    assert {"novelty_at_10", "popularity_lift_at_10"} <= columns
    assert not [name for name in columns if name.startswith(("diversity", "miscalibration"))]
    assert set(tables_of(evaluated)) == {"segments", "exposure", "popularity_groups"}


def test_without_times_there_is_no_segment_of_activity(tmp_path):
    evaluated = evaluate_model(*prepare_stages(write_world(tmp_path), tmp_path / "home", "interactions.datetime=order"))
    assert list(dict.fromkeys(segments_table(evaluated, NDCG)["segment"])) == [
        "all users", "history_length", "popularity_group", "side",
    ]  # fmt: skip


def test_the_champion_is_evaluated_with_the_segments_of_the_log(world):
    (job, histories, trained, _), _ = world
    champion = Version("sides", "1", "no run", {TRAIN_KEY: read_json(trained / "manifest.json")["key"]})
    evaluated = evaluate_champion(job, histories, champion, tracker_of(job))
    tables = tables_of(evaluated)
    assert set(tables["segments"]["model"]) == {"champion"}
    assert "history_length" in set(tables["segments"]["segment"])
    champion_metrics = read_json(evaluated / "metrics.json")["champion"]["metrics"]
    assert champion_metrics["novelty_at_10"] > 0


def test_a_model_without_recommendations_is_evaluated_and_recorded(new_home, tmp_path, monkeypatch):
    def without_lists(evaluation, *rest, **settings):
        evaluation.lists[:] = 0
        return measure_beyond_accuracy(evaluation, *rest, **settings)

    monkeypatch.setattr("attnrec_pipelines.stages.evaluate.measure_beyond_accuracy", without_lists)
    job, histories, trained, log = prepare_stages(write_world(tmp_path), new_home)
    evaluated = evaluate_model(job, histories, trained, log)
    assert [len(table) for table in tables_of(evaluated).values()][1:] == [0, 0]
    run_id = record_run(job, histories, trained, evaluated)
    figures = {file.path for file in MlflowClient(job.home.tracking_uri).list_artifacts(run_id, "figures")}
    assert "figures/segments.png" in figures
    assert "figures/exposure.png" not in figures


# --- MLflow, warnings and terminal ------------------------------------------------------------------------


def test_the_description_of_the_run_names_underperforming_segments(recorded, world):
    client, run_id = recorded
    run = client.get_run(run_id)
    assert run.data.tags[UNDERPERFORMING] == "1"
    description = run.data.tags[DESCRIPTION]
    (sentence,) = underperforming_segments(world[1])
    assert "**Underperforming segments:**" in description
    assert f"- {sentence}" in description.splitlines()
    assert "Training: best epoch" in description.splitlines()[-1]
    assert "[segments](#/experiments/" in description.splitlines()[2]


def test_the_run_has_metrics_tables_and_figures(recorded, world, tmp_path):
    client, run_id = recorded
    metrics = client.get_run(run_id).data.metrics
    evaluated = read_json(world[1] / "metrics.json")["challenger"]["metrics"]
    assert metrics["test/novelty_at_10"] == evaluated["novelty_at_10"]
    assert metrics["main/ndcg_at_10"] == evaluated["ndcg_at_10"]
    assert len(metrics) <= 25
    assert len(client.get_run(run_id).data.params) <= 15
    for name, table in tables_of(world[1]).items():
        written = json.loads(artifact(client, run_id, f"tables/{name}.json", tmp_path).read_text())
        assert written["columns"] == list(table)
        assert len(written["data"]) == len(table)
    for name in ("segments", "exposure"):
        assert artifact(client, run_id, f"figures/{name}.png", tmp_path).read_bytes().startswith(b"\x89PNG")
    files = {file.path for file in client.list_artifacts(run_id, "evaluation")}
    assert "evaluation/segments.parquet" in files


def test_the_task_logs_one_warning_per_underperforming_segment(world, monkeypatch):
    arguments, evaluated = world
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    shown: dict[str, list] = {}
    monkeypatch.setattr(
        "attnrec_pipelines.flows.tasks.show_table", lambda name, rows, description: shown.update({name: rows})
    )
    logger = logging.getLogger("attnrec_pipelines.flows.tasks")
    logger.addHandler(handler)
    try:
        evaluate_task.fn(*arguments)
    finally:
        logger.removeHandler(handler)
    assert warnings == [f"popularity: {sentence}" for sentence in underperforming_segments(evaluated)]
    assert [row["group"] for row in shown["sides-segments"] if row["underperforming"] == "True"] == ["west"]


def test_the_terminal_shows_a_yellow_line_per_underperforming_segment(world):
    (_, _, trained, _), evaluated = world
    out = StringIO()
    print_metrics(Console(file=out, force_terminal=True, color_system="standard", width=80), trained, evaluated)
    (sentence,) = underperforming_segments(evaluated)
    yellow = [line for line in out.getvalue().splitlines() if line.startswith("\x1b[33m")]
    assert len(yellow) == 1
    assert sentence in yellow[0]


def test_segments_after_the_tenth_are_only_counted():
    sentences = [f"group {n}" for n in range(12)]
    assert shorten(sentences[:10]) == sentences[:10]
    assert shorten(sentences) == [*sentences[:10], "and 2 more segments"]
    assert shorten([]) == []


def test_flows_pass_the_tables_of_the_log_to_the_evaluation(new_home, tmp_path, in_this_process):
    _, evaluated = train_flow(str(write_world(tmp_path)), (), str(new_home))
    assert "side" in set(segments_table(evaluated, NDCG)["segment"])
    assert "miscalibration_kind (shop)_at_10" in pd.read_parquet(evaluated / "challenger.parquet")
