"""What kan_linear and pack_coefficients say about arguments that do not fit."""

import re

import pytest
import torch
from cases import make_basis, make_grid

from kanfast import kan_linear, pack_coefficients

BASIS = make_basis(5, 3)


def call(**changes):
    arguments = {
        "x": torch.zeros(4, 3),
        "c": torch.zeros(9, 3, 2),
        "grid": make_grid(3, BASIS, dtype=torch.float32),
        "basis": BASIS,
        **changes,
    }
    return kan_linear(arguments.pop("x"), arguments.pop("c"), arguments.pop("grid"), **arguments)


def test_the_arguments_that_are_changed_below_are_right():
    assert call().shape == (4, 2)
    assert call(grid=make_grid(3, BASIS)).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": [[0.0]]}, TypeError, "x must be a torch.Tensor, got list"),
        (
            {"x": torch.zeros(4, 3, dtype=torch.int64)},
            TypeError,
            "x must be float64, float32, bfloat16 or float16, got torch.int64: convert",
        ),
        (
            {"x": torch.zeros(4, 3).to(torch.float8_e4m3fn)},
            TypeError,
            "x must be float64, float32, bfloat16 or float16, got torch.float8_e4m3fn",
        ),
        (
            {"x": torch.zeros(4, 5)},
            ValueError,
            "x must have 3 features in its last dimension, as many as c has inputs, got shape",
        ),
        ({"x": torch.zeros(())}, ValueError, "x must have 3 features"),
        (
            {"c": torch.zeros(8, 3, 2)},
            ValueError,
            "c must have shape [9, in_features, out_features], the first being the "
            "number of functions of Basis(grid_size=5, degree=3, activation='silu', uniform=True), "
            "got [8, 3, 2]: make it with kanfast.pack_coefficients",
        ),
        ({"c": torch.zeros(9, 6)}, ValueError, "c must have shape [9, in_features"),
        (
            {"c": torch.zeros(9, 3, 2, dtype=torch.float64)},
            TypeError,
            "x and c must have the same dtype, got torch.float32 and torch.float64: "
            "convert one of them, or use torch.autocast",
        ),
        (
            {"c": torch.zeros(9, 3, 2, device="meta")},
            ValueError,
            "all tensors must be on one device, got c on meta and another on cpu: move one",
        ),
        (
            {"grid": torch.zeros(3, 11)},
            ValueError,
            "grid must have shape [3, 12] = [in_features, grid_size + 2 * degree + 1], got [3, 11]",
        ),
        (
            {"grid": torch.zeros(3, 12, dtype=torch.bfloat16)},
            TypeError,
            "grid must be float32 or float64, got torch.bfloat16: 16 bits are too few",
        ),
        ({"basis": 5}, TypeError, "basis must be a kanfast.Basis, got int"),
        ({"deriv": -1}, ValueError, "deriv must be 0 or more, got -1"),
        ({"deriv": 1.0}, TypeError, "deriv must be an int, got 1.0"),
        (
            {"input_scale": torch.zeros(4, 1)},
            ValueError,
            "input_scale must have the shape of x, [4, 3], got [4, 1]: expand it",
        ),
        (
            {"input_scale": torch.zeros(4, 3, dtype=torch.float64)},
            TypeError,
            "input_scale must have the dtype of x, torch.float32, got torch.float64",
        ),
        (
            {"precision": "int8"},
            ValueError,
            "precision must be None or one of ('float64', 'ieee',",
        ),
        (
            {"precision": "float64"},
            ValueError,
            'precision "float64" must be given for float64 tensors and only for them, got '
            "'float64' for torch.float32: convert the tensors or leave precision=None",
        ),
        (
            {"backend": "cuda"},
            ValueError,
            "backend must be one of ('auto', 'triton', 'native', 'reference'), got",
        ),
    ],
)
def test_what_kan_linear_refuses(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(**changes)


def test_autocast_does_not_mix_float64():
    message = "x and c must be both float64 or neither, as autocast leaves float64 alone"
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match=message):
        call(x=torch.zeros(4, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.zeros(2, 3),),
            ValueError,
            "spline_weight must have shape [out_features, in_features, grid_size + "
            "degree], got [2, 3]",
        ),
        (
            (torch.zeros(2, 3, 8), torch.zeros(3, 2)),
            ValueError,
            "base_weight must have shape [2, 3], [out_features, in_features] of "
            "spline_weight, got [3, 2]",
        ),
        (
            (torch.zeros(2, 3, 8), None, torch.zeros(2)),
            ValueError,
            "spline_scaler must have shape [2, 3]",
        ),
        (
            (torch.zeros(2, 3, 8), torch.zeros(2, 3).double()),
            TypeError,
            "base_weight must have the dtype of spline_weight, torch.float32, "
            "got torch.float64: convert one of them",
        ),
        ((torch.zeros(2, 3, 8), 1.0), TypeError, "base_weight must be a torch.Tensor"),
    ],
)
def test_what_pack_coefficients_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        pack_coefficients(*arguments)
