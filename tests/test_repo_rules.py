"""Rules of the repository: layers, sizes, imports, packaging, language."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("attnrec/**/*.py"), *ROOT.glob("pipelines/**/*.py")])

# a module may import from its own package and from packages in the same or an earlier row
LAYERS = [
    ["config", "schema", "storage", "precision", "layers", "sample"],
    ["attention", "encoders", "dataset", "ingestion"],
    ["models", "losses"],
    ["attribution", "scoring"],
    ["evaluation"],
    ["explanation", "faithfulness", "training", "analysis"],
    ["recommender"],
    ["fitting", "report"],
    ["experiment", "tracking"],
    ["loading"],
]
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
HEAVY = {
    "prefect": lambda module: module.startswith("attnrec_pipelines"),
    "mlflow": lambda module: (
        module.startswith(("attnrec.tracking", "attnrec_pipelines"))
        and not module.startswith("attnrec.tracking.figures")
    ),
    "duckdb": lambda module: module.startswith("attnrec.ingestion"),
    "torch_geometric": lambda module: module in ("attnrec.attention.graph.pyg", "attnrec.dataset.graph.hetero_data"),
    "sklearn": lambda module: module == "attnrec.dataset.text",
    "sentence_transformers": lambda module: module == "attnrec.dataset.text",
}


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name.replace("pipelines", "attnrec_pipelines", 1) if name.startswith("pipelines") else name


def imports_of(path: Path, *, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", [p for p in SOURCES if "attnrec" in p.parts], ids=module_of)
def test_imports_go_downward_only(path):
    module = module_of(path).split(".")
    if len(module) == 1:
        return
    assert module[1] in LEVEL, f"give {module[1]} a place in LAYERS"
    for imported in imports_of(path):
        parts = imported.split(".")
        assert parts[0] not in ("pipelines", "attnrec_pipelines"), "the library does not import the flows"
        if parts[0] == "attnrec" and len(parts) > 1 and parts[1] != module[1]:
            assert LEVEL[parts[1]] <= LEVEL[module[1]], f"{'.'.join(module)} imports {imported}, which is above it"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_heavy_packages_are_imported_only_where_they_belong(path):
    for imported in imports_of(path):
        package = imported.split(".")[0]
        if package in HEAVY:
            assert HEAVY[package](module_of(path)), f"{module_of(path)} imports {imported}"


def test_modules_have_at_most_300_lines():
    long = {module_of(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_importing_attnrec_is_fast_and_imports_no_heavy_package():
    code = "import time; t = time.perf_counter(); import attnrec, sys, json; s = time.perf_counter() - t; "
    code += "print(json.dumps([s, sorted({m.split('.')[0] for m in sys.modules})]))"
    seconds, modules = json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT))
    assert seconds < 2
    assert not {"mlflow", "prefect", "duckdb", "torch_geometric", "matplotlib"} & set(modules)


def test_training_and_scoring_import_no_more_than_a_bare_gpu_machine_has():
    code = "import attnrec.fitting, attnrec.evaluation.evaluator, sys, json; print(json.dumps(sorted(sys.modules)))"
    modules = {
        name.split(".")[0] for name in json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT))
    }
    assert not {"mlflow", "prefect", "duckdb", "torch_geometric", "matplotlib", "typer", "sklearn"} & modules


def test_every_public_name_exists():
    import attnrec

    for name in attnrec.__all__:
        assert getattr(attnrec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = attnrec.nothing


def test_the_folder_mlflow_does_not_hide_the_package():
    assert not list((ROOT / "mlflow").rglob("*.py"))
    place = subprocess.check_output(
        [sys.executable, "-c", "import mlflow; print(mlflow.__file__)"], cwd=ROOT, text=True
    )
    assert "site-packages" in place


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_constraints_pin_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert pins["torch"] == "2.13.0"
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[]", requirement)[0].lower()
        assert name in pins, f"{name} has no tested version in constraints.txt"


def test_no_file_contains_a_path_of_one_machine():
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".toml", ".md", ".yaml", ".txt", ".jsonl", ""} and path.is_file():
            text = path.read_text(errors="ignore")
            assert not re.search(r"/(work|root)/(main|shared|\.)|file:///(opt|root|home)", text), name


def test_nothing_in_the_library_unpickles():
    for path in SOURCES:
        assert not re.search(r"\bpickle\.\w|torch\.(save|load)\(|joblib|allow_pickle=True", path.read_text()), path


def test_only_the_models_package_checks_model_classes():
    from attnrec.models import Model

    classes, new = {"Model"}, [Model]
    while new:
        new = [subclass for parent in new for subclass in parent.__subclasses__()]
        classes |= {subclass.__name__ for subclass in new}
    for path in ROOT.glob("attnrec/**/*.py"):
        if module_of(path).startswith("attnrec.models"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                names = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                place = f"{module_of(path)}:{node.lineno}"
                assert not names & classes, f"{place} checks a model class; use a capability of Model (models/base.py)"


def test_modules_do_not_import_each_other_in_a_circle():
    """Module-level imports and those under TYPE_CHECKING count; inside attnrec.explanation also those in functions."""
    paths = {module_of(path): path for path in SOURCES}

    def statements(node: ast.AST, *, in_functions: bool) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield child
                yield from statements(child, in_functions=in_functions)

    def imported(module: str) -> set[str]:
        tree = ast.parse(paths[module].read_text())
        names = set()
        for node in statements(tree, in_functions=module.startswith("attnrec.explanation")):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                submodules = {f"{node.module}.{alias.name}" for alias in node.names} & paths.keys()
                names |= submodules or {node.module}
        return (names & paths.keys()) - {module}

    graph = nx.DiGraph((module, other) for module in paths for other in imported(module))
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_the_root_of_the_library_has_at_most_ten_modules():
    modules = sorted(path.stem for path in ROOT.glob("attnrec/*.py") if path.stem != "__init__")
    assert len(modules) <= 10, f"put a new module into a package: {modules}"


ODD_PHRASES = (
    *(
        "a person can mend",
        "goes on where",
        "going on at",
        "hears of",
        "dealt out",
        "drawn blindly",
        "otherwise than there",
    ),
    *("everyone likes it", "what came of it", "say it their way", "somebody who just came", "is then yours to know"),
    *("are else as", "far as 5 MB go", "reasons are true", "the sum law", "a loss that is no number", "has a say"),
)


def test_prose_uses_the_terms_of_the_glossary():
    """Phrases that docs/glossary.md replaces do not come back."""
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    texts = [name for name in tracked if name.endswith((".py", ".md", ".toml", ".js", ".html", ".ipynb"))]
    for name in texts:
        if name == "tests/test_repo_rules.py" or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_text()
        found = [phrase for phrase in ODD_PHRASES if phrase in text]
        assert found == [], f"{name}: use the terms of docs/glossary.md"
