"""What the kernels must compute, in float64, from code nobody here wrote.

That is scipy's BSpline and torch's activations.
"""

import numpy as np
import torch
from scipy.interpolate import BSpline, PPoly

ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "identity": lambda x: x * 1.0,
}


def spline_values(x, knots, degree, deriv):
    """[N, len(knots) - degree - 1]: deriv-th derivatives of all B-splines, zero off the support.

    scipy's BSpline refuses to differentiate across knots repeated as often as the degree, so
    derivatives are taken of its pieces, cell by cell: at a jump that is the value from the right.
    """
    count = len(knots) - degree - 1
    if deriv > degree:
        return np.zeros((len(x), count))
    margin = np.arange(1, degree + 1)
    padded = np.concatenate([knots[0] - margin[::-1], knots, knots[-1] + margin])
    coefficients = np.eye(count + 2 * degree)[:, degree : degree + count]
    if deriv == 0:
        values = BSpline(padded, coefficients, degree)(x)
    else:
        pieces = [PPoly.from_spline((padded, column, degree)) for column in coefficients.T]
        values = np.stack([piece(x, deriv) for piece in pieces], axis=1)
    return np.where((x >= knots[0]) & (x < knots[-1]), values.T, 0.0).T


def activation_values(x, name, deriv):
    """The deriv-th derivative of the activation at x, by autograd in float64."""
    x = x.detach().double().requires_grad_()
    y = ACTIVATIONS[name](x)
    for _ in range(deriv):
        if not y.requires_grad:
            return torch.zeros_like(x)
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.detach()


def basis_values(x, grid, basis, deriv):
    """f[b, i, j] in float64: every function of the basis at every x."""
    x64, grid64 = x.detach().cpu().double(), grid.detach().cpu().double()
    columns = [
        torch.from_numpy(spline_values(x64[:, i].numpy(), grid64[i].numpy(), basis.degree, deriv))
        for i in range(x.shape[1])
    ]
    f = torch.stack(columns, dim=1) if columns else x64.new_zeros(*x.shape, basis.num_splines)
    if basis.activation != "none":
        f = torch.cat([f, activation_values(x64, basis.activation, deriv).unsqueeze(-1)], dim=-1)
    return f


def forward(x, c, s, grid, basis, deriv):
    f = basis_values(x, grid, basis, deriv)
    if s is not None:
        f = f * s.double().unsqueeze(-1)
    return torch.einsum("bij,jio->bo", f, c.double())


def input_grad(g, x, c, grid, basis, deriv):
    return torch.einsum(
        "bo,jio,bij->bi", g.double(), c.double(), basis_values(x, grid, basis, deriv)
    )


def weight_grad(g, x, s, grid, basis, deriv):
    f = basis_values(x, grid, basis, deriv)
    if s is not None:
        f = f * s.double().unsqueeze(-1)
    return torch.einsum("bo,bij->jio", g.double(), f)


def edge_splines(layer, x):
    """Splines of all edges of a KANLinear at x [N, I]: [N, O, I]."""
    weight = layer.scaled_spline_weight.detach().double().numpy()
    grid = layer.grid.double().numpy()
    columns = [
        spline_values(x[:, i].numpy(), grid[i], layer.spline_order, 0) @ weight[:, i].T
        for i in range(layer.in_features)
    ]
    return np.stack(columns, axis=-1)
