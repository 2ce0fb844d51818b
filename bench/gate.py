"""The gate before any timing: a wrong result has no speed."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from bench.cases import Data, Weights
from bench.measures import MEASURES, Result
from bench.providers import PROVIDERS, Subject, make_subject

# Of the largest relative error, in the Euclidean norm, of a tensor of the result. For float32 it is
# a hundred times what rounding costs, and it sees a basis that loses digits to cancellation.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 5e-3, "bfloat16": 5e-2, "float16": 1e-2}
ROWS = 2048  # of a batch in float64 at one time


def passes(error: float, dtype: str) -> bool:
    """Whether a result with this error is timed; NaN does not pass."""
    return error <= TOLERANCE[dtype]


def expected(subject: Subject, what: str, data: Data, weights: Weights) -> Result:
    """The result in float64: of the Cox-de Boor recursion, or of a copy of another network."""
    exact = _in_float64(subject)
    exact.load(weights)
    total: Result | None = None
    for part in data.to(subject.device, torch.float64).split(ROWS):
        work = MEASURES["train" if what == "optimize" else what](exact, part)
        result = work.result(work.run(work.prepare()))
        total = _joined(total, result) if total else result
    return total or Result()


def error_of(result: Result, truth: Result) -> float:
    """The largest relative error of a tensor; NaN if anything is NaN."""
    pairs = zip(result.rows + result.sums, truth.rows + truth.sums, strict=True)
    errors = [_error(got, want) for got, want in pairs]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _joined(a: Result, b: Result) -> Result:
    rows = [torch.cat(pair) for pair in zip(a.rows, b.rows, strict=True)]
    return Result(rows, [x + y for x, y in zip(a.sums, b.sums, strict=True)])


def _in_float64(subject: Subject) -> Subject:
    case = replace(subject.case, dtype="float64")
    if subject.provider.edges is not None:
        return make_subject(PROVIDERS["cox-de-boor"], case, subject.device)
    module = copy.deepcopy(subject.module).double()
    return Subject(subject.provider, case, subject.device, module)


def _error(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        raise ValueError(f"a result of shape {list(got.shape)} instead of {list(want.shape)}")
    scale = max(want.norm().item(), torch.finfo(torch.float32).tiny)
    return (got.double() - want).norm().item() / scale
