"""torch's private names: each with its reason, and the public way that would replace it.

Nothing else in kanfast uses a private name of torch. What is here was checked with torch 2.10 and
2.13 to 2.15.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

T = TypeVar("T")

_functorch = torch._C._functorch

# Public only from torch 2.13 on is a graph of torch.func.grad around an autograd Function.
_GRAPHS_OF_GRAD = torch.__version__ >= "2.13"


def is_transformed() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp, ...) is at work.

    No public name tells; torch.autograd.Function asks the same.
    """
    return torch._C._are_functorch_transforms_active()


def is_forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is open.

    No public name tells. torch.autograd.forward_ad.unpack_dual tells it of one tensor, for longer.
    """
    return forward_ad._current_level >= 0


def is_eager() -> bool:
    """Whether no compiler, no torch.jit.trace and no transform of torch.func is at work."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def is_exporting() -> bool:
    """Whether torch.export traces, in either of its modes.

    torch.compiler.is_exporting() is True in all that the compiler of torch 2.10 traces.
    """
    return torch.compiler._is_exporting_flag


def is_jit_tracing() -> bool:
    """Whether torch.jit.trace traces. torch.jit.is_tracing() is public, and twice as slow."""
    return torch._C._get_tracing_state() is not None


def is_plain(t: Tensor) -> bool:
    """Whether a tensor is just that: neither a subclass nor batched.

    torch.autograd.grad(is_grads_batched=True) batches tensors without any transform, and no public
    name tells.
    """
    kind = type(t)
    return kind is Parameter or (kind is Tensor and not _functorch.is_legacy_batchedtensor(t))


def is_batched(t: Tensor) -> bool:
    """Whether torch.func.vmap batches the tensor, so that nobody may look at its values."""
    return _functorch.is_batchedtensor(t)


def _is_in_a_mode() -> bool:
    if torch._C._len_torch_dispatch_stack() == 0:
        return False
    tell_flop_counters()
    return True


def is_observed(*tensors: Tensor | None) -> bool:
    """Whether something would see an op: a tracer, a transform, a mode or a subclass of Tensor.

    If not, the implementation of an op is called directly: torch takes longer to dispatch an op
    that is written in Python than a small layer takes to run. The public way is to register the op
    in C++, which installing without a compiler rules out.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or _is_in_a_mode()
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
    ):
        return True
    for t in tensors:  # `is_plain` of each, without a call
        kind = type(t)
        if kind is Parameter or t is None:
            continue
        if kind is not Tensor or _functorch.is_legacy_batchedtensor(t):
            return True
    return False


FLOP_FORMULAS: dict[Any, Callable[..., int]] = {}
"""How many floating-point operations our ops count as, by torch.ops.kanfast.<name>."""


def tell_flop_counters() -> None:
    """Tells torch's counters of floating-point operations that are at work of `FLOP_FORMULAS`.

    torch.utils.flop_counter.register_flop_formula is the public way, but it imports Triton, which
    importing kanfast must not. So the counters are told when an op is called under a mode.
    """
    counter = sys.modules.get("torch.utils.flop_counter")
    if counter is None:
        return
    for mode in torch.utils._python_dispatch._get_current_dispatch_mode_stack():
        if isinstance(mode, counter._FlopCounterMode):
            for op, formula in FLOP_FORMULAS.items():
                wrapped = counter.shape_wrapper(formula)
                mode.counter.flop_registry.setdefault(op, wrapped)


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether one of the tensors has a tangent of forward-mode differentiation that counts now."""
    if forward_ad._current_level < 0 or not torch._C._is_fwd_grad_enabled():
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def with_forward_mode() -> Any:
    """A context in which forward-mode differentiation is on.

    torch turns it off within the jvp of a Function, which would silently lose the outer one of two
    nested derivatives. There is no public way to turn it on again.
    """
    return forward_ad._set_fwd_grad_enabled(True)


def primal(t: Tensor) -> Tensor:
    """The tensor without the tangent of the current level of forward-mode differentiation."""
    level = _functorch.maybe_current_level()
    if level is None:
        outer: Tensor = forward_ad.unpack_dual(t).primal
        return outer
    inner: Tensor = _functorch._wrap_for_grad(_functorch._unwrap_for_grad(t, level), level)
    return inner


def constant_in_graphs(function: Callable[..., T]) -> Callable[..., T]:
    """Marks a function that torch.compile calls while it traces, instead of looking into it.

    torch.compiler.assume_constant_result is the public name, but it imports torch._dynamo, which
    would double the time that `import kanfast` takes.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_in_graphs
def can_trace_transforms() -> bool:
    """Whether torch.compile can make a graph of all transforms of torch.func that are at work.

    It can of grad, from torch 2.13 on. There is no vmap of a Function in a graph, and of jvp it
    would drop the tangents. No public name tells which transforms are at work.
    """
    stack = _functorch.get_interpreter_stack() or []
    grad = _functorch.TransformType.Grad
    return not stack or (
        _GRAPHS_OF_GRAD and all(interpreter.key() == grad for interpreter in stack)
    )


def outside_of_graphs(function: Callable[..., T]) -> Callable[..., T]:
    """The function for calls that torch.compile leaves to Python, with all that it calls.

    torch.compiler.disable is the public name, but it imports torch._dynamo; this is only called
    where that is imported already.
    """
    disabled: Callable[..., T] = torch._dynamo.disable(function)
    return disabled
