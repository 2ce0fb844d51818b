"""What the README and the examples show runs as it stands."""

from __future__ import annotations

import re
import runpy
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CAN_COMPILE = (
    any(map(shutil.which, ("g++", "clang++", "c++", "cl")))
    and Path(sysconfig.get_path("include"), "Python.h").exists()
)


@pytest.fixture(autouse=True)
def _keep_the_global_generator() -> object:
    with torch.random.fork_rng(devices=[]):
        yield


def test_the_readme_has_code() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_readme(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_readme_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_example(path: Path) -> None:
    if "torch.compile(" in path.read_text(encoding="utf-8") and not CAN_COMPILE:
        pytest.skip("torch.compile needs a C++ compiler and the headers of Python here")
    # Every example's main() takes the number of steps and returns the figure that it prints last.
    main = runpy.run_path(str(path))["main"]
    assert main(steps=3) is not None
