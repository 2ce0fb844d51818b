"""Networks of functions, many at a time: values, Jacobians, least squares, standard form, units."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.optimize
import torch
from torch import Tensor

from kanfast.explain.batch import NONE, Batch
from kanfast.explain.constants import simplified
from kanfast.explain.marquardt import fit
from kanfast.explain.moves import neighbours, substitutes
from kanfast.explain.score import description_length, floor_of, free_parameters, price
from kanfast.explain.start import _best
from kanfast.explain.tidy import tidied
from kanfast.explain.units import in_units, inverse
from kanfast.symbolic import SymbolicFunction, compose, default_library

LIBRARY = default_library()
Network = list[dict[tuple[int, int], tuple[str, tuple[float, float, float, float]]]]

EXPSIN: Network = [
    {(0, 0): ("sin", (math.pi, 0.0, 1.0, 0.0)), (0, 1): ("x^2", (1.0, 0.0, 1.0, 0.0))},
    {(0, 0): ("exp", (1.0, 0.0, 1.0, 0.0))},
]


def functions(*names: str) -> tuple[SymbolicFunction, ...]:
    return LIBRARY.select(names or ("x", "x^2", "x^3", "sin", "exp", "tanh", "gaussian", "abs"))


def network(layers: Network, width: list[int], chosen: tuple[SymbolicFunction, ...]) -> Batch:
    """A batch of one: for each layer {(o, i): (function, (a, b, c, d))}."""
    batch = Batch.empty(chosen, width, 1)
    names = [f.name for f in chosen]
    for l, edges in enumerate(layers):
        for (o, i), (name, (a, b, c, d)) in edges.items():
            batch.tables[l][0, o, i] = names.index(name)
            batch.edges[l][0, o, i] = torch.tensor([a, b, c], dtype=torch.float64)
            batch.shifts[l][0, o] += d
    return batch


def random_networks(count: int, width: list[int], chosen: tuple[SymbolicFunction, ...]) -> Batch:
    """Random functions (or none) and parameters, of the forms that fits have."""
    generator = torch.Generator().manual_seed(1)
    batch = Batch.empty(chosen, width, count)
    for l, table in enumerate(batch.tables):
        batch.tables[l] = torch.randint(-1, len(chosen), table.shape, generator=generator)
        edges = torch.randn(*table.shape, 3, generator=generator, dtype=torch.float64)
        for index, function in enumerate(chosen):
            mine = batch.tables[l] == index
            if function.search in ("linear", "quadratic", "location"):
                edges[..., 0] = torch.where(mine, 1.0, edges[..., 0])
            if function.search in ("linear", "rate"):
                edges[..., 1] = torch.where(mine, 0.0, edges[..., 1])
        batch.edges[l] = edges
        batch.shifts[l] = torch.randn(table.shape[:2], generator=generator, dtype=torch.float64)
    return batch


def rows(count: int = 200, inputs: int = 2, low: float = -1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(count, inputs, generator=generator, dtype=torch.float64)
    return low + (1 - low) * unit


def test_values_are_those_of_the_formula() -> None:
    batch = random_networks(20, [3, 2, 2, 2], functions())
    x = rows(50, 3)
    values = batch.nodes(x)[-1]
    for k in range(len(batch)):
        formula = compose(batch.layers(k))
        torch.testing.assert_close(formula(x), values[k].T, rtol=1e-9, atol=1e-9)


def test_jacobian_is_that_of_autograd() -> None:
    batch = random_networks(6, [2, 3, 2], functions())
    x = rows(7)
    values, jacobian = batch.jacobian(x)
    torch.testing.assert_close(values, batch.nodes(x)[-1])
    for k in range(len(batch)):
        one = batch.take([k])

        def outputs(parameters: Tensor, one: Batch = one) -> Tensor:
            return torch.stack([forward(one, parameters, row) for row in x], -1)

        expected = torch.autograd.functional.jacobian(outputs, one.parameters()[0])
        torch.testing.assert_close(jacobian[k], expected.movedim(-1, 0))


def forward(one: Batch, parameters: Tensor, x: Tensor) -> Tensor:
    """A network by loops over its edges, for autograd."""
    start, s = 0, list(x)
    for table in one.tables:
        outputs, inputs = table.shape[1:]
        size = 3 * outputs * inputs
        edges = parameters[start : start + size].reshape(outputs, inputs, 3)
        shifts = parameters[start + size : start + size + outputs]
        start += size + outputs
        sums = []
        for o in range(outputs):
            total = shifts[o]
            for i in range(inputs):
                if table[0, o, i] != NONE:
                    a, b, c = edges[o, i]
                    total = total + c * one.functions[int(table[0, o, i])](a * s[i] + b)
            sums.append(total)
        s = sums
    return torch.stack(s)


def test_least_squares_find_the_parameters_data_were_made_with() -> None:
    x = rows(300)
    y = torch.exp(torch.sin(torch.pi * x[:, [0]]) + x[:, [1]] ** 2)
    batch = network(EXPSIN, [2, 1, 1], functions()).take([0] * 10)
    noise = torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = batch.parameters()
    start += 0.1 * torch.nn.functional.pad(noise, (0, start.shape[1] - 10)) * batch.free()
    found, errors = fit(batch.with_parameters(start), x, y, 60)
    assert errors.max() < 1e-28
    torch.testing.assert_close(found.nodes(x)[-1][0].T, y)


def test_least_squares_agree_with_scipy_on_noisy_data() -> None:
    x = rows(200)
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = torch.stack([torch.tanh(2 * x[:, 0] + x[:, 1]), torch.sin(x[:, 1])], 1) + 0.1 * noise
    scale = torch.tensor([1.0, 0.2], dtype=torch.float64)
    layers: Network = [
        {(0, 0): ("x", (1.0, 0.0, 1.5, 0.1)), (0, 1): ("x", (1.0, 0.0, 1.0, 0.0))},
        {(0, 0): ("tanh", (1.0, 0.0, 1.0, 0.0)), (1, 0): ("sin", (0.5, 0.0, 1.0, 0.0))},
    ]
    one = network(layers, [2, 1, 2], functions())
    _, errors = fit(one, x, y, 200, scale=scale)
    free = one.free()[0]

    def residuals(values):  # type: ignore[no-untyped-def]
        parameters = one.parameters()
        parameters[0, free] = torch.from_numpy(values)
        output = one.with_parameters(parameters).nodes(x)[-1][0].T
        return ((output - y) / scale).flatten().numpy()

    best = scipy.optimize.least_squares(residuals, one.parameters()[0, free].numpy(), xtol=1e-14)
    assert errors.item() == pytest.approx(2 * best.cost / y.numel(), rel=1e-6)


def test_frozen_parameters_stay() -> None:
    x = rows()
    one = network(EXPSIN, [2, 1, 1], functions())
    frozen = torch.zeros(one.free().shape[1], dtype=torch.bool)
    frozen[[0, 7]] = True
    found, error = fit(one, x, x.sum(1, keepdim=True), 30, frozen=frozen)
    moved = (found.parameters() != one.parameters())[0]
    assert not moved[frozen].any()
    assert not moved[~one.free()[0]].any()
    assert moved.any()
    assert error < 10


def test_many_rows_are_fitted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows()
    batch = random_networks(9, [2, 2, 1], functions())
    whole, errors = fit(batch, x, x.prod(1, keepdim=True), 10)
    monkeypatch.setattr("kanfast.explain.marquardt._ELEMENTS", 4 * len(x) * whole.free().shape[1])
    parts, same = fit(batch, x, x.prod(1, keepdim=True), 10)
    torch.testing.assert_close(same, errors)
    torch.testing.assert_close(parts.parameters(), whole.parameters())


def test_price_by_hand() -> None:
    one = network(EXPSIN, [2, 1, 1], functions())
    # sin a, b, c; x^2 b, c; exp a, c; d of the output; less the scale of the hidden node
    assert free_parameters(one).item() == 3 + 2 + 2 + 1 - 1
    assert price(one, 1024).item() == 2 * (2 + 2 + 2) + 7 * 5
    x = rows()
    bits = description_length(one, torch.tensor([0.25]).double(), x, 1024, 1e-30)
    assert bits.item() == pytest.approx(-1024 + 47)


def test_functions_used_as_lines_and_parabolas_are_dearer() -> None:
    x = rows(inputs=1)
    chosen = functions()
    sine = network([{(0, 0): ("sin", (1e-3, 0.0, 1e3, 0.0))}], [1, 1], chosen)
    cosine = network([{(0, 0): ("sin", (2**-10, math.pi / 2, 2.0**20, 0.0))}], [1, 1], chosen)
    none = torch.zeros(1, dtype=torch.float64)
    plain, cancelled = (
        description_length(one, none, x, 100, 1e-20).item() for one in (sine, cosine)
    )
    # 2^20 (cos(x / 1024) - 1) is about x^2 / 2, of which the mean is 1/6
    assert cancelled - plain == pytest.approx(20 + math.log2(3) - 4, abs=0.1)


def test_floor_follows_the_dtype() -> None:
    assert floor_of(torch.float64) == 1e-22
    assert floor_of(torch.float32) == pytest.approx((8 * 2**-23) ** 2)


def test_best_combinations_in_order() -> None:
    table = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table[2, 3] = math.inf
    found = list(_best(table, 40))
    sums = {
        choice: sum(table[e, f].item() for e, f in enumerate(choice))
        for choice in itertools.product(range(5), repeat=4)
    }
    assert found == sorted(sums, key=lambda choice: sums[choice])[:40]


def test_neighbours_are_new_and_each_there_once() -> None:
    batch = random_networks(3, [2, 2, 1], functions("x", "x^2", "sin"))
    batch.tables[0][:] = 0
    batch.tables[1][:] = 1
    found = neighbours(batch.take([0]), rows())
    keys = [found.key(k) for k in range(len(found))]
    assert len(set(keys)) == len(keys)
    own = batch.key(0)
    assert own not in keys
    assert (NONE, *own[1:]) in keys  # an edge less
    assert (NONE, NONE, *own[2:4], NONE, own[5]) in keys  # a node less
    assert (*own[:4], 2, 2) in keys  # a layer changed
    assert (1, own[1], 1, *own[3:]) in keys  # what leaves an input changed


def test_a_substitute_has_the_curve_that_was_there() -> None:
    one = network(EXPSIN, [2, 1, 1], functions("sin", "x^2", "exp", "gaussian"))
    x = rows()
    found = dict(substitutes(one, x))
    assert set(found) == {(0, 0, 0), (0, 1, 0), (1, 0, 0)}
    for (l, i, o), batch in found.items():
        same = int(one.tables[l][0, o, i])
        torch.testing.assert_close(batch.take([same]).nodes(x)[-1], one.nodes(x)[-1])
        assert batch.tables[l][:, o, i].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("names", [(), ("x", "sqrt", "log", "1/x", "1/x^2", "x^1.5")])
def test_standard_form_has_the_same_values(names: tuple[str, ...]) -> None:
    batch = random_networks(100, [2, 2, 1], functions(*names))
    x = rows(low=0.1)
    if names:  # keep all arguments positive
        for l in range(2):
            batch.edges[l] = batch.edges[l].abs() + 0.1
            batch.edges[l][..., 0] = 1
            batch.edges[l][..., 1][batch.tables[l] == 0] = 0
            batch.shifts[l] = batch.shifts[l].abs() + 3
    for k in range(len(batch)):
        one = batch.take([k])
        found, fixed = tidied(one)
        torch.testing.assert_close(found.nodes(x)[-1], one.nodes(x)[-1], rtol=1e-8, atol=1e-8)
        assert (found.parameters()[0][fixed] - 1).abs().max() < 1e-12 if fixed.any() else True
        for l, table in enumerate(found.tables[1:], 1):
            alive = (table != NONE).any(1)[0] & (found.tables[l - 1] != NONE).any(2)[0]
            assert alive.all() or found.width[l] == 1
            assert (found.shifts[l - 1] == 0).all()


def test_standard_form_of_a_network_that_came_out_scaled() -> None:
    layers: Network = [
        {(0, 0): ("sin", (-math.pi, 2 * math.pi, -0.5, 0.3)), (0, 1): ("x^2", (-1, 0, 0.5, 0.1))},
        {(0, 0): ("exp", (2.0, 0.0, math.exp(-0.8), 0.0))},
    ]
    found, fixed = tidied(network(layers, [2, 1, 1], functions()))
    expected = network(EXPSIN, [2, 1, 1], functions())
    torch.testing.assert_close(found.parameters(), expected.parameters(), rtol=0, atol=1e-12)
    assert fixed.nonzero().flatten().tolist() == [7]  # the a of exp


def test_units_and_back() -> None:
    batch = random_networks(50, [2, 2, 2], functions())
    mean = torch.tensor([0.3, -2.0], dtype=torch.float64)
    std = torch.tensor([0.5, 3.0], dtype=torch.float64)
    x = rows()
    for k in range(len(batch)):
        one = batch.take([k])
        there = in_units(one, (mean, std), (2 * mean, std))
        expected = one.nodes((x - mean) / std)[-1] * std[:, None] + 2 * mean[:, None]
        torch.testing.assert_close(there.nodes(x)[-1], expected, rtol=1e-8, atol=1e-8)
        back = in_units(there, inverse((mean, std)), inverse((2 * mean, std)))
        torch.testing.assert_close(back.nodes(x)[-1], one.nodes(x)[-1], rtol=1e-8, atol=1e-8)


def simple(layers: Network, y: Tensor, x: Tensor, width: list[int]) -> Tensor:
    one = network(layers, width, functions())
    scale = y.std(0)
    fitted, _ = fit(one, x, y, 60, scale=scale)
    tidy, fixed = tidied(fitted)
    found = simplified(tidy, fixed, x, y, scale, 1e-22)
    return found.parameters()[0][found.free()[0]]


def test_constants_become_simple_where_data_are_exact() -> None:
    x = rows(300)
    y = torch.exp(torch.sin(torch.pi * x[:, [0]]) / 2 + x[:, [1]] ** 2) - 0.37262
    a, b, c, vertex, square, rate, factor, shift = simple(EXPSIN, y, x, [2, 1, 1]).tolist()
    assert (a, b, c, vertex, square, rate, factor) == (math.pi, 0, 0.5, 0, 1, 1, 1)
    assert shift == pytest.approx(-0.37262, abs=1e-13)  # no simple number, so as it was


def test_constants_become_simple_within_the_noise() -> None:
    x = rows(1000, 1)
    noise = torch.randn(1000, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = 1.7 * torch.sin(2 * x) + 0.01 * noise
    start: Network = [{(0, 0): ("sin", (1.9, 0.1, 1.6, 0.1))}]
    assert simple(start, y, x, [1, 1]).tolist() == [2.0, 0.0, 1.7, 0.0]
