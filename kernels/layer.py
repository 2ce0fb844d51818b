"""A layer from its parameters as they lie in memory, and its gradients: no copy in between."""

from . import coefficients
from .forward import forward
from .input_grad import input_grad
from .runtime import basis_dtype
from .weight_grad import weight_grad


def layer_forward(x, weight, base, scaler, grid, basis, precision, out_dtype):
    """y [B, O] from x [B, I], weight [O, I, G + k], base and scaler [O, I] or None."""
    c = coefficients.of_parameters(weight, base, scaler)
    call = {"basis": basis, "deriv": 0, "precision": precision, "out_dtype": out_dtype}
    return forward(x, c, None, grid, **call)


def layer_grad(g, x, weight, base, scaler, grid, needs, basis, precision):
    """Gradients of x, weight, base, scaler and grid, those that are needed; None for the others.

    The grid's is not among them: knots that are trained go through plain torch.
    """
    grads = [None] * 5
    call = {"basis": basis, "precision": precision}
    if needs[0]:
        c = coefficients.of_parameters(weight, base, scaler)
        grads[0] = input_grad(g, x, c, grid, deriv=1, out_dtype=x.dtype, **call)
    if any(needs[1:4]):
        wide = basis_dtype(precision)
        dc = weight_grad(g, x, None, grid, deriv=0, out_dtype=wide, **call)
        grads[1:4] = coefficients.unpack(dc, weight, base, scaler, needs[1:4])
    return grads
