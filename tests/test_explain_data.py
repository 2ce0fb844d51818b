"""`KAN.explain` on data of every kind: units, names, widths, targets without a formula, time."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import sympy
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor

from kanfast import KAN, create_dataset_from_data
from kanfast.explain.batch import Batch
from kanfast.explain.lines import line
from kanfast.explain.picture import _fitting
from kanfast.explain.report import Explanation
from kanfast.explain.scaling import Scaling
from kanfast.explain.score import description_length
from kanfast.explain.search import cut, ranked
from kanfast.explain.shorten import relative_error, shortened
from kanfast.plot.text import text_width
from kanfast.symbolic import Formula, default_library

LIBRARY = default_library()
FEW = ["x", "x^2", "sin"]
a, b = sympy.symbols("a b")


def uniform(rows: int, columns: int, low: float = -1, high: float = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    return low + (high - low) * unit


def normal(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explain(x: Tensor, y: Tensor, hidden: int = 1, **options: Any) -> Explanation:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = KAN([x.shape[1], hidden, y.shape[1]], grid_size=3, dtype=x.dtype)
    quick = {"steps": 8, "restarts": 0, "seconds": 60, "log": 0, "lib": FEW}
    return model.explain(create_dataset_from_data(x, y), **(quick | options))


def values(report: Explanation, x: Tensor) -> Tensor:
    return report.rounded(x)


@pytest.mark.parametrize(
    ("inputs", "labels", "offset"),
    [
        (1, 1e-12, 0),
        (1, 1e8, 0),
        (1, 1e-30, 0),
        (1, 1e30, 0),
        (1e-6, 1, 0),
        (1e6, 1, 0),
        (1, 1, 1e6),
    ],
    ids=str,
)
def test_units_do_not_matter(inputs: float, labels: float, offset: float) -> None:
    unit = uniform(150, 1)
    x, y = inputs * unit, labels * (2 * unit**2 + unit + offset)
    report = explain(x, y)
    assert report.exact
    assert not report.constant
    error = (values(report, x) - y).abs().max().item()
    assert error <= 1e-9 * labels * max(1.0, offset)


def test_significant_digits_are_printed_and_exact_is_what_is_printed() -> None:
    x = uniform(200, 2) * torch.tensor([1.0, 1e9], dtype=torch.float64)
    report = explain(x, x[:, :1] + 2.345e-9 * x[:, 1:], var=["a", "b"])
    assert str(report).splitlines()[0] == "y = a + 2.345e-9*b"
    assert report.exact
    few = explain(x, x[:, :1] + 2.345e-9 * x[:, 1:], var=["a", "b"], digits=2)
    assert str(few).splitlines()[:2] == [
        "y = a + 2.3e-9*b",
        "Exact on the training rows with all digits of its constants, but not as printed.",
    ]
    assert not few.exact


TARGETS = {
    "noise": (uniform(100, 2), normal(100)),
    "a tiny table": (uniform(8, 2), normal(8)),
    "five rows": (uniform(5, 1), normal(5)),
    "tiny noise": (uniform(60, 1), 1e-12 * normal(60)),
    "constant": (uniform(40, 2), torch.full((40, 1), 3.25, dtype=torch.float64)),
    "zero": (uniform(40, 2), torch.zeros(40, 1, dtype=torch.float64)),
    "constant feature": (torch.ones(50, 1, dtype=torch.float64), normal(50)),
    "two outputs": (uniform(60, 1), torch.cat([normal(60), normal(60, 2)], 1)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_mean_where_nothing_is_better(name: str) -> None:
    x, y = TARGETS[name]
    report = explain(x, y, seconds=15)
    assert report.constant
    assert "Nothing was found that is better than the mean of the labels." in str(report)
    train = create_dataset_from_data(x, y)["train_label"]
    error = (report.formula(x)[0] - train.mean(0)).abs()
    assert (error <= 3 * train.std(0, correction=0) / math.sqrt(len(train))).all()
    assert report.edges == ()
    torch.testing.assert_close(report.symbolic(x), report.formula(x))
    FigureCanvasAgg(report.figure()).draw()


def test_inputs_that_do_not_matter_are_not_in_the_formula() -> None:
    x = uniform(400, 10)
    y = x[:, :1] ** 2 + x[:, 1:2] + 0.05 * normal(400)
    report = explain(x, y)
    assert {str(s) for s in report.rounded.outputs[0].free_symbols} == {"x_1", "x_2"}


@pytest.mark.parametrize(("rows", "columns"), [(500, 10), (300, 30), (40, 300)])
def test_time_and_memory_of_wide_tables(rows: int, columns: int) -> None:
    x = uniform(rows, columns)
    y = 2 * x[:, :1] + x[:, 2:3] + 0.1 * normal(rows)
    explain(x[:20, :2], y[:20], steps=1, seconds=1)  # imports
    peak = _peak_memory()
    start, began = time.process_time(), time.monotonic()
    report = explain(x, y, hidden=5, lib=None, seconds=3, restarts=4, steps=20)
    used = min(time.process_time() - start, time.monotonic() - began)
    assert used < 1.1 * 3 + 1
    assert _peak_memory() - peak < 500e6
    assert report.formula_accuracy.r2 > 0.9
    assert {sympy.Symbol("x_1"), sympy.Symbol("x_3")} <= report.formula.outputs[0].free_symbols


def _peak_memory() -> float:
    import resource

    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_many_rows_are_fitted_all() -> None:
    x = uniform(20_000, 1)
    y = 1.23456 * x + 0.03 * normal(20_000)
    report = explain(x, y, lib=["x"])
    train = create_dataset_from_data(x, y)
    design = torch.cat([train["train_input"], torch.ones(16_000, 1, dtype=torch.float64)], 1)
    slope = torch.linalg.lstsq(design, train["train_label"]).solution[0].item()
    found = float(sympy.diff(report.formula.outputs[0], *report.formula.inputs))
    assert found == pytest.approx(slope, abs=0.001)


def test_variables_are_real_where_formulas_are_simplified() -> None:
    x = uniform(100, 1)
    report = explain(torch.cat([x, 3 * x], 1), x / 2, lib=["x", "exp", "log"], var=["a", "b"])
    assert str(report).splitlines()[0] in ("y = a/2", "y = b/6")


@pytest.mark.parametrize("name", ["sin", "pi", "E", "lambda", "__class__", "50%", "a-b", "1", "{"])
def test_columns_of_any_name(name: str) -> None:
    x = uniform(150, 1)
    report = explain(x, x**2 + x, var=[name])
    assert report.exact
    torch.testing.assert_close(values(report, x), x**2 + x)
    FigureCanvasAgg(report.figure(out_vars=[name])).draw()


def test_formulas_that_leave_their_domain_are_worse_than_the_mean() -> None:
    functions = LIBRARY.select(["x", "sqrt", "1/x", "log", "tan", "arcsin"])
    x = uniform(80, 1)
    y = (x - x.mean()) / x.std(correction=0)

    def score(name: str, shift: float, error: float) -> float:
        batch = Batch.empty(functions, [1, 1], 1)
        batch.tables[0].fill_([f.name for f in functions].index(name))
        batch.edges[0][..., 1] = shift
        errors = torch.tensor([error], dtype=torch.float64)
        return description_length(batch, errors, x, len(y), 1e-22).item()

    mean = description_length(
        Batch.empty(functions, [1, 1], 1), torch.ones(1, dtype=torch.float64), x, len(y), 1e-22
    ).item()
    for name, shift in (
        ("sqrt", -5 / 6),
        ("log", 0.5),
        ("1/x", 0.1),
        ("tan", 1.0),
        ("arcsin", 0.5),
    ):
        assert score(name, shift, 1e-3) > mean, name
    for name, shift in (("sqrt", 1.5), ("log", 1.5), ("1/x", 1.5), ("1/x", -1.5), ("tan", 0.1)):
        assert score(name, shift, 1e-3) < mean, name
    assert score("1/x", 0.1, 1e-25) < mean  # the data show the pole
    assert score("sqrt", -5 / 6, 1e-25) > mean  # but no function outside of its domain


def test_edges_that_cost_more_than_they_explain_are_cut() -> None:
    functions = LIBRARY.select(["x", "x^2"])
    x = uniform(300, 6)
    y = x[:, :1] + 0.1 * normal(300)
    y = (y - y.mean()) / y.std(correction=0)
    batch = Batch.empty(functions, [6, 1], 1)
    batch.tables[0].fill_(0)
    whole = ranked(batch, x, y, 1e-22, 20, math.inf)
    small = cut(whole, x, y, 1e-22, math.inf)
    assert small.batch.used_inputs == [0]
    assert small.scores[0] < whole.scores[0]


def test_a_line_has_the_inputs_that_matter() -> None:
    functions = LIBRARY.select(["x^2", "x"])
    x = uniform(60, 200)
    y = 3 * x[:, 4:5] - 1e-3 * x[:, 70:71]
    found = line(functions, [200, 1, 1], x, y - y.mean())
    assert found.used_inputs == [4, 70]
    nothing = line(functions, [200, 1, 1], x, normal(60))
    assert len(nothing.used_inputs) <= 1


def test_written_formulas_are_shortened_by_what_the_data_say() -> None:
    x = uniform(100, 2)
    y = (x[:, :1] / 3 + x[:, 1:]) * 1e-9
    long = Formula(
        ((sympy.Float(1e-9 / 3) * a + 1e-9 * b) + 3e-26 * a * b - sympy.Float(2e-25),), (a, b)
    )
    spread = y.std(0, correction=0)
    short = shortened(long, x, y, spread, 1e-22, math.inf)
    assert len(sympy.Add.make_args(sympy.expand(short.outputs[0]))) == 2
    assert relative_error(short, x, y, spread) < 1e-22
    # where a term is all there is to a small unit, it stays
    small = Formula((a + sympy.Float(1e-12) * b,), (a, b))
    rows = x * torch.tensor([1.0, 1e9], dtype=torch.float64)
    target = small(rows)
    kept = shortened(small, rows, target, target.std(0, correction=0), 1e-22, math.inf)
    assert kept.outputs == small.outputs


def test_a_formula_without_values_is_infinitely_wrong() -> None:
    x = uniform(10, 1)
    for expr in (sympy.sqrt(a), sympy.log(a), sympy.zoo * a):
        assert relative_error(Formula((expr,), (a,)), x, x, torch.ones(1)) == math.inf


def test_scaling_leaves_ordinary_columns_alone() -> None:
    x, y = uniform(50, 2), uniform(50, 1, seed=3)
    data = create_dataset_from_data(x, y)
    scaled = Scaling.of(data).scaled(data)
    assert all(torch.equal(scaled[name], data[name]) for name in data)
    data = create_dataset_from_data(1e6 * x + 5e6, 1e-9 * y)
    scaled = Scaling.of(data).scaled(data)
    assert scaled["train_input"].abs().amax(0).tolist() == pytest.approx([1, 1])
    assert scaled["train_label"].std(correction=0).item() == pytest.approx(1)


@pytest.mark.parametrize("terms", [1, 3, 8, 30])
def test_the_formula_fits_into_the_picture(terms: int) -> None:
    forms = [sum(sympy.sin(sympy.Float(k + 0.1234567) * a) * b for k in range(terms))] * 2
    line_of, font = _fitting("y", iter(forms))
    assert text_width(line_of, font) <= 9.6
    assert "..." not in line_of
    if terms == 30:
        assert line_of.startswith("y = a formula of ")
