"""A stack of KAN layers: a module that takes the place of efficient-kan's `KAN`, and of pykan's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanfast.nn.compat import Residual, layers_from_pykan, layers_from_pykan_state_dict
from kanfast.nn.explained import ExplainedStack
from kanfast.nn.linear import KANLinear
from kanfast.nn.nodes import Nodes, parse_widths
from kanfast.backends import Backend


class KAN(ExplainedStack):
    """Layers of `KANLinear`, one after the other.

    Args:
        layers_hidden: Widths of inputs, hidden layers and outputs: at least two. A width may be
            [n_sum, n_mult]: n_sum nodes that are sums over edges, as usual, and n_mult that are
            products of such sums (KAN 2.0, Liu et al., 2024).
        grid_size, spline_order, scale_noise, scale_base, scale_spline, base_activation, grid_eps,
            grid_range, device, dtype, backend: As in `KANLinear`, for all layers. A module given as
            `base_activation` (not its class) is shared by all layers.
        mult_arity: How many sums a product takes, at least 2; or for every width a list with those
            of each of its products, as in pykan.
        affine_trainable: Whether sums and nodes have a trainable scale and bias (`Nodes`).

    Attributes:
        layers, grid_size, spline_order, samples, input_mask: See `LayerStack`.

    The methods of pykan's workflow are those of the classes it is built on: `TrainedStack` (fit,
    attribute, prune, ...), `InspectedStack` (plot, get_fun, ...), `SymbolicStack` (fix_symbolic,
    symbolic_formula, ...) and `ExplainedStack` (explain).

    Raises:
        ValueError, TypeError: As `KANLinear`; fewer than two widths, or arities that do not fit.
    """

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
        cls, layers: Sequence[KANLinear], nodes: Mapping[int, Nodes] | None = None
    ) -> KAN:
        """A KAN of given layers, whose grids, degrees and residual functions may differ.

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
        nodes = nodes or {}
        outputs = [layer.out_features for layer in layers]
        for index, its in nodes.items():
            if index not in range(len(layers)) or its.subnodes != outputs[index]:
                raise ValueError(
                    f"nodes[{index}] has {its.subnodes} subnodes, but the layers have {outputs} "
                    "outputs"
                )
            outputs[index] = its.nodes
        for index, (count, second) in enumerate(zip(outputs, layers[1:], strict=False)):
            if count != second.in_features:
                raise ValueError(
                    f"layer {index} has {count} outputs, but layer {index + 1} has "
                    f"{second.in_features} inputs"
                )
        kan = cls.__new__(cls)
        nn.Module.__init__(kan)
        kan._set_layers(layers, nodes)
        return kan

    @classmethod
    def from_pykan(cls, model: Any, *, backend: Backend = "auto") -> KAN:
        """The function of a pykan model (`kan.KAN`, version 0.2), in its dtype and on its device.

        Grid sizes and degrees may differ between layers. Masks fold into the weights, and an edge
        with mask 0 is removed. Multiplication nodes, affine maps and symbolic edges come along;
        where a layer has only node scales, they fold into the weights. Parameters frozen in pykan
        stay frozen. Draws no random numbers and copies all tensors. pykan need not be installed.

        Raises:
            TypeError: Not such a model.
            ValueError: Unsupported, with the place: symbolic functions that the default library
                does not have, such as pykan's anonymous ones, a selection of inputs
                (`prune_input`), or an unknown `base_fun`.
        """
        return cls.from_layers(*layers_from_pykan(model, backend=backend))

    @classmethod
    def from_pykan_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        base_fun: Residual | Sequence[Residual] = "silu",
        *,
        mult_arity: int | Sequence[Sequence[int]] = 2,
        backend: Backend = "auto",
    ) -> KAN:
        """As `from_pykan`, from `model.state_dict()`.

        Args:
            state_dict: All of pykan's tensors. They determine widths, grid sizes and degrees.
            base_fun: What the state dict does not hold: "silu", "identity", "zero", a module or
                a function of a tensor, for all layers or one for each.
            mult_arity: pykan's argument, if there are multiplication nodes.
            backend: As in `KANLinear`.

        Raises:
            ValueError: Missing or unknown names, arities that do not fit, or something unsupported
                as in `from_pykan`: symbolic edges, too, as their functions are not in it.
        """
        return cls.from_layers(
            *layers_from_pykan_state_dict(
                state_dict, base_fun, mult_arity=mult_arity, backend=backend
            )
        )
