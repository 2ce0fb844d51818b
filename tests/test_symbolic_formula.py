"""Formulas of symbolic networks, checked against evaluating the network itself."""

import math
import time

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kanfast.symbolic.expressions import _expansion, expanded, round_expr, simplest, simplify, snap
from kanfast.symbolic.formula import Formula, SymbolicEdge, SymbolicLayer, compose
from kanfast.symbolic.library import Library, default_library

LIBRARY = default_library()
x, y = sympy.symbols("x y")


def edge(name, *params):
    return SymbolicEdge(LIBRARY[name], *params)


def evaluate(layer, values):
    """The nodes of a layer at [B, I], by the definition."""
    subnodes = []
    for o in range(layer.subnodes):
        total = torch.zeros(len(values), dtype=torch.float64)
        for i in range(layer.in_features):
            e = layer.edges.get((o, i))
            if e is not None:
                total = total + e.c * e.function(e.a * values[:, i] + e.b) + e.d
        scale = 1 if layer.subnode_scale is None else layer.subnode_scale[o]
        shift = 0 if layer.subnode_bias is None else layer.subnode_bias[o]
        subnodes.append(scale * total + shift)
    nodes = subnodes[: layer.subnodes - sum(layer.arities)]
    rest = subnodes[len(nodes) :]
    for arity in layer.arities:
        nodes.append(math.prod(rest[:arity]))
        rest = rest[arity:]
    scale = [1] * len(nodes) if layer.node_scale is None else layer.node_scale
    shift = [0] * len(nodes) if layer.node_bias is None else layer.node_bias
    return torch.stack([s * n + b for s, n, b in zip(scale, nodes, shift, strict=True)], 1)


def random_layer(generator, inputs, subnodes, arities, names):
    def numbers(count):
        return (torch.rand(count, generator=generator, dtype=torch.float64) + 0.3).tolist()

    edges = {}
    for o in range(subnodes):
        for i in range(inputs):
            name = names[int(torch.randint(len(names), (), generator=generator))]
            edges[o, i] = edge(name, *numbers(4))
    nodes = subnodes - sum(arities) + len(arities)
    return SymbolicLayer(
        inputs, subnodes, edges, arities,
        numbers(subnodes), numbers(subnodes), numbers(nodes), numbers(nodes),
    )  # fmt: skip


@pytest.mark.parametrize(
    "arities", [(), (2,), (3,), (2, 3), (3, 2, 2), (1,)], ids=lambda a: "x".join(map(str, a)) or "-"
)
def test_formula_is_the_network(arities):
    generator = torch.Generator().manual_seed(len(arities))
    first = random_layer(
        generator, 3, 1 + sum(arities), arities, ["x", "x^2", "sin", "sqrt", "1/x"]
    )
    second = random_layer(generator, first.nodes, 2, (), ["exp", "log", "tanh", "x", "gaussian"])
    formula = compose([first, second])
    inputs = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    expected = evaluate(second, evaluate(first, inputs))
    torch.testing.assert_close(formula(inputs), expected, rtol=1e-10, atol=1e-10)
    by_hand = sympy.lambdify(formula.inputs, formula.outputs[0], "numpy")(*inputs.T.numpy())
    torch.testing.assert_close(torch.as_tensor(by_hand), expected[:, 0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LIBRARY, ids=str)
def test_every_function_in_a_formula(name):
    layer = SymbolicLayer(1, 1, {(0, 0): edge(name, 0.4, 0.3, -1.5, 0.25)})
    inputs = torch.linspace(0.1, 1, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        compose([layer])(inputs), evaluate(layer, inputs), rtol=1e-12, atol=1e-12
    )


def test_normalisers_are_undone():
    layer = SymbolicLayer(2, 1, {(0, 0): edge("sin", 2.0), (0, 1): edge("exp", 1.0, 0.5, 2.0)})
    mean, std = [0.5, -1.0], [2.0, 0.25]
    formula = compose(
        [layer], ["a", "b"], normalizer=(mean, std), output_normalizer=([3.0], [10.0])
    )
    assert [str(symbol) for symbol in formula.inputs] == ["a", "b"]
    inputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = (inputs - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(
        formula(inputs), 10 * evaluate(layer, scaled) + 3, rtol=1e-12, atol=1e-12
    )


def test_missing_edges_and_empty_outputs_are_zero():
    layer = SymbolicLayer(2, 2, {(0, 1): edge("x"), (0, 0): None})
    formula = compose([layer])
    assert formula.outputs == (sympy.Symbol("x_2"), sympy.Integer(0))
    assert formula(torch.ones(3, 2)).tolist() == [[1, 0]] * 3
    assert formula(torch.ones(4, 3, 2)).shape == (4, 3, 2)


def test_formula_of_the_paper_is_clean():
    inner = SymbolicLayer(
        2, 1,
        {(0, 0): edge("sin", 3.14159, 0.0001, 2.0003, 0.1), (0, 1): edge("x^2", 1, 0.001, 2, -0.3)},
    )  # fmt: skip
    outer = SymbolicLayer(1, 1, {(0, 0): edge("exp", 0.5, 0.1, 1.0002, 0.0004)})
    formula = compose([inner, outer]).rounded(2)
    assert str(formula) == "exp(x_2**2 + sin(3.14*x_1))"
    assert formula.latex() == [r"e^{x_{2}^{2} + \sin{\left(3.14 x_{1} \right)}}"]
    assert str(snap(formula.outputs[0], 0.01)) == "exp(x_2**2 + sin(pi*x_1))"


def test_product_out_of_squares():
    edges = {(o, i): edge("x", 1, 0, 1 - 2 * o * i, 0) for o in (0, 1) for i in (0, 1)}
    first = SymbolicLayer(2, 2, edges)
    second = SymbolicLayer(
        2, 1, {(0, 0): edge("x^2", 1, 0, 0.25001), (0, 1): edge("x^2", 1, 0, -0.25)}
    )
    assert str(compose([first, second]).rounded(3)) == "x_1*x_2"


@pytest.mark.parametrize("a", [1.0, -0.75])
def test_exponents_far_from_zero_do_not_overflow(a):
    layer = SymbolicLayer(1, 1, {(0, 0): edge("exp", a, -800.5 * a, 1.0)})
    formula = compose([layer])
    for form in (formula, formula.rounded(2)):
        assert form(torch.tensor([[800.5]]).double()).item() == pytest.approx(1)


def test_undefined_function_is_evaluated_by_its_torch_form():
    library = Library()
    mish = library.add("mish", torch.nn.functional.mish)
    formula = compose([SymbolicLayer(1, 1, {(0, 0): SymbolicEdge(mish, 2.0)})])
    assert str(formula) == "mish(2*x_1)"
    inputs = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(formula(inputs), torch.nn.functional.mish(2 * inputs))


def test_evaluation_outside_the_domain_is_nan():
    formula = Formula((sympy.log(x) + 1 / x,), (x,))
    value = formula(torch.tensor([[-1.0], [0.0], [1.0]]))
    assert value[0].isnan()
    assert not value[1].isfinite()
    assert value[2] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymbolicLayer(1, 2, {}, (3,)), r"sum of at most 2 subnodes, got \[3\]"),
        (lambda: SymbolicLayer(1, 2, {}, (0,)), r"arities >= 1 .* got \[0\]"),
        (lambda: SymbolicLayer(1, 2, {(2, 0): None}), r"0 <= o < 2 and 0 <= i < 1, got \(2, 0\)"),
        (lambda: SymbolicLayer(1, 2, {}, node_bias=[1]), "node_bias of 2 numbers, got 1"),
        (
            lambda: SymbolicLayer(1, 2, {}, (2,), node_scale=[1, 1]),
            "node_scale of 1 numbers, got 2",
        ),
        (lambda: compose([]), "expected at least one layer, got none"),
        (lambda: compose([SymbolicLayer(1, 2, {})] * 2), "layer 1 has 1 inputs, expected 2"),
        (lambda: compose([SymbolicLayer(2, 1, {})], ["a"]), r"2 different variables, got \['a'\]"),
        (lambda: compose([SymbolicLayer(2, 1, {})], ["a", "a"]), "2 different variables"),
        (
            lambda: compose([SymbolicLayer(1, 1, {})], normalizer=([0], [0])),
            "normalizer of 1 means and 1 standard deviations that are not 0",
        ),
        (
            lambda: compose([SymbolicLayer(1, 1, {})], output_normalizer=([0, 1], [1, 1])),
            "output_normalizer of 1 means",
        ),
        (
            lambda: compose([SymbolicLayer(1, 1, {(0, 0): edge("x", math.nan)})]),
            "expected finite parameters, got nan",
        ),
        (lambda: Formula((x,), (x, y))(torch.ones(2, 3)), r"shape \[..., 2\], got \(2, 3\)"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_round_expr_rounds_every_float_and_keeps_the_rest():
    expr = 1.2345 * x**2 + sympy.Rational(1, 3) * y + sympy.sin(0.999 * x) + 7 + 2.71828 * sympy.pi
    rounded = round_expr(expr, 2)
    assert rounded == 1.23 * x**2 + y / 3 + sympy.sin(x) + 7 + 2.72 * sympy.pi
    assert round_expr(0.004 * x + y, 2) == y
    assert round_expr(sympy.Float(1e300), 2) == sympy.Integer(int(1e300))


def test_round_expr_keeps_factors_of_what_may_be_large():
    expr = 0.000123 * sympy.exp(9.004 * x) + 0.000123 * y + 0.00345 / x
    assert round_expr(expr, 2) == 0.00012 * sympy.exp(9 * x) + 0.0034 / x


def test_round_expr_does_not_divide_by_zero():
    assert round_expr(1 / (0.00123 * x + 0.0004), 2) == 1 / (0.0012 * x + 0.0004)
    assert not round_expr(sympy.log(0.001 + 0.0 * x), 1).has(sympy.zoo)


def test_snap():
    assert snap(0.3334 * x + 1.5707 * y + 2.001) == x / 3 + sympy.pi * y / 2 + 2
    assert snap(sympy.Float(0.1234567), 1e-5) == sympy.Float(0.1234567)
    assert snap(sympy.Float(1e-7)) == 0


def test_expansion_is_bounded():
    assert expanded((x + y) ** 2) == x**2 + 2 * x * y + y**2
    assert expanded(sympy.exp(x + y)) == sympy.exp(x + y)
    wide = sympy.Add(*sympy.symbols("a:30")) ** 5
    assert expanded(wide) is wide
    assert expanded(sympy.sin(wide)) == sympy.sin(wide)
    assert simplest([(x + y) ** 2, x**2 + 2 * x * y + y**2]) == (x + y) ** 2


def test_simplify_in_its_own_process():
    expr = sympy.sin(x) ** 2 + sympy.cos(x) ** 2 + sympy.Function("mish")(1.5 * y)
    assert simplify(expr, 60) == 1 + sympy.Function("mish")(1.5 * y)


def test_simplify_says_what_sympy_says():
    class besselj(sympy.Function):
        """J0, under a name that SymPy has for a function of two arguments."""

    with pytest.raises(
        RuntimeError, match=r"failed on besselj\(x\), so take it (.|\n)*2 arguments"
    ):
        simplify(besselj(x), 60)


def test_simplify_is_ended_in_time():
    expr = sympy.Add(*(sympy.sin(k * x + 0.1 * k) ** k * sympy.exp(y / k) for k in range(1, 30)))
    start = time.perf_counter()
    with pytest.warns(UserWarning, match="took longer than 0.2 s; the formula is left as it is"):
        assert simplify(expr, 0.2) is expr
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: round_expr(x, -1), "expected digits >= 0, got -1"),
        (lambda: snap(x, 0), "positive tolerance and largest denominator, got 0 and 12"),
        (lambda: simplify(x, 0), "expected seconds > 0, got 0"),
    ],
)
def test_errors_of_expressions(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "expr",
    [
        (sympy.sin(x) + 1.1 * sympy.sqrt(y) + 0.7 * x * y + 1.3) ** sympy.Rational(45, 2),
        (sympy.sin(x) + sympy.sqrt(y) + x * y + 1) ** sympy.Rational(-45, 2),
        (sympy.sin(x) + sympy.sqrt(y) + x * y + 1) ** -30,
        sympy.exp((x + y + sympy.sin(x) + 1) ** sympy.Rational(61, 3)),
        ((x + y + 1) ** sympy.Rational(9, 2) + sympy.log(x)) ** sympy.Rational(9, 2),
    ],
    ids=["root", "reciprocal root", "reciprocal", "within a function", "nested"],
)
def test_powers_of_sums_are_not_multiplied_out_without_end(expr):
    start = time.monotonic()
    assert Formula((expr,), (x, y)).rounded(2).inputs == (x, y)
    assert expanded(expr) == expr
    assert time.monotonic() - start < 5


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_expansion_has_more_terms_than_were_counted(data):
    """Against what SymPy's expand does, for exponents of every kind."""
    exponents = st.builds(sympy.Rational, st.integers(-9, 9), st.integers(1, 4))
    terms = st.sampled_from([x, y, sympy.sin(x), sympy.Integer(1), sympy.sqrt(y), x * y])
    sums = st.lists(terms, min_size=2, max_size=3, unique=True).map(lambda t: sympy.Add(*t))
    powers = st.builds(sympy.Pow, sums, exponents)
    expr = data.draw(st.lists(powers, min_size=1, max_size=2).map(lambda p: sympy.Mul(*p)))
    hints = {"power_base": False, "power_exp": False, "log": False}
    parts = sympy.preorder_traversal(sympy.expand(expr, **hints))
    largest = max(len(part.args) if part.is_Add else 1 for part in parts)
    assert largest <= _expansion(expr)
