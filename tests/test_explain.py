"""`KAN.explain`: formulas found, the report on them, and errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import sympy
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor

from kanfast import KAN, create_dataset
from kanfast.explain.report import Explanation
from kanfast.interpret.dataset import Dataset
from kanfast.symbolic import Library

QUICK: dict[str, Any] = {"steps": 10, "restarts": 1, "seconds": 600, "log": 0}


def add(x: Tensor) -> Tensor:
    return torch.sin(3 * x[:, [0]]) + x[:, [1]] ** 2


def make(width: list[int], seed: int = 0, **options: Any) -> KAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KAN(width, grid_size=3, dtype=torch.float64, **options)


def data(f: Any = add, **options: Any) -> Dataset:
    options = {"n_var": 2, "train_num": 200, "test_num": 100, "dtype": torch.float64} | options
    return create_dataset(f, **options)


def same(expr: sympy.Expr, text: str) -> bool:
    """Whether an expression is this one, at points between 1/2 and 2 and to nine digits."""
    names = {str(s): s for s in expr.free_symbols}
    wanted = sympy.sympify(text, locals=names)
    symbols = sorted(expr.free_symbols | wanted.free_symbols, key=str)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        point = (0.5 + 1.5 * torch.rand(len(symbols), generator=generator)).tolist()
        values = dict(zip(symbols, point, strict=True))
        found, expected = (complex(e.evalf(subs=values)) for e in (expr, wanted))
        if abs(found - expected) > 1e-9 * max(1, abs(expected)):
            return False
    return True


@pytest.fixture(scope="module")
def found() -> tuple[KAN, Dataset, Explanation]:
    model, dataset = make([2, 3, 1]), data()
    return model, dataset, model.explain(dataset, **QUICK)


def test_the_formula_is_exact(found: tuple[KAN, Dataset, Explanation]) -> None:
    _, dataset, report = found
    assert same(report.formula.outputs[0], "sin(3*x_1) + x_2**2")
    assert report.exact
    assert report.rounded.outputs == report.formula.outputs
    assert report.digits == 2
    assert report.formula_accuracy.rmse < 1e-14
    assert report.formula_accuracy.r2 > 1 - 1e-14
    # of the network: measured here
    error = report.numeric(dataset["test_input"]) - dataset["test_label"]
    assert report.numeric_accuracy.rmse == pytest.approx(error.square().mean().sqrt().item())
    assert 1e-9 < report.numeric_accuracy.rmse < 0.05


def test_the_formula_as_a_network(found: tuple[KAN, Dataset, Explanation]) -> None:
    _, dataset, report = found
    x = dataset["test_input"]
    torch.testing.assert_close(report.symbolic(x), report.formula(x))
    assert report.symbolic.symbolic_formula()(x).sub(report.formula(x)).abs().max() < 1e-12
    model = report.symbolic.copy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    history = model.fit(dataset, steps=20, log=0, update_grid=False)
    assert history["train_loss"][-1] < 1e-6


def test_edges_and_alternatives(found: tuple[KAN, Dataset, Explanation]) -> None:
    report = found[2]
    assert {"sin", "x^2"} < {edge.best.name for edge in report.edges}
    for edge in report.edges:
        scores = [candidate.score for candidate in edge.candidates]
        assert edge.margin == pytest.approx(scores[1] - scores[0])
        assert scores[1:] == sorted(scores[1:])
    sine = next(edge for edge in report.edges if edge.best.name == "sin")
    assert sine.margin > 1000  # nothing else is exact
    assert sine not in report.uncertain
    first, *others = report.alternatives
    assert same(first.formula.rounded(6).outputs[0], "sin(3*x_1) + x_2**2")
    assert first.error < 1e-13
    assert first.parameters == 6  # sin 3, square 2, and d
    assert all(other.score > first.score for other in others)


def test_text(found: tuple[KAN, Dataset, Explanation]) -> None:
    report = found[2]
    lines = str(report).splitlines()
    assert lines[0] == "y = x_2**2 + sin(3*x_1)"
    assert lines[1] == "Exact on the training rows, up to rounding errors."
    assert any(line.startswith("  network    RMSE ") for line in lines)
    assert report.text(["height"]).startswith("height = ")
    assert r"y &= x_{2}^{2} + \sin{\left(3 \, x_{1} \right)}" in report._repr_latex_()
    assert "<pre>y = x_2**2" in report._repr_html_()


def test_picture(found: tuple[KAN, Dataset, Explanation]) -> None:
    figure = found[2].figure(in_vars=["angle", "length"], out_vars=["height"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    pixels = pixels.reshape(520, 1000, 4)[..., :3].short()
    red = (pixels[..., 0] - pixels[..., 1] > 100).sum(0)
    black = (pixels.amax(-1) < 60).sum(0)
    # black curves on the left, red ones on the right
    assert red[:500].sum() == 0
    assert red[500:].sum() > 300
    assert black[:500].sum() > 300


@pytest.mark.slow
def test_the_model_and_the_generator_stay_as_they_are(
    found: tuple[KAN, Dataset, Explanation],
) -> None:
    model, dataset, report = found
    before, kept = copy.deepcopy(model.state_dict()), dataset["train_label"].clone()
    state = torch.get_rng_state()
    again = model.explain(dataset, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(dataset["train_label"], kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.samples is None
    # and the same call finds the same
    assert again.formula == report.formula
    assert [a.score for a in again.alternatives] == [a.score for a in report.alternatives]


@pytest.mark.slow
def test_a_product_of_a_part_of_the_features() -> None:
    dataset = data(lambda x: x[:, [0]] * x[:, [2]], n_var=3, ranges=(0.5, 2))
    report = make([3, 3, 1], seed=1).explain(dataset, var=["a", "b", "c"], **QUICK)
    assert same(report.formula.rounded(4).outputs[0], "a*c")
    assert report.numeric.width[0] == 3


@pytest.mark.slow
def test_noise_does_not_become_structure() -> None:
    dataset = data(train_num=500)
    generator = torch.Generator().manual_seed(5)
    for name in ("train_label", "test_label"):
        noise = torch.randn(dataset[name].shape, generator=generator, dtype=torch.float64)
        dataset[name] = dataset[name] + 0.02 * noise
    report = make([2, 3, 1]).explain(dataset, **QUICK)
    assert same(report.rounded.outputs[0], "sin(3*x_1) + x_2**2")
    assert not report.exact
    assert report.formula_accuracy.rmse == pytest.approx(0.02, rel=0.2)


def test_two_outputs_and_constants_that_are_not_simple() -> None:
    def two(x: Tensor) -> Tensor:
        return torch.cat([1.2345 * x[:, [0]] ** 2, 1000 * x[:, [0]] - 3], 1)

    dataset = data(two, n_var=1)
    report = make([1, 2, 2]).explain(dataset, lib=["x", "x^2"], **QUICK)
    first, second = report.formula.outputs
    assert same(sympy.N(first, 10), "1.2345*x_1**2")
    assert same(second, "1000*x_1 - 3")
    # exact as it is printed
    assert report.exact
    assert report.digits == 5
    assert str(report).startswith("y_1 = 1.2345*x_1**2\ny_2 = 1000*x_1 - 3\nExact ")


def test_normalisers_are_undone() -> None:
    raw = data(lambda x: 100 * torch.sqrt(x[:, [0]]) + 7, n_var=1, ranges=(10, 60))
    mean, std = raw["train_input"].mean(0), raw["train_input"].std(0)
    out_mean, out_std = raw["train_label"].mean(0), raw["train_label"].std(0)
    scaled = {
        name: (v - mean) / std if name.endswith("input") else (v - out_mean) / out_std
        for name, v in raw.items()
    }
    report = make([1, 2, 1]).explain(
        scaled, normalizer=(mean, std), output_normalizer=(out_mean, out_std), **QUICK
    )
    assert same(report.formula.outputs[0], "100*sqrt(x_1) + 7")
    assert report.formula_accuracy.rmse < 1e-9
    values = report.symbolic(scaled["test_input"]) * out_std + out_mean
    torch.testing.assert_close(values, raw["test_label"])


@pytest.mark.slow
def test_float32_selected_inputs_and_own_functions() -> None:
    library = Library()
    library.add("cubic", _cubic, complexity=1, sympy_fun=_cubic)
    dataset = data(lambda x: 2 * _cubic(x[:, [1]]), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = KAN([2, 2, 1], grid_size=3).prune_input(active_inputs=[1])
    report = model.explain(dataset, lib=library, **QUICK)
    assert same(report.formula.rounded(3).outputs[0], "2*(x_2**3 - x_2)")
    assert report.exact  # as far as float32 goes
    assert report.symbolic(dataset["test_input"]).dtype == torch.float32
    assert report.numeric(dataset["test_input"]).dtype == torch.float32
    torch.testing.assert_close(report.symbolic(dataset["test_input"]), dataset["test_label"])


def _cubic(x: Any) -> Any:
    return x**3 - x


def test_time_is_limited() -> None:
    report = make([2, 4, 1]).explain(
        data(lambda x: torch.sin(5 * x[:, [0]] * x[:, [1]])), steps=3, restarts=0, seconds=1e-3,
        log=0,
    )  # fmt: skip
    assert not report.exact  # the first size only, and no round of the search
    assert len(report.formula.outputs) == 1


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "steps": ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "restarts": ({"restarts": -1}, ValueError, "restarts must be 0 or more, got -1"),
    "penalty": ({"lamb": float("nan")}, ValueError, "lamb must be 0 or more, got nan"),
    "seconds": ({"seconds": 0}, ValueError, "seconds must be above 0, got 0"),
    "digits": ({"digits": 0}, ValueError, "digits must be at least 1, got 0"),
    "unknown function": ({"lib": ["sine"]}, KeyError, "no symbolic function 'sine'"),
    "constants": ({"lib": ["0"]}, ValueError, r"lib must have .* not a constant, got \['0'\]"),
    "variables": ({"var": ["a"]}, ValueError, "expected 2 different variables"),
    "normaliser": (
        {"normalizer": ([0.0, 0.0], [1.0, 0.0])},
        ValueError,
        "expected normalizer of 2 means and 2 standard deviations that are not 0",
    ),
}


@pytest.mark.parametrize(("options", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_arguments(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make([2, 2, 1]).explain(data(), **({"log": 0} | options))


def test_bad_data_and_models() -> None:
    model, dataset = make([2, 2, 1]), data()
    missing = {name: value for name, value in dataset.items() if name != "test_label"}
    with pytest.raises(ValueError, match="dataset must have the keys"):
        model.explain(missing, log=0)
    with pytest.raises(ValueError, match="expected finite values in train_input"):
        model.explain(dataset | {"train_input": dataset["train_input"] / 0}, log=0)
    model.fix_symbolic(0, 0, 0, "sin", fit_params_bool=False)
    with pytest.raises(ValueError, match=r"symbolic edges; call unfix_symbolic_all\(\) first"):
        model.explain(dataset, log=0)
    with pytest.raises(ValueError, match="got one with multiplication nodes or affine maps"):
        make([2, [1, 1], 1]).explain(dataset, log=0)
