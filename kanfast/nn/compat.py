"""Layers from models of pykan 0.2. (efficient-kan's state dicts need no help: the names are ours.)

A pykan layer without multiplication nodes and symbolic edges computes

    y[o] = a[o] sum_i mask[i,o] (scale_base[i,o] b(x[i]) + scale_sp[i,o] spline[i,o](x[i])) + d[o]

with a = node_scale * subnode_scale and d = node_scale * subnode_bias + node_bias. All factors fold
into `base_weight` and `spline_scaler`, exactly; a shift d does not, as our layers have none.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kanfast.nn.linear import KANLinear
from kanfast.ops import Backend

Residual = str | Callable[..., Any]

_BASE_FUNS: dict[str, type[nn.Module] | None] = {
    "silu": nn.SiLU,
    "identity": nn.Identity,
    "zero": None,
}
_AFFINE = ("node_scale", "node_bias", "subnode_scale", "subnode_bias")
_LAYER = ("grid", "coef", "mask", "scale_base", "scale_sp")
_SYMBOLIC = ("mask", "affine")


def layers_from_pykan(model: Any, *, backend: Backend = "auto") -> list[KANLinear]:
    """The layers of a pykan model; see `KAN.from_pykan`."""
    parts = ("act_fun", "symbolic_fun", "symbolic_enabled", "base_fun_name", "input_id", *_AFFINE)
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
    layers = layers_from_pykan_state_dict(state, residuals, backend=backend)
    for ours, theirs in zip(layers, model.act_fun, strict=True):
        ours.grid_eps = theirs.grid_eps
        ours.spline_weight.requires_grad_(theirs.coef.requires_grad)
        ours.spline_scaler.requires_grad_(theirs.scale_sp.requires_grad)
        if ours.base_weight is not None:
            ours.base_weight.requires_grad_(theirs.scale_base.requires_grad)
    return layers


def _residual_of(model: Any, layer: Any) -> Residual:
    if model.base_fun_name == "zero":
        return "zero"
    function: Residual = layer.base_fun
    return function


def layers_from_pykan_state_dict(
    state_dict: Mapping[str, Tensor],
    base_fun: Residual | Sequence[Residual] = "silu",
    *,
    backend: Backend = "auto",
) -> list[KANLinear]:
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
    return [_layer(index, state_dict, base_fun[index], backend) for index in range(depth)]


def _layer(
    index: int, state: Mapping[str, Tensor], base_fun: Residual, backend: Backend
) -> KANLinear:
    grid, coef, mask, scale_base, scale_sp = (state[f"act_fun.{index}.{part}"] for part in _LAYER)
    in_features, out_features, num_splines = coef.shape
    degree = grid.shape[1] - num_splines - 1
    scale = _output_scale(index, state)[:, None]
    edges = state[f"symbolic_fun.{index}.mask"].nonzero().tolist()
    if edges:
        listed = ", ".join(f"({index}, {i}, {j})" for j, i in edges[:8])
        raise ValueError(
            f"unsupported: symbolic functions on {len(edges)} edges of layer {index}, in pykan's "
            f"order (layer, input, output): {listed}{' ...' if len(edges) > 8 else ''}; call "
            "unfix_symbolic on them in pykan first"
        )
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
    own = {
        "base_weight": (scale_base * mask).T * scale,
        "spline_weight": coef.permute(1, 0, 2),
        "spline_scaler": (scale_sp * mask).T * scale,
        "grid": grid,
    }
    if layer.base_weight is None:
        del own["base_weight"]
    contiguous = torch.contiguous_format
    own = {name: t.detach().clone(memory_format=contiguous) for name, t in own.items()}
    layer.load_state_dict(own, assign=True)
    return layer


def _output_scale(index: int, state: Mapping[str, Tensor]) -> Tensor:
    """The factor of each output of layer l, once it is sure that nothing else happens there."""
    scale, bias, subscale, subbias = (state[f"{part}_{index}"] for part in _AFFINE)
    if scale.shape != subscale.shape:
        raise ValueError(
            f"unsupported: multiplication nodes after layer {index} ({len(subscale)} sums make "
            f"{len(scale)} nodes); only models of addition nodes can be imported"
        )
    shift = scale * subbias + bias
    if shift.any():
        nodes = shift.nonzero().flatten().tolist()
        raise ValueError(
            f"unsupported: node_bias or subnode_bias is not zero at the nodes {nodes[:8]} after "
            f"layer {index}, and our layers have no bias; train pykan with affine_trainable=False"
        )
    return scale * subscale


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
