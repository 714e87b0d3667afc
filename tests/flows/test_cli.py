"""The command in a terminal: what it prints, and one clear line and exit code 2 for what a person can mend."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


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


def test_help_names_every_command(tmp_path):
    done = attnrec("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ["daily", "ingest", "train", "score", "sample", "recommend", "explain", "models", "ui"]:
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
    assert re.search(r"objective +│ \"masked_items\" +│ of this kind", done.stdout)
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
    assert re.search(r"the whole table, figures: \S+compare-", done.stdout)
    assert_one_clear_line(attnrec(*arguments, "--over", "model=lstm"), "--over model=lstm", "sasrec")
    assert_one_clear_line(attnrec("train", "smoke", *home, "--over", "model=gat"), "--minutes")


def test_sample_writes_a_log_and_its_truth(tmp_path):
    done = attnrec("sample", tmp_path / "log", "--users", 20, "--items", 30, "--pairs", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "log").iterdir()) == [
        "effects.csv", "interactions.csv", "items.csv", "truth.csv",
    ]  # fmt: skip
    assert len(pd.read_csv(tmp_path / "log" / "effects.csv")) == 5
    assert_one_clear_line(attnrec("sample", tmp_path / "log", "--items", 10), "pairs need 2 items each")


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
    assert "everyone likes it" in because
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
def test_questions_that_cannot_be_answered(first_day, arguments, words):
    _, home, _ = first_day
    assert_one_clear_line(attnrec(*arguments, "--home", home), *words)


def test_questions_before_the_first_run(tmp_path):
    for arguments in (["recommend", "--user", "a"], ["explain", "--user", "a", "--item", "b"], ["ui"]):
        assert_one_clear_line(attnrec(*arguments, "--home", tmp_path), "attnrec daily EXPERIMENT")


def test_what_is_wrong_with_an_experiment_is_said_before_anything_starts(first_day, tmp_path):
    toml, _, _ = first_day
    home = tmp_path / "home"
    assert_one_clear_line(attnrec("daily", "nothing.toml", "--home", home), "nothing.toml, which is not there")
    wrong_key = attnrec("train", toml, "--set", "train.epoch=3", "--home", home)
    assert_one_clear_line(wrong_key, "train.epoch: unknown key")
    wrong_path = attnrec("ingest", toml, "--set", "interactions.path=gone.csv", "--home", home)
    assert_one_clear_line(wrong_path, "gone.csv")
    assert_one_clear_line(attnrec("score", toml, "--home", home), "no champion of 'tiny'")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", b"user_id,item_id,datetime\n", ["at least one row, got none"]),
        ("nothing.csv", b"", ["nothing.csv"]),
        ("broken.parquet", b"PAR1 this was cut off", ["broken.parquet", "not a whole Parquet file"]),
        ("future.csv", b"user_id,item_id,datetime\na,x,2999-01-01\n", ["datetime in the future"]),
        ("latin.csv", b"user_id,item_id,datetime\na,caf\xe9,2020-01-01\n", ["not UTF-8"]),
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
