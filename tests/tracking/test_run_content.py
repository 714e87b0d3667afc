"""Params, metrics and the description of a run."""

import pytest

from attnrec.evaluation.metrics import metric_name
from attnrec.models import MODELS, model_config
from attnrec.tracking.run_content import (
    EPOCH_METRICS,
    FAITHFULNESS_METRICS,
    MAX_METRICS,
    MAX_PARAMS,
    TEST_METRICS,
    artifact_links,
    description,
    epoch_metrics,
    faithfulness_metrics,
    run_params,
    test_metrics,
)
from attnrec.training import TrainConfig

METRICS = {metric_name(name, k): 0.5 for name in (*TEST_METRICS, "precision", "diversity_kind (shop)") for k in (5, 10)}


@pytest.mark.parametrize("kind", MODELS)
def test_params_of_every_kind_are_at_most_15_and_start_with_the_architecture(kind):
    params = run_params(model_config(kind, {}).model_dump(), TrainConfig().model_dump(), data="shop")
    assert len(params) <= MAX_PARAMS == 15
    assert (params["architecture"], params["data"]) == (kind, "shop")
    assert sorted(params)[0] == "architecture", "the UI sorts by name"
    assert {"learning_rate", "batch_size", "seed"} <= params.keys()
    assert not [name for name in params if "/" in name or "." in name]
    assert all(len(str(value)) <= 40 for value in params.values())


def test_params_of_a_model_without_training_have_no_training_settings():
    params = run_params(model_config("popularity", {}).model_dump(), {}, data="shop")
    assert params["architecture"] == "popularity"
    assert not params.keys() & TrainConfig.model_fields.keys()


def test_settings_of_one_kind_only_fill_the_remaining_params():
    settings = model_config("ease", {}).model_dump()
    names = settings.keys() - {"kind"}
    assert names
    params = run_params(settings, {}, data="shop")
    assert {name: params[name] for name in names} == {name: settings[name] for name in names}


@pytest.mark.parametrize("main", ["ndcg_at_10", "recall_at_5", "hit_rate_at_10"])
def test_all_metrics_of_a_run_are_at_most_25_and_the_main_metric_is_first(main):
    report = dict.fromkeys((*EPOCH_METRICS, "val/ndcg_at_10", "val/recall_at_20", "train/tokens", "train/padding"), 1.0)
    summary = [{"method": method, **dict.fromkeys(FAITHFULNESS_METRICS, 0.5)} for method in ("contribution", "random")]
    metrics = test_metrics(METRICS, main=main)
    metrics |= epoch_metrics(report, validation="ndcg_at_10")
    metrics |= faithfulness_metrics(summary, method="contribution")
    metrics |= {"train/best_epoch": 3, "test/interchangeable_share": 0.1}  # see attnrec_pipelines.stages.record
    assert len(metrics) <= MAX_METRICS == 25
    assert sorted(metrics)[0] == f"main/{main}", "the UI sorts by name"
    assert {name.partition("/")[0] for name in metrics} == {"main", "test", "train", "val"}


def test_test_metrics_have_the_k_of_the_main_metric_and_contain_it_once():
    metrics = test_metrics(METRICS, main="ndcg_at_10")
    assert metrics["main/ndcg_at_10"] == 0.5
    assert "test/ndcg_at_10" not in metrics
    assert all(name.endswith("_at_10") for name in metrics)
    assert len(metrics) == len(TEST_METRICS)


def test_epoch_metrics_have_only_the_validation_metric_that_chooses_the_epoch():
    report = {
        "train/loss": 1.0,
        "train/seconds": 2.0,
        "train/padding": 0.1,
        "val/ndcg_at_10": 0.3,
        "val/mrr_at_10": 0.2,
    }
    assert epoch_metrics(report, validation="ndcg_at_10") == {
        "train/loss": 1.0, "train/seconds": 2.0, "val/ndcg_at_10": 0.3,
    }  # fmt: skip


def test_faithfulness_metrics_are_those_of_one_method():
    summary = [{"method": "random", "pos_at_5": 0.5}, {"method": "contribution", "pos_at_5": 0.1, "deletion": 0.2}]
    assert faithfulness_metrics(summary, method="contribution") == {"test/pos_at_5": 0.1}
    assert faithfulness_metrics(summary, method="shapley") == {}


def test_the_description_compares_with_the_baselines_and_has_the_links_near_the_top():
    metrics = {
        "challenger": {"ndcg_at_10": 0.3, "mrr_at_10": 0.2},
        "item_knn": {"ndcg_at_10": 0.2, "mrr_at_10": 0.1},
        "popularity": {"ndcg_at_10": 0.0, "mrr_at_10": 0.0},
    }
    text = description(metrics, main="ndcg_at_10", model="sasrec-d64", paragraphs=["A finding."], links="[a](#/b)")
    assert text.splitlines() == [
        "**ndcg@10 0.3000** on the test part: 1.5 x item_knn (0.2000).",
        "",
        "[a](#/b)",
        "",
        "| model | ndcg@10 | mrr@10 |",
        "|---|---|---|",
        "| sasrec-d64 | 0.3000 | 0.2000 |",
        "| item_knn | 0.2000 | 0.1000 |",
        "| popularity | 0.0000 | 0.0000 |",
        "",
        "A finding.",
    ]


def test_artifact_links_are_relative_to_the_pages_of_the_ui():
    links = artifact_links("1", "abc", {"report": "report/report.html", "segments": "figures/segments.png"})
    assert links == (
        "[report](#/experiments/1/runs/abc/artifacts/report/report.html) · "
        "[segments](#/experiments/1/runs/abc/artifacts/figures/segments.png)"
    )
