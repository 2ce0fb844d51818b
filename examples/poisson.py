"""A physics-informed KAN: solve u''(x) = -pi^2 sin(pi x) on [-1, 1] with u(-1) = u(1) = 0.

    python examples/poisson.py

The loss holds second derivatives of the network with respect to its input, and its gradient with
respect to the parameters third ones; each is a pass of the same fused kernels. u(x) = sin(pi x).
"""

import math

import torch
from torch import Tensor

from kanfast import KAN


def main(steps: int = 20) -> float:
    """Take `steps` steps of L-BFGS; the largest error of the solution."""
    torch.manual_seed(0)
    # Splines of degree 5 have four continuous derivatives.
    network = KAN([1, 6, 1], grid_size=8, spline_order=5, dtype=torch.float64)
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None].requires_grad_()
    source = math.pi**2 * torch.sin(math.pi * x.detach())

    def solution(x: Tensor) -> Tensor:
        return (1 - x**2) * network(x)  # zero at both ends

    def residual() -> Tensor:
        (slope,) = torch.autograd.grad(solution(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return (curvature + source).square().mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = residual()
        loss.backward()
        return loss

    optimizer = torch.optim.LBFGS(
        network.parameters(), tolerance_change=0, line_search_fn="strong_wolfe"
    )
    for step in range(steps):
        loss = optimizer.step(closure)
        if step % 5 == 0:
            print(f"step {step}: mean squared residual {loss.item():.2e}")
    with torch.no_grad():
        error = (solution(x) - torch.sin(math.pi * x)).abs().max().item()
    print(f"largest error of the solution: {error:.1e}")
    return error


if __name__ == "__main__":
    main()
