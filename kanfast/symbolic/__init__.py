"""From edges to formulas: the function library, the affine fit, the choice, and the formula.

>>> fits = fit_affine(x, y)            # x [E, N] or [N], y [E, N]: samples of E edges
>>> reports = suggest(fits)            # per edge: candidates, best first
>>> layer.fix(o, i, reports[0].best.function, reports[0].best.params)      # a SymbolicEdges
>>> compose([SymbolicLayer(...)]).rounded(2)                               # SymPy
"""

from .custom import Differentiable
from .edges import SymbolicEdges
from .expressions import round_expr, round_significant, simplify, snap
from .fit import EdgeFits, fit_affine
from .formula import Formula, SymbolicEdge, SymbolicLayer, compose
from .function import SymbolicFunction
from .library import Library, add_symbolic, default_library
from .select import Candidate, EdgeReport, scores, suggest

__all__ = [
    "Candidate",
    "Differentiable",
    "EdgeFits",
    "EdgeReport",
    "Formula",
    "Library",
    "SymbolicEdge",
    "SymbolicEdges",
    "SymbolicFunction",
    "SymbolicLayer",
    "add_symbolic",
    "compose",
    "default_library",
    "fit_affine",
    "round_expr",
    "round_significant",
    "scores",
    "simplify",
    "snap",
    "suggest",
]
