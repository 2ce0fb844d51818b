"""Tools that walk over a module's attributes, copy it or trace it meet no surprises."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from kanfast import KAN
from kanfast.nn.network import UnavailableError

SCORES = ["edge_scores", "node_scores", "feature_score"]


def model(**options: Any) -> KAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KAN([4, 8, 2], **options)


def rows(count: int = 32) -> torch.Tensor:
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SCORES)
def test_scores_without_samples_say_what_they_need(name: str) -> None:
    assert not hasattr(model(), name)
    with pytest.raises(UnavailableError, match="this needs samples: pass x="):
        getattr(model(), name)


def test_the_backend_of_layers_that_differ() -> None:
    network = model()
    network.layers[0].backend = "reference"
    assert not hasattr(network, "backend")
    with pytest.raises(UnavailableError, match="the layers have different backends"):
        _ = network.backend


def test_what_is_not_there_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = model().nonsense


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are tensors to it
@pytest.mark.parametrize("called", [False, True])
def test_walks_do_not_raise(called: bool) -> None:
    network, x = model(), rows()
    if called:
        network(x)
    assert dict(inspect.getmembers(network))["width"] == [4, 8, 2]
    for name in dir(network):
        getattr(network, name, None)
    traced = torch.jit.trace(network, x)
    torch.testing.assert_close(traced(rows(7)), network(rows(7)))


def test_pickles_hold_no_rows() -> None:
    network = model()
    network.get_act(rows())
    network(rows())
    size = len(pickle.dumps(network))
    network.get_act(rows(5000))
    network(rows(5000))
    assert len(pickle.dumps(network)) == size
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded.samples is None
    assert not hasattr(loaded, "edge_scores")
    torch.testing.assert_close(loaded(rows()), network(rows()))


@pytest.mark.parametrize("twin", [copy.deepcopy, KAN.copy])
def test_copies_keep_samples(twin: Any) -> None:
    network = model()
    network.get_act(rows())
    other = twin(network)
    assert torch.equal(other.samples, network.samples)
    other.layers[0].spline_weight.data.zero_()
    assert (network.layers[0].spline_weight != 0).any()


def test_copies_of_a_network_that_saw_a_part_of_a_graph() -> None:
    network = model()
    x = rows().requires_grad_() * 2
    network(x).sum().backward()
    assert network.samples_or(None).grad_fn is None, "a graph would stay alive"
    assert len(copy.deepcopy(network).edge_scores) == 2


def test_samples_move_along() -> None:
    network = model()
    network.get_act(rows())
    assert network.double().samples.dtype == torch.float64
    assert network.to("meta").samples.is_meta


def test_programs_are_exported_after_samples_were_kept() -> None:
    network, x = model(), rows()
    network.get_act(x)
    rows_of_any_number = ({0: torch.export.Dim("rows")},)
    program = torch.export.export(network, (x,), dynamic_shapes=rows_of_any_number)
    torch.testing.assert_close(program.module()(rows(3)), network(rows(3)))


def test_methods_take_what_the_model_was_called_with_last() -> None:
    network = model()
    network(rows(3))
    network(rows(9))
    fresh = model()
    assert torch.equal(network.edge_scores[0], fresh.attribute(x=rows(9)).edge_scores[0])
    assert network.get_fun(0, 1, 2)[0].shape == (9,)
    network.plot()
    network.get_act(rows(5))
    network(rows(9))
    assert network.get_fun(0, 1, 2)[0].shape == (5,), "those of fit and get_act come first"


@pytest.mark.parametrize("x", [[1, 2, 3, 4], None, np.zeros((3, 4)), torch.zeros(3, 5)])
def test_calls_that_fail_say_why_and_leave_nothing(x: Any) -> None:
    network = model()
    with pytest.raises((TypeError, ValueError), match=r"^x must (be a torch.Tensor|have 4 feat)"):
        network(x)
    assert not hasattr(network, "edge_scores")


def test_the_last_input_need_not_be_kept() -> None:
    network = model()
    network.keeps_input = False
    network(rows())
    assert not hasattr(network, "edge_scores")


def test_transforms_and_the_compiler_leave_nothing(fresh_compiler: None) -> None:
    network = model()
    torch.func.vmap(network)(rows())
    torch.func.jacrev(network)(rows(1)[0])
    torch.compile(network, backend="eager", fullgraph=True)(rows())
    assert not hasattr(network, "edge_scores")


INTEGERS = [np.int64, np.int32, np.uint8, torch.tensor]


@pytest.mark.parametrize("kind", INTEGERS, ids=lambda kind: kind.__name__)
def test_integers_of_any_library(kind: Any) -> None:
    three = kind(3)
    network = KAN([three, [kind(2), kind(1)], 1], grid_size=three, spline_order=kind(2))
    assert (network.width, network.grid_size, network.spline_order) == ([3, 3, 1], 3, 2)
    assert type(network.layers[0].in_features) is int
    assert network.refine(kind(6)).grid_size == 6


@pytest.mark.parametrize("value", [2.0, True, "3", np.float64(3), torch.tensor(3.0), None])
def test_what_is_no_integer(value: Any) -> None:
    with pytest.raises(TypeError, match="grid_size must be an int, got"):
        KAN([2, 1], grid_size=value)
    with pytest.raises(TypeError, match="new_grid_size must be an int, got"):
        KAN([2, 1]).refine(value)


def test_layers_without_scalers() -> None:
    network = KAN([2, 3, 1], enable_standalone_scale_spline=False)
    assert not any("scaler" in name for name in network.state_dict())
    for other in (network.copy(), network.refine(8), network.prune(x=torch.rand(20, 2))):
        assert not any("scaler" in name for name in other.state_dict())
