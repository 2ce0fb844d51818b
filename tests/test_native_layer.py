"""A layer in one native call each way, from its parameters, against plain torch."""

from functools import partial

import pytest
import torch
from cases import KNOTS, make_basis, make_grid
from torch.autograd import gradcheck, gradgradcheck

from kanfast import kan_linear
from kanfast.engine import layer, native, packing
from kanfast.engine.native import layers as native_layers

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native: {native.obstacle()}")


@pytest.mark.parametrize("with_scaler", [True, False], ids=["scaler", "bare"])
@pytest.mark.parametrize("with_base", [True, False], ids=["base", "splines"])
@pytest.mark.parametrize("shape", [(5, 3, 4), (33, 20, 8), (1, 1, 1), (3, 0, 2)], ids=str)
def test_packing_and_its_gradients_are_those_of_plain_torch(shape, with_base, with_scaler):
    generator = torch.Generator().manual_seed(0)
    weight, edges = torch.randn(shape, generator=generator, dtype=torch.float64), shape[:2]
    base = torch.randn(edges, generator=generator, dtype=torch.float64) if with_base else None
    scaler = torch.randn(edges, generator=generator, dtype=torch.float64).T.contiguous().T
    scaler = scaler if with_scaler else None
    given = [t.requires_grad_() for t in (weight, base, scaler) if t is not None]
    results = []
    for pack in (packing.pack, packing._plain):
        c = pack(weight, base, scaler)
        assert c.is_contiguous()
        (first,) = torch.autograd.grad(c.sin().sum(), given[:1], create_graph=True)
        every = torch.autograd.grad(c.cos().sum(), given, retain_graph=True)
        results.append([c, first, *every, *torch.autograd.grad(first.square().sum(), given[:1])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-14)


class TestWholeLayer:
    """A layer in one call, from its parameters, against packing and `kan_linear` in plain torch."""

    @pytest.mark.parametrize("with_scaler", [True, False], ids=["scaler", "bare"])
    @pytest.mark.parametrize("activation", ["silu", "none"])
    @pytest.mark.parametrize("knots", KNOTS)
    @pytest.mark.parametrize("shape", [(37, 4, 3), (300, 20, 40), (0, 3, 2)], ids=str)
    def test_values_and_gradients(self, shape, knots, activation, with_scaler):
        whole, plain, tensors, g = self.make(shape, knots, activation, with_scaler)
        assert layer.takes(whole.args[0])
        results = []
        for call in (whole, plain):
            y = call()
            # All, and those of the input or of a parameter alone.
            grads = [
                torch.autograd.grad(y, t, g, retain_graph=True) for t in (tensors, tensors[:1])
            ]
            grads += [torch.autograd.grad(y, t, g, retain_graph=True) for t in tensors[1:]]
            results.append([y, *(d for part in grads for d in part)])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("with_scaler", [True, False], ids=["scaler", "bare"])
    @pytest.mark.parametrize("activation", ["silu", "none"])
    def test_gradients_of_gradients(self, activation, with_scaler):
        whole, _, tensors, _ = self.make((5, 3, 2), "uniform", activation, with_scaler)
        assert gradcheck(lambda *_: whole(), tensors)
        assert gradgradcheck(lambda *_: whole(), tensors)

    def test_what_does_not_fit_goes_the_usual_way(self):
        whole, *_ = self.make((5, 3, 2), "uniform", "silu", True)
        x, _, (weight, base, scaler, grid) = whole.args
        for given in (x, x.expand(4, 5, 3), x[:0], x[0], x.float()):
            assert layer.takes(given)
        for given in (x.half(), x.to("meta"), x.sum(), x.int()):
            assert not layer.takes(given)
        basis, dtype = make_basis(), x.dtype
        right = (weight, base, scaler, grid, basis, dtype)
        shape, tensors = layer.fit(*right)
        assert tensors == [weight, base, scaler, grid]
        assert layer.fit(*right)[0] is shape
        for given in (
            (weight, base, scaler, grid, basis, torch.float32),
            (weight[..., :-1], base, scaler, grid, basis, dtype),
            (weight[0], base, scaler, grid, basis, dtype),
            (weight.to("meta"), base, scaler, grid, basis, dtype),
            (weight, base[:, :2], scaler, grid, basis, dtype),
            (weight, base, scaler.T, grid, basis, dtype),
            (weight, base, scaler.float(), grid, basis, dtype),
            (weight, base, scaler.T.contiguous().T, grid, basis, dtype),
            (weight, None, scaler, grid, basis, dtype),
            (weight, base, scaler, grid[:2], basis, dtype),
            (weight, base, scaler, grid.half(), basis, dtype),
            (weight, base, scaler, grid.clone().requires_grad_(), basis, dtype),
            (weight, base, scaler, grid, make_basis(activation="gelu"), dtype),
            (weight, base, scaler, grid, make_basis(4), dtype),
        ):
            assert layer.fit(*given) is None

    @staticmethod
    def make(shape, knots, activation, with_scaler):
        (rows, inputs, outputs), basis = shape, make_basis(5, 3, activation, knots)
        generator = torch.Generator().manual_seed(0)

        def normal(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()

        x, weight = normal(rows, inputs), normal(outputs, inputs, basis.num_splines)
        base = normal(outputs, inputs) if activation != "none" else None
        scaler = normal(outputs, inputs) if with_scaler else None
        grid = make_grid(inputs, basis)

        def plain():
            c = packing._plain(weight, base, scaler)
            return kan_linear(x, c, grid, basis=basis, backend="reference")

        shape, its = layer.fit(weight, base, scaler, grid, basis, x.dtype)
        whole = partial(layer.evaluate, x, native_layers.chain(shape), its)
        tensors = [t for t in (x, weight, base, scaler) if t is not None]
        return whole, plain, tensors, torch.randn(rows, outputs, generator=generator).double()
