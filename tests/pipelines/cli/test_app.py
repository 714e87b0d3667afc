"""The command `attnrec`: help, logging, and errors as one line with exit code 2."""

import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from attnrec import __version__
from attnrec.models import MODELS
from attnrec_pipelines.builtin import builtin_experiments

ROOT = Path(__file__).parents[3]
COMMANDS = (
    *("daily", "ingest", "train", "score"),
    *("recommend", "explain", "report", "faithfulness"),
    *("models", "sample", "ui"),
)


def assert_one_error(process: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check the exit code, and that the message with these words is printed once, without a traceback."""
    assert process.returncode == 2, process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, process.stderr
    assert process.stderr.count(errors[0].removeprefix("error: ")) == 1, process.stderr
    for word in words:
        assert word in errors[0]


# --- help ---------------------------------------------------------------------------------------------------


def test_help_lists_every_command(run_command):
    text = run_command("--help").stdout
    for command in COMMANDS:
        assert f" {command} " in text
        assert re.search(rf"Usage: .* {command} ", run_command(command, "--help").stdout)


def test_help_shows_the_defaults(run_command):
    """Rich would take words in brackets for markup and drop them."""
    defaults = [
        ("recommend", "the model that scored last"),
        ("faithfulness", "ten methods"),
        ("report", "what was published"),
    ]
    for command, default in defaults:
        text = re.sub(r"[\s│]+", " ", run_command(command, "--help").stdout)
        assert "$ATTNREC_HOME or ./data" in text
        assert default in text


@pytest.mark.parametrize("command", ["daily", "ingest", "train", "score"])
def test_help_of_a_flow_lists_each_built_in_experiment_in_a_line(run_command, command):
    text = run_command(command, "--help", width=160).stdout.partition("Built-in experiments:")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines == [f"{name}: {description}" for name, description in builtin_experiments().items()]


def test_the_version_is_that_of_the_package(run_command):
    process = run_command("--version")
    assert (process.returncode, process.stdout) == (0, f"attnrec {__version__}\n")


# --- models and sample --------------------------------------------------------------------------------------


def test_models_lists_kinds_with_papers_and_whether_reasons_are_exact(run_command):
    text = run_command("models", width=80).stdout
    assert re.search(r"^sasrec +attention +next_item +[\d,]+ none +Kang & McAuley 2018", text, re.MULTILINE)
    assert re.search(r"^item_knn +baseline +counts +0 exact +Sarwar et al. 2001", text, re.MULTILINE)
    kinds = {line.split()[0] for line in text.splitlines() if line.split()}
    assert kinds >= MODELS.keys()
    assert max(map(len, text.splitlines())) <= 80


def test_models_shows_the_settings_of_one_kind(run_command):
    text = run_command("models", "bert4rec").stdout
    assert re.search(r"^ objective +\"masked_items\" +preset", text, re.MULTILINE)
    assert "pre-norm instead of post-norm" in text
    assert text.startswith("bert4rec: Sun et al. 2019, arXiv:1904.06690\n")
    assert_one_error(run_command("models", "bertrec"), "model must be one of", "got 'bertrec'; did you mean bert4rec?")


def test_sample_writes_a_log_with_its_true_causes(run_command, tmp_path):
    process = run_command("sample", tmp_path / "log", "--users", 20, "--items", 30, "--pairs", 5)
    assert process.returncode == 0, process.stderr
    assert sorted(file.name for file in (tmp_path / "log").iterdir()) == [
        "effects.csv", "interactions.csv", "items.csv", "truth.csv",
    ]  # fmt: skip
    assert len(pd.read_csv(tmp_path / "log" / "effects.csv")) == 5
    assert_one_error(run_command("sample", tmp_path / "log", "--items", 10), "n_items must be at least 2 * n_pairs + 1")


def test_the_committed_sample_is_what_the_command_writes(run_command, tmp_path):
    run_command("sample", tmp_path, "--users", 400)
    for file in sorted((ROOT / "data" / "sample").iterdir()):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name
    assert sum(file.stat().st_size for file in (ROOT / "data" / "sample").iterdir()) < 1_000_000


# --- errors -------------------------------------------------------------------------------------------------


def test_an_invalid_experiment_is_an_error_before_anything_starts(run_command, tmp_path, tiny_experiment):
    toml, home = tiny_experiment(tmp_path / "experiment"), ("--home", tmp_path / "home")
    assert_one_error(run_command("daily", "nothing.toml", *home), "nothing.toml, which does not exist")
    assert_one_error(run_command("train", toml, "--set", "train.epoch=3", *home), "train.epoch: unknown key")
    assert_one_error(run_command("ingest", toml, "--set", "interactions.path=gone.csv", *home), "gone.csv")
    for command in ("daily", "train"):
        process = run_command(command, toml, "--set", 'faithfulness.methods=["random"]', *home)
        assert_one_error(process, "faithfulness.methods: ", "add contribution")
    assert not list((tmp_path / "home").glob("stages/*"))


def test_an_invalid_comparison_is_an_error_before_anything_starts(run_command, tmp_path, tiny_experiment):
    arguments = ("train", tiny_experiment(tmp_path / "experiment"), "--home", tmp_path / "home", "--over")
    assert_one_error(run_command(*arguments, "model=lstm", "--minutes", 1), "--over model=lstm", "sasrec")
    assert_one_error(run_command(*arguments, "model=gat"), "set train.max_minutes or give --minutes")
    assert not list((tmp_path / "home").glob("stages/*"))


def test_scoring_without_a_champion_is_an_error(run_command, first_day, new_home):
    process = run_command("score", first_day[0], "--set", "tracking.registered_model=other", "--home", new_home)
    assert_one_error(process, "'other' has no champion", "run `attnrec daily` first")


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
def test_an_unusable_log_is_an_error_and_leaves_no_partial_stage(
    run_command, first_day, new_home, in_this_process, tmp_path, name, content, words
):
    log = tmp_path / name
    log.write_bytes(content)
    process = run_command("daily", first_day[0], "--set", f"interactions.path={log}", "--home", new_home)
    assert_one_error(process, *words)
    assert not list(new_home.glob("stages/.tmp-*"))
    assert not (new_home / "recommendations").exists()


def test_a_registry_that_does_not_respond_is_an_error_of_one_line(run_command, first_day, new_home, monkeypatch):
    def fail(*arguments):
        raise MlflowException("API request failed: connection refused")

    monkeypatch.setattr("attnrec_pipelines.flows.score.score_flow", fail)
    process = run_command("score", first_day[0], "--home", new_home)
    assert_one_error(process, "API request failed: connection refused")


# --- what a terminal shows, in a process of its own -----------------------------------------------------------


def test_a_failed_flow_prints_its_error_once_and_no_line_of_prefect(
    command_in_process_of_its_own, first_day, new_home, tmp_path
):
    log = tmp_path / "future.csv"
    log.write_text("user_id,item_id,datetime\na,x,2999-01-01\n")
    process = command_in_process_of_its_own(
        "daily", first_day[0], "--set", f"interactions.path={log}", "--home", new_home
    )
    assert_one_error(process, "datetime in the future")
    assert process.stdout == ""
    assert not re.search("[Ff]low run|Task run", process.stderr)


def test_stage_lines_go_to_stderr_and_verbose_adds_the_lines_of_prefect(
    command_in_process_of_its_own, first_day, new_home
):
    process = command_in_process_of_its_own("ingest", first_day[0], "--verbose", "--home", new_home)
    assert process.returncode == 0, process.stderr
    assert re.search(r"^ingest +\d+\.\d s  2,273 rows read, 2,273 accepted, 0 rejected$", process.stderr, re.MULTILINE)
    assert re.search(r"^histories +\d+\.\d s  150 users, 60 items, 2,273 events$", process.stderr, re.MULTILINE)
    assert "Flow run" in process.stderr
    assert "Task run" in process.stderr
    assert process.stdout.startswith("2,273 rows read, 2,273 accepted, 0 rejected; ")
