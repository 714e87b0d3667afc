"""Files of a faithfulness measurement, and its settings in an experiment."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attnrec.attribution import METHODS
from attnrec.dataset import histories_from_frame
from attnrec.experiment import ExperimentError, load_experiment
from attnrec.faithfulness import DEFAULT_METHODS, Faithfulness, faithfulness_verdict, measure
from attnrec.faithfulness.files import TABLES, load_faithfulness, save_faithfulness
from attnrec.faithfulness.settings import FaithfulnessConfig
from attnrec.models import build_model, model_config
from attnrec.storage import read_json

LETTERS = {"ann": "abcde", "bob": "bb", "cid": "cdefgab", "dot": "a"}
SMALL = {"dim": 16, "heads": 2, "layers": 1, "max_length": 12}


def measured_of(kind: str, ids: dict[str, object] | None = None, **settings) -> Faithfulness:
    """Measure a model with random weights on the users of LETTERS; `ids` replaces their names."""
    rows = [
        ((ids or {}).get(user, user), item, second)
        for user, items in LETTERS.items()
        for second, item in enumerate(items)
    ]
    histories = histories_from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"]))
    torch.manual_seed(3)
    model = build_model(model_config(kind, settings), histories.n_items)
    model.observe(histories)
    model.eval()
    model.refresh()
    methods = ("contribution", "weight", "random", "recency")
    return measure(model, histories, np.arange(histories.n_users), methods=methods, n_bins=4)


MEASUREMENTS = {
    "a model with contributions and weights": lambda: measured_of("attnrec", **SMALL),
    "a model without contributions": lambda: measured_of("attnrec", **SMALL, readout="last"),
    "a model without readout weights": lambda: measured_of("popularity"),
    "integer user ids": lambda: measured_of("popularity", {name: n for n, name in enumerate(LETTERS)}),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_save_and_load_round_trip(name, tmp_path):
    measured = MEASUREMENTS[name]()
    save_faithfulness(measured, tmp_path)
    result = load_faithfulness(tmp_path)
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(result, table), getattr(measured, table), check_exact=True, obj=table)
    assert (result.model, result.skipped_methods, result.skipped_users) == (
        measured.model, measured.skipped_methods, measured.skipped_users,
    )  # fmt: skip
    assert result.skipped_users["fewer than 2 events"] == 1, "dot has one event"
    pd.testing.assert_frame_equal(result.summary(), measured.summary(), check_exact=True)
    assert result.to_json() == measured.to_json()
    assert faithfulness_verdict(result) == faithfulness_verdict(measured)


def test_nan_values_stay_nan(tmp_path):
    measured = MEASUREMENTS["a model with contributions and weights"]()
    with_nan = measured.per_user.assign(tau=np.nan, stability=[0.5] + [np.nan] * (len(measured.per_user) - 1))
    save_faithfulness(replace(measured, per_user=with_nan), tmp_path)
    result = load_faithfulness(tmp_path).per_user
    assert result["tau"].isna().all()
    assert result["stability"].tolist()[0] == 0.5
    assert result["stability"].isna().sum() == len(result) - 1
    assert read_json(tmp_path / "faithfulness.json")["methods"][0]["tau"] is None


def test_the_permutation_table_is_empty_without_readout_weights(tmp_path):
    save_faithfulness(MEASUREMENTS["a model without readout weights"](), tmp_path)
    result = load_faithfulness(tmp_path)
    assert list(result.permutation) == ["user_id", "n_events", "largest_weight", "median_distance"]
    assert len(result.permutation) == 0
    assert np.isnan(result.interchangeable_share)


def test_the_folder_has_three_tables_and_standard_json(tmp_path):
    measured = MEASUREMENTS["a model without readout weights"]()  # without a permutation test, so with NaN values
    save_faithfulness(measured, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "curves.parquet", "faithfulness.json", "per_user.parquet", "permutation.parquet",
    ]  # fmt: skip

    def reject(name: str) -> None:
        raise AssertionError(f"{name} is not standard JSON")

    text = (tmp_path / "faithfulness.json").read_text()
    assert json.loads(text, parse_constant=reject) == measured.to_json()


def test_loading_a_folder_without_a_measurement_raises_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"faithfulness\.json"):
        load_faithfulness(tmp_path)


# --- settings


def test_default_settings_are_a_hundred_users_and_methods_for_a_verdict():
    settings = FaithfulnessConfig()
    assert (settings.n_users, settings.methods) == (100, DEFAULT_METHODS)
    assert {"contribution", "random"} <= set(settings.methods) <= set(METHODS)
    assert FaithfulnessConfig(n_users=0).n_users == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            'faithfulness.methods=["contribution", "random", "magic"]',
            r"faithfulness\.methods: each must be one of contribution, weight, .*; remove 'magic', got \[",
        ),
        ('faithfulness.methods=["random", "recency"]', r"contribution and random for a verdict; add contribution, got"),
        ('faithfulness.methods=["contribution", "recency"]', r"for a verdict; add random, got \['contribution'"),
        ("faithfulness.methods=[]", r"for a verdict; add contribution and random, got \[\]"),
        ("faithfulness.methods=contribution", r"faithfulness\.methods: .*, got 'contribution'"),
        ("faithfulness.n_users=-1", r"faithfulness\.n_users: .* greater than or equal to 0, got -1"),
        ("faithfulness.users=5", r"faithfulness\.users: unknown key"),
        ("report.n_users=-1", r"report\.n_users: .* greater than or equal to 0, got -1"),
    ],
)
def test_invalid_settings_raise_a_one_line_error(override, message, tmp_path):
    toml = tmp_path / "shop.toml"
    toml.write_text('[interactions]\npath = "log.csv"\n')
    assert load_experiment(toml).faithfulness == FaithfulnessConfig()
    with pytest.raises(ExperimentError, match=message) as error:
        load_experiment(toml, overrides=(override,))
    assert "\n" not in str(error.value)
