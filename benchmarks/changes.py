"""Parser of the --set options of benchmarks."""

import json
from typing import Any


def parse_settings(changes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split KEY=VALUE options into settings of the model and, with the prefix `train.`, of training.

    Values are JSON; everything else is text.
    """
    settings: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for change in changes:
        key, _, text = change.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        settings[key.startswith("train.")][key.removeprefix("train.")] = value
    return settings
