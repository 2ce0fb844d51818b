"""The function library: names, forms that agree, safe evaluation, additions, pickles."""

import copy
import math
import pickle

import pytest
import sympy
import torch

from kanfast.symbolic.custom import Differentiable
from kanfast.symbolic.library import Library, add_symbolic, default_library

COMPLEXITY = {
    "x": 1, "x^2": 2, "x^3": 3, "x^4": 3, "x^5": 3, "1/x": 2, "1/x^2": 2, "1/x^3": 3, "1/x^4": 4,
    "1/x^5": 5, "sqrt": 2, "x^0.5": 2, "x^1.5": 4, "1/sqrt(x)": 2, "1/x^0.5": 2, "exp": 2, "log": 2,
    "abs": 3, "sin": 2, "cos": 2, "tan": 3, "tanh": 3, "sgn": 3, "arcsin": 4, "arccos": 4,
    "arctan": 4, "arctanh": 4, "0": 0, "gaussian": 3,
}  # fmt: skip
FUNCTIONS = list(default_library().values())
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)


def inside(function, count=40):
    """Regular points of the function's domain."""
    low, high = max(function.domain[0], -3.0), min(function.domain[1], 3.0)
    return torch.linspace(low, high, count + 2, dtype=torch.float64)[1:-1]


def test_names_and_complexities_are_those_of_pykan():
    assert {f.name: f.complexity for f in FUNCTIONS} == COMPLEXITY


@every_function
def test_torch_and_sympy_forms_agree(function):
    x = inside(function)
    symbol = sympy.Symbol("x")
    form = function.sympy_fun(symbol)
    expected = [float(form.subs(symbol, sympy.Float(value, 30))) for value in x.tolist()]
    torch.testing.assert_close(
        function(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-13
    )


@every_function
def test_derivative_is_that_of_sympy(function):
    x = inside(function)
    symbol = sympy.Symbol("x", real=True)
    slope = sympy.diff(function.sympy_fun(symbol), symbol)
    expected = [float(slope.subs(symbol, sympy.Float(value, 30))) for value in x.tolist()]
    _, derivative = function.value_and_derivative(x)
    torch.testing.assert_close(
        derivative, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@every_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_two_derivatives_are_finite_everywhere(function, dtype):
    half_pi = math.pi / 2
    points = [0.0, -0.0, 1e-30, -1e-30, 1e-7, -1e-5, 1e-3, 0.5, 1, -1, half_pi, -half_pi, 3, -7]
    x = torch.tensor(points, dtype=dtype, requires_grad=True)
    value = function(x)
    assert value.dtype == dtype
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    if slope.requires_grad and dtype != torch.float16:  # which has no room for it
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        assert curvature.isfinite().all()


@every_function
def test_nan_stays_nan(function):
    assert function(torch.tensor([math.nan])).isnan().all()


def test_poles_and_ends_are_continued_as_documented():
    x = torch.tensor([-2.0, -1e-9, 0.0, 1e-9], dtype=torch.float64)
    library = default_library()
    assert library["1/x"](x, limit=100).tolist() == pytest.approx([-0.5, -100, 100, 100])
    assert library["1/x^2"](x, limit=100).tolist() == pytest.approx([0.25, 100, 100, 100])
    assert library["log"](x, limit=100).tolist() == pytest.approx([-math.log(100)] * 4)
    assert library["1/sqrt(x)"](x, limit=100).tolist() == pytest.approx([100] * 4)
    assert library["sqrt"](x, limit=100).tolist() == pytest.approx([0, 0, 0, 1e-7])
    pole = torch.tensor([math.pi / 2 - 1e-9, math.pi / 2 + 1e-9], dtype=torch.float64)
    assert library["tan"](pole, limit=100).tolist() == pytest.approx([100, -100])
    beyond = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    assert library["arcsin"](beyond).tolist() == pytest.approx([-math.pi / 2, math.pi / 2])
    assert library["exp"](torch.tensor(1e9)).isfinite()


def test_functions_reject_integers_and_bad_limits():
    with pytest.raises(TypeError, match=r"floating dtype .* got torch.int64"):
        default_library()["sin"](torch.arange(3))
    with pytest.raises(ValueError, match="expected limit > 1, got 0"):
        default_library()["1/x"](torch.ones(2), limit=0)


@every_function
def test_pickles_and_copies_are_the_function_itself(function):
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function
    assert copy.copy(function) is function


def test_default_library_is_one_object_through_pickles_and_copies():
    assert pickle.loads(pickle.dumps(default_library())) is default_library()
    assert copy.deepcopy(default_library()) is default_library()
    own = Library(FUNCTIONS[:3])
    assert list(pickle.loads(pickle.dumps(own))) == ["x", "x^2", "x^3"]


def test_default_library_is_pickled_by_name_and_needs_the_name():
    function = add_symbolic("for pickling", torch.sinh)
    data = pickle.dumps(function)
    assert pickle.loads(data) is function
    del default_library()._functions["for pickling"]
    with pytest.raises(KeyError, match="no symbolic function 'for pickling'"):
        pickle.loads(data)


def test_add_changes_only_the_library_it_is_given():
    library = default_library().copy()
    added = add_symbolic("sinh", torch.sinh, 4, sympy.sinh, library=library)
    assert library["sinh"] is added
    assert added.symmetric
    assert "sinh" not in default_library()
    assert "sinh" not in Library()


def test_added_function_without_sympy_form_gets_an_undefined_one():
    form = Library().add("mish", torch.nn.functional.mish).sympy_fun
    assert str(form(sympy.Symbol("x"))) == "mish(x)"


def test_added_function_is_clamped_to_its_domain():
    function = Library().add("root", torch.sqrt, domain=(0, math.inf))
    x = torch.tensor([-1.0, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    value = function(x)
    assert value.tolist() == pytest.approx([0, 0, 2], abs=1e-7)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert slope.isfinite().all()
    assert not function.closed


def test_derivative_makes_a_function_differentiable_twice():
    j1 = Differentiable(torch.special.bessel_j1, lambda x: j0(x) - j1(x) / x)
    j0 = Differentiable(torch.special.bessel_j0, lambda x: -j1(x))
    x = torch.linspace(0.5, 9, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Library().add("J0", j0), x)
    assert torch.autograd.gradgradcheck(j0, x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "sin"}, "expected a new name, got 'sin'"),
        ({"name": ""}, "expected a new name, got ''"),
        ({"complexity": -1}, "expected a finite complexity >= 0, got -1"),
        ({"domain": (1, 0)}, r"expected a domain \(low, high\) .* got \(1, 0\)"),
        ({"reach": 0}, "expected reach and period > 0, got 0 and None"),
        ({"period": -1}, "expected reach and period > 0, got 40.0 and -1"),
        (
            {"fun": lambda x: x.detach().sin()},
            "autograd has no derivative of 'f'; pass derivative=",
        ),
        ({"fun": torch.log}, r"expected 'f' to map a tensor to a finite tensor .* domain"),
        ({"fun": torch.sum}, "expected 'f' to map a tensor to a finite tensor of its shape"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_add_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        Library().add(**({"name": "f", "fun": torch.sin} | arguments))


def test_overwrite_replaces():
    library = Library()
    old = library["sin"]
    new = library.add("sin", torch.sin, overwrite=True)
    assert library["sin"] is new
    assert new is not old


def test_select():
    library = Library()
    assert [f.name for f in library.select(["x", library["sin"]])] == ["x", "sin"]
    assert len(library.select()) == 29
    with pytest.raises(KeyError, match="no symbolic function 'sine' in this library; it has x, x"):
        library.select(["sine"])
    with pytest.raises(TypeError, match="expected a sequence of names, got the string 'sin'"):
        library.select("sin")
    with pytest.raises(TypeError, match="expected names or SymbolicFunctions, got 3"):
        library.select([3])
    with pytest.raises(ValueError, match="at least one function and each once"):
        library.select(["x", "x"])
