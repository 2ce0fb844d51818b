"""From edges to functions to a formula: the bodies of `KAN.fix_symbolic` and its relatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import Tensor

from kanfast.nn import symbols
from kanfast.nn.edges import edge_parts
from kanfast.nn.nodes import AFFINE, Nodes
from kanfast.symbolic.fit import EdgeFits, fit_affine
from kanfast.symbolic.formula import Formula, SymbolicEdge, SymbolicLayer, compose
from kanfast.symbolic.function import SymbolicFunction
from kanfast.symbolic.library import Library, default_library
from kanfast.symbolic.ranges import Range, fit_in_ranges
from kanfast.symbolic.select import EdgeReport, Rule, suggest

if TYPE_CHECKING:
    from kanfast.nn.linear import KANLinear
    from kanfast.nn.stack import LayerStack

Edge = tuple[int, int, int]
"""(layer, input, output), as pykan counts."""

Functions = Library | Iterable[str | SymbolicFunction] | None
"""Candidates: a library, names or functions of the default library, or None for all of it."""

_PYKAN_RANGE = (-10.0, 10.0)
_LISTED = 8


@torch.no_grad()
def edge_samples(model: LayerStack, edges: Sequence[Edge], x: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into and comes out of some edges for samples x: [E, rows] each, float64, CPU."""
    inputs = [t.reshape(-1, t.shape[-1]).cpu().double() for t in model.activations(x)[:-1]]
    given = torch.empty(len(edges), len(inputs[0]), dtype=torch.float64)
    taken = torch.empty_like(given)
    for l, layer in enumerate(model.kan_layers):
        rows = [e for e, edge in enumerate(edges) if edge[0] == l]
        if rows:
            pairs = torch.tensor([[edges[e][2], edges[e][1]] for e in rows])
            given[rows] = inputs[l][:, pairs[:, 1]].T
            taken[rows] = edge_parts(layer, inputs[l], pairs).total.T
    return given, taken


def live_edges(model: LayerStack, *, symbolic: bool) -> list[Edge]:
    """The edges that were not removed; those that are symbolic, or those that are not."""
    found = []
    for l, layer in enumerate(model.kan_layers):
        fixed = symbols.symbolic_mask(layer)
        mask = fixed if symbolic else symbols.numeric_mask(layer) & ~fixed
        found += [(l, i, j) for i, j in mask.T.nonzero().tolist()]
    return found


def fit_edges(
    model: LayerStack,
    edges: Sequence[Edge],
    x: Tensor,
    lib: Functions,
    a_range: Range | None = None,
    b_range: Range | None = None,
) -> EdgeFits:
    """Fits of some edges with all candidates, at the samples x."""
    functions = candidates(lib)
    given, taken = edge_samples(model, edges, x)
    if a_range is None and b_range is None:
        return fit_affine(given, taken, functions)
    return fit_in_ranges(given, taken, functions, a_range or _PYKAN_RANGE, b_range or _PYKAN_RANGE)


def candidates(lib: Functions) -> tuple[SymbolicFunction, ...]:
    """The functions that `lib` stands for."""
    if isinstance(lib, Library):
        return lib.select()
    return default_library().select(lib)


def library_of(lib: Functions) -> Library | None:
    """The library that edges look their functions up in; None for the default one."""
    return lib if isinstance(lib, Library) else None


def fix_symbolic(
    model: LayerStack,
    l: int,
    i: int,
    j: int,
    fun_name: str | SymbolicFunction,
    fit_params_bool: bool,
    a_range: Range | None,
    b_range: Range | None,
    x: Tensor | None,
) -> float | None:
    """The body of `KAN.fix_symbolic`."""
    layer = model.layer_of_edge(l, i, j)
    library = default_library() if layer.symbolic is None else layer.symbolic.library
    function = library.find(fun_name)
    if not fit_params_bool:
        symbols.fix(layer, j, i, function, (1.0, 0.0, 1.0, 0.0))
        return None
    fits = fit_edges(model, [(l, i, j)], model.samples_or(x), [function], a_range, b_range)
    symbols.fix(layer, j, i, function, fits.affine[0, 0])
    return float(fits.r2[0, 0])


def report_edges(
    model: LayerStack,
    edges: Sequence[Edge],
    lib: Functions,
    a_range: Range | None,
    b_range: Range | None,
    topk: int,
    weight_simple: float,
    rule: Rule,
    noise: float,
    x: Tensor | None,
) -> list[EdgeReport]:
    """What the edges may be, best first."""
    fits = fit_edges(model, edges, model.samples_or(x), lib, a_range, b_range)
    names = [f"edge {edge}" for edge in edges]
    return suggest(
        fits, topk=topk, rule=rule, weight_simple=weight_simple, noise=noise, edges=names
    )


def auto_symbolic(
    model: LayerStack, reports: dict[Edge, EdgeReport], lib: Functions, r2_threshold: float
) -> None:
    """Fixes each edge to the best function of its report, if that fits well enough."""
    for (l, i, j), report in reports.items():
        best = report.best
        if best.r2 >= r2_threshold:
            layer = model.kan_layers[l]
            symbols.fix(layer, j, i, best.function, best.params, library_of(lib))


def symbolic_formula(
    model: LayerStack,
    var: Sequence[str | sympy.Symbol] | None,
    normalizer: Any,
    output_normalizer: Any,
) -> Formula:
    """The body of `KAN.symbolic_formula`."""
    numeric = live_edges(model, symbolic=False)
    both = [edge for edge in live_edges(model, symbolic=True) if _has_spline(model, edge)]
    if numeric or both:
        left = numeric + both
        listed = ", ".join(map(str, left[:_LISTED]))
        raise ValueError(
            f"{len(left)} edges are still splines, in the order (layer, input, output): {listed}"
            f"{' ...' if len(left) > _LISTED else ''}; call auto_symbolic, fix_symbolic or "
            "remove_edge on them first"
        )
    layers = [
        symbolic_layer(layer, model.nodes_after(index))
        for index, layer in enumerate(model.kan_layers)
    ]
    mask = model.input_mask
    if mask is not None:  # then the formula is one of all features, too
        first, chosen = layers[0], model.input_id.tolist()
        edges = {(o, chosen[i]): edge for (o, i), edge in first.edges.items()}
        layers[0] = replace(first, in_features=len(mask), edges=edges)
    return compose(
        layers, var, normalizer=_moments(normalizer), output_normalizer=_moments(output_normalizer)
    )


def symbolic_layer(layer: KANLinear, nodes: Nodes | None = None) -> SymbolicLayer:
    """The symbolic edges of a layer and the nodes after it, for `kanfast.symbolic.compose`."""
    edges: dict[tuple[int, int], SymbolicEdge | None] = {}
    its = layer.symbolic
    if its is not None:
        affine, factors = its.affine.detach().cpu().double(), its.mask.cpu().double()
        for (o, i), function in its.functions.items():
            a, b, c, d = affine[o, i].tolist()
            factor = float(factors[o, i])
            edges[o, i] = SymbolicEdge(function, a, b, factor * c, factor * d)
    if nodes is None:
        return SymbolicLayer(layer.in_features, layer.out_features, edges)
    present = {name: getattr(nodes, name) for name in AFFINE}
    affine_maps = {
        name: values.detach().cpu().double().tolist()
        for name, values in present.items()
        if values is not None
    }
    return SymbolicLayer(
        layer.in_features, layer.out_features, edges, arities=nodes.arities, **affine_maps
    )


def _has_spline(model: LayerStack, edge: Edge) -> bool:
    l, i, j = edge
    return bool(symbols.numeric_mask(model.kan_layers[l])[j, i])


def _moments(given: Any) -> tuple[list[float], list[float]] | None:
    if given is None:
        return None
    mean, std = (torch.as_tensor(part).flatten().tolist() for part in given)
    return mean, std
