"""Every block of the README runs, and says what the README says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


def test_the_readme_has_the_blocks_that_are_tested_here():
    assert [kind for kind, _ in BLOCKS] == ["bash", "bash", "python", "text", "python", "bash", "python", "bash"]


def test_the_python_block_prints_what_the_readme_shows(monkeypatch, capsys):
    matplotlib.use("Agg")
    monkeypatch.chdir(ROOT)
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    said, shown = capsys.readouterr().out, dict(BLOCKS)["text"]
    assert len(said.splitlines()) == len(shown.splitlines())
    assert re.search(r"^0 +1 +desk-072", said, re.MULTILINE)
    assert said.splitlines()[-1].startswith("because: bike-076 +")


def test_the_second_python_block_goes_on_from_an_earlier_model(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(PYTHON[1], "README.md", "exec"), names)
    yesterday, today = names["yesterday"], names["today"]
    assert today.moments["item_scorer.embedding.weight/step"] > yesterday.moments["item_scorer.embedding.weight/step"]
    assert today.features.n_rows == len(today.item_ids) + 1


def test_the_third_python_block_explains(monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(PYTHON[2], "README.md", "exec"), names)
    why = names["why"]
    assert [one.item_id for one in why] == ["desk-072", "yarn-089"]
    said = re.search(r'"(because you interacted with .*) \(\+', PYTHON[2])[1]
    assert why[0].sentences()[0].startswith(said)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_commands_have_a_target(command):
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("pip ")])
def test_pip_commands_name_files_and_pins_that_are_here(command):
    words = shlex.split(command)[2:]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for word in words:
        assert word.startswith("--") or word in pins or (ROOT / word).exists(), word


def test_attnrec_commands_run_one_after_the_other(tmp_path):
    commands = [line for line in COMMANDS if line.startswith("attnrec ")]
    assert len(commands) == 7
    for command in commands:
        words = shlex.split(command)
        home = [] if words[1] == "models" else ["--home", str(tmp_path)]
        done = subprocess.run(
            [sys.executable, "-m", "attnrec_pipelines", *words[1:], *home],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
    assert '"user-0007"' in (tmp_path / "report.html").read_text()


def test_the_python_that_is_named_is_the_lowest_one_allowed():
    wanted = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted
    assert f"Needs Python {wanted[1]} or newer" in (ROOT / "README.md").read_text()
