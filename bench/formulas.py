"""How often `KAN.explain` finds the formula that data were made of: `python -m bench.formulas`.

1000 training rows of a function at uniform random points, without noise or with 1% of the labels'
deviation. The seed is that of the points, of the model's first parameters and of `explain`; the
grid has 3, 4 or 5 intervals, in turns. A formula counts if, with its constants rounded to two
digits, it is the function (or the function with its own constants rounded so) on all 1000 test
points up to 1e-9. The CPU time is that of all threads of the process; `explain` has a limit of wall
time that it does not reach.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import sympy
import torch

from bench.records import machine
from kanfast import KAN, create_dataset
from kanfast.symbolic import Formula

_LIMIT = 600.0
RESULTS = Path(__file__).parent / "results" / "formulas.csv"


@dataclass(frozen=True)
class Case:
    name: str
    function: str  # in SymPy's language, of x_1, x_2, ...
    width: tuple[int, ...]
    ranges: tuple[float, float] | tuple[tuple[float, float], ...] = (-1.0, 1.0)
    noise: float = 0.0  # of the labels' deviation


EXPSIN = "exp(sin(pi*x_1) + x_2**2)"
CASES = [
    Case("exp-sin, 5 nodes", EXPSIN, (2, 5, 1)),
    Case("exp-sin, 6 nodes", EXPSIN, (2, 6, 1)),
    Case("product", "x_1*x_2", (2, 5, 1)),
    Case("quotient", "x_1/x_2", (2, 5, 1), (0.5, 2.0)),
    Case("norm", "sqrt(x_1**2 + x_2**2)", (2, 5, 1)),
    Case("sum", "sin(x_1) + x_2**2", (2, 5, 1)),
    Case("bell", "exp(-x_1**2/2)", (1, 5, 1), (-3.0, 3.0)),
    Case("three inputs", "exp(sin(pi*x_1) + x_2**2) + Abs(x_3)", (3, 5, 1)),
    Case("exp-sin, 1% noise", EXPSIN, (2, 5, 1), noise=0.01),
    Case("product, 1% noise", "x_1*x_2", (2, 5, 1), noise=0.01),
]


@dataclass(frozen=True)
class Record:
    case: str
    function: str
    width: str
    ranges: str
    noise: float
    grid_size: int
    seed: int
    found: bool
    formula: str
    test_rmse: float
    network_rmse: float
    cpu_seconds: float
    seconds: float
    torch: str
    threads: int
    commit: str  # of kanfast, with "+" if its files differ


def target(case: Case) -> Formula:
    """The function itself."""
    inputs = tuple(sympy.symbols(f"x_1:{case.width[0] + 1}"))
    return Formula((sympy.sympify(case.function),), inputs)


def dataset_of(case: Case, seed: int) -> dict[str, torch.Tensor]:
    """Its samples."""
    dataset = create_dataset(
        target(case), n_var=case.width[0], ranges=case.ranges, seed=seed, dtype=torch.float64
    )
    if case.noise:
        generator = torch.Generator().manual_seed(10_000 + seed)
        deviation = case.noise * dataset["train_label"].std()
        for name in ("train_label", "test_label"):
            label = dataset[name]
            noise = torch.randn(label.shape, generator=generator, dtype=label.dtype)
            dataset[name] = label + deviation * noise
    return dataset


def is_target(formula: Formula, case: Case, x: torch.Tensor) -> bool:
    """Whether a formula, its constants rounded to two digits, is the function at these points."""
    values = formula.rounded(2)(x)
    truth = target(case)
    (output,) = truth.outputs
    floats = {c: sympy.Float(c) for c in output.atoms(sympy.NumberSymbol)}
    rounded = Formula((output.xreplace(floats),), truth.inputs).rounded(2)
    return any(bool(((values - wanted(x)).abs() < 1e-9).all()) for wanted in (truth, rounded))


def run(case: Case, seed: int, commit: str) -> Record:
    """One formula."""
    dataset = dataset_of(case, seed)
    grid_size = 3 + seed % 3
    torch.manual_seed(seed)
    model = KAN(case.width, grid_size=grid_size, dtype=torch.float64)
    wall, cpu = time.perf_counter(), time.process_time()
    report = model.explain(dataset, seed=seed, seconds=_LIMIT, log=0)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Record(
        case.name, case.function, str(list(case.width)), str(list(case.ranges)), case.noise,
        grid_size, seed, is_target(report.formula, case, dataset["test_input"]),
        str(report.rounded), report.formula_accuracy.rmse, report.numeric_accuracy.rmse,
        round(cpu, 2), round(wall, 2), torch.__version__, torch.get_num_threads(), commit,
    )  # fmt: skip


def table(records: list[Record]) -> str:
    """A line for each case."""
    lines = [f"{'case':<18} {'width':<9} {'found':>7} {'CPU s: median':>14} {'most':>6}"]
    for name in dict.fromkeys(record.case for record in records):
        own = [record for record in records if record.case == name]
        found = f"{sum(record.found for record in own)}/{len(own)}"
        times = [record.cpu_seconds for record in own]
        lines.append(
            f"{name:<18} {own[0].width:<9} {found:>7} {statistics.median(times):>14.1f} "
            f"{max(times):>6.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.formulas", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="0 to N - 1 (%(default)s)")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="some of the cases")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="CSV (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [case.name for case in CASES]
    unknown = sorted(set(options.cases or ()) - set(names))
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [case for case in CASES if not options.cases or case.name in options.cases]
    commit = machine("cpu").commit
    records: list[Record] = []
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, Record.__dataclass_fields__)
        writer.writeheader()
        for case in chosen:
            for seed in range(options.seeds):
                record = run(case, seed, commit)
                records.append(record)
                writer.writerow(asdict(record))
                file.flush()
                mark = "found" if record.found else "MISSED"
                print(
                    f"{case.name}, seed {seed}: {mark}, {record.cpu_seconds:.1f} s CPU, "
                    f"{record.formula[:100]}",
                    flush=True,
                )
    print()
    print(table(records))


if __name__ == "__main__":
    main()
