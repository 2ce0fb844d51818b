"""Datasets: pykan's numbers where it is installed, without its reseeding of generators."""

from typing import Any

import numpy as np
import pytest
import torch
from cases import unchanged_generators
from torch import Tensor

from kanfast import create_dataset, create_dataset_from_data


def product(x: Tensor) -> Tensor:
    return x[:, [0]] * x[:, [1]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ranges": [0, 3], "train_num": 20, "seed": 5},
        {"ranges": [[-1, 0], [2, 4]], "test_num": 7, "normalize_input": True},
        {"f_mode": "row", "f": lambda x: x[0] + x[1], "normalize_label": True},
    ],
    ids=["defaults", "range", "ranges", "rows"],
)
def test_create_dataset_gives_pykans_numbers(options: dict[str, Any], pykan: Any) -> None:
    arguments = {"f": product} | options
    theirs = pykan.create_dataset(**arguments)
    with unchanged_generators():
        ours = create_dataset(**arguments)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-7)


def test_create_dataset_from_data_gives_pykans_split(pykan: Any) -> None:
    x, y = torch.arange(50.0).reshape(25, 2), torch.arange(25.0)[:, None]
    state = np.random.get_state()
    np.random.seed(3)
    theirs = pykan.create_dataset_from_data(x, y, train_ratio=0.7)
    np.random.set_state(state)
    with unchanged_generators():
        ours = create_dataset_from_data(x, y, train_ratio=0.7, seed=3)
    for key in theirs:
        assert torch.equal(ours[key], theirs[key])


def test_normalised_columns_and_dtype() -> None:
    data = create_dataset(
        product, ranges=np.array([2.0, 5.0]), normalize_input=True, dtype=torch.float64
    )
    assert data["train_input"].dtype == torch.float64
    mean, std = data["train_input"].mean(0), data["train_input"].std(0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(std, torch.ones_like(std))
    assert data["test_input"].mean(0).abs().max() > 1e-6  # scaled by the training rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f_mode": "rows"}, 'f_mode must be "col" or "row"'),
        ({"ranges": [[0, 1]] * 3}, "for each of 2 variables"),
        ({"f": lambda x: x[:5]}, r"f must return \[1000, outputs\]"),
    ],
)
def test_create_dataset_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_dataset(**{"f": product} | change)


def test_create_dataset_from_data_errors() -> None:
    with pytest.raises(ValueError, match="inputs have 3 rows, but labels 4"):
        create_dataset_from_data(torch.zeros(3, 1), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="train_ratio must be 0 to 1"):
        create_dataset_from_data(torch.zeros(3, 1), torch.zeros(3, 1), 80)
