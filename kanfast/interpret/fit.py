"""`KAN.fit`: training on a pykan dataset by L-BFGS or any other optimizer of torch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.optimizer import OptimizerLike, make_optimizer
from kanfast.interpret.progress import progress
from kanfast.interpret.regularization import RegMetric, check_metric, regularization

if TYPE_CHECKING:
    from kanfast.nn.workflow import TrainedStack

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    model: TrainedStack,
    dataset: Dataset,
    opt: OptimizerLike,
    steps: int,
    log: int,
    lamb: float,
    lamb_l1: float,
    lamb_entropy: float,
    lamb_coef: float,
    lamb_coefdiff: float,
    update_grid: bool,
    grid_update_num: int,
    loss_fn: Loss | None,
    lr: float,
    start_grid_update_step: int,
    stop_grid_update_step: int,
    batch: int,
    metrics: Sequence[Callable[[], Any]] | None,
    reg_metric: RegMetric,
    seed: int,
) -> dict[str, list[float]]:
    """The body of `KAN.fit`."""
    dataset = check_dataset(dataset)
    check_metric(reg_metric)
    _check_counts(steps=steps, log=log)
    if update_grid and grid_update_num < 1:
        raise ValueError(
            f"grid_update_num must be at least 1, got {grid_update_num}: for no updates of the "
            "grid use update_grid=False"
        )
    if batch != -1 and batch < 1:
        raise ValueError(f"batch must be -1 for all rows, or at least 1, got {batch}")
    optimizer = make_optimizer(model, opt, lr)
    loss_of = _mean_squared_error if loss_fn is None else loss_fn
    grid_update_every = max(1, stop_grid_update_step // max(1, grid_update_num))
    generator = torch.Generator().manual_seed(seed)
    metrics = metrics or ()
    names = ["train_loss", "test_loss", "reg", *(_name(metric) for metric in metrics)]
    history: dict[str, list[float]] = {name: [] for name in names}
    model.samples = dataset["train_input"].detach()
    whole = batch == -1 or batch >= len(dataset["train_input"])
    weights = (lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff)

    def terms(x: Tensor, y: Tensor) -> list[Tensor]:
        """The loss and, if there is one, the penalty."""
        trace = model.trace(x)
        loss = loss_of(trace.nodes[-1], y)
        if lamb == 0:
            return [loss]
        return [loss, regularization(model, trace, reg_metric, *weights)]

    def step(x: Tensor, y: Tensor, same: bool) -> list[Tensor]:
        last: list[Tensor] = []

        def objective() -> Tensor:
            last[:] = terms(x, y)
            return last[0] if lamb == 0 else last[0] + lamb * last[1]

        if optimizer.step(objective, same=same) and last:
            return [t.detach() for t in last]
        with torch.no_grad():
            return terms(x, y)

    with progress(steps, quiet=log == 0) as show:
        for index in range(steps):
            kept = _state(model)
            x, y = _rows(dataset, "train", batch, generator)
            moves_grid = (
                update_grid
                and start_grid_update_step <= index < stop_grid_update_step
                and index % grid_update_every == 0
            )
            if moves_grid:
                model.update_grid_from_samples(x)
                optimizer.restart()
            losses = step(x, y, same=index > 0 and whole and not moves_grid)
            with torch.no_grad():
                x, y = _rows(dataset, "test", batch, generator)
                values = torch.stack([loss_of(model(x), y), *losses]).tolist()
            test, train, reg = (*values, 0.0)[:3]
            if not all(map(math.isfinite, values)):
                model.load_state_dict(kept)
                if moves_grid or not (optimizer.searches and _converged(history["train_loss"])):
                    message = _stopped(index, train, reg, test)
                    warnings.warn(message, RuntimeWarning, stacklevel=3)
                    break
                # No step leads further down, and the line search has divided 0 by 0.
                optimizer.restart()
                train, test, reg = (history[name][-1] for name in names[:3])
            elif loss_fn is None:
                train, test = train**0.5, test**0.5
            row = [train, test, reg, *(float(metric()) for metric in metrics)]
            for name, value in zip(names, row, strict=True):
                history[name].append(value)
            shown = bool(log) and index % log == 0
            line = f"train_loss: {train:.2e} | test_loss: {test:.2e} | reg: {reg:.2e}"
            show(line if shown else None)
    return history


def _mean_squared_error(prediction: Tensor, label: Tensor) -> Tensor:
    if prediction.shape != label.shape:
        raise ValueError(
            f"labels must have the shape of the model's output, {list(prediction.shape)}, got "
            f"{list(label.shape)}: unsqueeze them, or give a loss_fn"
        )
    return torch.nn.functional.mse_loss(prediction, label)


def _rows(
    dataset: Dataset, split: str, batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """All rows of a split, or `batch` random ones (as many as there are)."""
    x, y = dataset[f"{split}_input"], dataset[f"{split}_label"]
    if batch == -1 or batch >= len(x):
        return x, y
    index = torch.randperm(len(x), generator=generator)[:batch].to(x.device)
    return x[index], y[index]


def _state(model: TrainedStack) -> dict[str, Any]:
    """A copy of the state dict: of its tensors quickly, as this is done in every step."""
    state = model.state_dict()
    return {k: t.clone() if isinstance(t, Tensor) else copy.deepcopy(t) for k, t in state.items()}


def _stopped(step: int, train: float, reg: float, test: float) -> str:
    return (
        f"training stopped at step {step}: the training loss is {train:.3g}, the regularisation "
        f"{reg:.3g}, the test loss {test:.3g}. The model is as it was before this step. Try a "
        "smaller lr, scaled inputs or float64"
    )


def _converged(losses: Sequence[float]) -> bool:
    """Whether the last step changed nothing."""
    return len(losses) > 1 and abs(losses[-2] - losses[-1]) <= 1e-9 * abs(losses[-1])


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")


def _name(metric: Callable[[], Any]) -> str:
    return getattr(metric, "__name__", type(metric).__name__)
