"""Rounding and simplifying SymPy expressions full of floating numbers, in bounded time."""

import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence

import sympy

_LARGEST_EXPANSION = 100  # terms


def scaled(expr: sympy.Expr, factor: sympy.Expr) -> sympy.Expr:
    """factor * expr, a sum multiplied out."""
    if expr.is_Add:
        return sympy.Add(*(factor * term for term in expr.args))
    return factor * expr


def round_expr(expr: sympy.Expr, digits: int) -> sympy.Expr:
    """Rounds every Float to so many decimals. Integers, rationals and symbols stay.

    A Float that becomes integral becomes an Integer, so 1.0 * x is x. Factors of exp(...) and of
    negative powers, which may be large, do not vanish but keep `digits` significant digits; so do
    all numbers if an infinity would arise otherwise (from 1 / (0.001 x) to one digit).

    Raises:
        ValueError: digits < 0.
    """
    if digits < 0:
        raise ValueError(f"expected digits >= 0, got {digits}")

    def to_decimals(value: float) -> float:
        return round(value, digits)

    def at_least_one_digit(value: float) -> float:
        return round(value, digits) or float(f"{value:.{max(digits, 1) - 1}e}")

    rounded = _map_floats(expr, to_decimals, at_least_one_digit)
    if rounded.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        rounded = _map_floats(expr, at_least_one_digit, at_least_one_digit)
    return rounded


def round_significant(expr: sympy.Expr, digits: int) -> sympy.Expr:
    """Rounds every Float to so many significant digits. Integers, rationals and symbols stay.

    A Float that becomes integral becomes an Integer, so 1.0 * x is x; none becomes 0.

    Raises:
        ValueError: digits < 1.
    """
    if digits < 1:
        raise ValueError(f"expected digits >= 1, got {digits}")

    def to_digits(value: float) -> float:
        return float(f"{value:.{digits - 1}e}")

    return _map_floats(expr, to_digits, to_digits)


def snap(expr: sympy.Expr, tolerance: float = 1e-3, largest_denominator: int = 12) -> sympy.Expr:
    """Replaces Floats near simple fractions, and near simple fractions of pi, by these.

    p/q is near v if |v - p/q| <= tolerance/q. The smallest q wins, a fraction before one of pi.
    Other Floats stay.

    Raises:
        ValueError: tolerance or largest_denominator is not positive.
    """
    if not (tolerance > 0 and largest_denominator >= 1):
        raise ValueError(
            f"expected a positive tolerance and largest denominator, "
            f"got {tolerance} and {largest_denominator}"
        )

    def nearest(value: float) -> sympy.Expr:
        for q in range(1, largest_denominator + 1):
            for unit, symbol in ((1.0, sympy.Integer(1)), (math.pi, sympy.pi)):
                p = round(value * q / unit)
                if abs(value - p * unit / q) <= tolerance / q and (p or symbol == 1):
                    return sympy.Rational(p, q) * symbol
        return sympy.Float(value)

    return expr.xreplace({value: nearest(float(value)) for value in expr.atoms(sympy.Float)})


def expanded(expr: sympy.Expr) -> sympy.Expr:
    """Products and powers of sums multiplied out, if no sum gets more than 100 terms."""
    if _expansion(expr) > _LARGEST_EXPANSION:
        return expr
    return sympy.expand(expr, power_base=False, power_exp=False, log=False)


def simplest(forms: Sequence[sympy.Expr]) -> sympy.Expr:
    """The form with the fewest operations, the first of equals."""
    return min(forms, key=lambda form: form.count_ops())


def simplify(expr: sympy.Expr, seconds: float = 10.0) -> sympy.Expr:
    """sympy.simplify, in a process of its own that is ended after so many seconds.

    Returns the simpler of its result and `expr`; `expr`, with a warning, if there is none in time.

    Raises:
        ValueError: seconds is not positive.
        RuntimeError: sympy.simplify failed.
    """
    if not seconds > 0:
        raise ValueError(f"expected seconds > 0, got {seconds}")
    program = (
        "import sys, sympy\n"
        "expr = sympy.sympify(sys.stdin.read())\n"
        "print(sympy.srepr(sympy.simplify(expr)))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=sympy.srepr(expr), capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        warnings.warn(
            f"simplification took longer than {seconds} s; the formula is left as it is",
            stacklevel=2,
        )
        return expr
    if done.returncode != 0:
        raise RuntimeError(
            f"sympy.simplify failed on {expr}, so take it as it is: {done.stderr.strip()}"
        )
    return simplest([expr, sympy.sympify(done.stdout)])


def _map_floats(
    expr: sympy.Expr, rule: Callable[[float], float], rule_of_factors: Callable[[float], float]
) -> sympy.Expr:
    """Maps Floats from the leaves up; the second rule is for factors of what may be large."""

    def number(node: sympy.Float, rule: Callable[[float], float]) -> sympy.Basic:
        value = float(node)
        if not math.isfinite(value):  # beyond the range of a double
            return node
        value = float(rule(value))
        return sympy.Integer(int(value)) if value.is_integer() else sympy.Float(value)

    def visit(node: sympy.Basic) -> sympy.Basic:
        if isinstance(node, sympy.Float):
            return number(node, rule)
        if not node.args:
            return node
        if node.is_Mul and any(map(_may_be_large, node.args)):
            return node.func(*(
                number(part, rule_of_factors) if isinstance(part, sympy.Float) else visit(part)
                for part in node.args
            ))  # fmt: skip
        return node.func(*map(visit, node.args))

    return visit(expr)


def _may_be_large(factor: sympy.Basic) -> bool:
    return isinstance(factor, sympy.exp) or (factor.is_Pow and factor.exp.is_negative is True)


def _expansion(expr: sympy.Basic) -> int:
    """An upper bound of the terms of the largest sum in the expansion of expr, or of its parts."""
    largest = 1
    for part in sympy.preorder_traversal(expr):
        largest = max(largest, _terms(part))
    return largest


def _terms(expr: sympy.Basic) -> int:
    if expr.is_Add:
        return sum(map(_terms, expr.args))
    if expr.is_Mul:
        return math.prod(map(_terms, expr.args))
    if expr.is_Pow and expr.exp.is_Rational:
        # SymPy takes the whole part of a fractional exponent, and expands denominators, too.
        base, exponent = _terms(expr.base), int(abs(expr.exp))
        return math.comb(base + exponent - 1, exponent)
    return 1
