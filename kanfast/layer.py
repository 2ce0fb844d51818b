"""Whole layers, from parameters to outputs, in one native call each: the usual case on CPUs.

Packing the coefficients by themselves, checking them and differentiating the packing take longer
than a small layer, and so does an autograd function for each of several layers. Whatever is not the
usual case takes `kanfast.kan_linear`, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import Function

from kanfast import autograd, native, packing
from kanfast.basis import Basis
from kanfast.ops import native_obstacle
from kanfast.primitives import Spec, is_plain, layer_grad_op, layer_op, unobserved

FUSED = ("silu", "none")  # the activations that the native code evaluates by itself

# Of a layer: weight [O, I, G + k], base [O, I], scaler [O, I], grid [I, G + 2k + 1], basis.
Arguments: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor, Basis]

_Grads: TypeAlias = tuple[Tensor | None, ...]


def fits(x: Tensor, layers: Sequence[Arguments]) -> bool:
    """Whether `evaluate` takes these: nobody who looks on, plain contiguous CPU tensors.

    Of arguments that do not fit together it only says no: it is `kan_linear` that complains.
    """
    compiling = torch.compiler.is_compiling()
    if torch.compiler.is_exporting() if compiling else not _alone(x):
        return False
    dtype, shape = x.dtype, x.shape
    if not (
        (dtype == torch.float32 or dtype == torch.float64)
        and x.is_cpu
        and len(shape) > 0
        and not torch.is_autocast_enabled("cpu")
        and native_obstacle() is None
    ):
        return False
    width = shape[-1]
    for weight, base, scaler, grid, basis in layers:
        if weight.dim() != 3:
            return False
        outputs, inputs, splines = weight.shape
        edges, of_grid = (outputs, inputs), grid.dtype
        if not (
            inputs == width
            and splines == basis.num_splines
            and outputs * inputs > 0
            and basis.activation in FUSED
            and (base is None) == (basis.activation == "none")
            and (compiling or _all_plain(weight, base, scaler, grid))
            and _contiguous(weight, dtype)
            and (base is None or (base.shape == edges and _contiguous(base, dtype)))
            and (scaler is None or (scaler.shape == edges and _contiguous(scaler, dtype)))
            and (of_grid == torch.float32 or of_grid == torch.float64)
            and grid.shape == (inputs, basis.num_knots)
            and _contiguous(grid, of_grid)
        ):
            return False
        width = outputs
    return True


def _alone(*tensors: Tensor | None) -> bool:
    """Whether nobody looks on in eager mode, and no tangents are about."""
    return unobserved(*tensors) and forward_ad._current_level < 0


def _all_plain(weight: Tensor, base: Tensor | None, scaler: Tensor | None, grid: Tensor) -> bool:
    return (
        is_plain(weight)
        and (base is None or is_plain(base))
        and (scaler is None or is_plain(scaler))
        and is_plain(grid)
    )


def _contiguous(t: Tensor, dtype: torch.dtype) -> bool:
    return t.dtype == dtype and t.is_cpu and t.is_contiguous()


def evaluate(x: Tensor, layers: Sequence[Arguments]) -> Tensor:
    """x [..., I] -> y [..., O] of the last layer, for what `fits`; differentiable to any order."""
    flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    y = _rows(flat.contiguous(), layers)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[1])


def _rows(x: Tensor, layers: Sequence[Arguments]) -> Tensor:
    if torch.compiler.is_compiling():
        for arguments in layers:
            x = cast(Tensor, CompiledLayer.apply(x, *arguments))
        return x
    graph = torch.is_grad_enabled()
    for n, arguments in enumerate(layers):
        if graph and packing.any_differentiable(x, *arguments[:3]):
            rest = layers[n:]
            tensors = [t for arguments in rest for t in arguments[:4]]
            return cast(Tensor, Layers.apply(rest, x, *tensors)[-1])
        x = native.layer(x, *arguments)
    return x


class Layers(Function):
    """Layers one after the other over a matrix x, a native call each.

    The values between them are outputs, too, so that they are part of the graph wherever a gradient
    is differentiated in its turn; then gradients are those of the primitives.
    """

    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[Arguments], x: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Outputs of all layers; tensors are weight, base, scaler and grid of each."""
        ctx.set_materialize_grads(False)
        values: list[Tensor] = []
        saved: list[Tensor | None] = []
        for weight, base, scaler, grid, basis in layers:
            saved += (x, weight, base, scaler, grid)
            values.append(x := native.layer(x, weight, base, scaler, grid, basis))
        ctx.save_for_backward(*saved)
        ctx.bases = [arguments[4] for arguments in layers]
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of x and of weight, base and scaler of each layer."""
        needs, saved = ctx.needs_input_grad, ctx.saved_tensors
        once = not torch.is_grad_enabled() and _alone(*gradients)
        call: Callable[..., _Grads] = native.layer_grad if once else _differentiable_grad
        g: Tensor | None = None
        found: tuple[Tensor | None, ...] = ()
        for n in range(len(gradients) - 1, -1, -1):
            g = _sum(g, gradients[n])
            if g is None:
                found = (None, None, None, None, *found)
                continue
            at = 4 * n + 2  # of the weight among the arguments
            wanted = (True in needs[:at], *needs[at : at + 3])
            g, *d_parameters = call(g, *saved[5 * n : 5 * n + 5], ctx.bases[n], wanted)
            found = (*d_parameters, None, *found)
        return None, g, *found


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


class CompiledLayer(Function):
    """A layer in a graph of torch.compile, where nothing is differentiated twice."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        base: Tensor | None,
        scaler: Tensor | None,
        grid: Tensor,
        basis: Basis,
    ) -> Tensor:
        """Its arguments are x and those of a layer."""
        ctx.save_for_backward(x, weight, base, scaler, grid)
        ctx.basis = basis
        return cast(Tensor, layer_op(x, weight, base, scaler, grid, *_scalars(basis)))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, base and scaler."""
        x, weight, base, scaler, grid = ctx.saved_tensors
        given, needs = (x, weight, base, scaler), list(ctx.needs_input_grad[:4])
        grads = iter(layer_grad_op(g, *given, grid, needs, *_scalars(ctx.basis)))
        return *[next(grads) if need else None for need in needs], None, None


def _scalars(basis: Basis) -> tuple[int, int, str, bool]:
    return basis.grid_size, basis.degree, basis.activation, basis.uniform


def _differentiable_grad(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    base: Tensor | None,
    scaler: Tensor | None,
    grid: Tensor,
    basis: Basis,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """`kanfast.native.layer_grad` as a function of g, x and the parameters."""
    spec = Spec(basis, 0, "float64" if x.dtype == torch.float64 else "ieee", "native")
    d_x, d_weight, d_base, d_scaler = None, None, None, None
    if needs[0]:
        c = packing.pack(weight, base, scaler)
        d_x = autograd.input_grad(g, x, c, grid, spec.differentiated(), x.dtype)
    if any(needs[1:]):
        dc = autograd.weight_grad(g, x, None, grid, spec, x.dtype)
        d_scaled = dc[: basis.num_splines].permute(2, 1, 0)
        d_weight = d_scaled if scaler is None else d_scaled * scaler.unsqueeze(-1)
        d_base = dc[-1].T if base is not None else None
        d_scaler = (d_scaled * weight).sum(-1) if scaler is not None else None
    return d_x, d_weight, d_base, d_scaler
