"""The code in the pages about other packages runs as it stands, and no name of pykan is missing."""

import importlib
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from kanfast import KAN

DOCS = Path(__file__).parents[1] / "docs"
PYKAN = (DOCS / "from-pykan.md").read_text(encoding="utf-8")
CODE = r"^```python\n(.*?)^```"
EFFICIENT_KAN_BLOCKS = re.findall(
    CODE, (DOCS / "from-efficient-kan.md").read_text(encoding="utf-8"), re.M | re.S
)
PYKAN_BLOCKS = re.findall(CODE, PYKAN, re.M | re.S)


@pytest.mark.parametrize("block", EFFICIENT_KAN_BLOCKS, ids=["training", "state dict"])
def test_code_about_efficient_kan(block: str) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(block, "from-efficient-kan.md", "exec"), names)
    if "loss" in names:
        assert names["loss"] < 0.1


def test_the_workflow_of_pykan() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(PYKAN_BLOCKS[0], "from-pykan.md", "exec"), names)
    assert len(names["expressions"]) == 1
    assert [str(variable) for variable in names["variables"]] == ["x_1", "x_2"]


def test_code_about_models_of_pykan(pykan: Any) -> None:
    names = {"pykan_model": pykan.KAN(width=[2, 3, 1], auto_save=False)}
    exec(compile(PYKAN_BLOCKS[1], "from-pykan.md", "exec"), names)
    assert len(PYKAN_BLOCKS) == 2


def test_every_name_of_pykan_has_its_place(pykan: Any) -> None:
    quoted = re.findall(r"`([^`]+)`", re.sub(CODE, "", PYKAN, flags=re.M | re.S))
    named = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", " ".join(quoted)))
    classes = (pykan.KAN, pykan.KANLayer, pykan.Symbolic_KANLayer)
    wanted = {"SYMBOLIC_LIB", "LBFGS", "kanpiler", "sf2kan"}
    for owner in classes:
        wanted |= {owner.__name__, *(n for n in vars(owner) if not n.startswith("_"))}
    wanted |= set(inspect.signature(pykan.KAN.__init__).parameters) - {"self"}
    for name in ("utils", "spline", "compiler", "hypothesis", "feynman", "experiment"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(f"kan.{name}")
        functions = inspect.getmembers(module, inspect.isfunction)
        own = {n for n, f in functions if f.__module__ == module.__name__}
        wanted |= {n for n in own if not n.startswith("f_")}  # the values of SYMBOLIC_LIB
    assert sorted(wanted - named) == []


def test_what_is_said_to_be_the_same_is_there(pykan: Any) -> None:
    same = {n for n in vars(pykan.KAN) if not n.startswith("_")} & set(dir(KAN))
    without = {"plot", "update_grid_from_samples", "get_range", "refine"}
    for name in sorted(same - without):
        theirs, ours = getattr(pykan.KAN, name), getattr(KAN, name)
        if not callable(theirs) or name in ("to", "forward"):
            continue
        absent = {"log_history", "random", "plot", "r2_loss_fun", "c_loss_fun", "weight_simple"}
        absent |= {"save_fig", "in_vars", "out_vars", "beta", "save_fig_freq", "img_folder"}
        absent |= {"singularity_avoiding", "y_th", "display_metrics"}
        order = [n for n in inspect.signature(theirs).parameters if n not in absent][1:]
        mine = [n for n in inspect.signature(ours).parameters if n not in absent][1:]
        assert mine[: len(order)] == order, name
