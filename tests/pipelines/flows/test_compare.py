"""`attnrec train --over`: several models side by side, with one table and its figures."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from attnrec.experiment import ExperimentError
from attnrec.models import model_config
from attnrec_pipelines.flows.compare import compare_flow
from attnrec_pipelines.job import PipelineError
from attnrec_pipelines.stages.compare import read_comparison
from attnrec_pipelines.stages.variants import variants

QUICK = ("train.max_minutes=5", "train.epochs=2")


@pytest.fixture(scope="module")
def compared(tiny_experiment, tmp_path_factory):
    """Arguments and folder of a comparison of four kinds. Look, do not change."""
    folder = tmp_path_factory.mktemp("compared")
    arguments = (
        str(tiny_experiment(folder)),
        "model=popularity,attnrec,gru4rec,bert4rec",
        QUICK,
        str(folder / "home"),
    )
    return arguments, compare_flow(*arguments)


def runs_of(home: str) -> dict[str, object]:
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "attnrec-tiny"]
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_the_table_has_the_ranking_and_the_costs(compared):
    _, folder = compared
    table = read_comparison(folder).set_index("model")
    assert sorted(table.index) == ["attnrec", "bert4rec", "gru4rec", "popularity"]
    assert table["mean"].is_monotonic_decreasing
    assert table["group"].to_dict() == {
        "attnrec": "attention", "bert4rec": "attention", "gru4rec": "recurrence", "popularity": "baseline",
    }  # fmt: skip
    assert table["exact_reasons"].to_dict() == {
        "attnrec": True, "bert4rec": False, "gru4rec": False, "popularity": True,
    }  # fmt: skip
    assert table["objective"]["bert4rec"] == "masked_items"
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()
    others = table[table["difference"] != 0]
    assert others["p_value"].between(0, 1).all()
    learned = table.drop(index="popularity")
    assert (learned[["tokens", "seconds", "tokens_per_second", "parameters", "peak_mb"]] > 0).all(axis=None)
    assert table["tokens"]["popularity"] == 0


def test_equal_tokens_are_those_of_the_model_that_saw_the_fewest(compared):
    arguments, folder = compared
    table = read_comparison(folder).set_index("model")
    fewest = table["tokens"][table["tokens"] > 0].min()
    assert table["equal_tokens"].unique().tolist() == [fewest]
    (least,) = table.index[table["tokens"] == fewest][:1]
    metrics = runs_of(arguments[3])
    named = {name.split("-")[0]: run for name, run in metrics.items()}
    client = MlflowClient(f"sqlite:///{arguments[3]}/mlflow.db")
    history = client.get_metric_history(named[least].info.run_id, "val/ndcg_at_10")
    assert table["at_equal_tokens"][least] == pytest.approx(max(point.value for point in history))


def test_the_table_is_written_for_people_and_the_figures_are_pictures(compared):
    _, folder = compared
    markdown = (folder / "comparison.md").read_text().splitlines()
    assert len(markdown) == 2 + 4
    assert len({line.count("|") for line in markdown}) == 1
    for name in ("accuracy-and-time", "accuracy-and-size"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_comparison_is_a_run_beside_the_runs_of_its_models(compared):
    arguments, _ = compared
    found = runs_of(arguments[3])
    parent = found.pop("comparison over model")
    assert parent.info.status == "FINISHED"
    assert "| attnrec |" in parent.data.tags["mlflow.note.content"]
    assert sorted(found) == [
        "attnrec-pooling-d16-L30", "bert4rec-last-d16-L30", "gru4rec-last-d16-L30", "item_knn", "popularity",
    ]  # fmt: skip
    assert not [run for run in found.values() if "mlflow.parentRunId" in run.data.tags], "no run is folded"
    assert parent.data.tags["attnrec.role"] == "comparison"
    compared_runs = [run for run in found.values() if run.data.tags.get("attnrec.comparison") == arguments[1]]
    assert len(compared_runs) == 4
    client = MlflowClient(f"sqlite:///{arguments[3]}/mlflow.db")
    assert "comparison" in [artifact.path for artifact in client.list_artifacts(parent.info.run_id)]
    figures = [
        artifact.path for artifact in client.list_artifacts(found["attnrec-pooling-d16-L30"].info.run_id, "figures")
    ]
    assert "figures/attention_spread.png" in figures


def test_a_second_comparison_does_nothing(compared, stage_times):
    arguments, folder = compared
    before = stage_times(Path(arguments[3]))
    assert compare_flow(*arguments) == folder
    assert stage_times(Path(arguments[3])) == before
    assert len(runs_of(arguments[3])) == 6


def test_a_model_that_fails_is_left_out_and_the_others_are_kept(compared):
    arguments, _ = compared
    folder = compare_flow(arguments[0], "model.event_types=false,true", QUICK, arguments[3])  # this log has no types
    assert read_comparison(folder)["model"].tolist() == ["false"]
    with pytest.raises(PipelineError, match="no variant of the comparison could be trained"):
        compare_flow(arguments[0], "model.dropout=0.1", (*QUICK, "model.event_types=true"), arguments[3])


def test_models_share_the_shape_and_take_other_settings_from_their_presets(tiny_experiment, tmp_path):
    toml = tiny_experiment(tmp_path)
    jobs = variants(str(toml), "model=attnrec,sasrec,ease", ("model.readout=last", "model.dropout=0.1"), str(tmp_path))
    models = {name: job.experiment.model for name, job in jobs.items()}
    assert (models["attnrec"].layers, models["attnrec"].readout) == (1, "last"), "the file's own model stays as it is"
    assert (models["sasrec"].dim, models["sasrec"].max_length, models["sasrec"].dropout) == (16, 30, 0.1)
    assert models["sasrec"].layers == 2
    assert models["ease"] == model_config("ease", {})
    more = variants(
        str(toml), "model=attnrec attention=cosine,sasrec loss=bpr dim=8,ease max_length=5", (), str(tmp_path)
    )
    models = {name: job.experiment.model for name, job in more.items()}
    assert (models["attnrec attention=cosine"].attention, models["attnrec attention=cosine"].layers) == ("cosine", 1)
    assert (models["sasrec loss=bpr dim=8"].loss, models["sasrec loss=bpr dim=8"].dim) == ("bpr", 8)
    assert models["ease max_length=5"].max_length == 5
    walking = "sasrec random_walk=items random_walk_settings={neighbours=5,heads=2}"
    others = ["gat relations=['bipartite','transitions']", "nextitnet encoder_settings={kernel_size=3,dilations=[1,2]}"]
    walks = variants(str(toml), f"model={walking},{','.join(others)}", (), str(tmp_path))
    assert list(walks) == [walking, *others]
    assert walks[walking].experiment.model.random_walk_settings == {"neighbours": 5, "heads": 2}


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("model", "needs a setting of model or train and different values"),
        ("model=", "needs a setting of model or train and different values"),
        ("model=sasrec,sasrec", "needs a setting of model or train and different values"),
        ("split.kind=last,time", "needs a setting of model or train and different values"),
        ("model=sasrec,lstm", r"--over model=lstm: model must be one of \['attnrec', .*got 'lstm'"),
        ("model=sasrec core", "--over model=sasrec core: settings of a model are NAME=VALUE, got 'core'"),
        (
            "model=sasrec atention=cosine",
            "--over model=sasrec atention=cosine: atention: unknown key; did you mean attention",
        ),
        ("model.attention=cosine,psychic", "attention must be one of .*, got 'psychic'"),
        ("model.attention=linformer", "can't be causal"),
    ],
)
def test_an_invalid_comparison_fails_before_anything_starts(over, said, tiny_experiment, tmp_path):
    toml = tiny_experiment(tmp_path)
    with pytest.raises(ExperimentError, match=said):
        variants(str(toml), over, (), str(tmp_path / "home"))
    assert not (tmp_path / "home" / "stages").exists() or not any((tmp_path / "home" / "stages").iterdir())


def test_time_must_be_equal(tiny_experiment, tmp_path):
    with pytest.raises(ExperimentError, match=r"set train\.max_minutes or give --minutes"):
        compare_flow(str(tiny_experiment(tmp_path)), "model=attnrec,sasrec", (), str(tmp_path / "home"))
