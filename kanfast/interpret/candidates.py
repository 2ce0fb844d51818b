"""Which functions the edges of a network may be, with SymPy behind it: for `formulas`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from kanfast.interpret.edges import edge_samples
from kanfast.nn.edges import Edge
from kanfast.nn.linear import KANLinear
from kanfast.nn.network import Network
from kanfast.nn.nodes import AFFINE, Nodes
from kanfast.symbolic.fit import EdgeFits, fit_affine
from kanfast.symbolic.formula import SymbolicEdge, SymbolicLayer
from kanfast.symbolic.function import SymbolicFunction
from kanfast.symbolic.library import Library, default_library
from kanfast.symbolic.ranges import Range, fit_in_ranges
from kanfast.symbolic.select import EdgeReport, Rule, suggest

Functions = Library | Iterable[str | SymbolicFunction] | None
"""Candidates: a library, names or functions of the default library, or None for all of it."""

_PYKAN_RANGE = (-10.0, 10.0)


def fit_edges(
    network: Network,
    edges: Sequence[Edge],
    x: Tensor,
    lib: Functions,
    a_range: Range | None = None,
    b_range: Range | None = None,
) -> EdgeFits:
    """Fits of some edges with all candidates, at the samples x."""
    functions = candidates(lib)
    given, taken = edge_samples(network, edges, x)
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


def report_edges(
    network: Network,
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
    fits = fit_edges(network, edges, network.samples_or(x), lib, a_range, b_range)
    names = [f"edge {edge}" for edge in edges]
    return suggest(
        fits, topk=topk, rule=rule, weight_simple=weight_simple, noise=noise, edges=names
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
