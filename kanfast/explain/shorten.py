"""The last word on a formula, as it is written: simple numbers, and no terms that do nothing.

Every change is judged by the errors of the very expression, at the training rows in its own units,
and by the score (`kanfast.explain.score`): what a change costs in accuracy must be less than the
bits that it saves. So nothing here knows units, and a shown formula is never worse than it says.
"""

from __future__ import annotations

import math
from dataclasses import replace

import sympy
from torch import Tensor

from kanfast.explain.budget import is_over
from kanfast.symbolic.expressions import expanded, simplest, snap
from kanfast.symbolic.formula import Formula

_SNAP = 1e-9  # of its size, that a number may be off a simple one
_LARGEST = 1000.0  # numbers above it are all near a fraction
_PER_OPERATION = 2.0  # bits


def relative_error(formula: Formula, x: Tensor, y: Tensor, spread: Tensor) -> float:
    """The mean square of (formula - y) / spread; infinite if the formula is not finite somewhere.

    Args:
        formula: of x.
        x: [N, variables]. y: [N, outputs]. spread: [outputs], the labels' deviations.
    """
    error = ((formula(x) - y) / spread).square().mean().item()
    return error if math.isfinite(error) else math.inf


def shortened(
    formula: Formula, x: Tensor, y: Tensor, spread: Tensor, floor: float, deadline: float
) -> Formula:
    """The formula with simple numbers, and without terms, where that costs less than it saves.

    Args:
        formula: in its units. x, y, spread: as in `relative_error`.
        floor: see `kanfast.explain.score`.
        deadline: a time.monotonic() after which nothing more is tried.
    """
    count = y.numel()

    def bits(written: Formula) -> float:
        error = relative_error(written, x, y, spread)
        return count / 2 * math.log2(error + floor) if error < math.inf else math.inf

    best, reached = formula, bits(formula)
    for change in (_without_terms, _with_simple_numbers):
        while not is_over(deadline):
            for trial, saved in change(best, count):
                cost = bits(trial) - reached
                if cost < saved:
                    best, reached = trial, reached + cost
                    break
                if is_over(deadline):
                    break
            else:
                break
    short = replace(best, outputs=tuple(simplest([o, expanded(o)]) for o in best.outputs))
    return short if bits(short) <= reached + _PER_OPERATION else best


def _without_terms(formula: Formula, count: int) -> list[tuple[Formula, float]]:
    """The formula without one term of a sum, or one |...|, each, and the bits that saves."""
    trials = []
    for part in _parts(formula):
        if isinstance(part, sympy.Abs):
            for inner in (part.args[0], -part.args[0]):
                trials.append((_replaced(formula, part, inner), _PER_OPERATION))
        for term in part.args if part.is_Add else ():
            rest = part - term
            saved = len(term.atoms(sympy.Float)) * math.log2(count) / 2
            saved += _PER_OPERATION * float(term.count_ops())
            if saved:
                trials.append((_replaced(formula, part, rest), saved))
    return sorted(trials, key=lambda trial: -trial[1])


def _with_simple_numbers(formula: Formula, count: int) -> list[tuple[Formula, float]]:
    """The formula with one number, or all at once, as integers, fractions, or fractions of pi."""
    numbers = {part for output in formula.outputs for part in output.atoms(sympy.Float)}
    simple = {}
    for number in numbers:
        if abs(number) < _LARGEST:
            near = snap(number, _SNAP * abs(float(number)))
            if near != 0 and not near.has(sympy.Float):
                simple[number] = near
    saved = math.log2(count) / 2
    each = [(_mapped(formula, {number: near}), saved) for number, near in simple.items()]
    return [(_mapped(formula, simple), saved * len(simple)), *each] if len(simple) > 1 else each


def _parts(formula: Formula) -> list[sympy.Basic]:
    found: dict[sympy.Basic, None] = {}
    for output in formula.outputs:
        found.update(dict.fromkeys(sympy.preorder_traversal(output)))
    return list(found)


def _replaced(formula: Formula, part: sympy.Basic, by: sympy.Basic) -> Formula:
    return _mapped(formula, {part: by})


def _mapped(formula: Formula, rule: dict[sympy.Basic, sympy.Basic]) -> Formula:
    return replace(formula, outputs=tuple(output.xreplace(rule) for output in formula.outputs))
