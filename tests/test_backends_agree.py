"""All backends of a CPU on random knots, equal and not, against B-splines of scipy.

x is anywhere: between knots, on them and far outside, where splines are zero. The error may be what
a number of roundings of the knots, of x and of the results make.
"""

from __future__ import annotations

from dataclasses import dataclass

import oracle
import pytest
import torch
from cases import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kanfast import Basis
from kanfast.engine import native
from kanfast.engine.layer import layer
from kanfast.engine.primitives import Spec, contract

ROUNDINGS = 100
BACKENDS = ["reference"]
if native.available():
    BACKENDS.append("native")


@dataclass
class Case:
    """Tensors of one layer, its functions, and their values with bounds of the error."""

    basis: Basis
    dtype: torch.dtype
    grid: Tensor
    x: Tensor
    seed: int

    def normal(self, *size: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + sum(size))
        return torch.randn(size, generator=generator, dtype=torch.float64).to(self.dtype)

    def functions(self, deriv: int) -> tuple[Tensor, Tensor]:
        """Values and bounds [B, I, J] in float64."""
        x, grid, basis = self.x.double(), self.grid.double(), self.basis
        values = oracle.basis_values(x, grid, basis, deriv)
        eps = torch.finfo(self.dtype).eps
        bounds = torch.zeros_like(values)
        for i, knots in enumerate(grid):
            exact = splines(x[:, i], knots, basis.degree, deriv, -1)
            known = values[:, i, : basis.num_splines]
            torch.testing.assert_close(exact, known, rtol=0, atol=1e-8 * max(1, known.abs().max()))
            values[:, i, : basis.num_splines] = exact
            reach = knots.abs().max()
            for at in (
                *(x[:, i] + n * eps * reach for n in (-4, 0, 4)),
                *cell_points(x[:, i], knots),
            ):
                own, slope = (splines(at, knots, basis.degree, deriv + n, 1) for n in (0, 1))
                bound = bounds[:, i, : basis.num_splines]
                torch.maximum(bound, own + reach * slope, out=bound)
        if basis.activation != "none":
            bounds[..., -1] = 1 + x.abs()
        return values, ROUNDINGS * eps * bounds


def cell_points(x: Tensor, knots: Tensor) -> list[Tensor]:
    """Points of the cells where x [N] is: polynomials of a cell may round as all of it does."""
    last = torch.searchsorted(knots, x.contiguous(), right=True).clamp(1, len(knots) - 1)
    inside = (x >= knots[0]) & (x < knots[-1])
    low, high = knots[last - 1], knots[last]
    return [torch.where(inside, low + n * (high - low), x) for n in (0, 0.25, 0.5, 0.75)]


def splines(x: Tensor, knots: Tensor, degree: int, deriv: int, sign: int) -> Tensor:
    """[N, G+k]: derivatives as differences of scipy's splines of a lower degree.

    They are closer where a spline begins and ends than scipy's, which are sums of powers. Sums in
    the place of the differences, with a sign of 1, are what rounding errors are small against.
    """
    if deriv > degree:
        return torch.zeros(len(x), len(knots) - degree - 1, dtype=torch.float64)
    low = oracle.spline_values(x.numpy(), knots.numpy(), degree - deriv, 0)
    values = torch.from_numpy(low)
    for d in range(degree - deriv + 1, degree + 1):
        width = knots[d:] - knots[:-d]
        values = values * torch.where(width > 0, d / width, 0)
        values = values[:, :-1] + sign * values[:, 1:]
    return values


@st.composite
def cases(draw: st.DrawFn, rows: int = 12, inputs: int = 3) -> Case:
    degree = draw(st.integers(0, 7))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    basis = Basis(draw(st.integers(1, 6)), degree, draw(st.sampled_from(["silu", "none"])), False)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    equal = basis.num_knots == 2 or draw(st.booleans())
    widths = torch.rand(inputs, basis.num_knots - 1, generator=generator, dtype=torch.float64)
    widths = torch.ones_like(widths) if equal else 0.05 + widths
    if not equal and draw(st.booleans()):  # knots that coincide, as often as may be
        at = draw(st.integers(0, basis.num_knots - 2))
        widths[:, at : at + draw(st.integers(1, degree + 1))] = 0
        widths[:, -1] += widths.sum(1) == 0
    scale = draw(st.sampled_from([0.01, 1.0, 100.0]))
    knots = torch.nn.functional.pad(widths.cumsum(1), (1, 0)) - draw(st.integers(0, 5))
    grid = (scale * knots).to(dtype)
    x = torch.rand(rows, inputs, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    x = (grid[:, 0] + x * (grid[:, -1] - grid[:, 0]).double()).to(dtype)
    far = draw(st.sampled_from([3.0, 100.0, 1e5]))
    x[0], x[1] = grid[:, -1] + far * scale, grid[:, 0] - far * scale
    if not equal:  # of equal knots only the ends are read, and the others rounded otherwise
        x[2], x[3] = grid[:, draw(st.integers(0, basis.num_knots - 1))], grid[:, -1]
    return Case(basis, dtype, grid, x, draw(st.integers(0, 2**20)))


def device_of(backend: str) -> str:
    return DEVICE if backend == "triton" else "cpu"


def close(got: Tensor, want: Tensor, bound: Tensor, what: str) -> None:
    got = got.detach().cpu()
    excess = (got.double() - want).abs() - bound
    largest = excess.nan_to_num(torch.inf).amax().item()
    assert largest <= 0, f"{what}: off by {largest:.3g} more than it may be"


def check_primitives(case: Case, deriv: int, backend: str, outputs: int = 4) -> None:
    basis, rows, inputs = case.basis, *case.x.shape
    c = case.normal(basis.num_functions, inputs, outputs)
    g, s = case.normal(rows, outputs), case.normal(rows, inputs)
    precision = "float64" if case.dtype == torch.float64 else "ieee"
    spec = Spec(basis, deriv, precision, backend)
    tensors = {"x": case.x, "c": c, "g": g, "s": s, "grid": case.grid}
    tensors = {name: t.to(device_of(backend)) for name, t in tensors.items()}
    f, bound = case.functions(deriv)
    c64, g64, s64 = c.double(), g.double(), s.double()
    wants = {
        "g": lambda f, c, g, s: torch.einsum("bi,bij,jio->bo", s, f, c),
        "s": lambda f, c, g, s: torch.einsum("bo,bij,jio->bi", g, f, c),
        "c": lambda f, c, g, s: torch.einsum("bo,bi,bij->jio", g, s, f),
    }
    for missing, want in wants.items():
        got = contract(missing, tensors, spec, case.dtype)
        may = want(bound, c64.abs(), g64.abs(), s64.abs())
        close(got, want(f, c64, g64, s64), may, f"{missing} by {backend}")


def check_layer(case: Case, backend: str, outputs: int = 4) -> None:
    basis, rows, inputs = case.basis, *case.x.shape
    n = basis.num_splines
    residual = basis.activation != "none"
    weight, base = case.normal(outputs, inputs, n), case.normal(outputs, inputs)
    scaler, g = case.normal(outputs, inputs, 1)[..., 0], case.normal(rows, outputs)
    device = device_of(backend)
    tensors = [case.x, weight, scaler, *([base] if residual else [])]
    tensors = [t.to(device, copy=True).requires_grad_() for t in tensors]
    x, weight, scaler, *rest = tensors
    base = rest[0] if rest else None
    y = layer(x, weight, base, scaler, case.grid.to(device), basis=basis, backend=backend)
    got = (y, *torch.autograd.grad(y, tensors, g.to(device)))
    (f, may), (df, d_may) = case.functions(0), case.functions(1)

    def results(f: Tensor, df: Tensor, g: Tensor, *parameters: Tensor) -> list[Tensor]:
        w, sc, *b = parameters
        c = torch.cat([w * sc[..., None], *(t[..., None] for t in b)], dim=2)
        of_weight = torch.einsum("bo,bij->oij", g, f)
        made = [
            torch.einsum("bij,oij->bo", f, c),
            torch.einsum("bo,bij,oij->bi", g, df, c),
            of_weight[..., :n] * sc[..., None],
            (of_weight[..., :n] * w).sum(-1),
        ]
        return [*made, of_weight[..., n]] if b else made

    wide = [t.detach().cpu().double() for t in tensors[1:]]
    want = results(f, df, g.double(), *wide)
    bounds = results(may, d_may, g.double().abs(), *(t.abs() for t in wide))
    names = ("y", "dx", "d_weight", "d_scaler", "d_base")[: len(got)]
    for name, a, b, bound in zip(names, got, want, bounds, strict=True):
        close(a, b, bound, f"{name} by {backend}")


def orders(basis: Basis) -> st.SearchStrategy[int]:
    """Of derivatives; those of the residual have polynomials, and tests, of their own."""
    return st.integers(0, basis.degree + 1 if basis.activation == "none" else 2)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=50, deadline=None)
@given(case=cases(), data=st.data())
def test_primitives(backend: str, case: Case, data: st.DataObject) -> None:
    check_primitives(case, data.draw(orders(case.basis)), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=50, deadline=None)
@given(case=cases())
def test_layers(backend: str, case: Case) -> None:
    check_layer(case, backend)


@settings(max_examples=4, deadline=None)
@given(case=cases(rows=6, inputs=2), data=st.data())
def test_primitives_by_triton(case: Case, data: st.DataObject) -> None:
    check_primitives(case, data.draw(orders(case.basis)), "triton", outputs=2)


@settings(max_examples=3, deadline=None)
@given(case=cases(rows=6, inputs=2))
def test_layers_by_triton(case: Case) -> None:
    check_layer(case, "triton", outputs=2)
