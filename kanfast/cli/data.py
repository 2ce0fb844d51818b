"""What the command-line program trains on: scikit-learn's digits, or a CSV file of the user."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Task = Literal["classification", "regression"]

MAX_CLASSES = 20
"""A target of integers with at most this many different values is taken for class labels."""

MIN_ROWS = 20
"""Fewer rows than this leave splits too small to say anything."""


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line and says what to do instead."""


@dataclass(frozen=True)
class Split:
    """Rows of a table: `x` [N, F] in float32; `y` [N] in int64 (classes) or [N, 1] in float32."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> Split:
        """The same rows on `device`."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Data:
    """A table in three splits, its features scaled to [-1, 1], the default grid range of a KAN."""

    name: str
    task: Task
    outputs: int
    train: Split
    validation: Split
    test: Split

    @property
    def features(self) -> int:
        """Number of input features."""
        return self.train.x.shape[1]

    def to(self, device: torch.device) -> Data:
        """The same data on `device`."""
        splits = (split.to(device) for split in (self.train, self.validation, self.test))
        return Data(self.name, self.task, self.outputs, *splits)


def prepare(
    name: str, x: NDArray[np.float64], y: NDArray[np.generic], task: Task, seed: int
) -> Data:
    """Split a table 70 : 10 : 20 into training, validation and test rows, and scale it.

    The rows are dealt out along the sorted target, so every split has its share of every class (or
    range of values). Scales come from the training rows alone: each feature's range there is mapped
    onto [-1, 1] (a constant feature onto 0), the target of a regression to zero mean and unit
    variance.

    Args:
        name: what the data is called in titles.
        x: features [N, F], finite.
        y: target [N]: labels of any kind for a classification, numbers for a regression.
        task: what to predict.
        seed: of the shuffling that decides which row lands in which split.
    """
    if len(x) < MIN_ROWS:
        raise InputError(f"{name} has {len(x)} rows: give at least {MIN_ROWS}")
    values, labels = np.unique(y, return_inverse=True)
    if len(values) < 2:
        raise InputError(f"{name} has one value in its target, {values[0]!s}: nothing to learn")

    shuffled = np.random.default_rng(seed).permutation(len(x))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    turn = np.arange(len(x)) % 10
    rows = [np.sort(dealt[mask]) for mask in (turn >= 3, turn == 0, (turn == 1) | (turn == 2))]

    lo, hi = x[rows[0]].min(0), x[rows[0]].max(0)
    half = np.where(hi > lo, (hi - lo) / 2, 1.0)
    features = torch.tensor((x - (lo + hi) / 2) / half, dtype=torch.float32)
    if task == "classification":
        target = torch.tensor(labels, dtype=torch.int64)
    else:
        numbers = y.astype(np.float64)
        seen = numbers[rows[0]]
        scaled = (numbers - seen.mean()) / (seen.std() or 1.0)
        target = torch.tensor(scaled[:, None], dtype=torch.float32)

    splits = (Split(features[index], target[index]) for index in map(torch.from_numpy, rows))
    return Data(name, task, len(values) if task == "classification" else 1, *splits)


def digits(seed: int) -> Data:
    """The 1797 handwritten digits (8 x 8 pixels, 10 classes) that come with scikit-learn."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return prepare("handwritten digits", x, y, "classification", seed)


def table(
    path: Path, target: str, *, drop: tuple[str, ...] = (), task: Task | None = None, seed: int = 0
) -> Data:
    """Read a CSV file: commas, UTF-8, column names in the first line, a number in every feature.

    Args:
        path: the file.
        target: the column to predict.
        drop: columns to leave out.
        task: what to predict. `None` takes a classification when the target holds something other
            than numbers, or at most `MAX_CLASSES` different whole numbers, else a regression.
        seed: of the split.

    Raises:
        InputError: the file or the named columns cannot be used.
    """
    _, x, answers = _columns(path, target, drop)
    for row, cell in answers.items():
        if cell.lower() in ("", "nan"):
            raise InputError(_missing(path, target, row))
    y: NDArray[np.generic] = np.array(list(answers.values()))
    numeric = all(map(_is_number, answers.values()))
    if task is None:
        task = "classification" if not numeric or _are_labels(y.astype(float)) else "regression"
    if numeric or task == "regression":
        y = np.array([_number(path, target, row, cell) for row, cell in answers.items()])
    return prepare(path.name, x, y, task, seed)


def numbers(
    path: Path, target: str, *, drop: tuple[str, ...] = ()
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Read a CSV file as `table` does, for a regression: features' names, x [N, F] and y [N].

    Raises:
        InputError: the file or the named columns cannot be used, or a column has one value only.
    """
    names, x, answers = _columns(path, target, drop)
    y = np.array([_number(path, target, row, cell) for row, cell in answers.items()])
    if len(x) < MIN_ROWS:
        raise InputError(f"{path.name} has {len(x)} rows: give at least {MIN_ROWS}")
    for name, column in zip((*names, target), (*x.T, y), strict=True):
        if (column == column[0]).all():
            advice = "nothing to learn" if name == target else "leave it out with --drop"
            raise InputError(f"{path.name} has one value in {name!r}, {column[0]}: {advice}")
    return names, x, y


def _columns(
    path: Path, target: str, drop: tuple[str, ...]
) -> tuple[list[str], NDArray[np.float64], dict[int, str]]:
    """The features' names and values [N, F], and the cell of the target by line number."""
    names, cells = _read(path)
    for column in (target, *drop):
        if column not in names:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(names)}")
    kept = [j for j, column in enumerate(names) if column not in (target, *drop)]
    if not kept:
        raise InputError(f"{path} has no column left to predict {target!r} from")
    x = np.array([[_number(path, names[j], row, cells[row][j]) for j in kept] for row in cells])
    answers = {row: line[names.index(target)].strip() for row, line in cells.items()}
    return [names[j] for j in kept], x, answers


def _read(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The column names, and the cells of every line that is not empty by line number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, line) for line in reader if line]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not lines:
        raise InputError(f"{path} has no rows: the first line names the columns, then the data")
    if len(names) < 2:
        raise InputError(f"{path} has one column: separate the columns by commas")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} names {twice[0]!r} twice: give every column its own name")
    for row, line in lines:
        if len(line) != len(names):
            raise InputError(
                f"{path}, line {row}: {len(line)} cells where the header has {len(names)}"
            )
    return names, dict(lines)


def _number(path: Path, column: str, row: int, cell: str) -> float:
    cell = cell.strip()
    if not cell or (_is_number(cell) and not math.isfinite(float(cell))):
        raise InputError(_missing(path, column, row))
    if not _is_number(cell):
        raise InputError(
            f"{path}, line {row}: {column!r} holds {cell!r}, not a number;"
            " encode the column as numbers or leave it out with --drop"
        )
    return float(cell)


def _missing(path: Path, column: str, row: int) -> str:
    return f"{path}, line {row}: no finite value in {column!r}; fill the cell in or remove the line"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _are_labels(values: NDArray[np.float64]) -> bool:
    different = np.unique(values)
    return len(different) <= MAX_CLASSES and bool(np.all(different == np.round(different)))
