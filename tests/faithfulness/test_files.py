"""A measurement as files, and what may be asked of it in an experiment."""

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
    """A model with weights drawn by a seed, measured on users of LETTERS; `ids` stand in place of their names."""
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


WORLDS = {
    "a model with contributions and weights": lambda: measured_of("attnrec", **SMALL),
    "a model without exact reasons": lambda: measured_of("attnrec", **SMALL, readout="last"),
    "a model whose user is no weighted sum": lambda: measured_of("popularity"),
    "users with numbers for names": lambda: measured_of("popularity", {name: n for n, name in enumerate(LETTERS)}),
}


@pytest.mark.parametrize("world", WORLDS)
def test_what_was_saved_is_loaded_as_it_was(world, tmp_path):
    measured = WORLDS[world]()
    save_faithfulness(measured, tmp_path)
    found = load_faithfulness(tmp_path)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(measured, name), check_exact=True, obj=name)
    assert (found.model, found.skipped_methods, found.skipped_users) == (
        measured.model, measured.skipped_methods, measured.skipped_users,
    )  # fmt: skip
    assert found.skipped_users["fewer than 2 events"] == 1, "dot has one event"
    pd.testing.assert_frame_equal(found.summary(), measured.summary(), check_exact=True)
    assert found.to_json() == measured.to_json()
    assert faithfulness_verdict(found) == faithfulness_verdict(measured)


def test_values_that_nobody_has_stay_unknown(tmp_path):
    measured = WORLDS["a model with contributions and weights"]()
    unknown = measured.per_user.assign(tau=np.nan, stability=[0.5] + [np.nan] * (len(measured.per_user) - 1))
    save_faithfulness(replace(measured, per_user=unknown), tmp_path)
    found = load_faithfulness(tmp_path).per_user
    assert found["tau"].isna().all()
    assert found["stability"].tolist()[0] == 0.5
    assert found["stability"].isna().sum() == len(found) - 1
    assert read_json(tmp_path / "faithfulness.json")["methods"][0]["tau"] is None


def test_a_model_without_weights_has_an_empty_permutation_test(tmp_path):
    save_faithfulness(WORLDS["a model whose user is no weighted sum"](), tmp_path)
    found = load_faithfulness(tmp_path)
    assert list(found.permutation) == ["user_id", "n_events", "largest_weight", "median_distance"]
    assert len(found.permutation) == 0
    assert np.isnan(found.interchangeable_share)


def test_the_folder_holds_three_tables_and_json_that_any_reader_takes(tmp_path):
    measured = WORLDS["a model whose user is no weighted sum"]()  # without a permutation test, so with values unknown
    save_faithfulness(measured, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "curves.parquet", "faithfulness.json", "per_user.parquet", "permutation.parquet",
    ]  # fmt: skip

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "faithfulness.json").read_text()
    assert json.loads(text, parse_constant=refuse) == measured.to_json()


def test_a_folder_that_holds_no_measurement(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"faithfulness\.json"):
        load_faithfulness(tmp_path)


# --- what may be asked


def test_by_default_a_hundred_users_are_measured_by_methods_that_give_a_verdict():
    settings = FaithfulnessConfig()
    assert (settings.n_users, settings.methods) == (100, DEFAULT_METHODS)
    assert {"contribution", "random"} <= set(settings.methods) <= set(METHODS)
    assert FaithfulnessConfig(n_users=0).n_users == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            'faithfulness.methods=["contribution", "random", "magic"]',
            r"faithfulness\.methods: each must be one of contribution, weight, .*; take 'magic' out, got \[",
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
def test_what_cannot_be_asked_is_one_clear_line(override, said, tmp_path):
    toml = tmp_path / "shop.toml"
    toml.write_text('[interactions]\npath = "log.csv"\n')
    assert load_experiment(toml).faithfulness == FaithfulnessConfig()
    with pytest.raises(ExperimentError, match=said) as told:
        load_experiment(toml, overrides=(override,))
    assert "\n" not in str(told.value)
