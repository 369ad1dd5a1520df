"""How the runtime's modules depend on each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import barque

RUNTIME = Path(barque.__file__).parent / "runtime"
PREFIX = "barque.runtime."


def imports_of(path: Path) -> set[str]:
    """The modules of the runtime that a module imports, for type checking as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "barque.runtime":
            found |= {PREFIX + alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.removeprefix(PREFIX) for name in found if name.startswith(PREFIX)}


def dependencies() -> dict[str, set[str]]:
    """What each module of the runtime imports."""
    return {path.stem: imports_of(path) for path in RUNTIME.glob("*.py") if path.stem != "__init__"}


def test_the_runtime_has_no_import_cycle() -> None:
    """Arrows point one way, those that only a type checker follows too."""
    TopologicalSorter(dependencies()).prepare()


def test_a_cycle_would_be_found() -> None:
    """The check sees two modules that import each other."""
    with pytest.raises(CycleError):
        TopologicalSorter({**dependencies(), "clock": {"node"}}).prepare()


def test_nobody_in_the_runtime_knows_the_node() -> None:
    """Each object gets the parts that it uses; none reaches through the node for others."""
    assert [name for name, imported in dependencies().items() if "node" in imported] == []
