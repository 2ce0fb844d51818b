"""Levenberg-Marquardt: its equations against automatic differentiation, what it leaves alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from kanfast import KAN, create_dataset
from kanfast.engine import native, normal
from kanfast.interpret.newton import grids
from kanfast.interpret.newton.marquardt import Problem, equations, iterate
from kanfast.interpret.newton.networks import Networks
from kanfast.interpret.newton.penalty import Penalty
from kanfast.interpret.newton.plan import Plan
from kanfast.nn import symbols


def make(widths: Any, **options: Any) -> KAN:
    torch.manual_seed(0)
    model = KAN(widths, **{"grid_size": 4, "dtype": torch.float64} | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def plain() -> KAN:
    return make([2, 3, 2])


def degree_two_without_residuals() -> KAN:
    return make([2, 3, 1], spline_order=2, base_activation=None)


def steps_and_relu() -> KAN:
    return make([2, 2, 1], spline_order=0, base_activation=nn.ReLU, grid_size=6)


def uneven_knots() -> KAN:
    model = make([2, 2, 1], base_activation=nn.Softplus)
    model.update_grid_from_samples(torch.rand(50, 2, dtype=torch.float64) ** 3)
    return model


def masked() -> KAN:
    model = make([2, 3, 1])
    model.layers[0].set_mask(torch.tensor([[True, False], [True, True], [False, True]]))
    return model


def products() -> KAN:
    return make([2, [1, 1], [1, 1], 2], mult_arity=[[], [3], [2], []], affine_trainable=True)


def symbolic() -> KAN:
    model = make([2, [2, 1], 1], mult_arity=2, affine_trainable=True)
    symbols.fix(model.layers[0], 1, 0, "sin", [1.2, 0.3, 0.7, 0.1])
    symbols.fix(model.layers[0], 2, 1, "x^2", [0.4, 0.3, 0.7, 0.1])
    symbols.fix(model.layers[1], 0, 2, "exp", [0.4, 0.3, 0.7, 0.1])
    return model


def frozen() -> KAN:
    model = make([2, 3, 1])
    model.layers[0].base_weight.requires_grad_(False)
    model.layers[1].spline_weight.requires_grad_(False)
    model.layers[1].spline_scaler.requires_grad_(False)
    return model


def factors_only() -> KAN:
    model = make([2, 3, 1])
    model.layers[0].spline_weight.requires_grad_(False)
    return model


KINDS = [
    plain,
    degree_two_without_residuals,
    steps_and_relu,
    uneven_knots,
    masked,
    products,
    symbolic,
    frozen,
    factors_only,
]
BACKENDS = [
    False,
    pytest.param(
        True, marks=pytest.mark.skipif(not native.available(), reason="needs the native library")
    ),
]


@pytest.fixture(params=BACKENDS, ids=["torch", "native"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(normal.native, "available", lambda: False)


def jacobian(model: KAN, plan: Plan, x: Tensor) -> Tensor:
    """[rows * outputs, P], of effective coefficients, by automatic differentiation."""
    own = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(vector: Tensor) -> Tensor:
        new = dict(own)
        for piece in plan.pieces.values():
            values, layer = vector[piece.at].view(piece.shape), model.layers[piece.layer]
            prefix = f"layers.{piece.layer}."
            if piece.name == "spline":
                new[prefix + "spline_weight"] = values
                new[prefix + "spline_scaler"] = torch.ones_like(own[prefix + "spline_scaler"])
            elif piece.name == "base":
                new[prefix + "base_weight"] = values
            elif piece.name == "symbolic":
                name = prefix + "symbolic.affine"
                new[name] = own[name].index_put(layer.symbolic.edges, values)
            else:
                new[f"nodes.{piece.layer}.{piece.name}"] = values
        return functional_call(model, new, (x,))

    return jacrev(outputs)(plan.read()).flatten(0, 1)


def rows(count: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) * 2.6 - 1.3


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", KINDS)
def test_equations_are_those_of_automatic_differentiation(kind: Callable[[], KAN]) -> None:
    model, x = kind(), rows()
    plan = Plan(model)
    y = torch.randn(len(x), model.width[-1], dtype=torch.float64)
    weight = torch.rand(len(x), dtype=torch.float64)
    networks = Networks.of(plan)
    networks = networks.take(torch.tensor([0, 0]))  # two starts, the same
    torch.testing.assert_close(networks.forward(x), model(x).detach().expand(2, -1, -1))
    problem = Problem(x, y, 0.7, weight)
    root = weight.sqrt().repeat_interleave(model.width[-1])[:, None] / 0.7
    j = jacobian(model, plan, x) * root
    r = (model(x).detach() - y).reshape(-1, 1) * root
    expected = plan.restrict((j.T @ j)[None] / len(r), (j.T @ r).T / len(r))
    for found, wanted in zip(plan.restrict(*equations(networks, problem)), expected, strict=True):
        assert found.shape == (2, *wanted.shape[1:])
        torch.testing.assert_close(found, wanted.expand(found.shape), rtol=1e-10, atol=1e-12)
    error = problem.error(networks)
    torch.testing.assert_close(error, r.square().mean().expand(2))


def test_rows_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from kanfast.interpret.newton import marquardt

    networks = Networks.of(Plan(products()))
    x = rows()
    problem = Problem(x, x.clone(), 1.0, torch.rand(len(x), dtype=torch.float64))
    whole = equations(networks, problem)
    monkeypatch.setattr(marquardt, "_ELEMENTS", 2000)
    assert len(list(problem.chunks(1, networks.plan.dense_width(2, cpu=True)))) > 3
    for a, b in zip(whole, equations(networks, problem), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_penalty_equations_are_those_of_its_value() -> None:
    networks = Networks.of(Plan(plain()))
    penalty = Penalty.of(networks, rows(), torch.tensor([1e-2], dtype=torch.float64))
    h, g = networks.theta.new_zeros(1, *[networks.plan.size] * 2), torch.zeros_like(networks.theta)
    penalty.add(networks, h, g)

    def value(vector: Tensor) -> Tensor:
        return penalty.value(networks.at(vector[None]))[0] / 2

    torch.testing.assert_close(torch.func.grad(value)(networks.theta[0]), g[0])
    torch.testing.assert_close(jacrev(torch.func.grad(value))(networks.theta[0]), h[0])


def test_a_cubic_is_not_rough() -> None:
    """Differences of coefficients of degree + 1 vanish for polynomials of the degree."""
    model = make([1, 1], grid_size=6)
    with torch.no_grad():
        x = torch.linspace(-1, 0.999, 60, dtype=torch.float64)[:, None]
        cubic = (x**3 - x)[:, :, None]
        model.layers[0].spline_weight.copy_(model.layers[0].curve2coeff(x, cubic))
        model.layers[0].spline_scaler.fill_(1)
    networks = Networks.of(Plan(model))
    one = torch.ones(1, dtype=torch.float64)
    rough = networks.at(networks.theta + torch.randn_like(networks.theta))
    penalty = Penalty.of(networks, x, one)
    assert penalty.value(networks) < 1e-12 * penalty.value(rough)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not steps_and_relu])
def test_a_step_lowers_the_error_and_keeps_what_is_frozen(kind: Callable[[], KAN]) -> None:
    model, x = kind(), rows()
    before = copy.deepcopy(dict(model.named_parameters()))
    y = torch.stack([x.prod(1), x.sum(1)], -1)[:, : model.width[-1]]
    networks = Networks.of(Plan(model))
    problem = Problem(x, y, 1.0)
    for found, costs in iterate(networks, lambda _: problem, 8, Penalty.none(networks)):
        last, cost = found, costs
    assert cost[0] < 0.5 * problem.error(networks)[0]
    last.write(0)
    torch.testing.assert_close((model(x) - y).square().mean(), cost[0])
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert changed
    assert all(model.get_parameter(name).requires_grad for name in changed)


def test_grids_follow_without_a_change_of_the_function() -> None:
    model = make([2, 3, 1], grid_size=8, grid_range=[-4, 4])
    x = rows()
    networks = Networks.of(Plan(model))
    moved = grids.follow(networks, x)
    for h, knots in zip(networks.inputs(x), moved.knots, strict=False):
        assert (knots[:, :, 3] <= h.amin(1)).all()
        assert (knots[:, :, -4] >= h.amax(1)).all()
    assert not torch.equal(moved.knots[1], networks.knots[1])
    difference = moved.forward(x) - networks.forward(x)
    assert difference.abs().max() < 0.05 * networks.forward(x).std()
    finer = grids.resized(moved, 32)
    torch.testing.assert_close(finer.forward(x), moved.forward(x), rtol=1e-6, atol=1e-6)
    finer.write(0)
    assert model.grid_size == 32
    torch.testing.assert_close(model(x), finer.forward(x)[0])


def toy(x: Tensor) -> Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)


def test_results_do_not_depend_on_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    data = create_dataset(toy, train_num=100, test_num=20, dtype=torch.float64)
    first = plain_fit(data)
    monkeypatch.setattr(normal.native, "available", lambda: False)
    assert plain_fit(data) == pytest.approx(first, rel=1e-3)


def plain_fit(data: dict[str, Tensor]) -> float:
    torch.manual_seed(0)
    model = KAN([2, 2, 1], grid_size=3, dtype=torch.float64)
    return model.fit(data, "LM", steps=10, restarts=2, log=0)["train_loss"][-1]
