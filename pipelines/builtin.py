"""Built-in experiments: TOML files that are installed with attnrec."""

import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "experiments"


def builtin_path(name: str) -> Path:
    """Return the file of a built-in experiment, or `name` as a path if there is none."""
    path = FOLDER / f"{name}.toml"
    return path if path.is_file() else Path(name)


def builtin_experiments() -> dict[str, str]:
    """Return the built-in experiments whose data is on this machine: name -> description (the file's first line)."""
    experiments = {}
    for path in sorted(FOLDER.glob("*.toml")):
        content = path.read_text(encoding="utf-8")
        if _has_data(tomllib.loads(content)):
            experiments[path.stem] = content.partition("\n")[0].removeprefix("#").strip()
    return experiments


def _has_data(content: dict[str, Any]) -> bool:
    if "sample" in content:
        return True
    path = content.get("interactions", {}).get("path")
    return isinstance(path, str) and (FOLDER / path).exists()
