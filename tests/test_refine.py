"""Grid extension: knot insertion against scipy's, and models that keep everything else."""

import copy
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import spline_values
from scipy.interpolate import BSpline, insert
from torch import Tensor, nn

from kanfast import KAN, KANLinear, create_dataset, parameter_groups
from kanfast.engine import grid as grids
from kanfast.engine.insertion import insert_knots, merged_knots, regrid, split_knots

DOUBLE = torch.float64


def uneven_knots(inputs: int, grid_size: int, degree: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps = 0.1 + torch.rand(inputs, grid_size + 2 * degree, generator=generator, dtype=DOUBLE)
    return torch.cat([torch.zeros(inputs, 1), steps.cumsum(1)], 1) - 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def curves(x: Tensor, knots: Tensor, coefficients: Tensor) -> np.ndarray:
    """[N, O, I], with scipy's splines."""
    degree = knots.shape[1] - coefficients.shape[2] - 1
    columns = [
        spline_values(x.numpy(), knots[i].numpy(), degree, 0) @ coefficients[:, i].T.numpy()
        for i in range(len(knots))
    ]
    return np.stack(columns, 2)


def test_split_knots_by_hand() -> None:
    knots = torch.tensor([[-2, -1, 0, 1, 3, 4, 5.0]], dtype=DOUBLE)  # G = 2, k = 2
    even = split_knots(knots, 4, 2)
    assert even.tolist() == [[-2, -1, 0, 0.5, 1, 2, 3, 4, 5]]
    uneven = split_knots(knots, 5, 2)
    assert uneven.tolist() == [[-2, -1, 0, 0.5, 1, 1 + 2 / 3, 1 + 4 / 3, 3, 4, 5]]
    assert torch.equal(split_knots(knots, 2, 2), knots)
    assert merged_knots(knots, 1, 2).tolist() == [[-2, -1, 0, 3, 4, 5]]


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_insertion_is_scipys(degree: int) -> None:
    knots = uneven_knots(1, 5, degree)
    coefficients = random(1, 1, 5 + degree)
    at = (knots[0, degree + 1] * 0.3 + knots[0, degree + 2] * 0.7).item()
    padded = np.append(coefficients.numpy().ravel(), np.zeros(degree + 1))
    more, wanted, _ = insert(at, (knots[0].numpy(), padded, degree))
    found = insert_knots(coefficients, knots, torch.from_numpy(more)[None], degree)
    np.testing.assert_allclose(found.numpy().ravel(), wanted[: 6 + degree], rtol=0, atol=1e-13)


@pytest.mark.parametrize("knots", ["uniform", "uneven", "repeated"])
@pytest.mark.parametrize("degree", range(8))
def test_the_function_stays_on_the_whole_support(degree: int, knots: str) -> None:
    for size, new_size in ((1, 1), (3, 9), (4, 7), (5, 40)):
        old = uneven_knots(2, size, degree)
        if knots == "uniform":
            old = grids.uniform_knots((-1, 1), size, degree, 2, dtype=DOUBLE)
        if knots == "repeated" and size > 1:
            middle = old.shape[1] // 2
            old[0, middle] = old[0, middle - 1]
            old[1, 0], old[1, -1] = old[1, 1], old[1, -2]
        coefficients = random(3, 2, size + degree)
        new, found = regrid(coefficients, old, new_size, degree)
        assert new.shape == (2, new_size + 2 * degree + 1)
        assert found.shape == (3, 2, new_size + degree)
        assert (new.diff(dim=1) >= 0).all()
        x = torch.linspace(old.min() - 0.5, old.max() + 0.5, 701, dtype=DOUBLE)
        np.testing.assert_allclose(
            curves(x, new, found), curves(x, old, coefficients), rtol=0, atol=2e-14
        )


def test_many_intervals_and_narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kanfast.engine.insertion._ELEMENTS", 1)  # input by input
    layer = KANLinear(3, 2, grid_size=3, dtype=DOUBLE)
    fine = layer.refine(1000)
    x = torch.linspace(-4, 4, 900, dtype=DOUBLE).reshape(300, 3)
    assert fine.spline_weight.shape == (2, 3, 1003)
    torch.testing.assert_close(fine(x), layer(x), rtol=0, atol=1e-14)


def test_refined_twice_is_refined_once() -> None:
    layer = KANLinear(2, 3, grid_size=5, dtype=DOUBLE)
    twice, once = layer.refine(10).refine(30), layer.refine(30)
    torch.testing.assert_close(twice.grid, once.grid, rtol=0, atol=1e-15)
    torch.testing.assert_close(twice.spline_weight, once.spline_weight, rtol=0, atol=1e-15)


def test_fewer_intervals_by_least_squares() -> None:
    layer = KANLinear(2, 3, grid_size=6, dtype=DOUBLE)
    back = layer.refine(18).refine(6)  # what the coarse grid can represent is found again
    torch.testing.assert_close(back.grid, layer.grid, rtol=0, atol=1e-15)
    torch.testing.assert_close(back.spline_weight, layer.spline_weight, rtol=0, atol=1e-12)
    coarse = layer.refine(4)
    x = torch.linspace(-1, 1, 200, dtype=DOUBLE).reshape(100, 2)
    error, size = (coarse(x) - layer(x)).square().mean(), layer(x).square().mean()
    assert 0 < error < 0.05 * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    layer = KANLinear(2, 3, grid_size=4, scale_noise=2.0, dtype=dtype)
    fine = layer.refine(8)
    assert fine.spline_weight.dtype == dtype
    assert fine.grid.dtype == torch.float32
    x = torch.linspace(-2, 2, 100, dtype=dtype).reshape(50, 2)
    exact = copy.deepcopy(layer).double()(x.double())
    scale = exact.abs().max()
    eps = torch.finfo(dtype).eps
    assert (fine.double()(x.double()) - exact).abs().max() < 4 * eps * scale


def test_all_else_stays() -> None:
    layer = KANLinear(
        2,
        3,
        grid_size=4,
        spline_order=2,
        base_activation=nn.Tanh,
        grid_eps=0.3,
        dtype=DOUBLE,
        backend="reference",
        enable_standalone_scale_spline=False,
    )
    layer.spline_weight.requires_grad_(False)
    layer.set_mask(torch.tensor([[True, False]] * 3))
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    fine = layer.refine(7)
    assert (layer.grid_size, fine.grid_size) == (4, 7)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    assert not fine.spline_weight.requires_grad
    assert fine.base_weight is not None
    assert fine.base_weight.requires_grad
    assert fine.base_weight.data_ptr() != layer.base_weight.data_ptr()
    assert (fine.grid_eps, fine.backend, fine.training) == (0.3, "reference", False)
    assert isinstance(fine.base_activation, nn.Tanh)
    assert torch.equal(fine.mask, layer.mask)
    x = random(20, 2)
    torch.testing.assert_close(fine(x), layer(x), rtol=0, atol=1e-14)
    fine.update_grid(x)  # and it goes on working


def test_layers_of_a_model() -> None:
    model = KAN([2, 3, 1], grid_size=3, dtype=DOUBLE)
    x = 2 * random(50, 2)
    model.get_act(x)
    all_layers = model.refine(10)
    second = model.refine(10, layers=[1])
    assert (model.grid_size, all_layers.grid_size, second.grid_size) == (3, 10, [3, 10])
    assert model.refine(10, layers=[-1]).grid_size == [3, 10]
    for finer in (all_layers, second):
        torch.testing.assert_close(finer(x), model(x), rtol=0, atol=1e-14)
        assert finer.samples is model.samples
    with torch.no_grad():
        for p in all_layers.parameters():
            p.zero_()
    assert model(x).abs().max() > 0
    with pytest.raises(IndexError, match="layers must be among -2 to 1, got 2"):
        model.refine(10, layers=[2])


def test_training_goes_on_where_it_was() -> None:
    data = create_dataset(
        lambda x: torch.sin(3 * x[:, [0]]) + x[:, [1]], train_num=200, test_num=100, dtype=DOUBLE
    )
    torch.manual_seed(0)
    model = KAN([2, 1], grid_size=3, dtype=DOUBLE)
    coarse = model.fit(data, steps=8, log=0)["train_loss"]
    finer = model.refine(12)
    fine = finer.fit(data, steps=8, log=0, update_grid=False)["train_loss"]
    assert fine[0] < coarse[-1]
    assert fine[-1] < 0.1 * coarse[-1]


def test_better_than_pykan_outside_the_old_grid(pykan: Any) -> None:
    theirs = pykan.KAN([1, 1], grid=3, k=3, noise_scale=2.0, auto_save=False)
    ours = KAN.from_pykan(theirs)
    x = torch.linspace(-1, 1, 100)[:, None]
    theirs.get_act(x)
    ours.get_act(x)
    far = torch.linspace(-2.5, 2.5, 200)[:, None]
    before = ours(far)
    torch.testing.assert_close(theirs(far), before, rtol=0, atol=1e-13)
    assert (ours.refine(9)(far) - before).abs().max() < 1e-13
    finer = pykan.KAN([1, 1], grid=9, k=3, auto_save=False)
    finer.initialize_from_another_model(theirs, x)
    assert (finer(far) - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda m: torch.optim.AdamW(
            [
                {"params": m.layers[0].parameters(), "lr": 0.5},
                {"params": m.layers[1].parameters(), "weight_decay": 0.25},
            ],
            lr=0.01,
        ),
        lambda m: torch.optim.SGD(m.named_parameters(), lr=0.1, momentum=0.9),
        lambda m: torch.optim.LBFGS(m.parameters(), history_size=7),
    ],
    ids=["two groups", "named", "LBFGS"],
)
def test_an_optimizer_stays_usable(make_optimizer: Any) -> None:
    model = KAN([2, 3, 1], grid_size=3, dtype=DOUBLE)
    optimizer = make_optimizer(model)
    finer = model.refine(6)
    groups = parameter_groups(optimizer, model, finer)
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    fresh = type(optimizer)(groups)
    assert settings == [{k: v for k, v in g.items() if k != "params"} for g in fresh.param_groups]
    held = [p for group in fresh.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in finer.parameters()}
    x = random(20, 2)
    before = finer(x).detach()

    def closure() -> Tensor:
        fresh.zero_grad()
        loss = finer(x).square().mean()
        loss.backward()
        return loss

    fresh.step(closure)
    assert (finer(x) - before).abs().max() > 0


def test_errors() -> None:
    layer = KANLinear(2, 3)
    with pytest.raises(TypeError, match=r"new_grid_size must be an int, got 7\.0"):
        layer.refine(7.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="new_grid_size must be at least 1, got 0"):
        layer.refine(0)
    nn.utils.parametrizations.weight_norm(layer, "spline_weight")
    with pytest.raises(RuntimeError, match="spline_weight cannot get another size"):
        layer.refine(7)
    model = KAN([2, 1])
    optimizer = torch.optim.Adam(KAN([2, 1]).parameters())
    with pytest.raises(ValueError, match="hold parameters of the old model"):
        parameter_groups(optimizer, model, model.refine(6))
    with pytest.raises(ValueError, match=r"have the parameters \['layers.0"):
        parameter_groups(torch.optim.Adam(model.parameters()), model, nn.Linear(2, 1))


def test_scipy_reads_the_refined_splines() -> None:
    """Refined coefficients are those of the same curve in scipy's own B-spline class."""
    layer = KANLinear(1, 1, grid_size=3, dtype=DOUBLE)
    fine = layer.refine(8)
    x = np.linspace(-0.999, 0.999, 50)
    values = [
        BSpline(m.grid[0].numpy(), m.spline_weight[0, 0].detach().numpy(), 3)(x)
        for m in (layer, fine)
    ]
    np.testing.assert_allclose(*values, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_finer_grids_reach_the_published_errors() -> None:
    """[2, 1, 1] on exp(sin(pi x) + y^2): at least as good as pykan on every grid, and no rise.

    The published errors have two digits; on the coarsest grid both reach its floor.
    """
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "grid_extension.py"))
    with torch.random.fork_rng(devices=[]):
        errors = example["main"]()
    assert all(float(f"{e:.1e}") <= p for e, p in zip(errors, example["PUBLISHED"], strict=True))
    assert errors == sorted(errors, reverse=True)
