"""Models, presets, attention kernels, encoders, losses and attribution methods that are registered outside attnrec."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import attnrec
import attnrec.config
from attnrec.attention import ATTENTION_KERNELS
from attnrec.attention.graph import GRAPH_LAYERS, GATv2
from attnrec.attention.scaled_dot import ScaledDot
from attnrec.attribution import METHODS
from attnrec.attribution.method import Method
from attnrec.config import Config, PluginError, load_plugins
from attnrec.dataset import Batch
from attnrec.encoders import ENCODERS, Encoder
from attnrec.experiment import ExperimentError, load_experiment
from attnrec.losses import LOSSES, Loss, full_softmax
from attnrec.models import (
    MODELS,
    PRESETS,
    Model,
    Popularity,
    PopularityConfig,
    Preset,
    SequenceConfig,
    TrainedConfig,
    build_model,
    model_config,
    register_model,
    register_preset,
)
from attnrec.models.item_scores import ItemScorer, VectorEncoding

REGISTRIES = (MODELS, PRESETS, ATTENTION_KERNELS, ENCODERS, GRAPH_LAYERS, LOSSES, METHODS)
PATHS = ("abcd", "bcda", "cdab", "dabc")


class MeanConfig(TrainedConfig):
    kind: str = "mean_of_items"
    dim: int = Field(default=8, gt=0)


class MeanOfItems(Model):
    """User vector = mean of the embeddings of the history, trained on the next item."""

    kind = "mean_of_items"
    paper = "this test"
    needs_order = True

    def __init__(self, config: MeanConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.item_scorer = ItemScorer(n_items, config.dim, temperature=None, item_bias=True)

    def loss(self, batch: Batch) -> Tensor:
        table = self.item_scorer.embedding.weight
        vectors = F.embedding(batch.items, table, padding_idx=0)
        users = vectors.cumsum(1) / torch.arange(1, vectors.shape[1] + 1)[:, None]
        has_target = batch.targets > 0
        return self.item_scorer.loss(users[has_target], batch.targets[has_target], table=table, config=self.config)

    def encode(self, batch: Batch) -> VectorEncoding:
        vectors = self.item_scorer(batch.items) * batch.real[..., None]
        parts = vectors / batch.lengths.clamp(min=1)[:, None, None]
        return VectorEncoding(self.item_scorer, self.item_scorer.embedding.weight, parts.sum(1), parts, None)

    def item_bias(self) -> Tensor:
        return self.item_scorer.biases()

    def item_vectors(self) -> Tensor:
        return self.item_scorer.embedding.weight


class SharpDot(ScaledDot):
    """Scaled dot-product attention with its own setting."""

    class Settings(Config):
        sharpness: float = 1.0

    def forward(self, q: Tensor, *args, **kwargs):
        return super().forward(q * self.settings.sharpness, *args, **kwargs)


class Recurrent(Encoder):
    """An encoder with its own setting."""

    class Settings(Config):
        layers: int = 1

    paper = "this test"

    def __init__(self, dim: int, **kwargs) -> None:
        super().__init__(dim, **kwargs)
        self.network = nn.GRU(dim, dim, num_layers=self.settings.layers, batch_first=True)

    def forward(self, vectors: Tensor, *, lengths: Tensor, times: Tensor | None = None) -> Tensor:
        real = torch.arange(vectors.shape[1], device=vectors.device) < lengths[:, None]
        return self.network(vectors)[0] * real[..., None]


def confident_softmax(users, items, bias, targets, **settings):
    return 2 * full_softmax(users, items, bias, targets, **settings)


@pytest.fixture(autouse=True)
def restored_registries() -> Iterator[None]:
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture
def log() -> pd.DataFrame:
    """16 users whose events cycle through a, b, c, d."""
    rows = [(f"u{n:02}", item, time) for n in range(16) for time, item in enumerate(PATHS[n % 4])]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])


TRAINING = {"epochs": 2, "batch_size": 8, "device": "cpu", "progress_bar": False}


def check_whole_cycle(log, tmp_path, *, model, settings, exact=True):
    """Fit, recommend, explain, save and load a model; the loaded model gives the same scores and reasons."""
    fitted = attnrec.fit(log, model=model, settings=settings, **TRAINING)
    assert fitted.model.kind == model
    recommended = fitted.recommend(["u00"], k=3, filter_viewed=False)
    assert len(recommended) == 3
    loaded = attnrec.load(fitted.save(tmp_path / "model")).with_histories(log)
    pd.testing.assert_series_equal(loaded.recommend(["u00"], k=3, filter_viewed=False).score, recommended.score)
    method = "contribution" if exact else "leave_one_out"
    explanations = [each.explain("u00", "b", method=method) for each in (fitted, loaded)]
    assert len(explanations[0].values) == min(4, fitted.model.max_length)
    np.testing.assert_array_equal(*(explanation.values for explanation in explanations))
    return fitted


def test_a_registered_model_is_fitted_explained_saved_and_loaded(log, tmp_path):
    register_model(MeanOfItems, MeanConfig)
    fitted = check_whole_cycle(log, tmp_path, model="mean_of_items", settings={"dim": 4, "max_length": 4})
    explanation = fitted.explain("u00", "b")
    total = sum(explanation.values) + explanation.item_bias
    assert total == pytest.approx(explanation.score, rel=1e-5)


def test_register_model_is_a_class_decorator():
    @register_model
    class Constant(Popularity):
        kind = "constant"
        Config = PopularityConfig

    assert MODELS["constant"] == (Constant, PopularityConfig)


def test_a_kind_is_registered_once():
    register_model(MeanOfItems, MeanConfig)
    register_model(MeanOfItems, MeanConfig)  # the same classes again, as when a module is imported twice

    class Other(MeanOfItems):
        pass

    with pytest.raises(ValueError, match="kind of a model must be unique, got 'mean_of_items', which is MeanOfItems"):
        register_model(Other, MeanConfig)
    with pytest.raises(ValueError, match="kind of a preset must be unique, got 'sasrec'"):
        register_preset("sasrec", Preset("this test", "attention"))
    with pytest.raises(ValueError, match="must be unique, got 'ease'"):
        register_preset("ease", Preset("this test", "attention"))


def test_a_model_needs_a_kind_and_a_config():
    class Nameless(MeanOfItems):
        kind = None

    with pytest.raises(ValueError, match=r"needs the class attribute kind.*register_model\(Nameless, MyConfig\)"):
        register_model(Nameless, MeanConfig)
    with pytest.raises(ValueError, match="a subclass of ModelConfig"):
        register_model(MeanOfItems)


def test_settings_of_one_kind_are_rejected_for_another():
    with pytest.raises(ValueError, match="kind 'ease' has settings of EASEConfig, got PopularityConfig"):
        PopularityConfig(kind="ease")


def test_a_registered_preset_gives_defaults_of_the_sequence_model(log, tmp_path):
    register_preset("short_sasrec", Preset("this test", "attention", {"readout": "last", "max_length": 3}))
    fitted = check_whole_cycle(log, tmp_path, model="short_sasrec", settings={"dim": 8}, exact=False)
    assert isinstance(fitted.model.config, SequenceConfig)
    assert (fitted.model.config.readout, fitted.model.max_length, fitted.model.paper) == ("last", 3, "this test")


def test_a_config_class_may_extend_the_sequence_model(log, tmp_path):
    class WideConfig(SequenceConfig):
        kind: str = "wide"
        width: int = 2

    class Wide(attnrec.models.SequenceModel):
        kind = "wide"
        paper = "this test"

    register_model(Wide, WideConfig)
    settings = {"dim": 8, "max_length": 4, "width": 3}
    assert check_whole_cycle(log, tmp_path, model="wide", settings=settings).model.config.width == 3


SMALL = {"dim": 8, "max_length": 4, "layers": 1}


@pytest.mark.parametrize(
    ("registry", "name", "entry", "settings"),
    [
        (ATTENTION_KERNELS, "sharp", SharpDot, {"attention": "sharp", "attention_settings": {"sharpness": 2.0}}),
        (ENCODERS, "recurrent", Recurrent, {"encoder": "recurrent", "encoder_settings": {"layers": 2}}),
        (LOSSES, "confident", Loss(confident_softmax), {"loss": "confident"}),
        (GRAPH_LAYERS, "my_gat", GATv2, {"graph": "transitions", "graph_settings": {"layer": "my_gat"}}),
    ],
)
def test_an_entry_added_to_a_registry_is_used_from_fit_to_load(registry, name, entry, settings, log, tmp_path):
    config = {"dim": 8, "max_length": 4} if "encoder" in settings else SMALL
    with pytest.raises(ValueError, match=f"must be one of .*, got '{name}'"):
        model_config("attnrec", config | settings)
    registry[name] = entry
    check_whole_cycle(log, tmp_path, model="attnrec", settings=config | settings)


def test_a_registered_loss_is_the_one_that_is_computed(make_histories, make_batch):
    LOSSES["confident"] = Loss(confident_softmax)
    losses = []
    for loss in ("softmax", "confident"):
        torch.manual_seed(0)
        model = build_model(model_config("attnrec", SMALL | {"dropout": 0.0, "loss": loss}), 4).eval()
        losses.append(model.loss(replace(make_batch([1, 2, 3]), targets=torch.tensor([[2, 3, 4]]))).item())
    assert losses[1] == pytest.approx(2 * losses[0])


def test_a_registered_attribution_method_explains(log):
    METHODS["first_event"] = Method(
        lambda model, batch, items, *, seed=0: F.one_hot(torch.zeros_like(items), batch.items.shape[1]).mT.float(),
        "this test",
    )
    fitted = attnrec.fit(log, model="item_knn", progress_bar=False)
    explanation = fitted.explain("u00", "b", method="first_event")
    assert sorted(explanation.values) == [0, 0, 0, 1]


# --- experiments and plugins


PLUGIN = """
from attnrec.models import Popularity, PopularityConfig, register_model

class ShopConfig(PopularityConfig):
    kind: str = "shop_model"
    shelf: int = 3

class ShopModel(Popularity):
    kind = "shop_model"

register_model(ShopModel, ShopConfig)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> str:
    """A module outside attnrec that registers a model."""
    (tmp_path / "my_shop_models.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_shop_models"
    sys.modules.pop("my_shop_models", None)


@pytest.fixture
def toml(tmp_path):
    def write(text: str):
        path = tmp_path / "shop.toml"
        path.write_text(text + '\n[interactions]\npath = "log.csv"\n')
        return path

    return write


def test_an_experiment_names_the_plugins_that_define_its_model(plugin, toml):
    path = toml(f'plugins = ["{plugin}"]\nmodel = {{ kind = "shop_model", shelf = 5 }}')
    experiment = load_experiment(path)
    assert (experiment.model.kind, experiment.model.shelf) == ("shop_model", 5)
    dumped = json.loads(experiment.model_dump_json())
    assert dumped["model"] == {"kind": "shop_model", "max_length": 200, "shelf": 5}
    assert type(experiment)(**dumped) == experiment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = { kind = "shop_modle" }', r"model\.kind: unknown 'shop_modle'; did you mean shop_model\?$"),
        ('model = { kind = "shop_model", shlef = 3 }', r"model\.shlef: unknown key; did you mean shelf\?$"),
        ('model = { kind = "shop_model", shelf = "x" }', r"model\.shelf: Input should be a valid integer.*, got 'x'$"),
    ],
)
def test_errors_in_the_settings_of_a_plugins_model_name_the_key(text, message, plugin, toml):
    with pytest.raises(ExperimentError, match=message):
        load_experiment(toml(f'plugins = ["{plugin}"]\n{text}'))


def test_a_plugin_that_cannot_be_imported_is_one_error(toml):
    message = r"plugins must be importable modules, got 'no_such_module' \(ModuleNotFoundError: .*install the package"
    with pytest.raises(ExperimentError, match=message):
        load_experiment(toml('plugins = ["no_such_module"]'))
    with pytest.raises(PluginError, match=message):
        load_plugins(["no_such_module"])
    with pytest.raises(ExperimentError, match=r"plugins: Input should be a valid (tuple|list)"):
        load_experiment(toml('plugins = "my_shop_models"'))


def test_plugins_of_installed_packages_are_loaded_when_a_kind_is_unknown(plugin, toml, monkeypatch):
    class EntryPoint:
        module = plugin

    monkeypatch.setattr(attnrec.config, "entry_points", lambda group: [EntryPoint] if "attnrec" in group else [])
    attnrec.config.load_installed_plugins.cache_clear()
    try:
        assert "shop_model" not in MODELS
        assert load_experiment(toml('model = { kind = "shop_model" }')).model.shelf == 3
        MODELS.pop("shop_model")
        with pytest.raises(ValueError, match="model must be one of"):  # loaded once per process
            model_config("shop_model", {})
    finally:
        attnrec.config.load_installed_plugins.cache_clear()


def test_a_saved_model_of_an_unregistered_kind_is_one_error(log, tmp_path):
    register_model(MeanOfItems, MeanConfig)
    folder = attnrec.fit(log, model="mean_of_items", **TRAINING).save(tmp_path / "model")
    MODELS.pop("mean_of_items")
    with pytest.raises(ValueError, match=r"registered, got 'mean_of_items'.*import the module that registers it"):
        attnrec.load(folder)
