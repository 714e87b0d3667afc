"""The flow `compare` (`attnrec train --over`): several models in one table, with figures and an MLflow run."""

from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from attnrec.experiment import ExperimentError
from attnrec.models import model_config
from attnrec.tracking.tags import COMPARISON, DESCRIPTION, ROLE
from attnrec_pipelines.flows.compare import compare_flow
from attnrec_pipelines.job import PipelineError
from attnrec_pipelines.stages.compare import read_comparison
from attnrec_pipelines.stages.variants import variants

QUICK = ("train.max_minutes=5", "train.epochs=2")


@pytest.fixture(scope="module")
def compared(tiny_experiment, make_home, training_in_this_process, tmp_path_factory):
    """Compare four kinds of models once; return the arguments of the flow and the folder."""
    folder = tmp_path_factory.mktemp("compared")
    home = make_home(folder / "home")
    arguments = (str(tiny_experiment(folder)), "model=popularity,attnrec,gru4rec,bert4rec", QUICK, str(home))
    with training_in_this_process():
        return arguments, compare_flow(*arguments)


def client_of(home: str) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home}/mlflow.db")


def runs_of(home: str, role: str) -> dict[str, Run]:
    """Return the runs with a role by name, which must be unique."""
    experiment = client_of(home).get_experiment_by_name("attnrec-tiny")
    runs = client_of(home).search_runs([experiment.experiment_id], f"tags.`{ROLE}` = '{role}'")
    assert max(Counter(run.info.run_name for run in runs).values(), default=1) == 1
    return {run.info.run_name: run for run in runs}


def test_the_table_ranks_the_models_and_has_their_costs(compared):
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
    trained = table.drop(index="popularity")
    assert (trained[["tokens", "seconds", "tokens_per_second", "parameters", "peak_mb"]] > 0).all(axis=None)
    assert table["tokens"]["popularity"] == 0


def test_equal_tokens_are_those_of_the_slowest_model(compared):
    arguments, folder = compared
    table = read_comparison(folder).set_index("model")
    fewest = table["tokens"][table["tokens"] > 0].min()
    assert table["equal_tokens"].unique().tolist() == [fewest]
    slowest = table.index[table["tokens"] == fewest][0]
    runs = {name.split("-")[0]: run for name, run in runs_of(arguments[3], "model").items()}
    history = client_of(arguments[3]).get_metric_history(runs[slowest].info.run_id, "val/ndcg_at_10")
    assert table["at_equal_tokens"][slowest] == pytest.approx(max(point.value for point in history))


def test_the_folder_has_the_table_as_markdown_and_two_figures(compared):
    _, folder = compared
    markdown = (folder / "comparison.md").read_text().splitlines()
    assert len(markdown) == 2 + 4
    assert len({line.count("|") for line in markdown}) == 1
    for name in ("accuracy-and-time", "accuracy-and-size"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_comparison_is_a_run_beside_the_runs_of_its_models(compared):
    arguments, _ = compared
    home = arguments[3]
    ((name, comparison),) = runs_of(home, "comparison").items()
    assert name == "comparison over model"
    assert comparison.info.status == "FINISHED"
    assert "| attnrec |" in comparison.data.tags[DESCRIPTION]
    assert "comparison" in [file.path for file in client_of(home).list_artifacts(comparison.info.run_id)]
    models, baselines = runs_of(home, "model"), runs_of(home, "baseline")
    assert sorted(models) == ["attnrec-pooling-d16-L30", "bert4rec-last-d16-L30", "gru4rec-last-d16-L30", "popularity"]
    assert sorted(baselines) == ["item_knn", "popularity"]
    assert {run.data.tags[COMPARISON] for run in models.values()} == {arguments[1]}
    for run in (*models.values(), *baselines.values()):
        assert "mlflow.parentRunId" not in run.data.tags, "the UI would fold nested runs"
    run_id = models["attnrec-pooling-d16-L30"].info.run_id
    figures = [file.path for file in client_of(home).list_artifacts(run_id, "figures")]
    assert "figures/attention_spread.png" in figures


def test_the_runs_of_compared_models_have_their_own_params(compared):
    arguments, _ = compared
    params = {name: run.data.params for name, run in runs_of(arguments[3], "model").items()}
    assert {name: values["architecture"] for name, values in params.items()} == {
        "attnrec-pooling-d16-L30": "attnrec", "bert4rec-last-d16-L30": "bert4rec", "gru4rec-last-d16-L30": "gru4rec",
        "popularity": "popularity",
    }  # fmt: skip
    assert all(len(values) <= 15 for values in params.values())
    assert params["bert4rec-last-d16-L30"]["objective"] == "masked_items"


def test_a_second_comparison_does_nothing_and_the_command_prints_the_ranking(compared, run_command, stage_times):
    (toml, over, changes, home), folder = compared
    before = stage_times(Path(home))
    options = [argument for change in changes for argument in ("--set", change)]
    process = run_command("train", toml, "--over", over, *options, "--home", home, width=80)
    assert process.returncode == 0, process.stderr
    assert stage_times(Path(home)) == before
    assert [len(runs_of(home, role)) for role in ("comparison", "model", "baseline")] == [1, 4, 2]
    table = read_comparison(folder)
    rows = [line.split() for line in process.stdout.splitlines() if line.split()[:1] and "0." in line]
    assert [(row[0], row[1]) for row in rows] == [
        (name, f"{mean:.4f}") for name, mean in zip(table["model"], table["mean"], strict=True)
    ]
    assert "best" in rows[0]
    assert f"full table and figures: {folder}" in process.stdout


def test_a_model_that_fails_is_left_out_and_the_others_are_compared(compared, in_this_process):
    arguments, _ = compared
    # the log has no event types
    folder = compare_flow(arguments[0], "model.event_types=false,true", QUICK, arguments[3])
    assert read_comparison(folder)["model"].tolist() == ["false"]
    with pytest.raises(PipelineError, match="no variant of the comparison could be trained"):
        compare_flow(arguments[0], "model.dropout=0.1", (*QUICK, "model.event_types=true"), arguments[3])


def test_compared_kinds_share_some_settings_and_take_others_from_their_presets(tiny_experiment, tmp_path):
    toml = tiny_experiment(tmp_path)
    jobs = variants(str(toml), "model=attnrec,sasrec,ease", ("model.readout=last", "model.dropout=0.1"), str(tmp_path))
    models = {name: job.experiment.model for name, job in jobs.items()}
    # the experiment's own kind keeps its settings
    assert (models["attnrec"].layers, models["attnrec"].readout) == (1, "last")
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
    walk = "sasrec random_walk=items random_walk_settings={neighbours=5,heads=2}"
    others = ["gat relations=['bipartite','transitions']", "nextitnet encoder_settings={kernel_size=3,dilations=[1,2]}"]
    walks = variants(str(toml), f"model={walk},{','.join(others)}", (), str(tmp_path))
    assert list(walks) == [walk, *others]
    assert walks[walk].experiment.model.random_walk_settings == {"neighbours": 5, "heads": 2}


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("model", "needs a setting of model or train and different values"),
        ("model=", "needs a setting of model or train and different values"),
        ("model=sasrec,sasrec", "needs a setting of model or train and different values"),
        ("split.kind=last,time", "needs a setting of model or train and different values"),
        ("model=sasrec,lstm", r"--over model=lstm: model must be one of attnrec, .*got 'lstm'"),
        ("model=sasrec core", "--over model=sasrec core: settings of a model are NAME=VALUE, got 'core'"),
        (
            "model=sasrec atention=cosine",
            "--over model=sasrec atention=cosine: atention: unknown key; did you mean attention",
        ),
        ("model.attention=cosine,psychic", "attention must be one of .*, got 'psychic'"),
        ("model.attention=linformer", "can't be causal"),
    ],
)
def test_an_invalid_comparison_fails_before_anything_starts(over, message, tiny_experiment, tmp_path):
    toml = tiny_experiment(tmp_path)
    with pytest.raises(ExperimentError, match=message):
        variants(str(toml), over, (), str(tmp_path / "home"))
    assert not (tmp_path / "home" / "stages").exists() or not any((tmp_path / "home" / "stages").iterdir())


def test_a_comparison_without_a_time_limit_is_an_error(tiny_experiment, tmp_path):
    with pytest.raises(ExperimentError, match=r"set train\.max_minutes or give --minutes"):
        compare_flow(str(tiny_experiment(tmp_path)), "model=attnrec,sasrec", (), str(tmp_path / "home"))
