"""The command in a terminal: what it prints, and one clear line and exit code 2 for what a person can mend."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from attnrec.faithfulness import DEFAULT_METHODS, measure
from attnrec.models import build_model, model_config
from attnrec.models.saved_model import SavedModel, load_model, save_model

ROOT = Path(__file__).parents[3]


def attnrec(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would, from any folder."""
    script = Path(sys.executable).with_name("attnrec")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW"))}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [str(script), *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    last = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(last) == 1, done.stderr
    for word in words:
        assert word in last[0]


@pytest.fixture
def run_command(first_day, monkeypatch, capsys):
    """Runs the command in this process, which is quicker, as `attnrec` does."""
    from attnrec_pipelines.cli.app import main

    def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["attnrec", *map(str, arguments)])
        # the command sets it for its own process
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{first_day[1] / 'mlflow.db'}")
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), told.out, told.err)

    return ask


def test_help_names_every_command(tmp_path):
    done = attnrec("--help", cwd=tmp_path)
    assert done.returncode == 0
    commands = ["daily", "ingest", "train", "score", "sample", "recommend", "explain", "models", "ui"]
    for command in [*commands, "faithfulness", "report"]:
        assert f" {command} " in done.stdout
        told = attnrec(command, "--help", cwd=tmp_path)
        assert told.returncode == 0
        assert "Usage: attnrec " + command in told.stdout


def test_models_tells_kinds_papers_and_whether_reasons_are_exact():
    done = attnrec("models")
    for word in ("sasrec", "gat", "item_knn", "popularity", "arXiv:1808.09781", "exact", "masked_items", "recurrence"):
        assert word in done.stdout


def test_one_model_is_told_with_its_settings():
    done = attnrec("models", "bert4rec")
    assert re.search(r"objective +│ \"masked_items\" +│ preset", done.stdout)
    assert "pre-norm for post-norm" in done.stdout
    assert_one_clear_line(attnrec("models", "bertrec"), "model must be one of", "'bert4rec'", "got 'bertrec'")


def test_models_are_compared_in_a_terminal_and_what_cannot_be_is_said_at_once(tmp_path):
    home = ("--home", tmp_path / "home")
    arguments = ("train", "smoke", "--set", "train.epochs=1", "--set", "train.max_minutes=1", *home)
    done = attnrec(*arguments, "--over", "model=popularity,item_knn")
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if re.search(r"│ (popularity|item_knn) +│", line)]
    assert len(told) == 2
    assert "best" in told[0]
    assert re.search(r"full table and figures: \S+compare-", done.stdout)
    assert_one_clear_line(attnrec(*arguments, "--over", "model=lstm"), "--over model=lstm", "sasrec")
    assert_one_clear_line(attnrec("train", "smoke", *home, "--over", "model=gat"), "--minutes")


def test_sample_writes_a_log_and_its_truth(tmp_path):
    done = attnrec("sample", tmp_path / "log", "--users", 20, "--items", 30, "--pairs", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "log").iterdir()) == [
        "effects.csv", "interactions.csv", "items.csv", "truth.csv",
    ]  # fmt: skip
    assert len(pd.read_csv(tmp_path / "log" / "effects.csv")) == 5
    assert_one_clear_line(
        attnrec("sample", tmp_path / "log", "--items", 10), "n_items must be at least 2 * n_pairs + 1"
    )


def test_the_committed_sample_is_what_the_command_writes(tmp_path):
    attnrec("sample", tmp_path, "--users", 400)
    for file in sorted((ROOT / "data" / "sample").iterdir()):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name
    assert sum(file.stat().st_size for file in (ROOT / "data" / "sample").iterdir()) < 1_000_000


def test_recommend_and_explain_tell_the_same_score(first_day, tmp_path):
    _, home, _ = first_day
    done = attnrec("recommend", "--user", "user-0003", "-k", 2, "--home", home, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "user-0003" in line)
    _, _, _, item, score, because, _ = (cell.strip() for cell in row.split("│"))
    assert "popularity" in because
    picture = tmp_path / "why.png"
    told = attnrec("explain", "--user", "user-0003", "--item", item, "--home", home, "--plot", picture)
    assert told.returncode == 0, told.stderr
    assert float(re.search(rf"{item}: score (\S+)", told.stdout)[1]) == pytest.approx(float(score), abs=0.006)
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recommend", "--user", "nobody"], ["'nobody' has no history"]),
        (["explain", "--user", "user-0003", "--item", "nothing"], ["'nothing' is not in the model's catalogue"]),
        (["recommend", "--user", "user-0003", "--model", "no/such/folder"], ["a model folder needs config.json"]),
    ],
)
def test_queries_that_cannot_be_answered(first_day, arguments, words):
    _, home, _ = first_day
    assert_one_clear_line(attnrec(*arguments, "--home", home), *words)


def test_queries_before_the_first_run(tmp_path):
    for arguments in (["recommend", "--user", "a"], ["explain", "--user", "a", "--item", "b"], ["ui"]):
        home = tmp_path / arguments[0]
        assert_one_clear_line(attnrec(*arguments, "--home", home), "attnrec daily EXPERIMENT")
        assert not home.exists()  # a query leaves no files


def test_nothing_is_measured_or_shown_before_the_first_run(run_command, tmp_path):
    for command in ("faithfulness", "report"):
        assert_one_clear_line(run_command(command, "--home", tmp_path), "attnrec daily EXPERIMENT")


# --- whether reasons are true, and the page -------------------------------------------------------------


@pytest.fixture
def showing_all(first_day, tmp_path):
    """A home as it is after a run whose experiment says score.filter_viewed = false."""
    _, home, _ = first_day
    current = json.loads((home / "current.json").read_text()) | {"filter_viewed": False}
    paths = {name: str(home / current[name]) for name in ("histories", "model", "recommendations")}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "current.json").write_text(json.dumps(current | paths))
    return tmp_path / "home"


def test_faithfulness_tells_every_method_and_what_follows(run_command, first_day, tmp_path):
    _, home, _ = first_day
    table, picture = tmp_path / "new folder" / "methods.csv", tmp_path / "other" / "curves.png"
    done = run_command("faithfulness", "--users", 12, "--table", table, "--plot", picture, "--home", home)
    assert done.returncode == 0, done.stderr
    summary = pd.read_csv(table).set_index("method")
    assert tuple(summary.index) == DEFAULT_METHODS
    assert set(summary["n_users"]) == {12}
    for method, row in summary.iterrows():
        assert re.search(rf"^ {method} +{row['pos_at_5']:.3f} +{row['neg_at_5']:.3f} ", done.stdout, re.MULTILINE)
    said = next(line for line in done.stdout.splitlines() if line.startswith("contributions "))
    assert f"pos_at_5 {summary['pos_at_5']['contribution']:.3f} against " in said
    assert said.endswith("12 users")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert max(len(line) for line in done.stdout.splitlines() if line.startswith(" ")) <= 80


def test_methods_that_a_model_cannot_do_are_named(run_command, first_day, tmp_path):
    _, home, _ = first_day
    served = load_model(home / json.loads((home / "current.json").read_text())["model"])
    settings = {"dim": 16, "layers": 1, "max_length": 30, "readout": "last"}
    model = build_model(model_config("attnrec", settings), len(served.model.rankable) - 1)
    model.rankable = served.model.rankable
    (tmp_path / "last").mkdir()
    save_model(SavedModel(model, served.item_ids), tmp_path / "last")
    done = run_command(
        "faithfulness", tmp_path / "last", "--methods", "contribution, random", "--users", 5, "--home", home
    )
    assert done.returncode == 0, done.stderr
    assert "skipped: contribution needs " in done.stdout
    assert "attnrec-last-d16-L30 has no exact contributions: contribution needs " in done.stdout
    assert re.search(r"^ random +\d", done.stdout, re.MULTILINE)
    assert not re.search(r"^ contribution +\d", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["faithfulness", "--methods", "contribution,magic"], ["methods: each must be one of", "take 'magic' out"]),
        (["faithfulness", "--methods", "recency"], ["for a verdict", "add contribution and random"]),
        (["faithfulness", "--plot", "curves.txt"], ["a figure is saved as .png, .svg, .pdf", "got 'curves.txt'"]),
        (["faithfulness", "no/such/folder"], ["a model folder needs config.json"]),
        (["report", "--user", "nobody"], ["users must be some of those recommended to, got 'nobody'"]),
    ],
)
def test_what_cannot_be_measured_or_shown(run_command, first_day, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert_one_clear_line(run_command(*arguments, "--home", first_day[1]), *words)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_measured_is_said_before_training(run_command, first_day, tmp_path):
    wrong = ("--set", 'faithfulness.methods=["random"]', "--home", tmp_path / "home")
    for command in ("daily", "train"):
        assert_one_clear_line(run_command(command, first_day[0], *wrong), "faithfulness.methods: ", "add contribution")
    assert not (tmp_path / "home").exists()


def test_a_place_that_is_a_folder_is_refused_before_anything_is_computed(run_command, first_day, tmp_path):
    for arguments in (["report", "--to"], ["faithfulness", "--table"], ["report"]):
        place = tmp_path / "not there" if arguments == ["report"] else tmp_path
        done = run_command(*arguments, place, "--home", first_day[1])
        assert done.returncode == 2
        assert "Invalid value for" in done.stderr


def test_report_writes_the_page_that_the_run_wrote(run_command, first_day, tmp_path):
    _, home, first = first_day
    done = run_command("report", "--to", tmp_path / "new" / "page.html", "--home", home)
    assert done.returncode == 0, done.stderr
    assert f"100 of 150 users in {tmp_path / 'new' / 'page.html'} (0." in done.stdout
    assert (tmp_path / "new" / "page.html").read_bytes() == first.page.read_bytes()


def test_report_shows_the_users_that_were_asked_for(run_command, first_day, tmp_path):
    page = tmp_path / "page.html"
    done = run_command("report", "--to", page, "--user", "user-0007", "--user", "user-0003", "--home", first_day[1])
    assert "2 of 150 users" in done.stdout
    assert re.findall(r'\{"id":"(user-\d+)"', page.read_text()) == ["user-0007", "user-0003"]


def test_report_refuses_recommendations_of_another_model(run_command, first_day, tmp_path):
    _, home, first = first_day
    others = pd.read_parquet(first.published)
    others.assign(score=others["score"] + 1).to_parquet(tmp_path / "others.parquet")
    page = tmp_path / "page.html"
    done = run_command("report", tmp_path / "others.parquet", "--to", page, "--home", home)
    assert_one_clear_line(done, "made by another model or other histories")
    assert not page.exists()


def test_questions_leave_out_what_was_seen_only_where_the_run_did(run_command, first_day, showing_all, monkeypatch):
    toml, home, _ = first_day
    log = pd.read_csv(toml.with_name("log.csv"))
    seen = set(log.loc[log["user_id"] == "user-0003", "item_id"])
    given = []
    monkeypatch.setattr("attnrec.faithfulness.measure", lambda *rest, **how: given.append(how) or measure(*rest, **how))
    shown = {}
    for place in (home, showing_all):
        done = run_command("recommend", "--user", "user-0003", "-k", 60, "--home", place)
        shown[place] = set(re.findall(r"^│[^│]*│ *\d+ *│ ([^│]+?) *│", done.stdout, re.MULTILINE))
        run_command("faithfulness", "--users", 3, "--methods", "contribution,random", "--home", place)
    assert [how["filter_viewed"] for how in given] == [True, False]
    assert seen < shown[showing_all]
    assert shown[home] == shown[showing_all] - seen


def test_help_names_the_defaults(run_command):
    """Rich takes words in brackets for markup, and drops them."""
    for command in ("recommend", "faithfulness", "report"):
        told = re.sub(r"[\s│]+", " ", run_command(command, "--help").stdout)
        assert "$ATTNREC_HOME or ./data" in told
        assert {"recommend": "the model that scored last", "faithfulness": "ten methods", "report": "what was"}[
            command
        ] in told


def test_what_is_wrong_with_an_experiment_is_said_before_anything_starts(first_day, tmp_path):
    toml, _, _ = first_day
    home = tmp_path / "home"
    assert_one_clear_line(attnrec("daily", "nothing.toml", "--home", home), "nothing.toml, which does not exist")
    wrong_key = attnrec("train", toml, "--set", "train.epoch=3", "--home", home)
    assert_one_clear_line(wrong_key, "train.epoch: unknown key")
    wrong_path = attnrec("ingest", toml, "--set", "interactions.path=gone.csv", "--home", home)
    assert_one_clear_line(wrong_path, "gone.csv")
    assert_one_clear_line(attnrec("score", toml, "--home", home), "'tiny' has no champion")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", b"user_id,item_id,datetime\n", ["at least one row, got none"]),
        ("nothing.csv", b"", ["nothing.csv"]),
        ("broken.parquet", b"PAR1 this was cut off", ["broken.parquet", "an incomplete file"]),
        ("future.csv", b"user_id,item_id,datetime\na,x,2999-01-01\n", ["datetime in the future"]),
        ("latin.csv", b"user_id,item_id,datetime\na,caf\xe9,2020-01-01\n", ["undecodable text"]),
        ("one.csv", b"user_id,item_id,datetime\na,x,2020-01-01\n", ["a user with two events"]),
    ],
)
def test_a_log_that_cannot_be_used_assert_one_clear_line(first_day, tmp_path, name, content, words):
    toml, _, _ = first_day
    log, home = tmp_path / name, tmp_path / "home"
    log.write_bytes(content)
    done = attnrec("daily", toml, "--set", f"interactions.path={log}", "--home", home)
    assert_one_clear_line(done, *words)
    assert not list(home.glob("stages/.tmp-*"))
    assert not (home / "recommendations").exists()
