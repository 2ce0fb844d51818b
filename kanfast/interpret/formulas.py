"""Edges become functions, and a network a formula.

An edge may be symbolic: c f(a x + b) + d, with f from a library. A symbolic edge has no spline; it
counts as an edge everywhere, and `fit` trains its a, b, c and d (`KANLinear.symbolic.affine`).
SymPy takes a while to load, so what needs it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from kanfast.interpret.edges import live_edges
from kanfast.nn import symbols
from kanfast.nn.edges import Edge
from kanfast.nn.network import Network

if TYPE_CHECKING:
    import sympy
    from torch import Tensor

    from kanfast.interpret.candidates import Functions
    from kanfast.symbolic.formula import Formula
    from kanfast.symbolic.function import SymbolicFunction
    from kanfast.symbolic.ranges import Range
    from kanfast.symbolic.select import EdgeReport, Rule

_LISTED = 8


def fix_symbolic(
    network: Network,
    l: int,
    i: int,
    j: int,
    fun_name: str | SymbolicFunction,
    fit_params_bool: bool = True,
    a_range: Range | None = None,
    b_range: Range | None = None,
    verbose: bool = False,
    *,
    x: Tensor | None = None,
) -> float | None:
    """Makes an edge symbolic: c f(a x + b) + d closest to its present function at the samples.

    An optimizer made before does not know the new parameters: make a new one.

    Args:
        l, i, j: Layer, input and output of the edge.
        fun_name: The name of a function in the library, such as "sin", or the function itself.
        fit_params_bool: False for a, b, c, d = 1, 0, 1, 0 instead of the closest ones.
        a_range, b_range: Where to look for a and b; everywhere if both are None, and if one is
            None it is pykan's (-10, 10). Not needed for good fits, and slower.
        verbose: Print r2.
        x: Samples [..., inputs] of the model; `samples` if None.

    Returns:
        r2, the share of the variance of the edge that the function explains; None without a
        fit.

    Raises:
        IndexError: There is no such edge.
        KeyError: The library has no such function: see `kanfast.symbolic.add_symbolic`.
        ValueError: No samples, samples or values that are not finite, or an impossible range.
    """
    from kanfast.interpret.candidates import fit_edges
    from kanfast.symbolic.library import default_library

    layer = network.layer_of_edge(l, i, j)
    library = default_library() if layer.symbolic is None else layer.symbolic.library
    function = library.find(fun_name)
    if not fit_params_bool:
        symbols.fix(layer, j, i, function, (1.0, 0.0, 1.0, 0.0))
        return None
    edge, samples = Edge(l, i, j), network.samples_or(x)
    fits = fit_edges(network, [edge], samples, [function], a_range, b_range)
    symbols.fix(layer, j, i, function, fits.affine[0, 0])
    r2 = float(fits.r2[0, 0])
    if verbose:
        name = fun_name if isinstance(fun_name, str) else fun_name.name
        print(f"edge {edge} is {name}, r2 = {r2:.10g}")
    return r2


def unfix_symbolic(network: Network, l: int, i: int, j: int) -> None:
    """Makes an edge the spline again that it was. IndexError if there is no such edge."""
    symbols.unfix(network.layer_of_edge(l, i, j), j, i)


def unfix_symbolic_all(network: Network) -> None:
    """Makes all symbolic edges splines again; removed edges stay removed."""
    for l, i, j in live_edges(network, symbolic=True):
        unfix_symbolic(network, l, i, j)


def suggest_symbolic(
    network: Network,
    l: int,
    i: int,
    j: int,
    a_range: Range | None = None,
    b_range: Range | None = None,
    lib: Functions = None,
    topk: int = 5,
    verbose: bool = False,
    *,
    weight_simple: float = 0.8,
    rule: Rule = "length",
    noise: float = 1e-9,
    x: Tensor | None = None,
) -> EdgeReport:
    """Which functions an edge may be, best first; the model stays as it is.

    Args:
        l, i, j, a_range, b_range, x: As in `fix_symbolic`.
        lib: The candidates: names or functions of the default library, or a `Library`; all of
            the default one if None.
        topk: How many candidates the report has at most.
        verbose: Print the report.
        weight_simple, rule, noise: How accuracy is weighed against simplicity: see
            `kanfast.symbolic.scores`. weight_simple is that of rule="pykan".

    Returns:
        The report; `report.best.name`, `.r2`, `.params` and `.complexity` are the best's.
    """
    from kanfast.interpret.candidates import report_edges

    network.layer_of_edge(l, i, j)
    (report,) = report_edges(
        network, [Edge(l, i, j)], lib, a_range, b_range, topk, weight_simple, rule, noise, x
    )
    if verbose:
        print(report)
    return report


def auto_symbolic(
    network: Network,
    a_range: Range | None = None,
    b_range: Range | None = None,
    lib: Functions = None,
    verbose: int = 0,
    weight_simple: float = 0.8,
    r2_threshold: float = 0.0,
    *,
    topk: int = 5,
    rule: Rule = "length",
    noise: float = 1e-9,
    x: Tensor | None = None,
) -> dict[Edge, EdgeReport]:
    """Makes every edge that is still a spline its best function, in place.

    All edges are looked at as the model is before. Symbolic edges stay as they are, and removed
    ones removed.

    Args:
        verbose: 1 prints what each edge has become, 2 the reports.
        r2_threshold: Edges whose best function fits worse stay splines.
        a_range, b_range, lib, topk, weight_simple, rule, noise, x: As in `suggest_symbolic`.

    Returns:
        The reports of those edges by (l, i, j).

    Example:
        >>> model = KAN([1, 1], dtype=torch.float64)
        >>> data = kanfast.create_dataset(lambda x: 2 * torch.sin(3 * x), 1, dtype=torch.float64)
        >>> history = model.fit(data, steps=20, log=0)
        >>> reports = model.auto_symbolic(lib=["x", "x^2", "sin"])
        >>> reports[0, 0, 0].best.name
        'sin'
    """
    from kanfast.interpret.candidates import library_of, report_edges

    edges = live_edges(network, symbolic=False)
    if not edges:
        return {}
    found = report_edges(network, edges, lib, a_range, b_range, topk, weight_simple, rule, noise, x)
    reports = dict(zip(edges, found, strict=True))
    for (l, i, j), report in reports.items():
        best = report.best
        if best.r2 >= r2_threshold:
            layer = network.kan_layers[l]
            symbols.fix(layer, j, i, best.function, best.params, library_of(lib))
    for report in found if verbose else ():
        best = report.best
        became = best.name if best.r2 >= r2_threshold else "a spline still"
        line = f"{report.edge} is {became}, r2 = {best.r2:.10g}"
        print(report if verbose > 1 else line)
    return reports


def symbolic_formula(
    network: Network,
    var: Sequence[str | sympy.Symbol] | None = None,
    normalizer: Any = None,
    output_normalizer: Any = None,
) -> Formula:
    """The formula of a model whose edges are all symbolic or removed.

    The result is a `kanfast.symbolic.Formula` (`rounded`, `latex`, callable), and can be taken
    apart as pykan's: `expressions, variables = model.symbolic_formula()`, or
    `model.symbolic_formula()[0][0]` for the expression of the first output.

    Args:
        var: Names or SymPy symbols of all features of x; x_1, x_2, ... if None.
        normalizer: Means and standard deviations of the features, if the model was trained on
            (x - mean) / std: the formula is one of x.
        output_normalizer: The same for the outputs.

    Raises:
        ValueError: Edges that are still splines, with their places; a wrong number of
            variables, means or deviations.
    """
    from kanfast.interpret.candidates import symbolic_layer
    from kanfast.symbolic.formula import compose

    numeric = live_edges(network, symbolic=False)
    both = [edge for edge in live_edges(network, symbolic=True) if _has_spline(network, edge)]
    if numeric or both:
        left = numeric + both
        listed = ", ".join(map(str, left[:_LISTED]))
        raise ValueError(
            f"{len(left)} edges are still splines, in the order (layer, input, output): {listed}"
            f"{' ...' if len(left) > _LISTED else ''}; call auto_symbolic, fix_symbolic or "
            "remove_edge on them first"
        )
    layers = [
        symbolic_layer(layer, network.nodes_after(index))
        for index, layer in enumerate(network.kan_layers)
    ]
    mask = network.input_mask
    if mask is not None:  # then the formula is one of all features, too
        first, chosen = layers[0], network.input_id.tolist()
        edges = {(o, chosen[i]): edge for (o, i), edge in first.edges.items()}
        layers[0] = replace(first, in_features=len(mask), edges=edges)
    return compose(
        layers, var, normalizer=_moments(normalizer), output_normalizer=_moments(output_normalizer)
    )


def _has_spline(network: Network, edge: Edge) -> bool:
    mask = symbols.numeric_mask(network.kan_layers[edge.layer])
    return bool(mask[edge.output, edge.input])


def _moments(given: Any) -> tuple[list[float], list[float]] | None:
    if given is None:
        return None
    mean, std = (torch.as_tensor(part).flatten().tolist() for part in given)
    return mean, std
