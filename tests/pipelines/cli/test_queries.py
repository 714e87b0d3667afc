"""Commands that query the results of a daily run: recommend, explain, faithfulness, report."""

import json
import re
import subprocess

import pandas as pd
import pytest

from attnrec.faithfulness import DEFAULT_METHODS, measure
from attnrec.models import build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, save_model
from attnrec.storage import read_json, write_json


def assert_one_error(process: subprocess.CompletedProcess[str], *words: str) -> None:
    assert process.returncode == 2, process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr
    (error,) = (line for line in process.stderr.splitlines() if line.startswith("error:"))
    for word in words:
        assert word in error


def recommended(process: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return rank, item, score and largest reasons of each row that `attnrec recommend` printed."""
    assert process.returncode == 0, process.stderr
    rows = [re.split(r"\s{2,}", line.strip()) for line in process.stdout.splitlines()]
    return [row[-4:] for row in rows if len(row) >= 4 and row[-4].isdigit()]


@pytest.fixture
def home_with_viewed_items(first_day, tmp_path):
    """Make a home as after a run with score.filter_viewed = false."""
    _, home, _ = first_day
    current = read_json(home / "current.json") | {"filter_viewed": False, "report_inputs": {}}
    paths = {name: str(home / current[name]) for name in ("histories", "model", "recommendations")}
    (tmp_path / "home").mkdir()
    write_json(tmp_path / "home" / "current.json", current | paths)
    return tmp_path / "home"


# --- recommend and explain ----------------------------------------------------------------------------------


def test_explain_shows_the_score_and_the_reasons_of_recommend(run_command, first_day, tmp_path):
    home = ("--home", first_day[1])
    rows = recommended(run_command("recommend", "--user", "user-0003", "-k", 2, *home))
    assert [rank for rank, *_ in rows] == ["1", "2"]
    _, item, score, reasons = rows[0]
    figure = tmp_path / "new folder" / "reasons.png"
    process = run_command("explain", "--user", "user-0003", "--item", item, "--plot", figure, *home)
    assert process.returncode == 0, process.stderr
    assert float(re.search(rf"{item}: score (\S+)", process.stdout)[1]) == pytest.approx(float(score), abs=0.006)
    for reason in reasons.split(", "):
        assert reason in process.stdout.splitlines()[-2], "the sentence below the table"
    assert process.stdout.splitlines()[-1] == f"figure: {figure}"
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_viewed_items_are_excluded_only_if_the_run_excluded_them(
    run_command, first_day, home_with_viewed_items, monkeypatch
):
    toml, home, _ = first_day
    log = pd.read_csv(toml.with_name("log.csv"))
    viewed = set(log.loc[log["user_id"] == "user-0003", "item_id"])
    measured = []
    monkeypatch.setattr(
        "attnrec.faithfulness.measure", lambda *rest, **options: measured.append(options) or measure(*rest, **options)
    )
    items = {}
    for folder in (home, home_with_viewed_items):
        rows = recommended(run_command("recommend", "--user", "user-0003", "-k", 60, "--home", folder))
        items[folder] = {item for _, item, *_ in rows}
        run_command("faithfulness", "--users", 3, "--methods", "contribution,random", "--home", folder)
    assert [options["filter_viewed"] for options in measured] == [True, False]
    assert viewed < items[home_with_viewed_items]
    assert items[home] == items[home_with_viewed_items] - viewed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recommend", "--user", "nobody"], ["'nobody' has no history"]),
        (["explain", "--user", "user-0003", "--item", "nothing"], ["'nothing' is not in the model's catalogue"]),
        (["recommend", "--user", "user-0003", "--model", "no/such/folder"], ["a model folder needs config.json"]),
        (["faithfulness", "--methods", "contribution,magic"], ["methods: each must be one of", "remove 'magic'"]),
        (["faithfulness", "--methods", "recency"], ["for a verdict", "add contribution and random"]),
        (["faithfulness", "--plot", "curves.txt"], ["a figure is saved as .png, .svg, .pdf", "got 'curves.txt'"]),
        (["faithfulness", "no/such/folder"], ["a model folder needs config.json"]),
        (["report", "--user", "nobody"], ["users must be in the recommendations, got 'nobody'"]),
    ],
)
def test_an_invalid_query_is_an_error_and_writes_no_file(
    run_command, first_day, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert_one_error(run_command(*arguments, "--home", first_day[1]), *words)
    assert not list(tmp_path.iterdir())


def test_a_query_before_the_first_run_is_an_error_and_creates_no_home(run_command, tmp_path):
    for arguments in (
        ["recommend", "--user", "a"],
        ["explain", "--user", "a", "--item", "b"],
        ["faithfulness"],
        ["report"],
        ["ui"],
    ):
        home = tmp_path / arguments[0]
        assert_one_error(run_command(*arguments, "--home", home), "run `attnrec daily EXPERIMENT` or give --home")
        assert not home.exists()


# --- faithfulness -------------------------------------------------------------------------------------------


def test_faithfulness_shows_every_method_and_the_verdict(run_command, first_day, tmp_path):
    _, home, _ = first_day
    table, figure = tmp_path / "new folder" / "methods.csv", tmp_path / "other" / "curves.png"
    options = ("--users", 12, "--table", table, "--plot", figure, "--home", home)
    process = run_command("faithfulness", *options, width=80)
    assert process.returncode == 0, process.stderr
    summary = pd.read_csv(table).set_index("method")
    assert tuple(summary.index) == DEFAULT_METHODS
    assert set(summary["n_users"]) == {12}
    for method, row in summary.iterrows():
        assert re.search(rf"^ {method} +{row['pos_at_5']:.3f} +{row['neg_at_5']:.3f} ", process.stdout, re.MULTILINE)
    verdict = next(line for line in process.stdout.splitlines() if line.startswith("contributions "))
    assert f" in pos@5 (lower is better): {summary['pos_at_5']['contribution']:.3f}, " in verdict
    assert "; 12 users, level 0.01" in verdict
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert max(len(line) for line in process.stdout.splitlines() if line.startswith(" ")) <= 80


def test_faithfulness_names_methods_that_the_model_does_not_support(run_command, first_day, tmp_path):
    _, home, _ = first_day
    served = load_model(home / read_json(home / "current.json")["model"])
    settings = {"dim": 16, "layers": 1, "max_length": 30, "readout": "last"}
    model = build_model(model_config("attnrec", settings), len(served.model.rankable) - 1)
    model.rankable = served.model.rankable
    (tmp_path / "last").mkdir()
    save_model(SavedModel(model, served.item_ids), tmp_path / "last")
    options = ("--methods", "contribution, random", "--users", 5, "--home", home)
    process = run_command("faithfulness", tmp_path / "last", *options)
    assert process.returncode == 0, process.stderr
    assert "skipped: contribution needs " in process.stdout
    assert "attnrec-last-d16-L30 has no exact contributions: contribution needs " in process.stdout
    assert re.search(r"^ random +\d", process.stdout, re.MULTILINE)
    assert not re.search(r"^ contribution +\d", process.stdout, re.MULTILINE)


def test_an_output_path_that_is_a_folder_is_an_error_before_anything_is_computed(run_command, first_day, tmp_path):
    for arguments in (["report", "--to", tmp_path], ["faithfulness", "--table", tmp_path]):
        process = run_command(*arguments, "--home", first_day[1])
        assert process.returncode == 2
        assert "Invalid value for" in process.stderr


# --- report -------------------------------------------------------------------------------------------------


def test_report_writes_the_same_page_as_the_run(run_command, first_day, tmp_path):
    _, home, first = first_day
    page = tmp_path / "new" / "page.html"
    process = run_command("report", "--to", page, "--home", home)
    assert process.returncode == 0, process.stderr
    assert f"100 of 150 users in {page} (0." in process.stdout
    assert page.read_bytes() == first.page.read_bytes()


def test_report_shows_the_requested_users(run_command, first_day, tmp_path):
    page = tmp_path / "page.html"
    options = ("--to", page, "--user", "user-0007", "--user", "user-0003", "--home", first_day[1])
    assert "2 of 150 users" in run_command("report", *options).stdout
    assert re.findall(r'\{"id":"(user-\d+)"', page.read_text()) == ["user-0007", "user-0003"]


def test_report_refuses_the_recommendations_of_another_model(run_command, first_day, tmp_path):
    _, home, first = first_day
    recommendations = pd.read_parquet(first.published)
    recommendations.assign(score=recommendations["score"] + 1).to_parquet(tmp_path / "others.parquet")
    page = tmp_path / "page.html"
    process = run_command("report", tmp_path / "others.parquet", "--to", page, "--home", home)
    assert_one_error(process, "published scores must match the model", "come from another model or other histories")
    assert not page.exists()


def test_report_of_a_file_that_does_not_exist_is_an_error(run_command, first_day, tmp_path):
    process = run_command("report", tmp_path / "nothing.parquet", "--home", first_day[1])
    assert process.returncode == 2
    assert "Invalid value for" in process.stderr


def test_current_json_names_the_inputs_of_the_queries(first_day):
    """The file is read by `recommend`, `explain`, `faithfulness` and `report`."""
    _, home, first = first_day
    current = json.loads((home / "current.json").read_text())
    assert current["mlflow_experiment"] == "attnrec-tiny"
    assert (current["plugins"], current["filter_viewed"]) == ([], True)
    assert (current["model_version"], current["registered_model"]) == (first.model_version, "tiny")
    assert home / current["histories"] == first.histories
    assert home / current["report_inputs"]["evaluated"] == first.evaluated
    assert (home / current["report_inputs"]["measured"]).is_dir()
