"""The three primitives on CPUs in C++, with the names and signatures of `kanfast.engine.reference`.

Only k + 1 of the G + k splines are not zero at a point, so there is less to add up than in a matrix
product over all of them. The code is compiled when kanfast is installed, for several instruction
sets, of which the best that the processor has is loaded. It needs neither Python nor torch, and
takes pointers to their memory. Without a compiler kanfast installs without it; see `available`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import struct

import torch
from torch import Tensor

from kanfast.engine.activations import activation, sigmoid_derivative
from kanfast.engine.basis import Basis

PRECISIONS = ("float64", "ieee", "tf32x3", "tf32")
# Instruction sets by torch's name for what the processor has, the best one first.
BUILDS = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}
# Operations with whole registers below which other threads are left asleep, as in run.h.
SERIAL_WORK = 100_000

FORWARD, INPUT_GRAD, WEIGHT_GRAD = range(3)
NO_ACTIVATION, GIVEN, SILU = range(3)
CALL = struct.Struct("19q")  # struct Call in problem.h
PACK = struct.Struct("12q")  # struct Pack in pack.h


def available() -> bool:
    """Whether the compiled library is there and fits this processor."""
    return obstacle() is None


def obstacle() -> str | None:
    """Why the library cannot be used, or None if it can."""
    found = _load()
    return found if isinstance(found, str) else None


def forward(
    x: Tensor,
    c: Tensor,
    s: Tensor | None,
    grid: Tensor,
    *,
    basis: Basis,
    deriv: int,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """F_n [B, O], see `kanfast.engine.reference.forward`; precision is one of `PRECISIONS`."""
    y = x.new_empty(x.shape[0], c.shape[2], dtype=_dtype(precision))
    return _as(out_dtype, _run(FORWARD, x, s, c, None, grid, basis, deriv, c.shape[2], y))


def input_grad(
    g: Tensor,
    x: Tensor,
    c: Tensor,
    grid: Tensor,
    *,
    basis: Basis,
    deriv: int,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """P_n [B, I], see `kanfast.engine.reference.input_grad`."""
    dtype = _dtype(precision)
    x = _matrix(x, dtype)
    v = torch.empty_like(x)
    return _as(out_dtype, _run(INPUT_GRAD, x, None, c, g, grid, basis, deriv, c.shape[2], v))


def weight_grad(
    g: Tensor,
    x: Tensor,
    s: Tensor | None,
    grid: Tensor,
    *,
    basis: Basis,
    deriv: int,
    precision: str,
    out_dtype: torch.dtype,
) -> Tensor:
    """W_n [J, I, O], see `kanfast.engine.reference.weight_grad`."""
    outputs = g.shape[1]
    w = x.new_empty(basis.num_functions, x.shape[1], outputs, dtype=_dtype(precision))
    return _as(out_dtype, _run(WEIGHT_GRAD, x, s, None, g, grid, basis, deriv, outputs, w))


def _as(dtype: torch.dtype, t: Tensor) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)


def pack(weight: Tensor, base: Tensor | None, scaler: Tensor | None) -> Tensor:
    """Coefficients as in `kanfast.pack_coefficients`, of float32 or float64 tensors."""
    outputs, inputs, splines = weight.shape
    c = weight.new_empty((splines + (base is not None), inputs, outputs))
    _pack(False, weight, scaler, base, c)
    return c


def unpack(
    dc: Tensor, weight: Tensor, scaler: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of weight, base and scaler, those that are needed, from that of `pack`'s result."""
    edges = weight.shape[:2]
    d_weight = torch.empty(weight.shape, dtype=weight.dtype) if needs[0] else None
    d_base, d_scaler = (weight.new_empty(edges) if need else None for need in needs[1:])
    _pack(True, weight, scaler, None, dc, d_weight, d_scaler, d_base)
    return d_weight, d_base, d_scaler


def _pack(unpack: bool, weight: Tensor, *others: Tensor | None) -> None:
    outputs, inputs, splines = weight.shape
    given = [None if t is None else _plain(t, t.dtype) for t in (weight, *others)]
    threads = torch.get_num_threads() if weight.numel() > SERIAL_WORK else 1
    sizes = (inputs, outputs, splines, threads, unpack)
    addresses = [*map(_address, given), *[0] * (7 - len(given))]
    _library().kanfast_pack(weight.dtype == torch.float64, PACK.pack(*sizes, *addresses))


def _run(
    op: int,
    x: Tensor,
    s: Tensor | None,
    c: Tensor | None,
    g: Tensor | None,
    grid: Tensor,
    basis: Basis,
    deriv: int,
    outputs: int,
    out: Tensor,
) -> Tensor:
    """Writes out, whose dtype is that of the arithmetic, and returns it."""
    rows, inputs = x.shape
    if not (rows and inputs and outputs):
        return out.zero_()
    dtype = out.dtype
    x, grid = _matrix(x, dtype), _plain(grid, grid.dtype)
    s, c = None if s is None else _matrix(s, dtype), None if c is None else _plain(c, dtype)
    if g is not None:
        narrow = _is_narrow(dtype, outputs, basis.degree, basis.grid_size)
        g = _matrix(g, dtype) if narrow else _plain(g, dtype)
    kind, residual, polynomial = NO_ACTIVATION, None, 0
    if basis.activation == "silu":
        kind, polynomial = SILU, _silu_address(deriv)
    elif basis.activation != "none":
        kind, residual = GIVEN, activation(basis.activation, x, deriv).contiguous()
    call = CALL.pack(
        rows,
        inputs,
        outputs,
        basis.grid_size,
        deriv,
        kind,
        torch.get_num_threads(),
        grid.dtype == torch.float64,
        *map(_address, (x, s, c, g, residual, grid)),
        polynomial,
        out.data_ptr(),
        not x.is_contiguous(),
        s is not None and not s.is_contiguous(),
        g is not None and not g.is_contiguous(),
    )
    if _library().kanfast_run(op, dtype == torch.float64, basis.degree, call):
        raise MemoryError(
            f"kanfast.native needs buffers for {inputs} inputs and {outputs} outputs, got no "
            'memory for them: use backend="reference", which needs less'
        )
    return out


def _dtype(precision: str) -> torch.dtype:
    return torch.float64 if precision == "float64" else torch.float32


def _plain(t: Tensor, dtype: torch.dtype) -> Tensor:
    if t.dtype != dtype:
        t = t.to(dtype)
    return resolved(t.contiguous())


def _matrix(t: Tensor, dtype: torch.dtype) -> Tensor:
    """t in this dtype, and so that it or its transpose is contiguous."""
    if t.dtype != dtype:
        t = t.to(dtype)
    return resolved(t if t.is_contiguous() or t.stride() == (1, t.shape[0]) else t.contiguous())


def resolved(t: Tensor) -> Tensor:
    """t, or its copy if it is minus what its memory holds, which a pointer cannot tell.

    So are the imaginary parts of conjugates.
    """
    return t.resolve_neg() if t.is_neg() else t


@functools.cache
def _is_narrow(dtype: torch.dtype, outputs: int, degree: int, grid_size: int) -> bool:
    wide = dtype == torch.float64
    return bool(_library().kanfast_is_narrow(wide, outputs, degree, grid_size))


def _address(t: Tensor | None) -> int:
    if t is None:
        return 0
    address = t.data_ptr()
    if not address and t.numel():
        raise freed_memory(f"a tensor of shape {list(t.shape)}")
    return address


def freed_memory(what: str) -> RuntimeError:
    """What to raise for a tensor whose memory is gone."""
    return RuntimeError(
        f"{what} must have memory for its numbers, got a storage that was freed: give it back "
        "before the call, as frameworks do that free and gather parameters (FSDP), or make the "
        "tensor anew"
    )


@functools.cache
def _silu_powers(n: int) -> ctypes.Array[ctypes.c_double] | None:
    """The polynomials of the sigmoid's derivatives of orders n and n - 1, of n + 1 and n powers."""
    powers = []
    for order in (n, n - 1):
        polynomial = sigmoid_derivative(order) if order > 0 else ()
        powers += [*polynomial, *[0.0] * (order + 1 - len(polynomial))]
    return (ctypes.c_double * len(powers))(*powers) if n else None


@functools.cache
def _silu_address(n: int) -> int:
    """Where they are, which is the same as long as the program runs."""
    powers = _silu_powers(n)
    return 0 if powers is None else ctypes.addressof(powers)


def _library() -> ctypes.CDLL:
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(f"kanfast.native must be built, but {library}")
    return library


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    for build in BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("baseline",)):
        spec = importlib.util.find_spec(f"kanfast.engine.native._{build}")
        if spec is None or spec.origin is None:
            continue
        try:
            library = ctypes.CDLL(spec.origin)
        except OSError as error:
            return f"its library cannot be loaded ({error})"
        library.kanfast_run.argtypes = [ctypes.c_int] * 3 + [ctypes.c_char_p]
        library.kanfast_layer.argtypes = [ctypes.c_int] * 2 + [ctypes.c_char_p]
        library.kanfast_is_narrow.argtypes = [ctypes.c_int, ctypes.c_int64] * 2
        library.kanfast_pack.argtypes = [ctypes.c_int, ctypes.c_char_p]
        library.kanfast_normal.argtypes = [ctypes.c_int] * 2 + [ctypes.c_char_p]
        return library
    return "it was not compiled for this processor when kanfast was installed"
