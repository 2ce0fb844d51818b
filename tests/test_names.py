"""Columns may have any name: formulas evaluate, read and are drawn right whatever it is."""

from __future__ import annotations

import math
import re

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kanfast import KAN, plot
from kanfast.plot.text import check_names, is_math
from kanfast.symbolic import Formula, Library, SymbolicEdge, SymbolicLayer, compose
from kanfast.symbolic.writing import latex_name, quoted, text

FUNCTIONS = ["sin", "cos", "exp", "log", "sqrt", "Abs", "gamma", "sign"]
CONSTANTS = ["pi", "E", "I", "oo", "nan", "zoo", "S", "N", "O", "Q"]
WORDS = ["lambda", "None", "True", "import", "__class__", "_", "numpy", "x_y", "Weight_in_lbs"]
TEXTS = ["50%", "#1", "a-b", "x y", "1", "{", "}", "{}", "$", "$x$", "a\nb", "\t", "a`b", "\\alpha"]
OTHERS = ["\\frac{1}", "a^b", "~", "&", "a'b", '"', "<b>", "(", "speed (km/h)", "größe", "x_{", ""]
NAMES = [*FUNCTIONS, *CONSTANTS, *WORDS, *TEXTS, *OTHERS]
anything = st.one_of(
    st.sampled_from(NAMES), st.text(st.characters(max_codepoint=0x24F), max_size=6)
)


def formula(name: str, other: str) -> Formula:
    a, b = sympy.Symbol(name), sympy.Symbol(other)
    expr = sympy.sin(a) + sympy.pi * sympy.exp(b) * a + sympy.log(b) / 3 + sympy.sqrt(a) * b**2
    return Formula((expr,), (a, b))


def value(a: float, b: float) -> float:
    return math.sin(a) + math.pi * math.exp(b) * a + math.log(b) / 3 + math.sqrt(a) * b**2


@given(anything, anything)
@settings(max_examples=80, deadline=None)
def test_formulas_of_any_variables_are_evaluated(name: str, other: str) -> None:
    if name == other:
        return
    found = formula(name, other)(torch.tensor([[0.7, 1.3]], dtype=torch.float64))
    assert found.item() == pytest.approx(value(0.7, 1.3), rel=1e-12)


@given(anything, anything)
@settings(max_examples=200, deadline=None)
def test_text_can_be_read_back(name: str, other: str) -> None:
    """Quoted names are unmistakable: with each in the place of a symbol the text is the formula."""
    if name == other:
        return
    made = formula(name, other)
    back = str(made)
    symbols = {}
    for index, each in enumerate(sorted((name, other), key=lambda n: len(quoted(n)), reverse=True)):
        place = f"place_{index}"
        mark = re.escape(quoted(each))
        pattern = mark if quoted(each).startswith("`") else rf"(?<![\w`]){mark}(?![\w`])"
        back = re.sub(pattern, place, back)
        symbols[place] = sympy.Symbol(each)
    assert sympy.sympify(back, locals=symbols) == made.outputs[0]


@pytest.mark.parametrize(
    "name", ["x_1", "x1", "alpha", "Weight_in_lbs", "größe", "S", "_a", "x__y"]
)
def test_plain_names_stay_plain(name: str) -> None:
    assert text(sympy.Symbol(name)) == name


@pytest.mark.parametrize(
    ("name", "written"),
    [("x_1", "x_{1}"), ("x1", "x_{1}"), ("alpha", r"\alpha"), ("beta_2", r"\beta_{2}"),
     ("Weight_in_lbs", r"\mathit{Weight\_in\_lbs}"), ("50%", r"\mathit{50\%}"),
     ("pi", r"\mathit{pi}"),
     ("a-b", r"\mathit{a\text{-}b}"), ("x y", r"\mathit{x\ y}"), ("mass", r"\mathit{mass}")],
)  # fmt: skip
def test_latex_of_names(name: str, written: str) -> None:
    assert latex_name(name) == written


@given(anything)
@settings(max_examples=40, deadline=None)
def test_matplotlib_draws_the_mathematics_of_any_name(name: str) -> None:
    assert is_math(f"${formula(name, 'other').latex()[0]}$")


def test_matplotlib_draws_every_character_beside_every_kind_of_others() -> None:
    printable = [chr(code) for code in range(32, 127)]
    names = [a + b for a in printable for b in "a7_"]
    assert [name for name in names if not is_math(f"${latex_name(name)}$")] == []


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_pictures_with_any_label(name: str) -> None:
    """As text and as a symbol, for inputs, outputs and the title."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = KAN([1, 1]), torch.rand(9, 1)
    for label in (name, sympy.Symbol(name)):
        figure = plot.network(model, x, in_vars=[label], out_vars=[label], title=name)
        FigureCanvasAgg(figure).draw()


def test_labels_are_one_line_of_text() -> None:
    given = ["a\nb", "50%", "$x$", r"$\nosuch$", r"\$", sympy.Symbol("x_1")]
    assert check_names("names", given, 6) == ["a b", "50%", "$x$", r"$\nosuch$", r"\$", "$x_{1}$"]
    assert [is_math(name) for name in check_names("names", given, 6)] == [
        False, False, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["lambda", "my function", "sin", "1", "_function_0"])
def test_functions_of_any_name_are_evaluated_by_their_torch_form(name: str) -> None:
    library = Library([])
    function = library.add(name, torch.nn.functional.softsign)
    layer = SymbolicLayer(1, 1, {(0, 0): SymbolicEdge(function, 2.0)})
    found = compose([layer])(torch.tensor([[0.5]], dtype=torch.float64))
    assert found.item() == pytest.approx(0.5)


def test_what_is_written_is_what_is_evaluated() -> None:
    """No safe function of the library in the place of the one that is written."""
    library = Library()
    for name in ("log", "sqrt", "1/x", "arcsin", "1/sqrt(x)", "arctanh"):
        layer = SymbolicLayer(1, 1, {(0, 0): SymbolicEdge(library[name])})
        outside = -2.0 if name != "1/x" else 0.0
        found = compose([layer])(torch.tensor([[outside]], dtype=torch.float64))
        assert not found.isfinite().any(), name


def test_values_that_are_not_real_are_missing() -> None:
    x = sympy.Symbol("x")
    roots = Formula((x ** sympy.Rational(1, 3), sympy.sqrt(-2) * x, sympy.Float(2.5)), (x,))
    found = roots(torch.tensor([[-8.0], [8.0]], dtype=torch.float64))
    assert found[0, 0].isnan()
    assert found[1, 0].item() == pytest.approx(2)
    assert found[:, 1].isnan().all()
    assert (found[:, 2] == 2.5).all()


@given(st.floats(1e-300, 1e300), st.integers(1, 17))
@settings(max_examples=100, deadline=None)
def test_significant_digits_of_any_number(number: float, digits: int) -> None:
    x = sympy.Symbol("x")
    (written,) = Formula((sympy.Float(number) * x,), (x,)).significant(digits).outputs
    assert float(written.coeff(x)) == float(f"{number:.{digits - 1}e}")
    with pytest.raises(ValueError, match="expected digits >= 1, got 0"):
        Formula((x,), (x,)).significant(0)
