"""Networks of symbolic edges of one shape, many at a time: their values and Jacobians.

A network maps s_0 = x to s_1, s_2, ... by

    s_(l+1)[o] = sum_i c f(a s_l[i] + b) + d[o],

f being an edge's function, or none. The shifts d of hidden nodes are constants of a network: the b
or c of the edges behind them do their work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kanfast.symbolic.formula import SymbolicEdge, SymbolicLayer
from kanfast.symbolic.function import Search, SymbolicFunction

NONE = -1
"""The index of no function."""

_FREE: dict[Search, tuple[bool, bool, bool]] = {
    "constant": (False, False, False),
    "linear": (False, False, True),
    "quadratic": (False, True, True),
    "location": (False, True, True),
    "step": (False, True, True),
    "rate": (True, False, True),
    "harmonic": (True, True, True),
    "affine": (True, True, True),
}
"""Which of a, b, c are searched; the others are made up for by c and d."""


def is_free(function: SymbolicFunction) -> tuple[bool, bool, bool]:
    """Whether a, b and c of the function are searched."""
    return _FREE[function.search]


@dataclass
class Batch:
    """K networks of the same widths; float64 on the CPU.

    Attributes:
        functions: what tables index.
        tables: for each layer [K, O, I], indices of functions or NONE.
        edges: for each layer [K, O, I, 3], the a, b, c.
        shifts: for each layer [K, O], the d.
    """

    functions: tuple[SymbolicFunction, ...]
    tables: list[Tensor]
    edges: list[Tensor]
    shifts: list[Tensor]

    @staticmethod
    def empty(functions: tuple[SymbolicFunction, ...], width: Sequence[int], count: int) -> Batch:
        """Networks without edges: a = c = 1, b = d = 0."""
        shapes = [(count, o, i) for i, o in pairwise(width)]
        unit = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
        return Batch(
            functions,
            [torch.full(shape, NONE) for shape in shapes],
            [unit.repeat(*shape, 1) for shape in shapes],
            [torch.zeros(shape[:2], dtype=torch.float64) for shape in shapes],
        )

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """All networks of batches of the same functions, depth, inputs and outputs.

        Networks with fewer hidden nodes than others get nodes without edges.
        """
        first = batches[0]
        width = [max(counts) for counts in zip(*(batch.width for batch in batches), strict=True)]
        batches = [batch.widened(width) for batch in batches]

        def joined(lists: list[list[Tensor]]) -> list[Tensor]:
            return [torch.cat(list(layer)) for layer in zip(*lists, strict=True)]

        return Batch(
            first.functions,
            joined([batch.tables for batch in batches]),
            joined([batch.edges for batch in batches]),
            joined([batch.shifts for batch in batches]),
        )

    def __len__(self) -> int:
        return len(self.tables[0])

    @property
    def width(self) -> list[int]:
        """Numbers of nodes, inputs to outputs."""
        return [self.tables[0].shape[2], *(table.shape[1] for table in self.tables)]

    def widened(self, width: Sequence[int]) -> Batch:
        """The same networks with at least as many nodes; those that are new have no edges."""
        if self.width == list(width):
            return self
        wide = Batch.empty(self.functions, width, len(self))
        for l, table in enumerate(self.tables):
            _, o, i = table.shape
            wide.tables[l][:, :o, :i] = table
            wide.edges[l][:, :o, :i] = self.edges[l]
            wide.shifts[l][:, :o] = self.shifts[l]
        return wide

    @property
    def used_inputs(self) -> list[int]:
        """The inputs that some network has an edge from."""
        used: list[int] = (self.tables[0] != NONE).any(0).any(0).nonzero().flatten().tolist()
        return used

    def of_inputs(self, inputs: Sequence[int]) -> Batch:
        """The same networks as ones of these inputs; they must not use others."""
        tables, edges = list(self.tables), list(self.edges)
        tables[0], edges[0] = tables[0][:, :, list(inputs)], edges[0][:, :, list(inputs)]
        return Batch(self.functions, tables, edges, self.shifts)

    def take(self, rows: Tensor | Sequence[int]) -> Batch:
        """These networks, copied."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return Batch(
            self.functions,
            [table[index] for table in self.tables],
            [edges[index] for edges in self.edges],
            [shifts[index] for shifts in self.shifts],
        )

    def key(self, k: int) -> tuple[int, ...]:
        """The functions of network k: equal for networks that differ by parameters only."""
        return tuple(f for table in self.tables for f in table[k].flatten().tolist())

    def layers(self, k: int) -> list[SymbolicLayer]:
        """Network k, for `kanfast.symbolic.compose`."""
        found = []
        for table, edges, shifts in zip(self.tables, self.edges, self.shifts, strict=True):
            members: dict[tuple[int, int], SymbolicEdge | None] = {
                (o, i): SymbolicEdge(self.functions[int(table[k, o, i])], *edges[k, o, i].tolist())
                for o, i in (table[k] != NONE).nonzero().tolist()
            }
            outputs, inputs = table.shape[1:]
            found.append(SymbolicLayer(inputs, outputs, members, subnode_bias=shifts[k].tolist()))
        return found

    def free(self) -> Tensor:
        """[K, P], which parameters are searched; P as in `parameters`."""
        lookup = torch.tensor([*map(is_free, self.functions), (False,) * 3])
        parts = []
        for l, (table, shifts) in enumerate(zip(self.tables, self.shifts, strict=True)):
            parts.append(lookup[table].flatten(1))  # NONE is the last row
            parts.append(torch.full(shifts.shape, l == len(self.tables) - 1))
        return torch.cat(parts, 1)

    def parameters(self) -> Tensor:
        """[K, P]: for each layer a, b, c of the edges, then d of the nodes."""
        parts = []
        for edges, shifts in zip(self.edges, self.shifts, strict=True):
            parts += [edges.flatten(1), shifts]
        return torch.cat(parts, 1)

    def with_parameters(self, values: Tensor) -> Batch:
        """The same networks with other parameters [K, P]."""
        sizes = [t[0].numel() for pair in zip(self.edges, self.shifts, strict=True) for t in pair]
        parts = values.split(sizes, 1)
        edges = [part.reshape(old.shape) for part, old in zip(parts[::2], self.edges, strict=True)]
        return Batch(self.functions, self.tables, edges, list(parts[1::2]))

    def nodes(self, x: Tensor) -> list[Tensor]:
        """The nodes of all layers at x [N, inputs]: [K, nodes, N] each."""
        found = [x.T.expand(len(self), -1, -1)]
        for l in range(len(self.tables)):
            found.append(self._sums(l, self._evaluate(l, found[-1], slopes=False)[0]))
        return found

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [K, Q, N] and their derivatives by the parameters, [K, P, Q, N]."""
        nodes, parts = [x.T.expand(len(self), -1, -1)], []
        for l in range(len(self.tables)):
            parts.append(self._evaluate(l, nodes[-1], slopes=True))
            nodes.append(self._sums(l, parts[-1][0]))
        gradient = torch.eye(nodes[-1].shape[1], dtype=torch.float64)[None, :, :, None]
        gradient = gradient.expand(len(self), -1, -1, len(x))  # [K, Q, O, N]
        columns: list[Tensor] = []
        for l in reversed(range(len(self.tables))):
            value, slope = parts[l]  # [K, O, I, N]
            a, _, c = self.edges[l].unbind(-1)
            by_b = c[..., None] * slope
            local = torch.stack([by_b * nodes[l][:, None], by_b, value], 3)  # [K, O, I, 3, N]
            by_edges = local.flatten(2, 3)[:, None] * gradient[:, :, :, None]  # [K, Q, O, 3 I, N]
            columns += [gradient.transpose(1, 2), by_edges.flatten(2, 3).transpose(1, 2)]
            if l:
                gradient = torch.einsum("kqon,koin->kqin", gradient, a[..., None] * by_b)
        return nodes[-1], torch.cat(columns[::-1], 1)

    def curves(self, l: int, s: Tensor) -> Tensor:
        """What the edges of layer l add, without d, at its inputs [K, I, N]: [K, O, I, N]."""
        return self.edges[l][..., 2, None] * self._evaluate(l, s, slopes=False)[0]

    def _sums(self, l: int, value: Tensor) -> Tensor:
        return (self.edges[l][..., 2, None] * value).sum(2) + self.shifts[l][..., None]

    def _evaluate(self, l: int, s: Tensor, *, slopes: bool) -> tuple[Tensor, Tensor]:
        """f and f' of all edges at a s + b, [K, O, I, N]; 0 where there is no function."""
        table = self.tables[l]
        a, b, _ = self.edges[l].unbind(-1)
        argument = (a[..., None] * s[:, None] + b[..., None]).flatten(0, 2)
        value = torch.zeros_like(argument)
        slope = torch.zeros_like(argument) if slopes else value
        flat = table.flatten()
        for index in flat.unique().tolist():
            if index == NONE:
                continue
            rows = (flat == index).nonzero().squeeze(1)
            if slopes:
                value[rows], slope[rows] = self.functions[index].value_and_derivative(
                    argument[rows]
                )
            else:
                value[rows] = self.functions[index](argument[rows])
        shape = (*table.shape, s.shape[-1])
        return value.reshape(shape), slope.reshape(shape)
