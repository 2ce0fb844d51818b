"""The functional op: a layer with two inputs and three outputs, its exact derivatives, compiled.

    python examples/functional.py

`kan_linear` is to `KANLinear` what `torch.nn.functional.linear` is to `torch.nn.Linear`.
"""

import torch
from torch import Tensor

from kanfast import Basis, kan_linear, pack_coefficients


def main(steps: int = 500) -> float:
    """Fit exp(x) + cos(3 y), x + y and x^3 in `steps` steps; the error of the derivatives."""
    torch.manual_seed(0)
    basis = Basis(grid_size=10, degree=3, activation="silu")
    knots = torch.linspace(-1 - 3 * 0.2, 1 + 3 * 0.2, 17)  # 10 intervals on [-1, 1], 3 on each side
    grid = knots.expand(2, -1)
    spline_weight = torch.zeros(3, 2, basis.num_splines, requires_grad=True)
    base_weight = torch.zeros(3, 2, requires_grad=True)

    def layer(x: Tensor, deriv: int = 0) -> Tensor:
        c = pack_coefficients(spline_weight, base_weight)
        return kan_linear(x, c, grid, basis=basis, deriv=deriv)

    x = torch.rand(512, 2) * 2 - 1
    target = torch.stack([x[:, 0].exp() + torch.cos(3 * x[:, 1]), x.sum(1), x[:, 0] ** 3], dim=1)
    compiled = torch.compile(layer, fullgraph=True)
    optimizer = torch.optim.Adam([spline_weight, base_weight], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (compiled(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    print(f"mean squared error after {steps} steps: {loss.item():.2e}")

    # deriv=1 sums phi'(x_i) over the inputs: the derivative along (1, 1), without autograd.
    with torch.no_grad():
        along = layer(x, deriv=1)
    exact = torch.stack(
        [
            x[:, 0].exp() - 3 * torch.sin(3 * x[:, 1]),
            torch.full((len(x),), 2.0),
            3 * x[:, 0] ** 2,
        ],
        dim=1,
    )
    error = (along - exact).square().mean().sqrt().item()
    print(f"root mean square error of the derivative: {error:.3f}")
    return error


if __name__ == "__main__":
    main()
