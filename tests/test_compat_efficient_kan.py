"""In efficient-kan's place: one program, the same numbers; and what is defective there works."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from golden import record

import kanfast


@pytest.fixture(scope="module")
def ours() -> dict[str, np.ndarray]:
    return record.observe(kanfast)


def check(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs), "names, shapes and order of parameters and buffers"
    for name, expected in theirs.items():
        actual = ours[name]
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype, name
        # float32 occurs in the initial values only, whose noise is about 0.1 in size.
        bound = 1e-6 if expected.dtype == np.float32 else 1e-10
        error = np.abs(actual - expected).max() / max(1.0, np.abs(expected).max())
        assert error <= bound, f"{name}: {error:.1e}"


def test_the_same_program_gives_efficient_kans_numbers(ours: dict[str, np.ndarray]) -> None:
    with np.load(record.FILE) as theirs:
        check(ours, dict(theirs))


def test_the_same_program_beside_efficient_kan(ours: dict[str, np.ndarray]) -> None:
    check(ours, record.observe(pytest.importorskip("efficient_kan")))


def test_state_dicts_load_both_ways() -> None:
    theirs = pytest.importorskip("efficient_kan").KAN([3, 4, 2])
    x = record.points(9, 3)
    ours = kanfast.KAN([3, 4, 2])
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    ours(record.points(90, 3), update_grid=True)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_signatures_begin_as_efficient_kans() -> None:
    package = pytest.importorskip("efficient_kan")
    for name in ("KANLinear", "KAN"):
        theirs = inspect.signature(getattr(package, name).__init__).parameters
        ours = inspect.signature(getattr(kanfast, name).__init__).parameters
        first = list(ours)[: len(theirs)]
        assert first == list(theirs)
        for parameter in first[1:]:
            a, b = theirs[parameter].default, ours[parameter].default
            assert list(a) == list(b) if isinstance(a, list) else a == b
        rest = list(ours.values())[len(theirs) :]
        assert all(p.kind == p.KEYWORD_ONLY for p in rest)


ATTRIBUTES: dict[str, Any] = {
    "in_features": 3,
    "out_features": 2,
    "grid_size": 6,
    "spline_order": 2,
    "scale_noise": 0.2,
    "scale_base": 1.5,
    "scale_spline": 0.8,
    "enable_standalone_scale_spline": False,
    "grid_eps": 0.1,
}


def test_attributes() -> None:
    layer = kanfast.KANLinear(3, 2, 6, 2, 0.2, 1.5, 0.8, False, torch.nn.Tanh, 0.1, [0, 2])
    assert {name: getattr(layer, name) for name in ATTRIBUTES} == ATTRIBUTES
    assert type(layer.base_activation) is torch.nn.Tanh


def test_random_numbers_are_drawn_in_the_same_order() -> None:
    package = pytest.importorskip("efficient_kan")
    draws = []
    for module in (package, kanfast):
        torch.manual_seed(0)
        module.KAN([4, 5, 2])
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


# --- the differences listed in docs/from-efficient-kan.md -----------------------------------------


def test_update_grid_keeps_the_function() -> None:
    """efficient-kan refits the scaled spline, then scales it again."""
    torch.manual_seed(0)
    layer = kanfast.KANLinear(3, 2, scale_noise=1.0, dtype=torch.float64)
    x = record.points(400, 3, scale=0.9).double()
    before = layer(x)
    layer.update_grid(x)
    assert (layer(x) - before).abs().max() < 0.05 * before.abs().max()


def test_order_zero() -> None:
    """There the grid is empty: t[0:-0]."""
    layer = kanfast.KANLinear(3, 2, 4, 0)
    layer.update_grid(record.points(50, 3))
    assert layer(record.points(9, 3)).isfinite().all()


def test_empty_batch() -> None:
    """There `view(0, -1)` raises."""
    assert kanfast.KANLinear(3, 2)(torch.zeros(0, 3)).shape == (0, 2)


def test_repeated_knots() -> None:
    """There 0/0 gives NaN for the whole row."""
    layer = kanfast.KANLinear(1, 2, grid_eps=0.0)
    layer.update_grid(torch.tensor([[0.0]] * 50 + [[0.5], [1.0]]))
    assert (layer.grid.diff() == 0).any()
    assert layer(torch.linspace(-1, 2, 50)[:, None]).isfinite().all()


def test_many_dimensions_with_update_grid() -> None:
    """There `update_grid` asserts two."""
    assert kanfast.KAN([3, 2])(record.points(4, 9, 3), update_grid=True).shape == (4, 9, 2)
