"""What --set says on a benchmark's command line."""

import json
from typing import Any


def parse_settings(changes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """KEY=VALUE -> settings of the model, and those that begin with `train.` of training; values are JSON or text."""
    given: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for change in changes:
        key, _, text = change.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        given[key.startswith("train.")][key.removeprefix("train.")] = value
    return given
