"""One TOML file = one frozen Experiment: what is read, how it is split, trained, judged and served."""

import re
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from attnrec.config import Config, first_error
from attnrec.evaluation import EvaluateConfig
from attnrec.evaluation.metrics import RANK_METRICS, metric_name
from attnrec.evaluation.promotion import PromoteConfig
from attnrec.faithfulness.settings import FaithfulnessConfig
from attnrec.ingestion import InteractionSource, TableSource
from attnrec.models import MODELS, AnyModelConfig, SequenceConfig
from attnrec.report.settings import ReportConfig
from attnrec.scoring import ScoreConfig
from attnrec.training import TrainConfig

PATH_KEYS = ("path", "test_path", "init")
CHAMPION = "champion"
"""`pipeline.init`: start from the model that serves now, instead of a folder."""


class ExperimentError(ValueError):
    """An experiment that cannot be run; the message is one line."""


class DatasetConfig(Config):
    """Which events are kept: items, then users, with fewer than this many are left out (and counted)."""

    min_item_events: int = Field(default=1, ge=1)
    min_user_events: int = Field(default=1, ge=1)


class SplitConfig(Config):
    """How the log is cut.

    `time` (default): the last `test_days` are test, the `validation_days` before them validation, or `cutoff`
    is where test begins. `last`: leave one out. `given`: `test_path` holds the test interactions.
    """

    kind: Literal["time", "last", "given"] = "time"
    test_days: float = Field(default=7, gt=0)
    validation_days: float = Field(default=7, gt=0)
    cutoff: datetime | None = None
    test_path: str | None = None
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)


class TrackingConfig(Config):
    """Where runs are told: the MLflow experiment (default attnrec-NAME) and the registered model."""

    experiment: str | None = None
    registered_model: str = "attnrec"


class PipelineConfig(Config):
    """How flows run.

    Attributes:
        deadline_minutes: training is stopped hard after them.
        refit: train on all events before serving.
        init: what training starts from (see `attnrec.training.WarmStart`): "champion", the model that serves now, as
            it was judged, before its refit; or the path of a model folder, which must not have been trained on the
            days that this experiment asks about. None starts anew.
    """

    deadline_minutes: float = Field(default=24 * 60, gt=0)
    refit: bool = True
    init: str | None = None


class Experiment(Config):
    """Everything a run depends on; made by `load_experiment`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    seed: int = 0
    interactions: InteractionSource
    items: TableSource | None = None
    users: TableSource | None = None
    dataset: DatasetConfig = DatasetConfig()
    split: SplitConfig = SplitConfig()
    model: Annotated[AnyModelConfig, Field(discriminator="kind")] = SequenceConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    faithfulness: FaithfulnessConfig = FaithfulnessConfig()
    score: ScoreConfig = ScoreConfig()
    promote: PromoteConfig = PromoteConfig()
    report: ReportConfig = ReportConfig()
    tracking: TrackingConfig = TrackingConfig()
    pipeline: PipelineConfig = PipelineConfig()

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        measured = [metric_name(name, k) for name in RANK_METRICS for k in self.evaluate.ks]
        if self.promote.metric not in measured:
            raise ValueError(f"promote.metric must be one that evaluate.ks measures, got {self.promote.metric!r}")
        columns = [] if self.items is None else list(self.items.columns)
        for name in getattr(self.model, "features", ()):
            if name not in columns:
                raise ValueError(f"model.features must be columns of [items], got {name!r}; there are {columns}")
        return self

    @property
    def mlflow_experiment(self) -> str:
        """Name of the MLflow experiment; without "/", which its pages would cut."""
        return self.tracking.experiment or f"attnrec-{self.name}"


def load_experiment(path: str | Path, *, overrides: tuple[str, ...] = ()) -> Experiment:
    """Read an experiment.

    Args:
        path: a TOML file; relative paths in it are taken from its folder. Its name is the default `name`, in small
            letters and with "-" for all else.
        overrides: settings that win over the file, such as "train.epochs=2"; values are TOML, or else text.

    Raises:
        ExperimentError: for a file that is not there or no TOML, an unknown key, a wrong value.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(f"an experiment is a TOML file, got {path}, which is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ExperimentError(f"an experiment is a TOML file, got {path}: {error}") from None
    for override in overrides:
        _override(content, override)
    content.setdefault("name", re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-"))
    _resolve_paths(content, path.resolve().parent)
    if "seed" in content and isinstance(content.get("train", {}), dict):
        content.setdefault("train", {}).setdefault("seed", content["seed"])
    if isinstance(content.get("model"), dict):
        content["model"].setdefault("kind", "attnrec")
    try:
        return Experiment(**content)
    except ValidationError as error:
        raise ExperimentError(f"{path}: {first_error(error, of=Experiment, left_out=frozenset(MODELS))}") from None
    except TypeError as error:
        raise ExperimentError(f"{path}: {error}") from None


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
            raise ExperimentError(f"--set {override}: {table} is a value, not a table")
    content[name] = value


def _resolve_paths(content: dict[str, Any], folder: Path) -> None:
    for table in content.values():
        if isinstance(table, dict):
            for key in PATH_KEYS:
                if isinstance(table.get(key), str) and (key, table[key]) != ("init", CHAMPION):
                    table[key] = str(folder / table[key])
                elif isinstance(table.get(key), list):
                    table[key] = [str(folder / str(path)) for path in table[key]]
