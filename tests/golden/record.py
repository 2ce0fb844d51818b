"""What a program sees of efficient-kan, as numbers; `kanfast` must show it the same.

`observe(package)` runs one program on either package. The file `efficient_kan.npz` beside this one
is what it saw of efficient-kan (commit 7b6ce1c). To make it again, with that package installed:

    python tests/golden/record.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILE = Path(__file__).with_name("efficient_kan.npz")

# Arguments by position, as programs in the wild give them.
LAYERS: dict[str, tuple[Any, ...]] = {
    "defaults": (3, 2),
    "quadratic": (2, 3, 4, 2, 0.5, 2.0, 0.7),
    "unscaled": (3, 2, 5, 3, 0.3, 1.0, 0.5, False),
    "identity": (2, 2, 6, 3, 0.1, 1.0, 1.0, True, torch.nn.Identity),
    "elu": (2, 2, 3, 1, 0.1, 1.0, 1.0, True, torch.nn.ELU),
    "wide": (2, 2, 12, 5, 0.4, 1.0, 1.0, False, torch.nn.Tanh, 0.3, [-2, 3]),
    "adaptive": (3, 2, 5, 3, 0.4, 1.0, 1.0, False, torch.nn.GELU, 0.0),
    "equal": (3, 2, 5, 4, 0.4, 1.0, 1.0, False, torch.nn.ReLU, 1.0, [0, 1]),
}


def points(*shape: int, scale: float = 1.7) -> Tensor:
    """Scattered numbers, inside and outside the grid, without a random generator."""
    count = torch.Size(shape).numel()
    return scale * torch.sin(torch.arange(1, count + 1) * 12.9898).reshape(shape)


def observe(package: Any) -> dict[str, np.ndarray]:
    """Initial values, outputs, gradients and fits of `package.KANLinear` and `package.KAN`."""
    seen: dict[str, Tensor] = {}
    default = torch.get_default_dtype()
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            for name, arguments in LAYERS.items():
                torch.manual_seed(7)
                layer = package.KANLinear(*arguments)
                prefix = f"{name}/{str(dtype).removeprefix('torch.')}"
                initial = layer.state_dict()
                seen |= {f"{prefix}/init/{key}": v.clone() for key, v in initial.items()}
                with torch.no_grad():
                    for parameter in layer.parameters():
                        parameter.copy_(points(*parameter.shape, scale=0.6))
                if dtype == torch.float64:
                    seen |= _layer(f"{name}/float64", layer)
                else:
                    # Knots rounded to float32: no longer equally spaced to float64's precision.
                    seen |= _layer(f"{name}/cast", layer.double())
        seen |= _training(package)
    finally:
        torch.set_default_dtype(default)
    return {name: value.detach().numpy() for name, value in seen.items()}


def _layer(prefix: str, layer: Any) -> dict[str, Tensor]:
    x = points(8, layer.in_features).double().requires_grad_()
    seen = {f"{prefix}/{name}": value for name, value in _gradients(layer, x).items()}
    seen[f"{prefix}/splines"] = layer.b_splines(x[:4])
    seen[f"{prefix}/scaled"] = layer.scaled_spline_weight.clone()
    loss = layer.regularization_loss(0.5, 2.0)
    seen[f"{prefix}/regularization"] = loss
    seen[f"{prefix}/regularization_grad"] = torch.autograd.grad(loss, layer.spline_weight)[0]
    knots = points(40, layer.in_features, scale=0.9).double()
    curves = points(40, layer.in_features, layer.out_features).double()
    if not layer.enable_standalone_scale_spline:  # efficient-kan applies the scaler twice here
        layer.update_grid(knots)
        seen[f"{prefix}/updated/grid"] = layer.grid.clone()
        seen[f"{prefix}/updated/output"] = layer(knots)
        updated = _gradients(layer, x)
        seen |= {f"{prefix}/updated/{name}": value for name, value in updated.items()}
    coefficients = layer.curve2coeff(knots, curves)
    seen[f"{prefix}/fit"] = torch.einsum("nij,oij->nio", layer.b_splines(knots), coefficients)
    return seen


def _gradients(layer: Any, x: Tensor) -> dict[str, Tensor]:
    """Output, first derivatives, and derivatives of the squared input gradient."""
    named = {"x": x} | dict(layer.named_parameters())
    y = layer(x)
    weights = points(*y.shape, scale=1.0).double()
    first = torch.autograd.grad((y * weights).sum(), list(named.values()), create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), list(named.values()))
    return (
        {"y": y}
        | {f"grad/{name}": g for name, g in zip(named, first, strict=True)}
        | {f"grad2/{name}": g for name, g in zip(named, second, strict=True)}
    )


def _training(package: Any) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = package.KAN([2, 4, 1], 5, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x = points(4, 10, 2, scale=1.2)
    for _ in range(10):
        optimizer.zero_grad()
        loss = (model(x) - x.prod(-1, keepdim=True)).square().mean()
        (loss + 1e-3 * model.regularization_loss()).backward()
        optimizer.step()
    return {f"training/{name}": value for name, value in model.state_dict().items()}


if __name__ == "__main__":
    import efficient_kan

    np.savez_compressed(FILE, **observe(efficient_kan))  # type: ignore[arg-type]
