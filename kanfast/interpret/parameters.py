"""Keeping an optimizer when a model is replaced by one of other sizes."""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch import nn

# Parts of a model that are there only while they are used.
_OPTIONAL = re.compile(r"(^|\.)(symbolic|nodes)\.")


def parameter_groups(
    optimizer: torch.optim.Optimizer, old: nn.Module, new: nn.Module
) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer of `old`, for one of `new`.

    `KAN.refine`, `prune_node` and `prune_input` return new models with parameters of other shapes:

        finer = model.refine(20)
        optimizer = type(optimizer)(parameter_groups(optimizer, model, finer))

    Args:
        optimizer: An optimizer that holds parameters of `old`; it is not changed.
        old: The model before.
        new: The model after, whose parameters have the same names.

    Returns:
        The groups with all their settings (learning rates, weight decay, ...), in which parameters
        of `old` are replaced by those of `new` of the same name; those of symbolic edges and affine
        maps that `new` has no more are left out. What the optimizer has gathered
        (momentum, curvature) is not part of them: its shapes are those of the old parameters.

    Raises:
        ValueError: The optimizer holds no parameter of `old`, or `new` lacks one.
    """
    names = {id(parameter): name for name, parameter in old.named_parameters()}
    fresh = dict(new.named_parameters())
    held = [p for group in optimizer.param_groups for p in group["params"] if id(p) in names]
    if not held:
        raise ValueError("the optimizer must hold parameters of the old model, got none")
    gone = {names[id(p)] for p in held} - set(fresh)
    missing = sorted(name for name in gone if not _OPTIONAL.search(name))
    if missing:
        raise ValueError(f"the new model must have the parameters {missing}, it has none")
    groups = []
    for group in optimizer.param_groups:
        stays = [names.get(id(p)) not in gone for p in group["params"]]
        params: list[Any] = [
            fresh.get(names.get(id(p), ""), p) for p in itertools.compress(group["params"], stays)
        ]
        settings = {key: value for key, value in group.items() if key != "param_names"}
        if "param_names" in group:
            kept = itertools.compress(group["param_names"], stays)
            params = list(zip(kept, params, strict=True))
        groups.append({**settings, "params": params})
    return groups
