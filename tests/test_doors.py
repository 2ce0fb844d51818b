"""What is reached from `kanfast`, and the methods of `KAN`, which are functions of a network."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from importlib.metadata import version
from types import FunctionType

import pytest
import torch

import kanfast
from kanfast import KAN

METHODS = [name for name, value in vars(KAN).items() if isinstance(value, FunctionType)]


@pytest.mark.parametrize("name", ["explain", "interpret", "plot", "symbolic", "native"])
def test_rooms_are_attributes(name: str) -> None:
    program = f"import kanfast; print(kanfast.{name}.__doc__ is not None, {name!r} in dir(kanfast))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_names() -> None:
    assert all(hasattr(kanfast, name) for name in kanfast.__all__)
    assert kanfast.__version__ == version("kanfast")
    with pytest.raises(AttributeError, match="'kanfast' has no attribute 'roof'"):
        kanfast.roof  # noqa: B018


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_documented_function_of_a_network(name: str) -> None:
    function = vars(KAN)[name]
    assert function.__name__ == name
    assert next(iter(inspect.signature(function).parameters)) == "network"
    assert function.__doc__


def test_methods_are_pickled_with_their_model() -> None:
    model = KAN([2, 1], dtype=torch.float64)
    x = torch.rand(5, 2, dtype=torch.float64)
    get_act = pickle.loads(pickle.dumps(model.get_act))
    torch.testing.assert_close(get_act(x)[-1], model(x), rtol=0, atol=0)


class Named(KAN):
    """A model of a user's own."""


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.copy(),
        lambda model: model.refine(8),
        lambda model: model.prune_node(active_neurons_id=[[0]]),
        lambda model: model.prune_edge(),
        lambda model: model.prune_input(active_inputs=[0]),
        lambda model: Named.from_layers(model.kan_layers),
    ],
    ids=["copy", "refine", "prune_node", "prune_edge", "prune_input", "from_layers"],
)
def test_new_models_are_of_the_same_class(change) -> None:
    model = Named([2, 2, 1])
    model.get_act(torch.rand(9, 2))
    assert type(change(model)) is Named
