"""Warm start (`pipeline.init`): the second day's training starts from the champion of the first day."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from attnrec.models.saved_model import load_with_warm_start
from attnrec.storage import read_json
from attnrec.tracking.download import download_model
from attnrec.tracking.tags import SERVED_STAGE
from attnrec_pipelines.flows.daily import daily_flow
from attnrec_pipelines.job import PipelineError, make_job
from attnrec_pipelines.stages.warm_start import find_init, init_folder

FILES = ["config.json", "vocabulary.parquet", "weights.safetensors"]


@pytest.fixture(scope="module")
def second_day(first_day, copy_home, training_in_this_process, tmp_path_factory):
    """Run the next day with more users and a new item, warm-started; the new model replaces the champion."""
    toml, home, first = first_day
    folder = tmp_path_factory.mktemp("second-day")
    home = copy_home(home, folder / "home")
    log = pd.read_csv(toml.with_name("log.csv"))
    more = log[log["user_id"] < "user-0040"].assign(user_id=lambda frame: "new-" + frame["user_id"])
    more["item_id"] = more["item_id"].replace("tea-010", "aaa-new")
    pd.concat([log, more]).to_csv(folder / "log.csv", index=False)
    overrides = ("pipeline.init=champion", f"interactions.path={folder / 'log.csv'}", "train.epochs=4")
    overrides += ("promote.metric=recall_at_20", "promote.tolerance=0.99")
    arguments = (str(toml), overrides, str(home))
    with pytest.MonkeyPatch.context() as patch, training_in_this_process():
        patch.setattr("attnrec_pipelines.stages.promote.BASELINES", ())
        return arguments, first, daily_flow(*arguments)


def test_the_next_day_starts_from_the_champion_before_its_refit(second_day):
    (_, _, home), first, second = second_day
    assert read_json(second.trained / "manifest.json")["init"] == read_json(first.trained / "manifest.json")["key"]
    before, after = load_with_warm_start(first.trained / "model"), load_with_warm_start(second.trained / "model")
    steps = [saved.moments["item_scorer.embedding.weight/step"] for saved in (before, after)]
    assert steps[1] > steps[0] > 0
    assert second.model_version == "tiny/2"
    version = MlflowClient(f"sqlite:///{home}/mlflow.db").get_model_version_by_alias("tiny", "champion")
    refit = load_with_warm_start(Path(home) / "stages" / version.tags[SERVED_STAGE] / "model")
    assert refit.moments["item_scorer.embedding.weight/step"] > steps[0]


def test_a_second_run_of_the_day_does_nothing_although_the_champion_has_changed(second_day, stage_times):
    arguments, _, second = second_day
    before = stage_times(Path(arguments[2]))
    again = daily_flow(*arguments)
    assert stage_times(Path(arguments[2])) == before
    assert (again.trained, again.model_version) == (second.trained, "tiny/2")


def test_a_registered_model_has_no_files_for_warm_starts(second_day):
    _, _, home = second_day[0]
    folder = download_model("models:/tiny@champion", store=f"sqlite:///{home}/mlflow.db")
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_a_champion_without_its_stages_is_downloaded_for_the_warm_start(first_day, copied_home):
    toml, _, first = first_day
    job = make_job(str(toml), ("pipeline.init=champion",), str(copied_home))
    init = find_init(job, lambda init: "another key")
    shutil.rmtree(job.home.stages / f"train-{init}")
    folder = init_folder(job, init)
    assert folder.parent.name.startswith("init-")
    downloaded, original = load_with_warm_start(folder), load_with_warm_start(first.trained / "model")
    assert downloaded.moments.keys() == original.moments.keys()
    assert all(torch.equal(downloaded.moments[name], value) for name, value in original.moments.items())


def test_training_starts_from_scratch_if_the_champion_may_have_seen_test_events(first_day):
    toml, home, _ = first_day
    job = make_job(str(toml), ("pipeline.init=champion", "dataset.min_user_events=2"), str(home))
    assert find_init(job, lambda init: "another key") == ""


def test_without_a_champion_training_starts_from_scratch(first_day, new_home, caplog):
    job = make_job(str(first_day[0]), ("pipeline.init=champion",), str(new_home))
    with caplog.at_level("INFO", logger="attnrec_pipelines.stages.warm_start"):
        assert find_init(job, lambda init: "a key") == ""
    assert "there is no champion yet, training starts from scratch" in caplog.text
    assert init_folder(job, "") is None


def test_a_model_folder_is_identified_by_its_content(first_day, tmp_path):
    toml, home, first = first_day
    model = tmp_path / "model"
    shutil.copytree(first.trained / "model", model)
    job = make_job(str(toml), (f"pipeline.init={model}",), str(home))
    init = find_init(job, lambda init: "a key")
    assert init_folder(job, init) == model
    (model / "moments.safetensors").unlink()
    assert find_init(job, lambda init: "a key") != init
    (model / "config.json").unlink()
    with pytest.raises(PipelineError, match=r"pipeline\.init must be 'champion' or a model folder"):
        find_init(job, lambda init: "a key")
