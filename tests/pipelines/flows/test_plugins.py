"""Plugins: a model and an attention kernel of a user's module, which the experiment names."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

PLUGIN = """
from typing import Literal

import torch

from attnrec.attention import ATTENTION_KERNELS
from attnrec.attention.scaled_dot import ScaledDot
from attnrec.models import ModelConfig, register_model
from attnrec.models.popularity import Popularity


class MyConfig(ModelConfig):
    kind: Literal["my_popularity"] = "my_popularity"
    max_length: int = 10


class MyPopularity(Popularity):
    kind = "my_popularity"
    paper = "a test"


class MyKernel(ScaledDot):
    paper = "a test"


register_model(MyPopularity, MyConfig)
ATTENTION_KERNELS["my_kernel"] = MyKernel
"""


@pytest.fixture
def experiment(tiny_experiment, tmp_path) -> Path:
    toml = tiny_experiment(tmp_path)
    (tmp_path / "my_shop.py").write_text(PLUGIN)
    text = toml.read_text()
    toml.write_text(f'plugins = ["my_shop"]\n{text}')
    return toml


def run(*arguments: object, cwd: Path) -> str:
    """Run the command in a process of its own, which has registered the plugin when it ends."""
    command = [sys.executable, "-m", "attnrec_pipelines", *map(str, arguments)]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_a_model_of_a_user_is_trained_published_and_explained(experiment, new_home, tmp_path):
    text = experiment.read_text()
    start, end = text.index("[model]"), text.index("[train]")
    experiment.write_text(f'{text[:start]}[model]\nkind = "my_popularity"\n{text[end:]}')
    run("daily", experiment, "--set", "faithfulness.n_users=8", "--home", new_home, cwd=tmp_path)
    frame = pd.read_parquet(new_home / "recommendations" / "tiny" / "current")
    assert frame["user_id"].nunique() == 150
    user, item = frame["user_id"].iloc[0], frame["item_id"].iloc[0]
    assert f"{item}: score " in run("explain", "--user", user, "--item", item, "--home", new_home, cwd=tmp_path)


def test_an_attention_kernel_of_a_user_is_trained(experiment, new_home, tmp_path):
    changes = ("--set", "model.attention=my_kernel", "--set", "train.epochs=1", "--set", "faithfulness.n_users=0")
    run("train", experiment, *changes, "--home", new_home, cwd=tmp_path)
    assert list(new_home.glob("stages/train-*/model/weights.safetensors"))


def test_a_plugin_that_cannot_be_imported_is_an_error_of_one_line(experiment, run_command, tmp_path):
    experiment.write_text(experiment.read_text().replace("my_shop", "no_such_shop"))
    process = run_command("daily", experiment, "--home", tmp_path / "home")
    assert process.returncode == 2
    (error,) = (line for line in process.stderr.splitlines() if line.startswith("error:"))
    assert "no_such_shop" in error
    assert "Traceback" not in process.stderr
