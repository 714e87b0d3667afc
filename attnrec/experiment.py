"""Experiments: one TOML file describes one run, from the raw log to the published recommendations.

`Experiment` lists the tables of the file; the settings class of each table documents its keys. Every key has a default
except `interactions.path`. A minimal file:

    [interactions]
    path = "log.csv"
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from attnrec.config import Config, first_error, load_plugins
from attnrec.dataset.settings import DatasetConfig, SplitConfig
from attnrec.evaluation import EvaluateConfig
from attnrec.evaluation.metrics import RANK_METRICS, metric_name
from attnrec.evaluation.promotion import PromoteConfig
from attnrec.faithfulness.settings import FaithfulnessConfig
from attnrec.ingestion import InteractionSource, TableSource
from attnrec.models import MODELS, AnyModelConfig, SequenceConfig
from attnrec.report.settings import ReportConfig
from attnrec.sample import SampleConfig, sample_folder
from attnrec.scoring import ScoreConfig
from attnrec.training import TrainConfig

PATH_KEYS = ("path", "test_path", "init")
"""Keys that hold paths; relative ones are resolved against the folder of the TOML file."""

CHAMPION = "champion"
"""Value of `pipeline.init`: warm-start from the registered champion instead of a model folder."""


class ExperimentError(ValueError):
    """An invalid experiment file or override; the message is one line."""


class TrackingConfig(Config):
    """The `[tracking]` table: names in MLflow.

    Attributes:
        experiment: MLflow experiment that the runs are logged to. Default: "attnrec-" and the experiment's `name`.
        registered_model: name in the MLflow model registry under which models are registered. Default "attnrec".
        system_metrics: log processor, memory, disk, network and GPU load of each training. Default false: MLflow shows
            them beside the model's metrics.
    """

    experiment: str | None = None
    registered_model: str = "attnrec"
    system_metrics: bool = False


class PipelineConfig(Config):
    """The `[pipeline]` table: how the flows run.

    Attributes:
        train_timeout_minutes: stop the training process after this many minutes, as a failure that the next run
            resumes from; `train.max_minutes` is the limit that keeps the best epoch. Default 1440, one day.
        refit: before a promoted model is registered, train it again on all events, test events included. Default true.
        init: what training is warm-started from (see `attnrec.training.WarmStart`). "champion": the current champion
            as it was evaluated, before its refit. A path: a model folder, which must not have been trained on this
            experiment's validation or test events. Default: none, train from scratch.
    """

    train_timeout_minutes: float = Field(default=24 * 60, gt=0)
    refit: bool = True
    init: str | None = None


class Experiment(Config):
    """All settings of a run; create one with `load_experiment`.

    Attributes:
        name: lower-case letters, digits and "-". Default: the file name, with "-" for all other characters.
        seed: seed of every random draw. Default 0. `train.seed` overrides it for training.
        plugins: modules to import first, such as "my_package.models", which register the models, attention kernels,
            encoders or losses that the settings below name. Default: none.
        sample: `[sample]`, a synthetic log that replaces `[interactions]` and `[items]`. Default: none.
        interactions: `[interactions]`, where the log is and how it is read. `interactions.path` is required.
        items: `[items]`, optional item features and titles.
        users: `[users]`, optional user attributes, which define the segments of the evaluation.
        dataset: `[dataset]`, minimum numbers of events per item and user.
        split: `[split]`, train, validation and test.
        model: `[model]`, `kind` and the settings of that kind. Default kind: "attnrec".
        train: `[train]`, the optimizer, early stopping and the hardware.
        evaluate: `[evaluate]`, the cutoffs of the ranking metrics.
        faithfulness: `[faithfulness]`, how faithful the explanations are.
        score: `[score]`, how many recommendations and reasons are written.
        promote: `[promote]`, when a new model replaces the champion.
        report: `[report]`, the HTML report.
        tracking: `[tracking]`, names in MLflow.
        pipeline: `[pipeline]`, timeout, refit and warm start.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    seed: int = 0
    plugins: tuple[str, ...] = ()
    sample: SampleConfig | None = None
    interactions: InteractionSource
    items: TableSource | None = None
    users: TableSource | None = None
    dataset: DatasetConfig = DatasetConfig()
    split: SplitConfig = SplitConfig()
    model: AnyModelConfig = SequenceConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    faithfulness: FaithfulnessConfig = FaithfulnessConfig()
    score: ScoreConfig = ScoreConfig()
    promote: PromoteConfig = PromoteConfig()
    report: ReportConfig = ReportConfig()
    tracking: TrackingConfig = TrackingConfig()
    pipeline: PipelineConfig = PipelineConfig()

    @model_validator(mode="before")
    @classmethod
    def _load_plugins(cls, values: Any) -> Any:
        names = values.get("plugins", ()) if isinstance(values, dict) else ()
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            load_plugins(names)
        return values

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        metrics = [metric_name(name, k) for name in RANK_METRICS for k in self.evaluate.ks]
        if self.promote.metric not in metrics:
            metric, ks = self.promote.metric, list(self.evaluate.ks)
            raise ValueError(f"promote.metric must be a metric that is evaluated, got {metric!r} and evaluate.ks={ks}")
        columns = [] if self.items is None else list(self.items.columns)
        for name in getattr(self.model, "features", ()):
            if name not in columns:
                raise ValueError(f"model.features must name columns of [items], got {name!r}; there are {columns}")
        return self

    @property
    def mlflow_experiment(self) -> str:
        """Name of the MLflow experiment; without "/", because MLflow's UI shows only what follows it."""
        return self.tracking.experiment or f"attnrec-{self.name}"


def load_experiment(
    path: str | Path, *, overrides: tuple[str, ...] = (), samples: Path = Path("data/samples")
) -> Experiment:
    """Read an experiment from a TOML file.

    Args:
        path: a TOML file; relative paths in it are resolved against its folder.
        overrides: "table.key=value" settings that override the file, such as "train.epochs=2". A value that is not
            valid TOML is read as text.
        samples: folder of the generated logs of `[sample]` tables.

    Raises:
        ExperimentError: for a missing or malformed file, an unknown key, or an invalid value.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(f"an experiment must be a TOML file, got {path}, which does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ExperimentError(f"an experiment must be a TOML file, got {path}: {error}") from None
    for override in overrides:
        _override(content, override)
    content.setdefault("name", re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-"))
    _resolve_paths(content, path.resolve().parent)
    _add_sample(content, samples, path)
    if "seed" in content and isinstance(content.get("train", {}), dict):
        content.setdefault("train", {}).setdefault("seed", content["seed"])
    if isinstance(content.get("model"), dict):
        content["model"].setdefault("kind", "attnrec")
    try:
        return Experiment(**content)
    except ValidationError as error:
        problem = first_error(error, config_class=Experiment, hidden_parts=frozenset(MODELS))
        raise ExperimentError(f"{path}: {problem}") from None
    except TypeError as error:
        raise ExperimentError(f"{path}: {error}") from None


def _add_sample(content: dict[str, Any], samples: Path, path: Path) -> None:
    """Write the synthetic log of a table [sample] and use its files as interactions and items."""
    if "sample" not in content:
        return
    if clash := [name for name in ("interactions", "items") if name in content]:
        raise ExperimentError(f"{path}: [sample] replaces [interactions] and [items], got [{clash[0]}] too; remove one")
    try:
        folder = sample_folder(SampleConfig.from_dict(content["sample"]), samples)
    except ValueError as error:
        raise ExperimentError(f"{path}: [sample]: {error}") from None
    content["interactions"] = {"path": str(folder / "interactions.csv")}
    columns = {"title": "text", "kind": "category", "price": "number"}
    content["items"] = {"path": str(folder / "items.csv"), "id": "item_id", "columns": columns}


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ExperimentError(f"--set needs KEY=VALUE such as train.epochs=2, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *tables, name = key.strip().split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise ExperimentError(f"--set needs a key in a table, got {override!r}, where {table} is a value")
    content[name] = value


def _resolve_paths(content: dict[str, Any], folder: Path) -> None:
    for table in content.values():
        if isinstance(table, dict):
            for key in PATH_KEYS:
                if isinstance(table.get(key), str) and (key, table[key]) != ("init", CHAMPION):
                    table[key] = str(folder / table[key])
                elif isinstance(table.get(key), list):
                    table[key] = [str(folder / str(path)) for path in table[key]]
