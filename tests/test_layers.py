"""Imports run one way, and the solver has one importer: the folders say what may know what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "optimizer" / "moeopt"

BELOW = {
    "errors": set(),
    "units": {"errors"},
    "arithmetic": set(),
    "schedule": {"arithmetic", "schedule", "accounting.pieces", "errors"},
    "problem": {"errors", "units", "problem"},
    "accounting": {"accounting", "arithmetic", "errors", "layout", "pipeline", "problem", "schedule", "units"},
}
"""Folder or module -> what it may import of the package when it is loaded (imports within functions are free)."""
OUTER = {"cli", "report", "writers", "readers", "claims", "explain", "sweeping", "frontier", "search", "certify"}
"""What the core (problem, accounting, schedule, frameworks, screening, dual, cpsat) never loads."""
CORE = ("problem", "accounting", "schedule", "frameworks", "screening", "dual", "cpsat")


def loaded(path: Path) -> Iterator[str]:
    """Modules that a file imports at its top level (what only type checkers read left out)."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files(name: str) -> list[Path]:
    module = PACKAGE / f"{name}.py"
    return [module] if module.exists() else sorted((PACKAGE / name).rglob("*.py"))


@pytest.mark.parametrize("name", BELOW)
def test_a_folder_loads_only_what_is_below_it(name: str) -> None:
    """Formulas know problems and schedules, not solvers, commands or reports."""
    allowed = {f"moeopt.{other}" for other in BELOW[name]}
    for path in files(name):
        for module in loaded(path):
            if module.startswith("moeopt."):
                assert any(module == each or module.startswith(f"{each}.") for each in allowed), (path.name, module)


@pytest.mark.parametrize("name", CORE)
def test_the_core_never_loads_what_stands_on_it(name: str) -> None:
    """Commands, reports, files and explanations use the core, and not the other way round."""
    for path in files(name):
        for module in loaded(path):
            parts = module.split(".")
            assert parts[0] != "moeopt" or len(parts) < 2 or parts[1] not in OUTER, (path.name, module)


def test_only_cpsat_loads_the_solver() -> None:
    """OR-Tools is imported in one folder, so that whoever does not ask it does not pay for it."""
    users = {path for path in PACKAGE.rglob("*.py") if any(module.startswith("ortools") for module in loaded(path))}
    assert users
    assert {path.parent.name for path in users} == {"cpsat"}
