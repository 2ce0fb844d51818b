"""Datasets as pykan lays them out: a dict of train_input, train_label, test_input, test_label.

For the same seed the numbers are those of pykan 0.2. They come from generators made here, so the
global ones of torch and NumPy stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Dataset = dict[str, Tensor]
KEYS = ("train_input", "train_label", "test_input", "test_label")


def create_dataset(
    f: Callable[[Tensor], Tensor],
    n_var: int = 2,
    f_mode: Literal["col", "row"] = "col",
    ranges: Sequence[float] | Sequence[Sequence[float]] = (-1, 1),
    train_num: int = 1000,
    test_num: int = 1000,
    normalize_input: bool = False,
    normalize_label: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    dtype: torch.dtype | None = None,
) -> Dataset:
    """Samples of a function at random points.

    Args:
        f: The function. With f_mode "col" it takes [N, n_var] and returns [N, outputs] or [N]; with
            "row" it takes [n_var, N].
        n_var: Number of variables.
        f_mode: "col" or "row".
        ranges: (low, high) of all variables, or one pair for each.
        train_num, test_num: Numbers of rows.
        normalize_input, normalize_label: Shift and scale columns to mean 0 and standard deviation 1
            of the training rows.
        device: Where the result goes; numbers are drawn, and f is called, on the CPU.
        seed: Of the points.
        dtype: Of the points; torch's default dtype if None.

    Returns:
        train_input [train_num, n_var], train_label [train_num, outputs], test_input, test_label.

    Raises:
        ValueError: Arguments that do not fit, or labels of another shape.
    """
    if f_mode not in ("col", "row"):
        raise ValueError(f'f_mode must be "col" or "row", got {f_mode!r}')
    bounds = _bounds(ranges, n_var)
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[Tensor]] = {"train": [], "test": []}
    for low, high in bounds:
        for split, count in (("train", train_num), ("test", test_num)):
            unit = torch.rand(count, generator=generator, dtype=dtype)
            columns[split].append(unit * (high - low) + low)
    dataset = {}
    for split, values in columns.items():
        points = torch.stack(values, dim=1)
        dataset[f"{split}_input"] = points
        dataset[f"{split}_label"] = _labels(f, points, f_mode)
    for part, wanted in (("input", normalize_input), ("label", normalize_label)):
        if wanted:
            train = dataset[f"train_{part}"]
            mean, std = train.mean(dim=0, keepdim=True), train.std(dim=0, keepdim=True)
            std = torch.where(std > 0, std, 1)
            for split in columns:
                dataset[f"{split}_{part}"] = (dataset[f"{split}_{part}"] - mean) / std
    return {key: dataset[key].to(device) for key in KEYS}


def create_dataset_from_data(
    inputs: Any,
    labels: Any,
    train_ratio: float = 0.8,
    device: torch.device | str | None = None,
    *,
    seed: int = 0,
) -> Dataset:
    """Given rows, split at random into training and test rows.

    Args:
        inputs: [N, features], a tensor, an array or a data frame.
        labels: [N, outputs], the same. Fractions in an array [N] become [N, 1].
        train_ratio: Share of the training rows, rounded down.
        device: Where the result goes; None leaves it where the data are.
        seed: Of the split (pykan takes NumPy's global generator: same split after
            `numpy.random.seed(seed)`).

    Raises:
        ValueError: Numbers of rows that differ, or a ratio outside 0 to 1.
    """
    inputs, labels = as_tensor("inputs", inputs), as_tensor("labels", labels)
    rows = len(inputs)
    if len(labels) != rows:
        raise ValueError(f"inputs have {rows} rows, but labels {len(labels)}")
    if not 0 <= train_ratio <= 1:
        raise ValueError(f"train_ratio must be 0 to 1, got {train_ratio}")
    picked = np.random.RandomState(seed).choice(rows, int(rows * train_ratio), replace=False)
    rest = np.setdiff1d(np.arange(rows), picked)
    dataset = {}
    for split, index in (("train", picked), ("test", rest)):
        for part, data in (("input", inputs), ("label", labels)):
            chosen = data.detach()[torch.from_numpy(index).to(data.device)]
            dataset[f"{split}_{part}"] = chosen if device is None else chosen.to(device)
    return {key: dataset[key] for key in KEYS}


def check_dataset(dataset: Any, *, like: Tensor | None = None) -> Dataset:
    """The four tensors of a dataset.

    Args:
        dataset: A mapping of tensors; arrays and data frames become tensors.
        like: Whose dtype and device numbers in arrays get; torch's default dtype on the CPU if
            None.

    Raises:
        TypeError: Not a mapping of tensors.
        ValueError: A missing key, no rows, or inputs and labels of different numbers of rows.
    """
    if not isinstance(dataset, Mapping):
        kind = type(dataset).__name__
        way = "kanfast.create_dataset_from_data(inputs, labels)"
        if isinstance(dataset, torch.utils.data.TensorDataset):
            way = "kanfast.create_dataset_from_data(*dataset.tensors)"
        elif isinstance(dataset, torch.utils.data.DataLoader):
            way = (
                "kanfast.create_dataset_from_data(*loader.dataset.tensors), and batch= for batches"
            )
        raise TypeError(
            f"dataset must be a mapping with the keys {list(KEYS)}, got {kind}: use {way}"
        )
    try:
        found = {key: dataset[key] for key in KEYS}
    except KeyError as error:
        raise ValueError(
            f"dataset must have the keys {list(KEYS)}, but {error} is missing: "
            "see kanfast.create_dataset_from_data"
        ) from error
    tensors = {key: as_tensor(f"dataset[{key!r}]", value, like) for key, value in found.items()}
    for split in ("train", "test"):
        rows, labels = len(tensors[f"{split}_input"]), len(tensors[f"{split}_label"])
        if rows != labels or rows == 0:
            raise ValueError(
                f"{split}_input and {split}_label must have the same number of rows, at least "
                f"one, got {rows} and {labels}"
            )
    return tensors


def check_weight(weight: Any, dataset: Dataset) -> Tensor | None:
    """Weights [rows] of the training rows, or None.

    Raises:
        ValueError: Another shape, negative or infinite weights, or nothing but zeros.
    """
    if weight is None:
        return None
    like = dataset["train_label"]
    values = torch.as_tensor(weight, dtype=like.dtype, device=like.device).detach()
    if values.shape != like.shape[:1]:
        raise ValueError(f"sample_weight must be [{len(like)}], got {list(values.shape)}")
    if not bool((values >= 0).all() & values.isfinite().all() & (values > 0).any()):
        raise ValueError("sample_weight must be finite numbers of 0 or more, some above 0")
    return values


def as_tensor(what: str, values: Any, like: Tensor | None = None) -> Tensor:
    """A tensor as it is; of an array, a data frame or a column of one, its numbers as a tensor.

    Fractions get the dtype of `like` (torch's default dtype if None), and a column of them becomes
    [N, 1]; integers stay integers.

    Raises:
        TypeError: Anything else, or what is not numbers.
    """
    if isinstance(values, Tensor):
        return values
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if not isinstance(values, np.ndarray):
        raise TypeError(
            f"{what} must be a tensor, an array or a data frame, got {type(values).__name__}"
        )
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{what} must hold numbers, got an array of {values.dtype}")
    tensor = torch.from_numpy(np.array(values))
    if tensor.is_floating_point():
        dtype = torch.get_default_dtype() if like is None else like.dtype
        tensor = tensor.to(dtype)
        tensor = tensor[:, None] if tensor.dim() == 1 else tensor
    return tensor if like is None else tensor.to(like.device)


def _bounds(ranges: Any, n_var: int) -> list[tuple[float, float]]:
    bounds = np.asarray(ranges, dtype=np.float64)
    if bounds.shape == (2,):
        bounds = np.tile(bounds, (n_var, 1))
    if bounds.shape != (n_var, 2):
        raise ValueError(
            f"ranges must be (low, high), or one such pair for each of {n_var} variables, "
            f"got {ranges}"
        )
    return [(float(low), float(high)) for low, high in bounds]


def _labels(f: Callable[[Tensor], Tensor], points: Tensor, f_mode: str) -> Tensor:
    labels = f(points if f_mode == "col" else points.T)
    if labels.dim() == 1:
        labels = labels.unsqueeze(1)
    if labels.dim() != 2 or len(labels) != len(points):
        raise ValueError(
            f"f must return [{len(points)}, outputs] or [{len(points)}] for {len(points)} points, "
            f"got {list(labels.shape)}"
        )
    return labels
