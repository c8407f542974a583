"""The walls of the house: who may import what, and what loading the definitions costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "aef_dagster"
# Rooms in the order data flows; an import may point to the left only.
ROOMS = ("basins", "embeddings", "similarity", "evaluation", "models", "experiments", "storage",
         "pipeline")  # fmt: skip
COMMON = ("errors", "settings", "progress")
HEAVY = ("torch", "mlflow", "ee", "sklearn", "rasterio", "geopandas", "ray", "kubernetes")
ALLOWED = {
    "dagster": ("pipeline", "definitions.py", "cli.py"),
    "mlflow": ("storage",),
    "duckdb": ("storage",),
    "torch": ("models",),
}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("library", ALLOWED)
def test_only_its_room_imports_a_library(library):
    outside = [
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] not in ALLOWED[library]
        and any(name.split(".")[0] == library for name in imports_of(path))
    ]
    assert outside == []
    assert any(name.split(".")[0] == library for path in SOURCES for name in imports_of(path)), (
        "nobody imports it any more: drop the rule"
    )


def test_imports_between_rooms_point_up_the_list_only():
    wrong = []
    for path in SOURCES:
        room = path.relative_to(PACKAGE).parts[0]
        if room not in ROOMS:
            continue
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] != "aef_dagster" or len(parts) < 2 or parts[1] in COMMON:
                continue
            if ROOMS.index(parts[1]) > ROOMS.index(room):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_the_engine_needs_numpy_and_torch_only():
    loaded = run_python(
        "import aef_dagster.models.engine.cpu, sys; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    ).split()
    assert not set(loaded) & {"dagster", "mlflow", "duckdb", "pandas", "xarray", "pyarrow"}


@pytest.mark.parametrize("module", ["aef_dagster.definitions", "aef_dagster.cli"])
def test_loading_imports_nothing_heavy(module):
    code = (
        f"import {module}, sys; "
        "d = getattr(sys.modules['aef_dagster.definitions'], 'defs', None) "
        "if 'aef_dagster.definitions' in sys.modules else None; "
        "d and d(); print(*sys.modules)"
    )
    loaded = {name.split(".")[0] for name in run_python(code).split()}
    assert "aef_dagster" in loaded
    assert not loaded & set(HEAVY)


def test_every_module_says_what_lives_in_it():
    bare = [
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert bare == []


def test_no_pickle_anywhere():
    assert [
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if imports_of(path) & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}
    ] == []


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
