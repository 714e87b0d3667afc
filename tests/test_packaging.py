"""The wheel: the packages attnrec and attnrec_pipelines, the command, the experiments, and nothing else."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Build the wheel from a copy, so that no build files are left in the checkout."""
    copy = tmp_path_factory.mktemp("copy")
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    for name in files:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--wheel-dir", str(copy / "out")]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(copy)]
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    if build.returncode and "setuptools" in build.stderr:
        pytest.skip("needs a package index for the build's own setuptools")
    assert build.returncode == 0, build.stderr
    return zipfile.ZipFile(next((copy / "out").glob("attnrec-*.whl")))


def test_only_attnrec_and_attnrec_pipelines_are_installed(wheel):
    folders = {name.split("/")[0] for name in wheel.namelist()}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"attnrec", "attnrec_pipelines"}


def test_every_package_of_the_checkout_is_named_in_pyproject():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    library = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("attnrec/**/__init__.py")}
    flows = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("pipelines/**/__init__.py")}
    assert sorted(named) == sorted(library | {f"attnrec_{name}" for name in flows})


def test_experiments_deployment_and_type_marker_are_installed(wheel):
    names = set(wheel.namelist())
    experiments = {path.name for path in (ROOT / "pipelines/experiments").glob("*.toml")}
    assert {f"attnrec_pipelines/experiments/{name}" for name in experiments} <= names
    assert {"attnrec_pipelines/prefect.yaml", "attnrec/py.typed", "attnrec_pipelines/py.typed"} <= names
    assert {"attnrec/report/page.html", "attnrec/report/page.css", "attnrec/report/page.js"} <= names


def test_the_command_is_installed(wheel):
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "attnrec = attnrec_pipelines.cli.app:main" in wheel.read(entry).decode()
