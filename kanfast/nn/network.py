"""Layers of `KANLinear`, one after the other: what all other rooms take as a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from kanfast.engine import _torch
from kanfast.engine.backends import Backend
from kanfast.engine.checks import check_index
from kanfast.nn.linear import KANLinear
from kanfast.nn.nodes import AFFINE, Nodes, check_sequence, parse_widths
from kanfast.nn.selection import Selection

Self = TypeVar("Self", bound="Network")
AnyNetwork = TypeVar("AnyNetwork", bound="Network")


class Trace(NamedTuple):
    """What a model computes for a batch."""

    nodes: list[Tensor]
    """[..., nodes l] for l = 0 (the inputs) to the last layer."""
    subnodes: list[Tensor]
    """[..., subnodes] for each layer: sums over its edges, before affine maps and products."""


class UnavailableError(ValueError, AttributeError):
    """A property has no value now, so that `hasattr` says no: there are no samples, for example."""


class Network(nn.Module):
    """Layers of `KANLinear`, one after the other.

    The arguments are described in `kanfast.KAN`, which is a network with methods for training and
    interpretation; all functions of the rooms above take a network as their first argument.

    Attributes:
        layers: The layers, a `ModuleList`.
        nodes: What happens after a layer, a `ModuleDict` of `Nodes` by its index as a string;
            layers without multiplication nodes and affine maps are not in it.
        grid_size, spline_order: Those of the layers; lists if the layers differ.
        samples: The inputs [..., inputs] that scores refer to where none are given: those of the
            last `fit` or `get_act`. They move along with the model and its copies, but are neither
            in the state dict nor in pickles: a saved model holds no rows of anybody's data. None at
            first, and may be set to None.
        keeps_input: Whether the model remembers what it was called with last (True at first): the
            samples where `samples` is None, so that `model(x); model.plot()` works as in pykan. It
            is a reference, which keeps x in memory; only eager calls leave one.
        input_mask: Buffer [features], True for the features that are inputs, after `prune_input`;
            None, and not in the state dict, as long as all of them are.
    """

    samples: Tensor | None
    input_mask: Tensor | None
    keeps_input = True
    _last_input: Tensor | None = None

    def __init__(
        self,
        layers_hidden: Sequence[int | Sequence[int]],
        grid_size: int = 5,
        spline_order: int = 3,
        scale_noise: float = 0.1,
        scale_base: float = 1.0,
        scale_spline: float = 1.0,
        base_activation: Callable[..., Any] | None = nn.SiLU,
        grid_eps: float = 0.02,
        grid_range: Sequence[float] = (-1, 1),
        *,
        mult_arity: int | Sequence[Sequence[int]] = 2,
        affine_trainable: bool = False,
        enable_standalone_scale_spline: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if len(layers_hidden) < 2:
            raise ValueError(
                "layers_hidden must hold at least two widths, of inputs and outputs, "
                f"got {layers_hidden}"
            )
        widths, subnodes, arities = parse_widths(layers_hidden, mult_arity)
        self._set_layers(
            [
                KANLinear(
                    in_features,
                    out_features,
                    grid_size=grid_size,
                    spline_order=spline_order,
                    scale_noise=scale_noise,
                    scale_base=scale_base,
                    scale_spline=scale_spline,
                    enable_standalone_scale_spline=enable_standalone_scale_spline,
                    base_activation=base_activation,
                    grid_eps=grid_eps,
                    grid_range=grid_range,
                    device=device,
                    dtype=dtype,
                    backend=backend,
                )
                for in_features, out_features in zip(widths, subnodes[1:], strict=False)
            ]
        )
        for index, layer in enumerate(self.kan_layers):
            nodes = Nodes(layer.out_features, arities[index + 1])
            if affine_trainable:
                nodes.add_affine(layer.spline_weight)
            self.set_nodes(index, nodes)

    @classmethod
    def from_layers(
        cls: type[Self], layers: Sequence[KANLinear], nodes: Mapping[int, Nodes] | None = None
    ) -> Self:
        """A network of given layers, whose grids, degrees and residual functions may differ.

        Args:
            layers: First to last.
            nodes: By the index of the layer before them, where outputs are multiplied, scaled or
                shifted.

        Raises:
            ValueError: No layers, or the outputs of one are not the inputs of the next, or `nodes`
                do not fit.
        """
        if not layers:
            raise ValueError("a KAN needs at least one layer, got none")
        check_sequence([(layer.in_features, layer.out_features) for layer in layers], nodes or {})
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network._set_layers(layers, nodes)
        return network

    def _set_layers(
        self, layers: Sequence[KANLinear], nodes: Mapping[int, Nodes] | None = None
    ) -> None:
        self.layers = nn.ModuleList(layers)
        self.nodes = nn.ModuleDict()
        for index, its in (nodes or {}).items():
            self.set_nodes(index, its)
        self.register_buffer("input_mask", None)
        self.samples = None
        self._live_inputs = Selection()
        self.refresh_sizes()

    def refresh_sizes(self) -> None:
        """Takes `grid_size` and `spline_order` from the layers."""
        self.grid_size = _common([layer.grid_size for layer in self.kan_layers])
        self.spline_order = _common([layer.spline_order for layer in self.kan_layers])

    @property
    def kan_layers(self) -> list[KANLinear]:
        """The layers as a list."""
        return list(cast(Iterator[KANLinear], iter(self.layers)))

    def layer_of_edge(self, l: int, i: int, j: int) -> KANLinear:
        """Layer l, of the edge from its input i to its output j; IndexError if there is none."""
        check_index("layer l", l, len(self.layers))
        layer = self.kan_layers[l]
        check_index(f"input i of layer {l}", i, layer.in_features)
        check_index(f"output j of layer {l}", j, layer.out_features)
        return layer

    def nodes_after(self, index: int) -> Nodes | None:
        """What happens after layer `index`; None for nothing."""
        name = str(index)
        return cast(Nodes, self.nodes[name]) if name in self.nodes else None

    def set_nodes(self, index: int, nodes: Nodes) -> None:
        """Sets what happens after layer `index`."""
        if not nodes.does_nothing():
            self.nodes[str(index)] = nodes
        elif str(index) in self.nodes:
            del self.nodes[str(index)]

    @property
    def width(self) -> list[int]:
        """Numbers of nodes: inputs, hidden layers and outputs.

        A multiplication node is one node; its factors are counted by `width_out`.
        """
        widths = [self.kan_layers[0].in_features]
        for index, layer in enumerate(self.kan_layers):
            nodes = self.nodes_after(index)
            widths.append(layer.out_features if nodes is None else nodes.nodes)
        return widths

    @property
    def width_out(self) -> list[int]:
        """Numbers of subnodes, of which nodes are made: inputs, and outputs of the layers."""
        return [self.width[0], *(layer.out_features for layer in self.kan_layers)]

    @property
    def arities(self) -> list[tuple[int, ...]]:
        """How many subnodes each multiplication node takes; () for the inputs."""
        after = [self.nodes_after(index) for index in range(len(self.layers))]
        return [(), *(() if nodes is None else nodes.arities for nodes in after)]

    @property
    def input_id(self) -> Tensor:
        """Indices of the features of x that are inputs: all of them, unless inputs were pruned."""
        if self.input_mask is None:
            return torch.arange(self.width[0], device=self.kan_layers[0].grid.device)
        return self.input_mask.nonzero().flatten()

    @property
    def n_edge(self) -> int:
        """Number of edges, numeric and symbolic, that were not removed."""
        return sum(int(layer.edge_mask.sum()) for layer in self.kan_layers)

    @property
    def backend(self) -> Backend:
        """Backend of all layers. Setting it sets that of every layer.

        Raises:
            UnavailableError: On reading, if the layers differ.
        """
        backends = {layer.backend for layer in self.kan_layers}
        if len(backends) > 1:
            raise UnavailableError(
                f"the layers have different backends, {sorted(backends)}: ask each of them, or set "
                "that of all"
            )
        return backends.pop()

    @backend.setter
    def backend(self, backend: Backend) -> None:
        for layer in self.kan_layers:
            layer.backend = backend

    def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
        """x [..., layers_hidden[0]] -> y [..., layers_hidden[-1]].

        With `update_grid`, each layer first moves its knots to its present input
        (`KANLinear.update_grid`).
        """
        features = x
        modules = self._modules  # attributes of a module cost more than a small layer
        if self._buffers["input_mask"] is not None:
            x = self.select_inputs(x)
        layers: Any = modules["layers"]
        nodes: Any = modules["nodes"]
        plain = not nodes._modules
        for name, layer in layers._modules.items():
            if update_grid:
                layer.update_grid(x)
            x = layer(x) if plain else self.to_nodes(int(name), layer(x))
        if self.keeps_input and _torch.is_eager():
            self.__dict__["_last_input"] = features.detach() if features.requires_grad else features
        return x

    @torch.no_grad()
    def update_grid_from_samples(self, x: Tensor, margin: float = 0.0) -> None:
        """Moves the knots of every layer to its inputs at the samples x [..., inputs].

        As `forward(x, update_grid=True)`, but with pykan's margin.
        """
        x = self.select_inputs(x)
        for index, layer in enumerate(self.kan_layers):
            layer.update_grid(x, margin)
            x = self.to_nodes(index, layer(x))

    def to_nodes(self, index: int, x: Tensor) -> Tensor:
        """Nodes [..., width[index + 1]] from the outputs of a layer, its subnodes."""
        name = str(index)
        return cast(Tensor, self.nodes[name](x)) if name in self.nodes else x

    def activations(self, x: Tensor) -> list[Tensor]:
        """The values of all nodes, [..., nodes l] for l = 0 (the inputs) to the last layer."""
        return self.trace(x).nodes

    def trace(self, x: Tensor) -> Trace:
        """The values of all nodes and of what they are made from."""
        nodes, subnodes = [self.select_inputs(x)], []
        for index, layer in enumerate(self.kan_layers):
            subnodes.append(layer(nodes[-1]))
            nodes.append(self.to_nodes(index, subnodes[-1]))
        return Trace(nodes, subnodes)

    def set_input_mask(self, mask: Tensor | None) -> None:
        """Which features [features] of x are inputs: a bool tensor, or None for all of them.

        Raises:
            ValueError: Not as many are True as the first layer has inputs.
        """
        if mask is not None and (mask.dtype != torch.bool or int(mask.sum()) != self.width[0]):
            raise ValueError(
                f"input_mask must be a bool tensor with {self.width[0]} True, as many as the model "
                f"has inputs, got {mask.dtype} with {int(mask.sum())}"
            )
        self.input_mask = mask
        self._live_inputs.of(mask)

    def select_inputs(self, x: Tensor) -> Tensor:
        """The inputs [..., width[0]] among all features x [..., features]; see `input_mask`."""
        mask = self._buffers["input_mask"]
        if mask is None:
            return x
        if x.shape[-1:] != mask.shape:
            raise ValueError(
                f"x must have all {len(mask)} features in its last dimension, of which "
                f"the model selects its {self.width[0]} inputs, got shape {list(x.shape)}"
            )
        index = self._live_inputs.of(mask)
        return x if index is None else x.index_select(-1, index)

    def samples_or(self, x: Tensor | None) -> Tensor:
        """x if it is given, else `samples`, else what the model was called with last.

        Raises:
            UnavailableError: None of them is there.
        """
        if x is not None:
            return x
        if self.samples is not None:
            return self.samples
        if self._last_input is None:
            raise UnavailableError(
                "this needs samples: pass x=, or call the model, fit or get_act(x) before, which "
                "keep them"
            )
        return self._last_input

    def regularization_loss(
        self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0
    ) -> Tensor:
        """Sum of `KANLinear.regularization_loss` over the layers."""
        first, *others = [
            layer.regularization_loss(regularize_activation, regularize_entropy)
            for layer in self.kan_layers
        ]
        return sum(others, first)

    def copy(self: Self) -> Self:
        """A deep copy that shares `samples` with this model."""
        kept = (self.samples, self._last_input)
        return copy.deepcopy(self, {id(rows): rows for rows in kept})

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        """With `samples`, which pickles lack."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "samples": None, "_last_input": None}

    def __getattr__(self, name: str) -> Any:
        """A property that has no value says why; Module would say that there is none."""
        value = getattr(type(self), name, None)
        if isinstance(value, property) and value.fget is not None:
            return value.fget(self)
        return super().__getattr__(name)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}input_mask")
        if saved is not None and self.input_mask is None:
            device = self.kan_layers[0].grid.device
            self.input_mask = torch.ones(saved.shape, dtype=torch.bool, device=device)
        for index, layer in enumerate(self.kan_layers):
            for name in AFFINE:
                saved = state_dict.get(f"{prefix}nodes.{index}.{name}")
                nodes = self.nodes_after(index) or Nodes(layer.out_features)
                if saved is not None and getattr(nodes, name) is None:
                    nodes.set_affine(name, saved.to(layer.spline_weight))
                    self.set_nodes(index, nodes)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._live_inputs.of(self.input_mask)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Network:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.samples = None if self.samples is None else fn(self.samples)
        self._last_input = None
        self._live_inputs.of(self.input_mask)
        return self


def _common(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
