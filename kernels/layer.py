"""A layer from its parameters, and its gradients: the launchers of the primitives in a row."""

from kanfast.engine.reference import pack, unpack

from .forward import forward
from .input_grad import input_grad
from .weight_grad import weight_grad


def layer_forward(x, weight, base, scaler, grid, *, basis, precision, out_dtype):
    """[B, O] from x [B, I] and the parameters: see `engine.reference.layer_forward`."""
    c = pack(weight, base, scaler)
    return forward(x, c, None, grid, basis=basis, deriv=0, precision=precision, out_dtype=out_dtype)


def layer_grad(g, x, weight, base, scaler, grid, needs, *, basis, precision):
    """Gradients of x, weight, base and scaler: see `engine.reference.layer_grad`."""
    grads = [None] * 5
    options = {"basis": basis, "precision": precision}
    if needs[0]:
        c = pack(weight, base, scaler)
        grads[0] = input_grad(g, x, c, grid, deriv=1, out_dtype=x.dtype, **options)
    if any(needs[1:]):
        dc = weight_grad(g, x, None, grid, deriv=0, out_dtype=weight.dtype, **options)
        grads[1:4] = unpack(dc, weight, base, scaler, needs[1:4])
    return grads
