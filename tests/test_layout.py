"""Imports go one way, from roof to ground, also those within functions and those for types."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground to the roof. A file imports from its own room and from those before it.
ROOMS = [
    "extras",
    "kernels",
    "engine",
    "symbolic",
    "nn",
    "plot",
    "interpret",
    "explain",
    "kan",
    "__init__",
    "cli",
    "__main__",
]
FILES = [
    path.relative_to(ROOT)
    for room in ("kanfast", "kernels")
    for path in (ROOT / room).rglob("*.py")
]
# `kernels/` is installed as kanfast.kernels.
NAMES = {
    ".".join(("kanfast" / path if path.parts[0] == "kernels" else path).with_suffix("").parts): path
    for path in FILES
}


def module(name: str) -> str | None:
    """The key in `NAMES` of an imported name: a module, or a package's `__init__`."""
    return next((key for key in (name, f"{name}.__init__") if key in NAMES), None)


def imports(name: str) -> set[str]:
    """The modules that one imports, at any place in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / NAMES[name]).read_text())):
        if isinstance(node, ast.Import):
            found |= {module(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *filter(None, [node.module])])
            found |= {module(f"{source}.{alias.name}") or module(source) for alias in node.names}
    return found - {None}


def room(name: str) -> int:
    return ROOMS.index(name.split(".")[1])


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_down(name: str) -> None:
    assert {other for other in imports(name) if room(other) > room(name)} == set()


def test_no_circle() -> None:
    TopologicalSorter({name: imports(name) for name in NAMES}).prepare()
