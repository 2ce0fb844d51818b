"""The formula of a network whose edges are symbolic, layer by layer, in SymPy."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch import Tensor

from .evaluating import evaluate
from .expressions import expanded, round_expr, round_significant, scaled, simplest
from .function import SymbolicFunction
from .writing import latex, text

_LARGEST_EXPONENT = 30.0


@dataclass(frozen=True)
class SymbolicEdge:
    """c f(a x + b) + d."""

    function: SymbolicFunction
    a: float = 1.0
    b: float = 0.0
    c: float = 1.0
    d: float = 0.0

    def expression(self, x: sympy.Expr) -> sympy.Expr:
        """The edge at a SymPy expression, sums multiplied out.

        SymPy takes Floats out of exponents; those whose exponential may not fit into a double are
        made rationals, which it leaves where they are.
        """
        argument = scaled(x, _number(self.a)) + _number(self.b)
        constant, rest = argument.as_coeff_Add()
        if abs(constant) > _LARGEST_EXPONENT and self.function.sympy_fun(x).has(sympy.exp):
            argument = rest + sympy.Rational(f"{float(constant):.15g}")
        value = self.function.sympy_fun(argument)
        return scaled(value, _number(self.c)) + _number(self.d)


@dataclass(frozen=True)
class SymbolicLayer:
    """A layer: edges, sums over them (subnodes), products of subnodes, and affine maps of both.

    subnode[o] = subnode_scale[o] sum_i edge[o, i](x[i]) + subnode_bias[o]. The last sum(arities)
    subnodes are multiplied in runs of arities[0], arities[1], ...; the others are nodes as they
    are, before the products. node[n] is then scaled by node_scale[n] and shifted by node_bias[n].

    Args:
        in_features: I.
        subnodes: O, before multiplication.
        edges: by (o, i); an edge that is missing or None is zero.
        arities: how many subnodes each multiplication node takes.
        subnode_scale, subnode_bias: [O]; 1 and 0 by default.
        node_scale, node_bias: [O - sum(arities) + len(arities)]; 1 and 0 by default.

    Raises:
        ValueError: sizes that do not fit together, or an edge outside [O, I].
    """

    in_features: int
    subnodes: int
    edges: Mapping[tuple[int, int], SymbolicEdge | None]
    arities: Sequence[int] = ()
    subnode_scale: Sequence[float] | None = None
    subnode_bias: Sequence[float] | None = None
    node_scale: Sequence[float] | None = None
    node_bias: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if any(arity < 1 for arity in self.arities) or sum(self.arities) > self.subnodes:
            raise ValueError(
                f"expected arities >= 1 with a sum of at most {self.subnodes} subnodes, "
                f"got {list(self.arities)}"
            )
        for o, i in self.edges:
            if not (0 <= o < self.subnodes and 0 <= i < self.in_features):
                raise ValueError(
                    f"expected edges (o, i) with 0 <= o < {self.subnodes} and "
                    f"0 <= i < {self.in_features}, got ({o}, {i})"
                )
        for name, count in (("subnode", self.subnodes), ("node", self.nodes)):
            for kind in ("scale", "bias"):
                values = getattr(self, f"{name}_{kind}")
                if values is not None and len(values) != count:
                    raise ValueError(
                        f"expected {name}_{kind} of {count} numbers, got {len(values)}"
                    )

    @property
    def nodes(self) -> int:
        """How many outputs the layer has."""
        return self.subnodes - sum(self.arities) + len(self.arities)

    def expressions(self, inputs: Sequence[sympy.Expr]) -> list[sympy.Expr]:
        """The nodes at the expressions of the inputs."""
        sums: list[list[sympy.Expr]] = [[] for _ in range(self.subnodes)]
        for (o, i), edge in sorted(self.edges.items(), key=lambda item: item[0]):
            if edge is not None:
                sums[o].append(edge.expression(inputs[i]))
        subnodes = _affine(
            [sympy.Add(*terms) for terms in sums], self.subnode_scale, self.subnode_bias
        )
        first = self.subnodes - sum(self.arities)
        nodes = subnodes[:first]
        for arity in self.arities:
            nodes.append(sympy.Mul(*subnodes[first : first + arity]))
            first += arity
        return _affine(nodes, self.node_scale, self.node_bias)


@dataclass(frozen=True)
class Formula:
    """One expression per output, in the input variables.

    Attributes:
        outputs: the expressions.
        inputs: the variables, in the order of the network's inputs.
    """

    outputs: tuple[sympy.Expr, ...]
    inputs: tuple[sympy.Symbol, ...]
    functions: tuple[SymbolicFunction, ...] = field(default=(), repr=False)

    def __iter__(self) -> Iterator[list[Any]]:
        """The outputs and then the inputs, for `expressions, variables = formula`."""
        return iter([list(self.outputs), list(self.inputs)])

    def __getitem__(self, index: int) -> list[Any]:
        """The outputs (0) or the inputs (1), as pykan's result has them."""
        return [list(self.outputs), list(self.inputs)][index]

    def rounded(self, digits: int) -> "Formula":
        """Every floating number rounded to so many decimals, in the shorter of two forms.

        The forms are the composed one and, where that stays small, the expanded one. See
        `significant` for constants of any size.
        """
        return self._mapped(lambda form: round_expr(form, digits))

    def significant(self, digits: int) -> "Formula":
        """Every floating number rounded to so many significant digits, in the shorter of two forms.

        >>> x = sympy.Symbol("x")
        >>> print(Formula((sympy.Float(2.3456e-9) * x + sympy.Float(1234.5),), (x,)).significant(2))
        2.3e-9*x + 1200

        Raises:
            ValueError: digits < 1.
        """
        return self._mapped(lambda form: round_significant(form, digits))

    def _mapped(self, rounding: Callable[[sympy.Expr], sympy.Expr]) -> "Formula":
        return replace(self, outputs=tuple(
            simplest([rounding(form) for form in (output, expanded(output))])
            for output in self.outputs
        ))  # fmt: skip

    def latex(self) -> list[str]:
        """LaTeX of the outputs; names of several letters are in italics."""
        return [latex(output) for output in self.outputs]

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluates the formula in float64 as it stands: x [..., I] -> [..., O] on x's device.

        Singularities give NaN or infinity, unlike the safe functions of a model, and so do values
        that are not real.
        """
        if x.shape[-1:] != (len(self.inputs),):
            raise ValueError(f"expected x of shape [..., {len(self.inputs)}], got {tuple(x.shape)}")
        columns = np.moveaxis(x.detach().to("cpu", torch.float64).numpy(), -1, 0)
        own = {function.name: _numpy_form(function) for function in self.functions}
        result = np.empty((*x.shape[:-1], len(self.outputs)))
        for k, output in enumerate(self.outputs):
            result[..., k] = evaluate(output, self.inputs, list(columns), own)
        return torch.from_numpy(result).to(x.device)

    def __str__(self) -> str:
        return "\n".join(map(text, self.outputs))


def compose(
    layers: Sequence[SymbolicLayer],
    variables: Sequence[str | sympy.Symbol] | None = None,
    *,
    normalizer: tuple[Sequence[float], Sequence[float]] | None = None,
    output_normalizer: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Formula:
    """The formula of the network that these layers make up.

    Args:
        layers: first to last.
        variables: the inputs, by default x_1, x_2, ...
        normalizer: means and standard deviations [I]: the network was fed (x - mean) / std.
        output_normalizer: means and standard deviations [O]: it was trained on (y - mean) / std.

    Raises:
        ValueError: no layers, layers that do not fit together, a wrong number of variables or of
            means, or a standard deviation that is 0.
    """
    if not layers:
        raise ValueError("expected at least one layer, got none")
    count = layers[0].in_features
    if variables is None:
        variables = [f"x_{i}" for i in range(1, count + 1)]
    symbols = [sympy.Symbol(v) if isinstance(v, str) else v for v in variables]
    if len(symbols) != count or len(set(symbols)) != count:
        raise ValueError(f"expected {count} different variables, got {list(variables)}")
    values: list[sympy.Expr] = list(symbols)
    if normalizer is not None:
        mean, std = _moments("normalizer", normalizer, count)
        values = [(v - m) / s for v, m, s in zip(values, mean, std, strict=True)]
    for index, layer in enumerate(layers):
        if layer.in_features != len(values):
            raise ValueError(
                f"layer {index} has {layer.in_features} inputs, expected {len(values)}"
            )
        values = layer.expressions(values)
    if output_normalizer is not None:
        mean, std = _moments("output_normalizer", output_normalizer, len(values))
        values = [scaled(v, s) + m for v, m, s in zip(values, mean, std, strict=True)]
    used = {e.function for layer in layers for e in layer.edges.values() if e is not None}
    return Formula(tuple(values), tuple(symbols), tuple(sorted(used, key=lambda f: f.name)))


def _affine(
    values: list[sympy.Expr], scale: Sequence[float] | None, bias: Sequence[float] | None
) -> list[sympy.Expr]:
    if scale is not None:
        values = [scaled(v, _number(s)) for v, s in zip(values, scale, strict=True)]
    if bias is not None:
        values = [v + _number(b) for v, b in zip(values, bias, strict=True)]
    return values


def _moments(
    name: str, given: tuple[Sequence[float], Sequence[float]], count: int
) -> tuple[list[sympy.Expr], list[sympy.Expr]]:
    mean, std = ([_number(value) for value in column] for column in given)
    if len(mean) != count or len(std) != count or any(value == 0 for value in std):
        raise ValueError(
            f"expected {name} of {count} means and {count} standard deviations that are not 0, "
            f"got {given}"
        )
    return mean, std


def _number(value: float) -> sympy.Expr:
    """A SymPy number; integral values are Integers, so 1 * x is x."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected finite parameters, got {number}")
    return sympy.Integer(int(number)) if number.is_integer() else sympy.Float(number)


def _numpy_form(function: SymbolicFunction) -> Callable[[Any], NDArray[np.float64]]:
    def values(x: Any) -> NDArray[np.float64]:
        given = torch.as_tensor(np.asarray(x, dtype=np.float64))
        made: NDArray[np.float64] = function(given).numpy()
        return made

    return values
