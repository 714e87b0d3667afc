"""Built-in experiments: listed where their data is, and runnable from any folder."""

import subprocess
import sys

import pytest

from attnrec.experiment import ExperimentError, load_experiment
from attnrec_pipelines import builtin
from attnrec_pipelines.builtin import builtin_experiments, builtin_path


def test_synthetic_experiments_are_listed_everywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert {"demo", "smoke"} <= builtin_experiments().keys()


def test_an_experiment_is_listed_only_if_its_data_exists(monkeypatch, tmp_path):
    (tmp_path / "with-data.toml").write_text('# With data.\n[interactions]\npath = "log.csv"\n')
    (tmp_path / "without.toml").write_text('# Without data.\n[interactions]\npath = "missing.csv"\n')
    (tmp_path / "log.csv").write_text("user_id,item_id,datetime\n")
    monkeypatch.setattr(builtin, "FOLDER", tmp_path)
    assert builtin_experiments() == {"with-data": "With data."}


def test_every_built_in_experiment_has_a_description_of_one_sentence():
    for path in builtin.FOLDER.glob("*.toml"):
        first_line = path.read_text(encoding="utf-8").partition("\n")[0]
        assert first_line.startswith("# "), path
        assert first_line.endswith("."), path


def test_a_sample_is_written_once_and_read_as_interactions_and_items(tmp_path):
    experiment = load_experiment(builtin_path("smoke"), samples=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert experiment.interactions.path == str(folder / "interactions.csv")
    assert experiment.items is not None
    written = (folder / "interactions.csv").stat().st_mtime_ns
    assert load_experiment(builtin_path("smoke"), samples=tmp_path) == experiment
    assert (folder / "interactions.csv").stat().st_mtime_ns == written


def test_a_sample_and_a_log_exclude_each_other(tmp_path):
    (tmp_path / "both.toml").write_text('[sample]\n[interactions]\npath = "log.csv"\n')
    with pytest.raises(ExperimentError, match=r"\[sample\] replaces \[interactions\] and \[items\].*remove one"):
        load_experiment(tmp_path / "both.toml", samples=tmp_path)


def test_a_package_of_the_user_called_pipelines_is_not_imported(tmp_path):
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('this is the package of the user')\n")
    command = [sys.executable, "-m", "attnrec_pipelines", "daily", "--help"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "smoke: " in process.stdout
