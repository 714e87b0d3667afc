"""The notebooks run from top to bottom, and their committed outputs are up to date."""

import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MACHINE = re.compile(
    r"(?<![\w.])/(work|root|tmp|home|Users|opt|usr|var|private)/"  # an absolute path
    r"|[A-Za-z]:\\|file://|127\.0\.0\.1|localhost"
    r"|0x[0-9a-f]{6,}|\b[0-9a-f]{32}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-"  # memory addresses, ids of MLflow and Prefect
)

Cells = list[dict[str, Any]]


def code_of(path: Path) -> Cells:
    """Return the code cells of a notebook."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def outputs_of(cells: Cells) -> Cells:
    return [output for cell in cells for output in cell["outputs"]]


def texts_of(cells: Cells) -> list[str]:
    """Return the text of all outputs except images."""
    texts = []
    for output in outputs_of(cells):
        shown = {**output.get("data", {}), "text": output.get("text", "")}
        texts += ["".join(text) for kind, text in shown.items() if not kind.startswith("image/")]
    return texts


def kinds_of(cells: Cells) -> list[list[str]]:
    """Return the kinds of output by cell."""
    return [[output.get("name") or " ".join(output["data"]) for output in cell["outputs"]] for cell in cells]


def execute(*arguments: str | Path, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run notebooks/execute.py with an empty home directory, which also holds the temporary files."""
    (home / "tmp").mkdir(parents=True)
    paths = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "JUPYTER", "IPYTHON", "MPL", "PREFECT", "MLFLOW", "ATTNREC"))
    }
    command = [sys.executable, str(FOLDER / "execute.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment | paths | variables, capture_output=True, text=True, check=False)


def write_notebook(path: Path, *sources: str) -> Path:
    """Write a notebook with these code cells, not executed."""
    cells = [
        {"id": f"cell-{number}", "cell_type": "code", "metadata": {}, "source": source, "outputs": []}
        | {"execution_count": None}
        for number, source in enumerate(sources)
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


# --- notebooks, executed


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_output_matches_the_committed_one(path, tmp_path):
    before = sorted(FOLDER.rglob("*"))
    completed = execute(path, "--into", tmp_path, home=tmp_path / "home")
    assert completed.returncode == 0, completed.stderr
    cells = code_of(tmp_path / path.name)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    warnings = [output["text"] for output in outputs_of(cells) if output.get("name") == "stderr"]
    assert warnings == []
    assert kinds_of(cells) == kinds_of(code_of(path)), "run `make notebooks` and review the changes"
    assert not any(MACHINE.search(text) for text in texts_of(cells))
    assert [path for path in sorted(FOLDER.rglob("*")) if path not in before] == []
    files = {file.name for file in (tmp_path / "home" / "tmp").iterdir() if not file.name.startswith("torchinductor_")}
    files |= {file.name for file in (tmp_path / "home").iterdir()} - {"tmp", ".cache", ".config", ".ipython", ".local"}
    assert files == set(), "a notebook must delete its temporary files"


# --- notebooks, as committed


def test_the_readme_lists_all_notebooks():
    assert [path.name for path in NOTEBOOKS] == [
        "01_quickstart.ipynb", "02_why_this_item.ipynb", "03_compare_runs.ipynb", "04_your_own_model.ipynb",
    ]  # fmt: skip
    readme = (FOLDER / "README.md").read_text()
    assert re.findall(r"\((\w+\.ipynb)\)", readme) == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_output_is_one_run_without_errors_or_warnings(path):
    cells = code_of(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert outputs_of(cells)
    assert {output["output_type"] for output in outputs_of(cells)} <= {"stream", "display_data", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs_of(cells)} == {"stdout"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebook_contains_nothing_specific_to_one_machine(path):
    found = [match[0] for text in texts_of(code_of(path)) for match in MACHINE.finditer(text)]
    assert found == []
    assert all(cell["metadata"] == {} for cell in code_of(path)), "no execution times"
    assert json.loads(path.read_text())["metadata"]["language_info"] == {"name": "python"}, "no Python version"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_at_most_26_cells_and_400_kb(path):
    assert len(json.loads(path.read_text())["cells"]) <= 26
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_point_to_existing_files(path):
    texts = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    for target in re.findall(r"\]\(([^)#]+)\)", "".join("".join(cell["source"]) for cell in texts)):
        assert target.startswith("https://") or (FOLDER / target).exists(), target


@pytest.mark.parametrize(
    "text",
    [
        "saved to /tmp/abc/model", "'" + "/work" + "/main/x.csv'", "<Axes at 0x7f3a2b1c>",
        "run 0123456789abcdef0123456789abcdef",
        "http://127.0.0.1:5000", "file:///x", "123e4567-e89b-12d3-a456-426614174000",
    ],
)  # fmt: skip
def test_machine_specific_text_is_detected(text):
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["tea-010 +1.32", "../data/sample", "1/2 and/or", "<td>0.0</td>", "carrier bag"])
def test_other_text_is_not_detected_as_machine_specific(text):
    assert not MACHINE.search(text)


# --- notebooks/execute.py


def test_the_kernel_is_this_interpreter_in_the_folder_of_the_notebook(tmp_path):
    kernels = tmp_path / "kernels" / "python3"  # a kernel of this name on the machine must not be used
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text('{"argv": ["false"], "display_name": "another", "language": "python"}')
    (tmp_path / "folder").mkdir()
    path = write_notebook(
        tmp_path / "folder" / "where.ipynb", "import os, sys; print(sys.executable); print(os.getcwd())"
    )
    completed = execute(path, home=tmp_path / "home", JUPYTER_PATH=str(tmp_path))
    assert completed.returncode == 0, completed.stderr
    lines = "".join(texts_of(code_of(path))).splitlines()
    assert lines == [sys.executable, str(tmp_path / "folder")]


def test_a_failing_notebook_is_not_changed_and_fails_the_command(tmp_path):
    path = write_notebook(tmp_path / "wrong.ipynb", "print(1)", "1 / 0")
    before = path.read_text()
    completed = execute(path, home=tmp_path / "home")
    assert completed.returncode != 0
    assert "ZeroDivisionError" in completed.stderr
    assert path.read_text() == before


def test_executing_twice_writes_the_same_bytes(tmp_path):
    path = write_notebook(
        tmp_path / "again.ipynb", "import random; random.Random(0).random()", "print('a'); print('b')"
    )
    contents = []
    for number in range(2):
        assert execute(path, home=tmp_path / f"home-{number}").returncode == 0
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_pictures_are_compressed_without_visible_change(tmp_path):
    ramp = np.arange(256)
    full = np.full(256, 255)
    ramps = [(ramp, ramp, ramp), (255 - ramp, 255 - ramp // 2, full), (full, 255 - ramp // 3, 255 - ramp)]
    colours = np.concatenate([np.stack(each, axis=1) for each in ramps]).astype(np.uint8)
    picture = colours[np.random.default_rng(0).integers(0, len(colours), (60, 200))]
    Image.fromarray(picture).save(tmp_path / "full.png")
    code = "from IPython.display import Image; Image('full.png')"
    path = write_notebook(tmp_path / "ramps.ipynb", code)
    assert execute(path, home=tmp_path / "home").returncode == 0
    (output,) = outputs_of(code_of(path))
    small = b64decode(output["data"]["image/png"])
    shown = np.asarray(Image.open(BytesIO(small)).convert("RGB"), dtype=int)
    np.testing.assert_allclose(shown, picture, atol=8)
    assert len(small) < (tmp_path / "full.png").stat().st_size / 2
