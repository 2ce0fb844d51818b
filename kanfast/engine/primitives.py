"""The three primitives as opaque torch.library ops: what tracers see, and which code runs.

    forward      F_n(x, s, c)  what the trilinear form is in g: [B, O]
    input_grad   P_n(g, x, c)  what it is in s: [B, I]
    weight_grad  W_n(g, x, s)  what it is in c: [J, I, O]

The backend is an argument of the op, resolved before the op is called, so that tensors of any
device can go through every implementation. `engine.autograd` makes the primitives differentiable.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from kanfast.engine import _torch, checks, native, reference
from kanfast.engine.activations import Activation
from kanfast.engine.basis import Basis


@dataclass(frozen=True)
class Spec:
    """What of a primitive is not a tensor: the functions, the derivative order, how to compute."""

    basis: Basis
    deriv: int
    precision: str
    backend: str  # "triton", "native" or "reference"

    def differentiated(self) -> Spec:
        """The same with the next derivative of the functions."""
        return Spec(self.basis, self.deriv + 1, self.precision, self.backend)

    def scalars(self) -> tuple[int, int, str, bool, int, str, str]:
        """The spec as arguments of an op, which may be numbers and strings only."""
        b = self.basis
        functions = (b.grid_size, b.degree, b.activation, b.uniform)
        return (*functions, self.deriv, self.precision, self.backend)


def spec_of(
    grid_size: int,
    degree: int,
    activation: str,
    uniform: bool,
    deriv: int,
    precision: str,
    backend: str,
) -> Spec:
    """The spec from its `scalars`."""
    basis = Basis(grid_size, degree, cast(Activation, activation), uniform)
    return Spec(basis, deriv, precision, backend)


class Primitive(NamedTuple):
    """One of the three, and how it is found among the arguments of the trilinear form."""

    name: str
    factors: str
    """Its tensors in the order of its signature, of "x", "g", "s", "c"; the grid comes last."""
    shape: Callable[[dict[str, Any], Basis], tuple[Any, ...]]
    """The shape of its result."""


PRIMITIVES: dict[str, Primitive] = {
    "g": Primitive("forward", "xcs", lambda t, _: (t["x"].shape[0], t["c"].shape[2])),
    "s": Primitive("input_grad", "gxc", lambda t, _: tuple(t["x"].shape)),
    "c": Primitive(
        "weight_grad",
        "gxs",
        lambda t, basis: (basis.num_functions, t["x"].shape[1], t["g"].shape[1]),
    ),
}
"""By the factor of the trilinear form that each one leaves out."""


def contract(
    missing: str, factors: dict[str, Tensor | None], spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    """The primitive that leaves out a factor, without derivatives.

    Args:
        missing: "g", "s" or "c".
        factors: The tensors "x", "grid" and the two factors; "s" may be None for ones.
        spec: What is not a tensor.
        out_dtype: The dtype of the result.
    """
    primitive = PRIMITIVES[missing]
    tensors = tuple([factors[name] for name in primitive.factors] + [factors["grid"]])
    if _torch.is_observed(*tensors):
        return cast(Tensor, OPS[missing](*tensors, *spec.scalars(), out_dtype))
    return _run(primitive.name, tensors, spec, out_dtype)


def _run(
    name: str, tensors: tuple[Tensor | None, ...], spec: Spec, out_dtype: torch.dtype
) -> Tensor:
    checks.check_no_tangents(tensors)
    call: Callable[..., Tensor] = getattr(module_of(spec.backend), name)
    tensors = in_memory(spec.backend, tensors)
    with without_autocast(cast(Tensor, tensors[0])):
        return call(
            *tensors,
            basis=spec.basis,
            deriv=spec.deriv,
            precision=spec.precision,
            out_dtype=out_dtype,
        )


def in_memory(backend: str, tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The tensors as a backend can take them: a Triton kernel gets a pointer, which has no sign.

    Native code sees to that by itself, and plain torch knows of it.
    """
    if backend != "triton":
        return tuple(tensors)
    return tuple([None if t is None else native.resolved(t) for t in tensors])


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context for the code of a backend, whose precision is decided before it is called."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if checks.autocasting(device) else nullcontext()


def module_of(backend: str) -> ModuleType:
    """The implementation by this name, with the three primitives."""
    if backend == "triton":  # imported when it is needed: kanfast works where it is not installed
        return importlib.import_module("kanfast.kernels")
    return native if backend == "native" else reference


LIBRARY = torch.library.Library("kanfast", "FRAGMENT")
SCALARS = (
    "SymInt grid_size, SymInt degree, str activation, bool uniform, SymInt deriv, str precision, "
    "str backend"
)


def define(
    name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]
) -> torch._ops.OpOverload[..., Any]:
    """An op that runs the same code on all devices.

    `torch.library.custom_op` would do more around each call, which takes longer than a small layer.
    """
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
    LIBRARY.define(f"{name}({schema}", tags=tags)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"kanfast::{name}", fake, lib=LIBRARY)
    op: torch._ops.OpOverload[..., Any] = getattr(torch.ops.kanfast, name).default
    return op


def _define(primitive: Primitive) -> torch._ops.OpOverload[..., Any]:
    def run(*arguments: Any) -> Tensor:
        *tensors, grid = arguments[:4]
        return _run(primitive.name, (*tensors, grid), spec_of(*arguments[4:11]), arguments[11])

    def fake(*arguments: Any) -> Tensor:
        tensors = dict(zip(primitive.factors, arguments, strict=False))
        shape = primitive.shape(tensors, spec_of(*arguments[4:11]).basis)
        return cast(Tensor, tensors["x"].new_empty(shape, dtype=arguments[11]))

    tensors = [f"Tensor{'?' if name == 's' else ''} {name}" for name in primitive.factors]
    schema = f"{', '.join(tensors)}, Tensor grid, {SCALARS}, ScalarType out_dtype) -> Tensor"
    return define(primitive.name, schema, run, fake)


OPS = {missing: _define(primitive) for missing, primitive in PRIMITIVES.items()}
