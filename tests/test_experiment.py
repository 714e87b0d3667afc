"""Experiments are read from TOML files; an invalid file gives a one-line error."""

import pytest

from attnrec.experiment import ExperimentError, load_experiment
from attnrec.models import MODELS

MINIMAL = '[interactions]\npath = "log.csv"\n'


@pytest.fixture
def toml(tmp_path):
    def write(text: str = ""):
        path = tmp_path / "my-shop.toml"
        path.write_text(MINIMAL + text)
        return path

    return write


def test_an_experiment_needs_only_the_path_of_the_log(toml):
    experiment = load_experiment(toml())
    assert experiment.name == "my-shop"
    assert experiment.model.kind == "attnrec"
    assert experiment.model.readout == "pooling"
    assert experiment.split.kind == "time"
    assert experiment.mlflow_experiment == "attnrec-my-shop"


def test_paths_are_relative_to_the_file(toml):
    path = toml()
    assert load_experiment(path).interactions.path == str(path.parent / "log.csv")


def test_pipeline_init_is_a_folder_relative_to_the_file_or_the_champion(toml):
    path = toml('[pipeline]\ninit = "models/spring"\n')
    assert load_experiment(path).pipeline.init == str(path.parent / "models" / "spring")
    assert load_experiment(path, overrides=("pipeline.init=champion",)).pipeline.init == "champion"
    assert load_experiment(toml()).pipeline.init is None


def test_overrides_take_precedence_over_the_file(toml):
    overrides = ("train.epochs=2", "model.kind=gat", "interactions.datetime=order", "evaluate.ks=[3, 10]")
    experiment = load_experiment(toml("[train]\nepochs = 9\n"), overrides=overrides)
    assert experiment.train.epochs == 2
    assert experiment.model.kind == "gat"
    assert experiment.interactions.datetime == "order"
    assert experiment.evaluate.ks == (3, 10)


def test_the_experiments_seed_is_the_default_of_the_training_seed(toml):
    assert load_experiment(toml(), overrides=("seed=5",)).train.seed == 5
    assert load_experiment(toml("[train]\nseed = 7\n"), overrides=("seed=5",)).train.seed == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nepoch = 3\n", r"train\.epoch: unknown key; did you mean epochs\?$"),
        ("[train]\nxyz = 3\n", r"train\.xyz: unknown key; valid keys are augment, .*weight_decay$"),
        ('[model]\nkind = "gat"\nlayrs = 3\n', r"model\.layrs: unknown key; did you mean layers\?$"),
        ('[model]\nkind = "sasrek"\n', r"model\.kind: unknown 'sasrek'; did you mean sasrec\?$"),
        ("[train]\nepochs = 0\n", r"train\.epochs: Input should be greater than 0, got 0"),
        (
            '[model]\nkind = "transformer"\n',
            r"model\.kind: unknown 'transformer'; valid values are popularity, .*sasrec, ",
        ),
        ("[model]\ndim = 20\nheads = 3\n", r"model: heads must divide dim, got heads=3 and dim=20"),
        ('[train]\nmetric = "ndcg"\n', r"train\.metric: String should match pattern"),
        (
            "[evaluate]\nks = [5]\n",
            r"promote\.metric must be a metric that is evaluated, got 'ndcg_at_10' and evaluate\.ks=\[5\]",
        ),
        ('[split]\nkind = "predefined"\n', r"split: kind 'predefined' needs the test interactions, got no test_path"),
        ("[modle]\ndim = 10\n", r"modle: unknown key"),
        ("[train\n", r"my-shop\.toml: Expected"),
        ("train = 3\n", r"interactions\.train: unknown key"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line_with_its_key(toml, text, message):
    with pytest.raises(ExperimentError, match=message) as problem:
        load_experiment(toml(text))
    assert "\n" not in str(problem.value).split(": ", 1)[0]


@pytest.mark.parametrize("kind", MODELS)
def test_an_unknown_key_of_any_model_is_reported_with_the_valid_keys(kind, toml):
    name = "max_length" if "max_length" in MODELS[kind][1].model_fields else "kind"
    with pytest.raises(ExperimentError, match=rf"model\.zzz: unknown key; valid keys are .*{name}"):
        load_experiment(toml(f'[model]\nkind = "{kind}"\nzzz = 3\n'))


def test_a_value_in_place_of_a_table_is_an_error(toml):
    with pytest.raises(ExperimentError, match=r"train: Input should be .*, got 3"):
        load_experiment(toml(), overrides=("train=3",))


def test_the_error_for_a_missing_file_names_the_file(tmp_path):
    with pytest.raises(ExperimentError, match=r"got .*nothing\.toml, which does not exist"):
        load_experiment(tmp_path / "nothing.toml")


@pytest.mark.parametrize("override", ["epochs", "=3", ""])
def test_an_override_needs_a_key_and_a_value(toml, override):
    with pytest.raises(ExperimentError, match="KEY=VALUE"):
        load_experiment(toml(), overrides=(override,))


def test_an_experiment_is_immutable(toml):
    with pytest.raises(ValueError, match="frozen"):
        load_experiment(toml()).train.epochs = 3


def test_the_default_name_is_the_file_name_in_allowed_characters(tmp_path):
    toml = tmp_path / "My_Shop 2.toml"
    toml.write_text('[interactions]\npath = "log.csv"\n')
    assert load_experiment(toml).name == "my-shop-2"
