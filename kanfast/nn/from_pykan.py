"""Layers from models of pykan 0.2. (efficient-kan's state dicts need no help: the names are ours.)

A pykan layer computes the subnodes

    s[o] = a[o] sum_i (mask[i,o] (scale_base[i,o] b(x[i]) + scale_sp[i,o] spline[i,o](x[i]))
                       + symbolic[o,i](x[i])) + d[o]

with the scales a and biases d of subnodes, and from them nodes: sums, products, and affine maps
again. Masks fold into `base_weight` and `spline_scaler`, and so do scales of a layer that has
nothing else: no biases, products or symbolic functions. Otherwise they become those of `Nodes`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanfast.engine.backends import Backend
from kanfast.nn.linear import KANLinear
from kanfast.nn.nodes import AFFINE as _AFFINE
from kanfast.nn.nodes import Nodes
from kanfast.nn.symbols import make_edges

Residual = str | Callable[..., Any]

_BASE_FUNS: dict[str, type[nn.Module] | None] = {
    "silu": nn.SiLU,
    "identity": nn.Identity,
    "zero": None,
}
_LAYER = ("grid", "coef", "mask", "scale_base", "scale_sp")
_SYMBOLIC = ("mask", "affine")

Parts = tuple[list[KANLinear], dict[int, Nodes]]
"""Layers, and what happens after some of them."""


def layers_from_pykan(model: Any, *, backend: Backend = "auto") -> Parts:
    """The layers of a pykan model; see `KAN.from_pykan`."""
    parts = ("act_fun", "symbolic_fun", "symbolic_enabled", "base_fun_name", "input_id", "width",
             "mult_arity", *_AFFINE)  # fmt: skip
    missing = [name for name in parts if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"expected a model of pykan 0.2 (kan.KAN), got {type(model).__name__} without {missing}"
        )
    state = {name: value.detach() for name, value in model.state_dict().items()}
    for name in _AFFINE:  # the lists are what pykan's forward reads
        state.update(
            {f"{name}_{index}": t.detach() for index, t in enumerate(getattr(model, name))}
        )
    inputs = state["act_fun.0.coef"].shape[0]
    if model.input_id.tolist() != list(range(inputs)):
        raise ValueError(
            f"unsupported: this pykan model selects the input columns {model.input_id.tolist()} "
            "(prune_input); use from_pykan_state_dict(model.state_dict()) instead, and feed the "
            "result x[:, model.input_id]"
        )
    if not model.symbolic_enabled:  # then pykan's forward leaves the symbolic branch out
        state.update({name: t * 0 for name, t in state.items() if name.startswith("symbolic_fun")})
    residuals = [_residual_of(model, layer) for layer in model.act_fun]
    names = [layer.funs_name for layer in model.symbolic_fun]
    arities = _arities_of(model)
    layers, nodes = _parts(state, residuals, arities, names, _trained_affine(model), backend)
    for index, (ours, theirs) in enumerate(zip(layers, model.act_fun, strict=True)):
        ours.grid_eps = theirs.grid_eps
        ours.spline_weight.requires_grad_(theirs.coef.requires_grad)
        ours.spline_scaler.requires_grad_(theirs.scale_sp.requires_grad)
        if ours.base_weight is not None:
            ours.base_weight.requires_grad_(theirs.scale_base.requires_grad)
        if ours.symbolic is not None:
            affine = model.symbolic_fun[index].affine
            ours.symbolic.affine.requires_grad_(affine.requires_grad)
    return layers, nodes


def _arities_of(model: Any) -> list[list[int]]:
    """The arities after each layer."""
    products = [width[1] for width in model.width[1:]]
    if isinstance(model.mult_arity, int):
        return [[model.mult_arity] * count for count in products]
    return [list(arities) for arities in model.mult_arity[1:]]


def _trained_affine(model: Any) -> list[dict[str, bool]]:
    """Which affine maps after each layer are trained."""
    depth = len(model.act_fun)
    return [{n: getattr(model, n)[index].requires_grad for n in _AFFINE} for index in range(depth)]


def _residual_of(model: Any, layer: Any) -> Residual:
    if model.base_fun_name == "zero":
        return "zero"
    function: Residual = layer.base_fun
    return function


def layers_from_pykan_state_dict(
    state_dict: Mapping[str, Tensor],
    base_fun: Residual | Sequence[Residual] = "silu",
    *,
    mult_arity: int | Sequence[Sequence[int]] = 2,
    backend: Backend = "auto",
) -> Parts:
    """The layers of a pykan state dict; see `KAN.from_pykan_state_dict`."""
    depth = sum(1 for name in state_dict if re.fullmatch(r"act_fun\.\d+\.coef", name))
    expected = {
        name
        for index in range(depth)
        for name in (
            *(f"act_fun.{index}.{part}" for part in _LAYER),
            *(f"symbolic_fun.{index}.{part}" for part in _SYMBOLIC),
            *(f"{part}_{index}" for part in _AFFINE),
        )
    }
    if depth == 0 or expected != set(state_dict):
        raise ValueError(
            "expected the state dict of a pykan 0.2 model, with layers act_fun.0, act_fun.1, ...; "
            f"missing: {sorted(expected - set(state_dict))}, "
            f"unknown: {sorted(set(state_dict) - expected)}"
        )
    if isinstance(base_fun, str) or callable(base_fun):
        base_fun = [base_fun] * depth
    if len(base_fun) != depth:
        raise ValueError(f"base_fun has {len(base_fun)} entries for {depth} layers")
    if not isinstance(mult_arity, int) and len(mult_arity) != depth + 1:
        raise ValueError(
            f"mult_arity must be an int, or have a list for each of {depth + 1} widths, got "
            f"{mult_arity}"
        )
    arities = [
        _arities_in(index, state_dict, mult_arity)
        if isinstance(mult_arity, int)
        else list(mult_arity[index + 1])
        for index in range(depth)
    ]
    trained = [dict.fromkeys(_AFFINE, False) for _ in range(depth)]
    return _parts(state_dict, base_fun, arities, None, trained, backend)


def _arities_in(index: int, state: Mapping[str, Tensor], arity: int) -> list[int]:
    """The arities after a layer, from the numbers of subnodes and nodes and the arity of all."""
    subnodes, nodes = (len(state[f"{part}_scale_{index}"]) for part in ("subnode", "node"))
    products, rest = divmod(subnodes - nodes, max(1, arity - 1))
    if rest or products > nodes:
        raise ValueError(
            f"after layer {index}, {subnodes} subnodes make {nodes} nodes, which does not fit "
            f"mult_arity={arity}: pass that of the pykan model"
        )
    return [arity] * products


def _parts(
    state: Mapping[str, Tensor],
    base_fun: Sequence[Residual],
    arities: Sequence[Sequence[int]],
    functions: Sequence[Sequence[Sequence[str]]] | None,
    trained: Sequence[Mapping[str, bool]],
    backend: Backend,
) -> Parts:
    layers, nodes = [], {}
    for index, residual in enumerate(base_fun):
        layer = _layer(index, state, residual, backend)
        names = None if functions is None else functions[index]
        _set_symbolic(index, layer, state, names)
        its = _nodes(index, state, arities[index], trained[index])
        shifted = its.subnode_bias is not None or its.node_bias is not None
        if not (its.arities or shifted or layer.symbolic or any(trained[index].values())):
            _fold(layer, its)
            its = Nodes(layer.out_features)
        if not its.does_nothing():
            nodes[index] = its
        layers.append(layer)
    return layers, nodes


def _layer(
    index: int, state: Mapping[str, Tensor], base_fun: Residual, backend: Backend
) -> KANLinear:
    grid, coef, mask, scale_base, scale_sp = (state[f"act_fun.{index}.{part}"] for part in _LAYER)
    in_features, out_features, num_splines = coef.shape
    degree = grid.shape[1] - num_splines - 1
    layer = KANLinear(
        in_features,
        out_features,
        num_splines - degree,
        degree,
        base_activation=_activation(index, base_fun),
        device="meta",
        dtype=coef.dtype,
        backend=backend,
    )
    factor = torch.where(mask == 0, torch.ones_like(mask), mask)
    own = {
        "base_weight": (scale_base * factor).T,
        "spline_weight": coef.permute(1, 0, 2),
        "spline_scaler": (scale_sp * factor).T,
        "grid": grid,
    }
    if layer.base_weight is None:
        del own["base_weight"]
    contiguous = torch.contiguous_format
    own = {name: t.detach().clone(memory_format=contiguous) for name, t in own.items()}
    layer.load_state_dict(own, assign=True)
    if (mask == 0).any():
        layer.set_mask((mask != 0).T)
    return layer


def _set_symbolic(
    index: int,
    layer: KANLinear,
    state: Mapping[str, Tensor],
    names: Sequence[Sequence[str]] | None,
) -> None:
    """Puts pykan's symbolic functions into a layer."""
    factors, affine = (state[f"symbolic_fun.{index}.{part}"] for part in _SYMBOLIC)
    edges = [(o, i) for o, i in factors.nonzero().tolist()]
    if not edges:
        return
    if names is None:
        listed = ", ".join(f"({index}, {i}, {o})" for o, i in edges[:8])
        raise ValueError(
            f"unsupported: symbolic functions on {len(edges)} edges of layer {index}, in pykan's "
            f"order (layer, input, output): {listed}{' ...' if len(edges) > 8 else ''}; a state "
            "dict does not say which functions they are: use from_pykan with the model"
        )
    symbolic = make_edges(layer)
    for o, i in edges:
        name = names[o][i]
        if name not in symbolic.library:
            raise ValueError(
                f"unsupported: the symbolic function {name!r} of the edge ({index}, {i}, {o}), in "
                "pykan's order (layer, input, output), is not in the library of "
                "kanfast.symbolic; add it there under this name with add_symbolic (in pykan, give "
                "it a name with its add_symbolic if it is 'anonymous')"
            )
        symbolic.fix(o, i, name, affine[o, i])
        with torch.no_grad():
            symbolic.mask[o, i] = factors[o, i]
    layer.symbolic = symbolic


def _nodes(
    index: int, state: Mapping[str, Tensor], arities: Sequence[int], trained: Mapping[str, bool]
) -> Nodes:
    """What pykan does after a layer; scales of 1 and biases of 0 are left out unless trained."""
    values = {part: state[f"{part}_{index}"] for part in _AFFINE}
    nodes = Nodes(len(values["subnode_scale"]), arities)
    if nodes.nodes != len(values["node_scale"]):
        raise ValueError(
            f"after layer {index}, {nodes.subnodes} subnodes make {len(values['node_scale'])} "
            f"nodes, which does not fit the arities {list(arities)}: pass mult_arity of the pykan "
            "model"
        )
    for part, value in values.items():
        if trained[part] or (value != float(part.endswith("scale"))).any():
            nodes.set_affine(part, value, trainable=trained[part])
    return nodes


@torch.no_grad()
def _fold(layer: KANLinear, nodes: Nodes) -> None:
    """Multiplies the scales of nodes into the weights."""
    for scale in (nodes.subnode_scale, nodes.node_scale):
        if scale is not None:
            layer.spline_scaler.mul_(scale[:, None])
            if layer.base_weight is not None:
                layer.base_weight.mul_(scale[:, None])


def _activation(index: int, base_fun: Residual) -> Callable[..., Any] | None:
    if isinstance(base_fun, nn.Module):
        return copy.deepcopy(base_fun)
    if isinstance(base_fun, str) and base_fun in _BASE_FUNS:
        return _BASE_FUNS[base_fun]
    if callable(base_fun):
        return lambda: base_fun
    raise ValueError(
        f"unsupported: base_fun {base_fun!r} in layer {index}; expected one of "
        f"{list(_BASE_FUNS)}, an nn.Module or a function of a tensor"
    )
