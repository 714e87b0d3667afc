"""Variants of an experiment: one job per value of a setting (`--over`)."""

import tomllib
from typing import Any

from attnrec.experiment import Experiment, ExperimentError
from attnrec.models import MODELS, model_config
from attnrec_pipelines.job import Job, make_job

SHARED = ("dim", "max_length", "dropout")
"""Settings that all kinds of model take from the experiment, where it sets them."""


def variants(experiment: str, over: str, overrides: tuple[str, ...] = (), home: str | None = None) -> dict[str, Job]:
    """Return one job per value of a setting.

    Args:
        experiment: a TOML file or the name of a built-in experiment.
        over: "model=sasrec,gru4rec", or a setting such as "model.attention=scaled_dot,cosine". For `model` the values
            are kinds with the settings of their presets, except for `SHARED` and for settings after the kind:
            "ease max_length=5".
        overrides: for all variants, such as "train.max_minutes=15".
        home: folder for everything that is written.

    Raises:
        ExperimentError: for an invalid experiment, no values, or a setting outside of [model] and [train].
    """
    key, _, values = over.partition("=")
    names = _split_values(values)
    if not names or len(set(names)) < len(names) or key.split(".")[0] not in ("model", "train"):
        raise ExperimentError(
            "--over needs a setting of model or train and different values, such as model=sasrec,gru4rec or "
            f"model.attention=scaled_dot,cosine, got {over!r}"
        )
    if key != "model":
        return {name: make_job(experiment, (*overrides, f"{key}={name}"), home) for name in names}
    base = make_job(experiment, overrides, home)
    return {name: Job(_with_model(base.experiment, name), base.home) for name in names}


def _split_values(values: str) -> list[str]:
    """Split at commas outside of brackets."""
    names, depth = [""], 0
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            names.append("")
        else:
            names[-1] += letter
    return [name.strip() for name in names if name.strip()]


def _with_model(experiment: Experiment, name: str) -> Experiment:
    """Replace the model; the experiment's own kind keeps its settings, except for those in the name."""
    kind, *changes = name.split()
    same_kind = kind == experiment.model.kind
    settings = experiment.model.model_dump() if same_kind else _shared_settings(experiment, kind)
    try:
        model = model_config(kind, settings | dict(_parse_setting(change) for change in changes))
    except ValueError as error:
        raise ExperimentError(f"--over model={name}: {error}") from None
    return experiment if same_kind and not changes else experiment.model_copy(update={"model": model})


def _shared_settings(experiment: Experiment, kind: str) -> dict[str, Any]:
    if kind not in MODELS or not MODELS[kind][0].trainable:
        return {}
    names = experiment.model.model_fields_set & MODELS[kind][1].model_fields.keys()
    return {name: getattr(experiment.model, name) for name in SHARED if name in names}


def _parse_setting(change: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, where VALUE is TOML, or else text."""
    name, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"settings of a model are NAME=VALUE, got {change!r}")
    try:
        return name, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return name, text
