"""A model and an attention kernel of a user's package, named in the experiment, go through the daily flow."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

PLUGIN = '''
"""A recency model: each event adds its age discount to its own item."""
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
'''


@pytest.fixture
def experiment(tiny_experiment, tmp_path) -> Path:
    toml = tiny_experiment(tmp_path)
    (tmp_path / "my_shop.py").write_text(PLUGIN)
    text = toml.read_text()
    toml.write_text(f'plugins = ["my_shop"]\n{text}')
    return toml


def run(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-m", "attnrec_pipelines", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_of_a_user_is_trained_published_and_explained(experiment, tmp_path):
    text = experiment.read_text()
    start, end = text.index("[model]"), text.index("[train]")
    experiment.write_text(f'{text[:start]}[model]\nkind = "my_popularity"\n{text[end:]}')
    home = tmp_path / "home"
    run("daily", experiment, "--home", home, cwd=tmp_path)
    frame = pd.read_parquet(home / "recommendations" / "tiny" / "current")
    assert frame["user_id"].nunique() == 150
    user, item = frame["user_id"].iloc[0], frame["item_id"].iloc[0]
    assert "score" in run("explain", "--user", user, "--item", item, "--home", home, cwd=tmp_path)


def test_an_attention_kernel_of_a_user_is_trained(experiment, tmp_path):
    home = tmp_path / "home"
    changes = ("--set", "model.attention=my_kernel", "--set", "train.epochs=1", "--set", "faithfulness.n_users=0")
    run("train", experiment, *changes, "--home", home, cwd=tmp_path)
    assert list(home.glob("stages/train-*/model/weights.safetensors"))


def test_a_plugin_that_cannot_be_imported_is_one_clear_error(experiment, tmp_path):
    experiment.write_text(experiment.read_text().replace("my_shop", "no_such_shop"))
    command = [sys.executable, "-m", "attnrec_pipelines", "daily", str(experiment), "--home", str(tmp_path / "home")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no_such_shop" in done.stderr
    assert "Traceback" not in done.stderr
