"""From the sums of a layer to its nodes: products of some of them, and affine maps (KAN 2.0).

Liu et al., "KAN 2.0: Kolmogorov-Arnold Networks Meet Science", 2024, section 2. The sums over the
edges are called subnodes:

    s[o] = subnode_scale[o] sum_i phi[o, i](x[i]) + subnode_bias[o]
    node[n] = node_scale[n] (s[n], or a product of consecutive s) + node_bias[n]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from kanfast.engine.integers import integer

AFFINE = ("subnode_scale", "subnode_bias", "node_scale", "node_bias")


class Nodes(nn.Module):
    """What a layer's subnodes are made to: the first ones are nodes, the others are multiplied.

    Args:
        subnodes: Outputs of the layer.
        arities: How many subnodes each multiplication node takes, from the last sum(arities) of
            them in runs; its nodes come after those that are sums.

    Attributes:
        subnode_scale, subnode_bias, node_scale, node_bias: Parameters [subnodes] and [nodes]; None,
            and not in the state dict, unless they are set (`set_affine`, `add_affine`). A model
            that loads a state dict with them sets them.

    Raises:
        ValueError: An arity below 2, or more of them than subnodes.
    """

    subnode_scale: nn.Parameter | None
    subnode_bias: nn.Parameter | None
    node_scale: nn.Parameter | None
    node_bias: nn.Parameter | None

    def __init__(self, subnodes: int, arities: Sequence[int] = ()) -> None:
        super().__init__()
        if any(arity < 2 for arity in arities) or sum(arities) > subnodes:
            raise ValueError(
                f"multiplication nodes take at least 2 subnodes each, and {subnodes} together at "
                f"most, got the arities {list(arities)}"
            )
        self.arities = tuple(arities)
        self.subnodes = subnodes
        for name in AFFINE:
            self.register_parameter(name, None)

    @property
    def sums(self) -> int:
        """Number of the nodes that are sums."""
        return self.subnodes - sum(self.arities)

    @property
    def nodes(self) -> int:
        """Number of all nodes."""
        return self.sums + len(self.arities)

    def set_affine(self, name: str, values: Tensor, *, trainable: bool = True) -> None:
        """Sets one of the four parameters to a copy of the values.

        Raises:
            ValueError: Another name or shape.
        """
        if name not in AFFINE or values.shape != (self._count(name),):
            raise ValueError(
                f"expected one of {AFFINE}, of {self.subnodes} subnodes or {self.nodes} nodes, got "
                f"{name!r} of shape {list(values.shape)}"
            )
        setattr(self, name, nn.Parameter(values.detach().clone(), requires_grad=trainable))

    def add_affine(self, like: Tensor) -> None:
        """Sets all four, to scales of 1 and biases of 0, with the dtype and device of a tensor."""
        for name in AFFINE:
            fill = torch.ones if name.endswith("scale") else torch.zeros
            values = fill(self._count(name), dtype=like.dtype, device=like.device)
            self.set_affine(name, values)

    def _count(self, name: str) -> int:
        return self.subnodes if name.startswith("sub") else self.nodes

    def forward(self, x: Tensor) -> Tensor:
        """x [..., subnodes] -> [..., nodes]."""
        x = _affine(x, self.subnode_scale, self.subnode_bias)
        if self.arities:
            parts, start = [x[..., : self.sums]], self.sums
            for arity, run in groupby(self.arities):
                stop = start + arity * len(list(run))
                factors = x[..., start:stop].unflatten(-1, (-1, arity)).unbind(-1)
                product = factors[0]
                for factor in factors[1:]:  # torch.prod is no faster, and harder to differentiate
                    product = product * factor
                parts.append(product)
                start = stop
            x = torch.cat(parts, dim=-1)
        return _affine(x, self.node_scale, self.node_bias)

    def node_of_subnode(self) -> Tensor:
        """Which node each subnode belongs to: [subnodes], on the CPU."""
        arities = [1] * self.sums + list(self.arities)
        return torch.arange(self.nodes).repeat_interleave(torch.tensor(arities, dtype=torch.long))

    def subnodes_of(self, nodes: Tensor) -> Tensor:
        """The subnodes of these nodes, ascending."""
        return torch.isin(self.node_of_subnode(), nodes.cpu()).nonzero().flatten()

    def taken(self, nodes: Tensor) -> Nodes:
        """A module of these nodes only (ascending indices)."""
        chosen = nodes.tolist()
        arities = [self.arities[node - self.sums] for node in chosen if node >= self.sums]
        subnodes = self.subnodes_of(nodes)
        part = Nodes(len(subnodes), arities)
        for name in AFFINE:
            values = getattr(self, name)
            if values is not None:
                index = subnodes if name.startswith("sub") else nodes
                kept = values[index.to(values.device)]
                part.set_affine(name, kept, trainable=values.requires_grad)
        return part

    def does_nothing(self) -> bool:
        """Whether subnodes are nodes, as they are."""
        return not self.arities and all(getattr(self, name) is None for name in AFFINE)

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        present = [name for name in AFFINE if getattr(self, name) is not None]
        return f"{self.subnodes}, arities={list(self.arities)}, {', '.join(present) or 'no affine'}"


def _affine(x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    if scale is not None:
        x = x * scale
    return x if bias is None else x + bias


def parse_widths(
    layers_hidden: Sequence[int | Sequence[int]], mult_arity: int | Sequence[Sequence[int]]
) -> tuple[list[int], list[int], list[tuple[int, ...]]]:
    """Numbers of nodes, of subnodes, and the arities of the multiplication nodes, of every layer.

    Args:
        layers_hidden: Widths; [n_sum, n_mult] for n_sum sums and n_mult products.
        mult_arity: How many subnodes a product takes, or for every width a list with those of each.

    Raises:
        ValueError: Entries that make no sense, with what is expected.
    """
    pairs = [_pair(width) for width in layers_hidden]
    if not isinstance(mult_arity, int) and len(mult_arity) != len(pairs):
        raise ValueError(
            f"mult_arity must be an int, or have a list for each of {len(pairs)} widths, got "
            f"{mult_arity}"
        )
    nodes, subnodes, arities = [], [], []
    for index, (sums, products) in enumerate(pairs):
        its = [mult_arity] * products if isinstance(mult_arity, int) else list(mult_arity[index])
        if len(its) != products:
            raise ValueError(
                f"mult_arity[{index}] must have an arity for each of {products} multiplication "
                f"nodes, got {its}"
            )
        if index == 0 and products:
            raise ValueError(f"inputs cannot be multiplication nodes, got {layers_hidden[0]}")
        nodes.append(sums + products)
        subnodes.append(sums + sum(its))
        arities.append(tuple(its))
    return nodes, subnodes, arities


def check_sequence(layers: Sequence[tuple[int, int]], nodes: Mapping[int, Nodes]) -> None:
    """Raise ValueError unless layers of these inputs and outputs follow on one another.

    Args:
        layers: Inputs and outputs of each layer.
        nodes: By the index of the layer before them.
    """
    outputs = [out_features for _, out_features in layers]
    for index, after in nodes.items():
        if index not in range(len(layers)) or after.subnodes != outputs[index]:
            raise ValueError(
                f"nodes[{index}] has {after.subnodes} subnodes, but the layers have {outputs} "
                "outputs"
            )
        outputs[index] = after.nodes
    for index, (count, (in_features, _)) in enumerate(zip(outputs, layers[1:], strict=False)):
        if count != in_features:
            raise ValueError(
                f"layer {index} has {count} outputs, but layer {index + 1} has {in_features} inputs"
            )


def _pair(width: int | Sequence[int]) -> tuple[int, int]:
    wanted = f"a width must be an int or [n_sum, n_mult], got {width!r}"
    try:
        if not isinstance(width, Sequence):
            return integer("a width", width), 0
        entries = [integer("a width", entry) for entry in width]
    except TypeError as error:
        raise TypeError(wanted) from error
    if len(entries) != 2 or min(entries) < 0:
        raise ValueError(wanted)
    return entries[0], entries[1]
