"""Expressions as text and as LaTeX in which no name can be taken for anything else.

Variables are named by columns of tables, so by any text. In text, a name that is no identifier, or
that stands for something else in a formula, is in backticks, as in pandas and R: `a-b`, `sin`. In
LaTeX, words are in italics, where functions are upright.
"""

from __future__ import annotations

import keyword
import re
import string
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

_RESERVED = frozenset(
    "E I Abs acos acosh acot acoth asin asinh atan atan2 atanh besselj bessely cbrt ceiling cos"
    " cosh cot coth csc digamma erf erfc exp expm1 floor gamma im log log10 log1p log2 loggamma Max"
    " Min Mod nan oo Piecewise pi re sec sign sin sinc sinh sqrt tan tanh zoo".split()
)
# A word, with an index or not.
_INDEXED = re.compile(r"([A-Za-z]+?)(_?[0-9]+|_[A-Za-z]|_\{[0-9A-Za-z]+\})?")
_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma"
    " tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi"
    " Omega".split()
)
_ESCAPED = {
    "\\": r"\backslash ",
    "^": r"\wedge ",
    "~": r"\sim ",
    " ": r"\ ",
    "&": r"\text{\&}",  # Matplotlib knows these two in text only
    "#": r"\text{\#}",
} | {character: f"\\{character}" for character in "$%_{}"}


def quoted(name: str) -> str:
    """A name as it stands in a formula's text."""
    if name.isidentifier() and not keyword.iskeyword(name) and name not in _RESERVED:
        return name
    inner = name.replace("\\", "\\\\").replace("`", "\\`")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in inner)
    return f"`{shown}`"


def text(expr: sympy.Basic) -> str:
    """An expression in Python's notation, with names in backticks where they need them."""
    return str(_Text({"full_prec": False}).doprint(expr))


def latex_name(name: str) -> str:
    """A name in LaTeX's mathematics: letters with an index as such, other words in italics."""
    match = _INDEXED.fullmatch(name)
    if match and (len(match[1]) == 1 or match[1] in _GREEK) and name not in _RESERVED:
        return str(sympy.latex(sympy.Symbol(name)))
    words = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return rf"\mathit{{{''.join(map(_escaped, words))}}}"


def latex(expr: sympy.Basic, **settings: Any) -> str:
    """An expression in LaTeX, with the settings of `sympy.latex`."""
    return str(_Latex(settings).doprint(expr))


def _escaped(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    return rf"\text{{{character}}}" if character in string.punctuation else character


class _Text(StrPrinter):  # type: ignore[misc]  # SymPy is not typed
    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        return quoted(expr.name)


class _Latex(LatexPrinter):  # type: ignore[misc]  # SymPy is not typed
    def _print_Symbol(self, expr: sympy.Symbol, style: str = "plain") -> str:
        return latex_name(expr.name)
