"""Wheel, sdist and editable install hold the same packages, and none is called `kernels`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

# One worker builds for all of these tests.
pytestmark = pytest.mark.xdist_group("packaging")

ROOT = Path(__file__).parents[1]
SOURCES = ("kanfast", "kernels", "tests", "examples", "docs")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
FILES += ("CONTRIBUTING.md", "Makefile")


def modules(top: Path, prefix: str) -> set[str]:
    """Paths, inside an installation, of the modules under a folder of the repository."""
    paths = (path for path in top.rglob("*.py") if "__pycache__" not in path.parts)
    return {f"{prefix}/{path.relative_to(top).as_posix()}" for path in paths}


# kanfast.engine.native is optional: where nothing compiles, everything else is installed.
NO_COMPILER = {**os.environ, "CC": "false", "CXX": "false"}

EXPECTED = modules(ROOT / "kanfast", "kanfast") | modules(ROOT / "kernels", "kanfast/kernels")


def python(*arguments: object, **options: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from it."""
    # From a copy, because setuptools writes into the tree it builds and workers share it.
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    python("-m", "build", "--no-isolation", "--outdir", copy / "dist", copy, env=NO_COMPILER)
    return copy / "dist"


def test_wheel_holds_every_module_and_no_more(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == EXPECTED | {"kanfast/py.typed"}


def test_sdist_can_be_tested(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*.py")}
    sources = (ROOT / "kanfast/engine/native").glob("*.[ch]*")
    native = {path.relative_to(ROOT).as_posix() for path in sources}
    needed = tests | native | modules(ROOT / "kernels", "kernels") | {"Makefile", "LICENSE"}
    assert needed <= names


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def test_installation(built: Path, tmp_path: Path, pattern: str) -> None:
    (package,) = built.glob(pattern)
    target = tmp_path / "target"
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target)
    python("-m", "pip", "install", *options, package, env=NO_COMPILER)
    installed = {path.name for path in target.iterdir() if path.suffix != ".dist-info"}
    assert installed == {"bin", "kanfast"}
    assert os.access(target / "bin" / "kanfast", os.X_OK)

    # From elsewhere, and with this installation before the editable one.
    elsewhere = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(target)}}
    program = "import kanfast, kanfast.kernels as k; print(kanfast.__file__, k.__file__)"
    assert python("-c", program, **elsewhere).split() == [
        str(target / "kanfast" / "__init__.py"),
        str(target / "kanfast" / "kernels" / "__init__.py"),
    ]
    assert python("-m", "kanfast", "--version", **elsewhere).startswith("kanfast ")


def test_editable_install_imports_the_repository(tmp_path: Path) -> None:
    program = "import kanfast.kernels as k; print(k.__file__)"
    assert python("-c", program, cwd=tmp_path).strip() == str(ROOT / "kernels" / "__init__.py")


def test_the_name_kernels_is_not_taken() -> None:
    assert "kanfast" not in packages_distributions().get("kernels", [])


def test_works_without_triton(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, kanfast\n"
        "print(kanfast.KAN([2, 3, 1])(torch.zeros(4, 2)).shape)"
    )
    assert python("-c", program, cwd=tmp_path).strip() == "torch.Size([4, 1])"
