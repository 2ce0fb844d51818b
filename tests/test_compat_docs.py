"""The code in docs/from-efficient-kan.md runs as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "from-efficient-kan.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS[:2], ids=["training", "state dict"])
def test_code_about_efficient_kan(block: str) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(block, PAGE.name, "exec"), names)
    if "loss" in names:
        assert names["loss"] < 0.1


def test_code_about_pykan() -> None:
    pykan = pytest.importorskip("kan", reason="pykan is not installed", exc_type=ImportError)
    names = {"pykan_model": pykan.KAN(width=[2, 3, 1], auto_save=False)}
    exec(compile(BLOCKS[2], PAGE.name, "exec"), names)
    assert len(BLOCKS) == 3
