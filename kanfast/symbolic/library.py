"""The functions edges are matched with: pykan's 29, and those a user adds."""

import copyreg
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sympy
from torch import Tensor

from . import primitives
from .custom import Differentiable, SympyPower, clamped, is_differentiable, is_symmetric
from .function import SafeFunction, Search, SymbolicFunction, SympyFunction, Twin

_POSITIVE = (0.0, math.inf)


def _identity(x: sympy.Expr) -> sympy.Expr:
    return x


def _zero(x: sympy.Expr) -> sympy.Expr:
    return sympy.Integer(0)


def _gaussian(x: sympy.Expr) -> sympy.Expr:
    return sympy.exp(-(x**2))


def _builtins() -> list[SymbolicFunction]:
    def new(
        name: str,
        evaluate: SafeFunction,
        sympy_fun: SympyFunction,
        complexity: float,
        search: Search = "affine",
        domain: tuple[float, float] = (-math.inf, math.inf),
        closed: bool = False,
        symmetric: bool = True,
        period: float | None = None,
        twin: Twin | None = None,
    ) -> SymbolicFunction:
        return SymbolicFunction(
            name, evaluate, sympy_fun, complexity, search, domain, closed, symmetric, period,
            twin=twin,
        )  # fmt: skip

    def power(n: int, complexity: float) -> SymbolicFunction:
        search: Search = "quadratic" if n == 2 else "location"
        return new(f"x^{n}", primitives.Power(n), SympyPower(n), complexity, search)

    def reciprocal(n: int, complexity: float) -> SymbolicFunction:
        name = "1/x" if n == 1 else f"1/x^{n}"
        evaluate = primitives.Reciprocal(n)
        return new(name, evaluate, SympyPower(-n), complexity, "location", _POSITIVE)

    def root(
        name: str,
        evaluate: SafeFunction,
        halves: int,
        complexity: float,
        base: SymbolicFunction | None = None,
    ) -> SymbolicFunction:
        exponent = SympyPower(sympy.Rational(halves, 2))
        twin = None if base is None else Twin(base)
        return new(name, evaluate, exponent, complexity, "location", _POSITIVE,
                   closed=halves > 0, symmetric=False, twin=twin)  # fmt: skip

    sqrt = root("sqrt", primitives.sqrt, 1, 2)
    rsqrt = root("1/sqrt(x)", primitives.reciprocal_sqrt, -1, 2)
    sin = new("sin", primitives.sin, sympy.sin, 2, "harmonic", period=math.pi)
    arcsin = new("arcsin", primitives.arcsin, sympy.asin, 4, domain=(-1, 1), closed=True)
    return [
        new("x", primitives.Power(1), _identity, 1, "linear"),
        power(2, 2), power(3, 3), power(4, 3), power(5, 3),
        reciprocal(1, 2), reciprocal(2, 2), reciprocal(3, 3), reciprocal(4, 4), reciprocal(5, 5),
        sqrt,
        root("x^0.5", primitives.sqrt, 1, 2, sqrt),
        root("x^1.5", primitives.power_three_halves, 3, 4),
        rsqrt,
        root("1/x^0.5", primitives.reciprocal_sqrt, -1, 2, rsqrt),
        new("exp", primitives.exp, sympy.exp, 2, "rate", symmetric=False),
        new("log", primitives.log, sympy.log, 2, "location", _POSITIVE, symmetric=False),
        new("abs", primitives.absolute, sympy.Abs, 3, "location"),
        sin,
        new("cos", primitives.cos, sympy.cos, 2, "harmonic", period=math.pi,
            twin=Twin(sin, shift=math.pi / 2)),
        new("tan", primitives.tan, sympy.tan, 3, domain=(-math.pi / 2, math.pi / 2),
            period=math.pi),
        new("tanh", primitives.tanh, sympy.tanh, 3),
        new("sgn", primitives.sign, sympy.sign, 3, "step"),
        arcsin,
        new("arccos", primitives.arccos, sympy.acos, 4, domain=(-1, 1), closed=True,
            twin=Twin(arcsin)),
        new("arctan", primitives.arctan, sympy.atan, 4),
        new("arctanh", primitives.arctanh, sympy.atanh, 4, domain=(-1, 1)),
        new("0", primitives.zero, _zero, 0, "constant"),
        new("gaussian", primitives.gaussian, _gaussian, 3),
    ]  # fmt: skip


class Library(Mapping[str, SymbolicFunction]):
    """An ordered mapping of names to functions. Only `add` changes it.

    Args:
        functions: its first entries; by default the 29 of pykan, with its names and complexities.
    """

    def __init__(self, functions: Iterable[SymbolicFunction] | None = None) -> None:
        entries = _builtins() if functions is None else list(functions)
        self._functions = {function.name: function for function in entries}

    def __getitem__(self, name: str) -> SymbolicFunction:
        try:
            return self._functions[name]
        except KeyError:
            raise KeyError(
                f"no symbolic function {name!r} in this library; it has {', '.join(self)}. "
                "Add others with add_symbolic."
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __repr__(self) -> str:
        return f"Library({', '.join(self)})"

    def __reduce__(self) -> Any:
        # copies and pickles of the default library are the default library
        if self is _DEFAULT:
            return default_library, ()
        return Library, (list(self._functions.values()),)

    def copy(self) -> "Library":
        """A library of the same functions, to be changed on its own."""
        return Library(self._functions.values())

    def find(self, function: str | SymbolicFunction) -> SymbolicFunction:
        """The function of this name; a function stands for itself, but must be in the library.

        Raises:
            KeyError: it is not.
        """
        if isinstance(function, str):
            return self[function]
        if self[function.name] is not function:
            raise KeyError(
                f"another function is called {function.name!r} in this library; add yours under a "
                "name of its own with add_symbolic"
            )
        return function

    def select(
        self, chosen: Iterable[str | SymbolicFunction] | None = None
    ) -> tuple[SymbolicFunction, ...]:
        """The functions of these names (functions stand for themselves); all of them for None.

        Raises:
            KeyError: a name that is not here.
            TypeError: a single string, or an entry that is neither a name nor a function.
            ValueError: no function at all, or one of them twice.
        """
        if chosen is None:
            return tuple(self._functions.values())
        if isinstance(chosen, str):
            raise TypeError(f"expected a sequence of names, got the string {chosen!r}")
        picked = []
        for entry in chosen:
            if isinstance(entry, str):
                picked.append(self[entry])
            elif isinstance(entry, SymbolicFunction):
                picked.append(entry)
            else:
                raise TypeError(f"expected names or SymbolicFunctions, got {entry!r}")
        names = [function.name for function in picked]
        if not picked or len(set(names)) < len(names):
            raise ValueError(f"expected at least one function and each once, got {names}")
        return tuple(picked)

    def add(
        self,
        name: str,
        fun: Callable[[Tensor], Tensor],
        complexity: float = 1,
        sympy_fun: SympyFunction | None = None,
        *,
        derivative: Callable[[Tensor], Tensor] | None = None,
        domain: tuple[float, float] = (-math.inf, math.inf),
        period: float | None = None,
        reach: float = 40.0,
        overwrite: bool = False,
    ) -> SymbolicFunction:
        """Adds a function c f(a x + b) + d can be fitted with, and returns it.

        Args:
            name: its key here and in state dicts.
            fun: elementwise torch function of a float32 or float64 tensor. Define it at the top
                level of a module if models that use it are to be pickled.
            complexity: its price; `x` costs 1, `sin` 2, `arctan` 4.
            sympy_fun: its SymPy form; by default an undefined `sympy.Function(name)`.
            derivative: f'; needed if autograd does not know that of `fun`, itself differentiable
                if second derivatives of a model are wanted (see `Differentiable`).
            domain: interval of the arguments; beyond it the function is evaluated at the nearest
                point inside.
            period: p if f(u + p) is f(u), or a constant minus f(u).
            reach: the features a fit has to find (oscillations, bends, peaks) lie within
                |u| <= reach.
            overwrite: replace a function of this name. Models that have the old one keep it.

        Raises:
            ValueError: the name is taken or empty, the complexity is negative or not finite, the
                domain is empty, period or reach is not positive, fun does not map numbers of the
                domain to finite numbers of the same shape, or it has no derivative.
        """
        if not name or (name in self and not overwrite):
            raise ValueError(
                f"expected a new name, got {name!r}; overwrite=True replaces the function"
            )
        if not (math.isfinite(complexity) and complexity >= 0):
            raise ValueError(f"expected a finite complexity >= 0, got {complexity}")
        if not domain[0] < domain[1]:
            raise ValueError(f"expected a domain (low, high) with low < high, got {domain}")
        if not reach > 0 or (period is not None and not period > 0):
            raise ValueError(f"expected reach and period > 0, got {reach} and {period}")
        if derivative is not None:
            fun = Differentiable(fun, derivative)
        if not is_differentiable(name, fun, domain):
            raise ValueError(
                f"autograd has no derivative of {name!r}; pass derivative=, a torch function"
            )
        evaluate = clamped(fun, (float(domain[0]), float(domain[1])))
        function = SymbolicFunction(
            name,
            evaluate,
            sympy.Function(name) if sympy_fun is None else sympy_fun,
            complexity,
            domain=evaluate.domain,
            closed=not any(evaluate.open_ends),
            symmetric=is_symmetric(fun, domain),
            period=period,
            reach=reach,
        )
        self._functions[name] = function
        return function


_DEFAULT = Library()


def default_library() -> Library:
    """The library that is used where none is given: pykan's 29 functions and what was added."""
    return _DEFAULT


def add_symbolic(
    name: str,
    fun: Callable[[Tensor], Tensor],
    complexity: float = 1,
    sympy_fun: SympyFunction | None = None,
    *,
    library: Library | None = None,
    derivative: Callable[[Tensor], Tensor] | None = None,
    domain: tuple[float, float] = (-math.inf, math.inf),
    period: float | None = None,
    reach: float = 40.0,
    overwrite: bool = False,
) -> SymbolicFunction:
    """Adds a function to the default library, or to `library`: see `Library.add`."""
    target = _DEFAULT if library is None else library
    return target.add(
        name,
        fun,
        complexity,
        sympy_fun,
        derivative=derivative,
        domain=domain,
        period=period,
        reach=reach,
        overwrite=overwrite,
    )


def lookup(name: str) -> SymbolicFunction:
    """The function of this name in the default library (what a pickle of it calls)."""
    return _DEFAULT[name]


def _reduced(function: SymbolicFunction) -> Any:
    if _DEFAULT.get(function.name) is function:
        return lookup, (function.name,)
    return object.__reduce_ex__(function, 2)


copyreg.pickle(SymbolicFunction, _reduced)
