"""`KAN.fit`: training on a pykan dataset by L-BFGS or any other optimizer of torch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.optimizer import OptimizerLike, make_optimizer
from kanfast.interpret.progress import progress
from kanfast.interpret.regularization import RegMetric, check_metric, penalty
from kanfast.nn.network import Network

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    network: Network,
    dataset: Dataset,
    opt: OptimizerLike = "LBFGS",
    steps: int = 100,
    log: int = 1,
    lamb: float = 0.0,
    lamb_l1: float = 1.0,
    lamb_entropy: float = 2.0,
    lamb_coef: float = 0.0,
    lamb_coefdiff: float = 0.0,
    update_grid: bool = True,
    grid_update_num: int = 10,
    loss_fn: Loss | None = None,
    lr: float = 1.0,
    start_grid_update_step: int = -1,
    stop_grid_update_step: int = 50,
    batch: int = -1,
    metrics: Sequence[Callable[[], Any]] | None = None,
    reg_metric: RegMetric = "edge_forward_spline_n",
    *,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Trains on a pykan dataset, with pykan's arguments.

    The objective is loss + lamb * `regularization` of the rows of the step. Knots follow the
    samples (`update_grid_from_samples`) every stop_grid_update_step // grid_update_num steps,
    from start_grid_update_step on and before stop_grid_update_step. Afterwards `samples` are
    the training inputs. Frozen parameters stay as they are.

    If a loss is not finite, training stops with a RuntimeWarning, and the model is as it was
    before that step. Where L-BFGS finds no way further down, the model stays as it is.

    Args:
        dataset: train_input, train_label, test_input, test_label, of the model's dtype and on
            its device: see `kanfast.create_dataset`.
        opt: "LBFGS" (torch's, with a strong-Wolfe line search), the name of another optimizer
            in torch.optim, such as "Adam", its class, or an optimizer (then lr is its own).
        steps: Number of steps. One of L-BFGS has up to 20 iterations.
        log: Every how many steps the progress bar (if tqdm is installed) shows new losses; 0
            for no bar.
        lamb, lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff, reg_metric: As in
            `regularization`, times lamb.
        update_grid, grid_update_num, start_grid_update_step, stop_grid_update_step: See above.
        loss_fn: (prediction, label) -> scalar; the mean squared error if None.
        lr: Learning rate; that of L-BFGS is the length of the first trial steps.
        batch: Rows of a step, drawn anew for each one (of training and test rows); -1 for all.
        metrics: Functions without arguments that return a number, called after every step.
        seed: Of the drawn rows.

    Returns:
        A list with one number for each step under each of: "train_loss" and "test_loss", root
        mean squared errors (values of `loss_fn` if given), "reg", and the metrics' names.
        test_loss is taken after the step; train_loss and reg as well for L-BFGS, and before the
        step for others.

    Raises:
        ValueError, TypeError: Arguments that make no sense, with what is expected.
    """
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
    optimizer = make_optimizer(network, opt, lr)
    loss_of = _mean_squared_error if loss_fn is None else loss_fn
    grid_update_every = max(1, stop_grid_update_step // max(1, grid_update_num))
    generator = torch.Generator().manual_seed(seed)
    metrics = metrics or ()
    names = ["train_loss", "test_loss", "reg", *(_name(metric) for metric in metrics)]
    history: dict[str, list[float]] = {name: [] for name in names}
    network.samples = dataset["train_input"].detach()
    whole = batch == -1 or batch >= len(dataset["train_input"])
    weights = (lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff)

    def terms(x: Tensor, y: Tensor) -> list[Tensor]:
        """The loss and, if there is one, the penalty."""
        trace = network.trace(x)
        loss = loss_of(trace.nodes[-1], y)
        if lamb == 0:
            return [loss]
        return [loss, penalty(network, trace, reg_metric, *weights)]

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
            kept = _state(network)
            x, y = _rows(dataset, "train", batch, generator)
            moves_grid = (
                update_grid
                and start_grid_update_step <= index < stop_grid_update_step
                and index % grid_update_every == 0
            )
            if moves_grid:
                network.update_grid_from_samples(x)
                optimizer.restart()
            losses = step(x, y, same=index > 0 and whole and not moves_grid)
            with torch.no_grad():
                x, y = _rows(dataset, "test", batch, generator)
                values = torch.stack([loss_of(network(x), y), *losses]).tolist()
            test, train, reg = (*values, 0.0)[:3]
            if not all(map(math.isfinite, values)):
                network.load_state_dict(kept)
                if moves_grid or not (optimizer.searches and _converged(history["train_loss"])):
                    message = _stopped(index, train, reg, test)
                    warnings.warn(message, RuntimeWarning, stacklevel=2)
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


def _state(network: Network) -> dict[str, Any]:
    """A copy of the state dict: of its tensors quickly, as this is done in every step."""
    state = network.state_dict()
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
