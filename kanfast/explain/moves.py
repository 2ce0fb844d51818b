"""Neighbours of symbolic networks: other functions on edges or groups of them, or fewer edges."""

from __future__ import annotations

import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.nn.edges import Edge
from kanfast.symbolic.fit import EdgeFits, fit_affine


def neighbours(batch: Batch, x: Tensor) -> Batch:
    """All networks that are one move from those of the batch, with parameters to start from.

    A move gives one edge, all edges into or out of a node, or all edges of a layer another
    function of the library, fitted to the present curves at the rows of x; or it takes an edge or
    a hidden node away.
    """
    members, fits, means = _present(batch, x)
    found = []
    for k in range(len(batch)):
        own = {edge: e for e, (owner, edge) in enumerate(members) if owner == k}
        for group in _groups(list(own)):
            found.append(_replaced(batch.take([k]), group, [own[edge] for edge in group], fits))
        for group in [[edge] for edge in own] + _nodes(list(own), batch.width):
            found.append(_removed(batch.take([k]), group, [means[own[edge]] for edge in group]))
    known = {batch.key(k) for k in range(len(batch))}
    joined = Batch.join(found)
    fresh = []
    for k in range(len(joined)):
        key = joined.key(k)
        if key not in known:
            known.add(key)
            fresh.append(k)
    return joined.take(fresh)


def substitutes(one: Batch, x: Tensor) -> list[tuple[Edge, Batch]]:
    """For each edge of a network (a batch of 1), one network with each function there."""
    members, fits, _ = _present(one, x)
    return [(edge, _replaced(one, [edge], [row], fits)) for row, (_, edge) in enumerate(members)]


def _present(batch: Batch, x: Tensor) -> tuple[list[tuple[int, Edge]], EdgeFits, list[float]]:
    """The edges (network, edge) there are, fits of their curves, and the means of these."""
    nodes = batch.nodes(x)
    members: list[tuple[int, Edge]] = []
    inputs, outputs = [], []
    for l, table in enumerate(batch.tables):
        curves = batch.curves(l, nodes[l])
        for k, o, i in (table != NONE).nonzero().tolist():
            members.append((k, Edge(l, i, o)))
            inputs.append(nodes[l][k, i])
            outputs.append(curves[k, o, i])
    y = torch.stack(outputs)
    return members, fit_affine(torch.stack(inputs), y, batch.functions), y.mean(1).tolist()


def _groups(edges: list[Edge]) -> list[list[Edge]]:
    """Single edges; those that share a node; those of a layer."""
    by: dict[tuple[str, int, int], list[Edge]] = {}
    for edge in edges:
        l, i, o = edge
        for name in (("into", l, o), ("from", l, i), ("layer", l, 0)):
            by.setdefault(name, []).append(edge)
    several = {tuple(group): group for group in by.values() if len(group) > 1}
    return [[edge] for edge in edges] + list(several.values())


def _nodes(edges: list[Edge], width: list[int]) -> list[list[Edge]]:
    """For each hidden node, the edges at it."""
    return [
        group
        for l in range(1, len(width) - 1)
        for n in range(width[l])
        if (group := [e for e in edges if (e.layer, e.output) == (l - 1, n) or e[:2] == (l, n)])
    ]


def _replaced(one: Batch, group: list[Edge], rows: list[int], fits: EdgeFits) -> Batch:
    """A network with the edges of a group replaced by each function."""
    count = len(one.functions)
    changed = one.take([0] * count)
    for (l, i, o), row in zip(group, rows, strict=True):
        changed.tables[l][:, o, i] = torch.arange(count)
        changed.edges[l][:, o, i] = fits.affine[row, :, :3]
        changed.shifts[l][:, o] += fits.affine[row, :, 3]
    return changed


def _removed(one: Batch, group: list[Edge], means: list[float]) -> Batch:
    """A network without these edges; their means stay."""
    for (l, i, o), mean in zip(group, means, strict=True):
        one.tables[l][:, o, i] = NONE
        one.edges[l][:, o, i] = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
        one.shifts[l][:, o] += mean
    return one
