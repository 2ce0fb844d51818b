"""What the program's figures rest on: splits without leaks, models of one size, memory, time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from kanfast.cli.compare import count_parameters, mlp, mlp_widths, peak_memory, seconds
from kanfast.cli.data import digits, prepare
from kanfast.cli.training import fit, score

CPU = torch.device("cpu")


def test_splits_share_no_row_and_every_class() -> None:
    number = np.arange(1000.0)
    data = prepare("numbers", number[:, None], (number % 7).astype(int), "classification", seed=3)
    splits = (data.train, data.validation, data.test)
    assert [len(split.x) for split in splits] == [700, 100, 200]
    assert len(torch.cat([split.x for split in splits]).unique()) == 1000
    for split in splits:
        counts = split.y.bincount(minlength=7)
        assert counts.max() - counts.min() <= 3


def test_scales_come_from_the_training_rows_alone() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.lognormal(size=(200, 3)), rng.normal(5, 3, 200)
    x[:, 2] = 4.0
    data = prepare("noise", x, y, "regression", seed=0)
    torch.testing.assert_close(data.train.x[:, :2].amin(0), torch.full((2,), -1.0))
    torch.testing.assert_close(data.train.x[:, :2].amax(0), torch.full((2,), 1.0))
    assert (data.train.x[:, 2] == 0).all()
    assert data.train.y.mean().abs() < 1e-6
    assert data.train.y.std(correction=0) == pytest.approx(1, abs=1e-6)
    others = torch.cat([data.validation.x, data.test.x])
    assert others.abs().max() > 1


@pytest.mark.parametrize("widths", [(64, 32, 10), (64, 10), (3, 1, 2), (7, 5, 5, 5, 3)])
@pytest.mark.parametrize("parameters", [1, 50, 1234, 100_000])
def test_the_mlp_has_the_nearest_size(widths: tuple[int, ...], parameters: int) -> None:
    found = mlp_widths(widths, parameters)
    hidden = found[1]
    assert found == (widths[0], *[hidden] * max(len(widths) - 2, 1), widths[-1])

    def distance(width: int) -> int:
        return abs(
            count_parameters(mlp([found[0], *[width] * (len(found) - 2), found[-1]])) - parameters
        )

    assert all(distance(hidden) <= distance(width) for width in (hidden - 1, hidden + 1) if width)


def test_peak_memory_counts_what_is_held_at_one_time() -> None:
    def work() -> None:
        first = torch.ones(1_000_000)
        second = torch.ones(500_000)
        del first, second
        torch.ones(1_100_000)

    assert peak_memory(work, CPU) == pytest.approx(6_000_000, rel=1e-3)


def test_seconds_is_the_time_of_one_step() -> None:
    assert 0.01 <= seconds(lambda: time.sleep(0.01), CPU, total=0.2) < 0.02


def test_scores() -> None:
    data = digits(seed=0)
    right = torch.nn.Identity()
    onehot = type(data.test)(torch.eye(10)[data.test.y], data.test.y)
    assert score(right, onehot, "classification") == 1
    values = torch.tensor([[1.0], [2.0], [4.0]])
    assert score(right, type(data.test)(values, values), "regression") == 1
    assert score(
        lambda x: x * 0 + 7 / 3, type(data.test)(values, values), "regression"
    ) == pytest.approx(0)


def test_fit_reports_every_epoch_and_the_mean_loss() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (100, 2))
    data = prepare("plane", x, x @ [1.0, -2.0], "regression", seed=0)
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    before = torch.nn.functional.mse_loss(model(data.train.x), data.train.y).item()
    seen: list[int] = []
    history = fit(
        model,
        data,
        epochs=40,
        batch_size=16,
        lr=0.1,
        weight_decay=0.0,
        seed=0,
        on_epoch=lambda history: seen.append(len(history.loss)),
    )
    assert seen == list(range(1, 41))
    assert history.loss[0] == pytest.approx(before, rel=0.2)
    assert history.loss[-1] < 1e-3
    assert history.score[-1] > 0.999
    assert all(np.diff(history.seconds) > 0)
