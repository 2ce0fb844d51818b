"""The symbolic part of a layer: making edges symbolic or numeric again, and their statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kanfast.engine.chunked import CHUNK_ELEMENTS
from kanfast.engine.statistics import EdgeStatistics
from kanfast.nn.layer import Layer
from kanfast.nn.masks import set_mask

if TYPE_CHECKING:  # imported where it is used: SymPy, behind it, takes a while
    from kanfast.symbolic.edges import SymbolicEdges
    from kanfast.symbolic.function import SymbolicFunction
    from kanfast.symbolic.library import Library


def fix(
    layer: Layer,
    o: int,
    i: int,
    function: str | SymbolicFunction,
    params: Sequence[float] | Tensor,
    library: Library | None = None,
) -> None:
    """Makes the edge from input i to output o c f(a x + b) + d, and nothing else.

    Args:
        library: Of the layer's symbolic edges if this is the first of them.

    Raises:
        IndexError, KeyError, ValueError: As `SymbolicEdges.fix`; then the layer is unchanged.
    """
    edges = layer.symbolic
    if edges is None:
        edges = make_edges(layer, library)
    edges.fix(o, i, function, params)
    layer.symbolic = edges
    set_numeric(layer, o, i, False)


def unfix(layer: Layer, o: int, i: int) -> None:
    """Makes a symbolic edge a spline again, the one that it was."""
    if layer.symbolic is not None:
        layer.symbolic.unfix(o, i)
        if not layer.symbolic.functions:
            layer.symbolic = None
    set_numeric(layer, o, i, True)


def set_numeric(layer: Layer, o: int, i: int, numeric: bool) -> None:
    """Puts the spline and residual function of an edge in or out."""
    mask = numeric_mask(layer).clone()
    mask[o, i] = numeric
    set_mask(layer, None if mask.all() else mask)


def keep_edges(layer: Layer, alive: Tensor) -> None:
    """Removes all edges, numeric and symbolic, that are not alive: bool [O, I]."""
    mask = numeric_mask(layer) & alive
    set_mask(layer, None if mask.all() and layer.mask is None else mask)
    if layer.symbolic is not None:
        for o, i in layer.symbolic.functions:
            if not alive[o, i]:
                layer.symbolic.unfix(o, i)
        if not layer.symbolic.functions:
            layer.symbolic = None


def numeric_mask(layer: Layer) -> Tensor:
    """Which edges have a spline: bool [O, I]."""
    if layer.mask is not None:
        return layer.mask
    shape = (layer.out_features, layer.in_features)
    return torch.ones(shape, dtype=torch.bool, device=layer.grid.device)


def symbolic_mask(layer: Layer) -> Tensor:
    """Which edges have a symbolic function: bool [O, I]."""
    mask = torch.zeros(
        layer.out_features, layer.in_features, dtype=torch.bool, device=layer.grid.device
    )
    if layer.symbolic is not None:
        mask[layer.symbolic.edges] = True
    return mask


def edge_mask(layer: Layer) -> Tensor:
    """Which edges are there, as splines or symbolic functions: bool [O, I]."""
    return numeric_mask(layer) | symbolic_mask(layer)


def make_room(layer: Layer, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Gives the layer symbolic edges if the state dict that it is about to load has some."""
    if f"{prefix}symbolic.affine" in state_dict and layer.symbolic is None:
        layer.symbolic = make_edges(layer)


def make_edges(layer: Layer, library: Library | None = None) -> SymbolicEdges:
    """A `SymbolicEdges` without edges, of the layer's sizes, dtype and device."""
    from kanfast.symbolic.edges import SymbolicEdges

    return SymbolicEdges(
        layer.in_features,
        layer.out_features,
        library=library,
        device=layer.grid.device,
        dtype=layer.spline_weight.dtype,
    )


def with_symbolic(
    numeric: EdgeStatistics,
    edges: SymbolicEdges,
    x: Tensor,
    spline: Callable[[int, int, Tensor], Tensor],
    live: Tensor,
) -> EdgeStatistics:
    """Statistics of a layer with those of its symbolic edges put in.

    Made for so many edges at a time that no tensor is larger than x or a chunk of
    `kanfast.edge_statistics`, and made again in the backward pass.

    Args:
        numeric: Of the numeric part.
        edges: The symbolic part.
        x: Samples [..., I].
        spline: (o, i, x) -> [rows], the numeric part of an edge.
        live: bool [O, I], where there is one.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows = x.reshape(-1, edges.in_features).to(dtype)
    outs, ins = edges.edges
    affine, factors = edges.parameters_of_edges()
    step = max(1, CHUNK_ELEMENTS // len(rows))
    chunks = []
    for first in range(0, len(outs), step):
        part = slice(first, first + step)
        pairs = list(zip(outs[part].tolist(), ins[part].tolist(), strict=True))

        # Tensors that are not arguments are those of now, whatever the module has in the backward.
        def statistics(
            rows: Tensor, part: slice = part, pairs: list[tuple[int, int]] = pairs
        ) -> tuple[Tensor, ...]:
            phi = edges.terms(rows, affine, factors, part).to(dtype)
            if any(live[edge] for edge in pairs):
                zero = torch.zeros_like(rows[:, 0])
                both = [spline(*edge, rows) if live[edge] else zero for edge in pairs]
                phi = phi + torch.stack(both, dim=-1)
            return _statistics(phi)

        made = checkpoint(statistics, rows, use_reentrant=False, preserve_rng_state=False)
        chunks.append(made)
    joined = [torch.cat(column) for column in zip(*chunks, strict=True)]
    return EdgeStatistics(
        *(whole.index_put((outs, ins), own) for whole, own in zip(numeric, joined, strict=True))
    )


def _statistics(phi: Tensor) -> tuple[Tensor, ...]:
    """Those of `EdgeStatistics` for phi [rows, edges]: [edges] each."""
    std = phi.std(0) if len(phi) > 1 else 0 * phi[0]
    return phi.mean(0), phi.abs().mean(0), std, phi.min(0).values, phi.max(0).values
