"""Symbolic edges of a layer: c f(a x + b) + d on the chosen (o, i), grouped by function."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .function import SymbolicFunction
from .library import Library, default_library


class SymbolicEdges(nn.Module):
    """The symbolic part of a layer: y[b, o] = sum_i mask[o, i] (c f(a x[b, i] + b) + d).

    An edge without a function contributes nothing. Evaluation gathers all edges of one function
    into one call; it takes memory in proportion to the batch times the number of symbolic edges.

    The names of the functions are part of the state dict, as a tensor: the bytes of a text. Loading
    it restores them from the library: functions of a user's own must be added to it before.

    Args:
        in_features: I. out_features: O.
        library: where functions are looked up by name; the default library by default.
        limit: where poles are cut off, see `SymbolicFunction`.

    Attributes:
        affine: parameter [O, I, 4], the a, b, c, d of every edge; 1, 0, 1, 0 at first.
        mask: buffer [O, I], factors of the edges; 1 where an edge is symbolic, 0 elsewhere.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        library: Library | None = None,
        limit: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ValueError(
                f"expected positive numbers of features, got {in_features} and {out_features}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.library = default_library() if library is None else library
        self.limit = limit
        shape = (out_features, in_features)
        unit = torch.tensor([1.0, 0.0, 1.0, 0.0], device=device, dtype=dtype)
        self.affine = nn.Parameter(unit.repeat(*shape, 1))
        self.mask: Tensor
        self.register_buffer("mask", torch.zeros(shape, device=device, dtype=dtype))
        self._functions: dict[tuple[int, int], SymbolicFunction] = {}
        self._groups: list[tuple[SymbolicFunction, slice]] = []
        self._out_index: Tensor
        self._in_index: Tensor
        for name in ("_out_index", "_in_index"):
            empty = torch.zeros(0, dtype=torch.long, device=device)
            self.register_buffer(name, empty, persistent=False)

    def fix(
        self,
        out_index: int,
        in_index: int,
        function: str | SymbolicFunction,
        params: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Makes an edge symbolic, with mask 1.

        Args:
            out_index, in_index: the edge.
            function: one of the library, or its name.
            params: a, b, c, d; what `affine` has for the edge is kept by default.

        Raises:
            IndexError: there is no such edge.
            KeyError: the library has no such function (a function given as such must be in it under
                its name, for state dicts to be loadable).
            ValueError: params are not four finite numbers.
        """
        self._check_edge(out_index, in_index)
        found = self.library.find(function)
        if params is not None:
            values = torch.as_tensor(params, dtype=torch.float64)
            if values.shape != (4,) or not values.isfinite().all():
                raise ValueError(f"expected params a, b, c, d, four finite numbers, got {params}")
        with torch.no_grad():
            if params is not None:
                self.affine[out_index, in_index] = values.to(self.affine)
            self.mask[out_index, in_index] = 1
        self._functions[out_index, in_index] = found
        self._regroup()

    def unfix(self, out_index: int, in_index: int) -> None:
        """Makes an edge numeric again: no function, mask 0. IndexError if there is no such edge."""
        self._check_edge(out_index, in_index)
        with torch.no_grad():
            self.mask[out_index, in_index] = 0
        self._functions.pop((out_index, in_index), None)
        self._regroup()

    @property
    def functions(self) -> dict[tuple[int, int], SymbolicFunction]:
        """The function of every symbolic edge (o, i); a copy."""
        return dict(self._functions)

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        """o and i, [n] each, of the symbolic edges, in the order of `postactivations`."""
        return self._out_index, self._in_index

    def postactivations(self, x: Tensor) -> Tensor:
        """What each symbolic edge adds, masked: x [..., I] -> [..., n], ordered as `edges`."""
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"expected x of shape [..., {self.in_features}], got {tuple(x.shape)}")
        return self.terms(x, *self.parameters_of_edges())

    def parameters_of_edges(self) -> tuple[Tensor, Tensor]:
        """a, b, c, d [n, 4] and the factors [n] of the symbolic edges, ordered as `edges`."""
        rows, columns = self.edges
        return self.affine[rows, columns], self.mask[rows, columns]

    def terms(
        self, x: Tensor, affine: Tensor, factors: Tensor, part: slice = slice(None)
    ) -> Tensor:
        """As `postactivations` with other `parameters_of_edges`, and of a part of the edges."""
        columns = self._in_index[part]
        groups = self._groups if part == slice(None) else list(self._groups_of(part))
        if not groups:
            return x.new_zeros(*x.shape[:-1], 0)
        a, b, c, d = affine[part].unbind(-1)
        value = self.values_of(a * x.index_select(-1, columns) + b, groups)
        return factors[part] * (c * value + d)

    def values_of(
        self, argument: Tensor, groups: Sequence[tuple[SymbolicFunction, slice]] | None = None
    ) -> Tensor:
        """f of the symbolic edges' arguments: [..., n] -> [..., n], ordered as `edges`."""
        groups = self._groups if groups is None else groups
        return torch.cat([function(argument[..., its], self.limit) for function, its in groups], -1)

    def _groups_of(self, part: slice) -> Iterator[tuple[SymbolicFunction, slice]]:
        start, stop, _ = part.indices(len(self._out_index))
        for function, its in self._groups:
            low, high = max(its.start, start), min(its.stop, stop)
            if low < high:
                yield function, slice(low - start, high - start)

    def taken(self, outputs: Tensor, inputs: Tensor) -> "SymbolicEdges":
        """The edges between these outputs and inputs (indices), as a module of those sizes."""
        part = SymbolicEdges(
            len(inputs),
            len(outputs),
            library=self.library,
            limit=self.limit,
            device=self.affine.device,
            dtype=self.affine.dtype,
        )
        with torch.no_grad():
            part.affine.copy_(self.affine[outputs][:, inputs])
            part.mask.copy_(self.mask[outputs][:, inputs])
        part.affine.requires_grad_(self.affine.requires_grad)
        part._functions = {
            (row, column): self._functions[o, i]
            for row, o in enumerate(outputs.tolist())
            for column, i in enumerate(inputs.tolist())
            if (o, i) in self._functions
        }
        part._regroup()
        return part

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O]."""
        terms = self.postactivations(x)
        total = terms.new_zeros(*x.shape[:-1], self.out_features)
        return total.index_add(-1, self._out_index, terms)

    def extra_repr(self) -> str:
        """The sizes, and how many edges each function has."""
        names = ", ".join(f"{part.stop - part.start} {f.name}" for f, part in self._groups)
        return f"{self.in_features}, {self.out_features}, edges: {names or 'none'}"

    def get_extra_state(self) -> Tensor:
        """The functions' names, [[o, i, name], ...] in JSON: uint8 [bytes], as files can hold."""
        names = [[o, i, f.name] for (o, i), f in sorted(self._functions.items())]
        text = json.dumps({"functions": names})
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor | Mapping[str, Any]) -> None:
        """Restores the functions from what `get_extra_state` gives, or gave as a dict once.

        Raises:
            ValueError: it is something else.
            KeyError: the library lacks a function. IndexError: there is no such edge.
        """
        functions = {}
        for o, i, name in _entries(state):
            self._check_edge(o, i)
            functions[o, i] = self.library[name]
        self._functions = functions
        self._regroup()

    def _check_edge(self, out_index: int, in_index: int) -> None:
        if not (0 <= out_index < self.out_features and 0 <= in_index < self.in_features):
            raise IndexError(
                f"expected an edge (o, i) with 0 <= o < {self.out_features} and "
                f"0 <= i < {self.in_features}, got ({out_index}, {in_index})"
            )

    def _regroup(self) -> None:
        """Orders the edges by function, so that each has a slice of them."""
        by_function: dict[SymbolicFunction, list[tuple[int, int]]] = {}
        for edge, function in sorted(self._functions.items()):
            by_function.setdefault(function, []).append(edge)
        ordered = [edge for members in by_function.values() for edge in members]
        index = torch.tensor(ordered, dtype=torch.long).reshape(-1, 2).to(self.affine.device)
        self._out_index, self._in_index = index[:, 0].contiguous(), index[:, 1].contiguous()
        self._groups = []
        start = 0
        for function, members in by_function.items():
            self._groups.append((function, slice(start, start + len(members))))
            start += len(members)


def _entries(state: Tensor | Mapping[str, Any]) -> Iterable[tuple[int, int, str]]:
    """The entries (o, i, name) of a state."""
    try:
        held = json.loads(bytes(state.tolist())) if isinstance(state, Tensor) else state
        return [(int(o), int(i), str(name)) for o, i, name in held["functions"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            "the state of symbolic edges must hold the text of get_extra_state as bytes, got "
            f"{state}: take the state dict from a model of this package"
        ) from error
