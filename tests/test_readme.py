"""The code blocks of the README and of the pages in docs/ run, and print what the pages show."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

from attnrec.experiment import load_experiment

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the code blocks of a page: (language, text)."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page: str, program: str) -> list[str]:
    lines = [line for kind, text in blocks(page) if kind == "bash" for line in text.splitlines()]
    return [line for line in lines if line.startswith(f"{program} ")]


def run_block(page: str, number: int = 0) -> dict:
    """Run a Python block of a page in the checkout, and return its names."""
    matplotlib.use("Agg")
    names: dict = {}
    text = [text for kind, text in blocks(page) if kind == "python"][number]
    exec(compile(text, page, "exec"), names)
    return names


def test_the_readme_has_the_blocks_that_are_tested_here():
    assert [kind for kind, _ in blocks("README.md")] == ["bash", "bash", "python", "text", "toml", "bash"]


def test_the_readme_has_at_most_one_and_a_half_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_python_block_prints_what_the_readme_shows(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run_block("README.md")
    printed, shown = capsys.readouterr().out, dict(blocks("README.md"))["text"]
    assert len(printed.splitlines()) == len(shown.splitlines())
    assert re.search(r"^0 +1 +desk-072", printed, re.MULTILINE)
    assert printed.splitlines()[-1].startswith("because: bike-076 +")


def test_the_warm_start_of_the_guide_carries_the_optimizer_moments(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = run_block("docs/guide.md")
    yesterday, today = names["yesterday"], names["today"]
    assert today.moments["item_scorer.embedding.weight/step"] > yesterday.moments["item_scorer.embedding.weight/step"]
    assert today.features.n_rows == len(today.item_ids) + 1


def test_the_page_on_explanations_shows_a_real_sentence(monkeypatch):
    monkeypatch.chdir(ROOT)
    why = run_block("docs/explanations.md")["why"]
    assert [explanation.item_id for explanation in why] == ["desk-072", "yarn-089"]
    text = next(text for kind, text in blocks("docs/explanations.md") if kind == "python")
    shown = re.search(r'"(because you .*) \(\+', text)
    assert shown is not None
    assert why[0].sentences()[0].startswith(shown[1])


def test_the_experiment_of_the_readme_reads_a_log_with_its_columns(tmp_path):
    text = dict(blocks("README.md"))["toml"]
    settings = tomllib.loads(text)
    (tmp_path / "shop.toml").write_text(text)
    columns = [settings["interactions"][name] for name in ("user_id", "item_id", "datetime")]
    pd.DataFrame([["1", "a", "2026-01-01"]], columns=columns).to_csv(tmp_path / "orders.csv", index=False)
    experiment = load_experiment(tmp_path / "shop.toml")
    assert experiment.name == "shop"
    assert experiment.interactions.path == str(tmp_path / "orders.csv")
    assert experiment.items is not None


@pytest.mark.parametrize("command", commands("README.md", "make"))
def test_make_commands_have_a_target(command):
    dry_run = [*shlex.split(command), "--dry-run"]
    completed = subprocess.run(dry_run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("command", commands("README.md", "pip"))
def test_pip_commands_name_existing_files_and_pins(command):
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for word in shlex.split(command)[2:]:
        assert word.startswith("--") or word in pins or (ROOT / word).exists(), word


def test_the_commands_of_the_guide_run_one_after_the_other(tmp_path):
    for command in commands("docs/guide.md", "attnrec"):
        words = shlex.split(command)
        home = [] if words[1] == "models" else ["--home", str(tmp_path)]
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
        completed = subprocess.run([sys.executable, "-m", "attnrec_pipelines", *words[1:], *home], **options)
        assert completed.returncode == 0, f"{command}\n{completed.stdout}{completed.stderr}"
        assert "Traceback" not in completed.stderr
    assert '"user-0007"' in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
)
def test_relative_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_readme_names_the_lowest_python_version():
    required = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert required
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"Needs Python {required[1]} or newer" in text
