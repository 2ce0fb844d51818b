"""`KAN.fit`: training on a pykan dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.descent import Loss, Settings, descend
from kanfast.interpret.optimizer import OptimizerLike, make_optimizer
from kanfast.interpret.regularization import RegMetric, check_metric
from kanfast.interpret.units import adopt_units
from kanfast.nn.network import Network


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
    like = next(network.parameters())
    dataset = check_dataset(dataset, like=like)
    check_metric(reg_metric)
    _check_counts(steps=steps, log=log)
    if update_grid and grid_update_num < 1:
        raise ValueError(
            f"grid_update_num must be at least 1, got {grid_update_num}: for no updates of the "
            "grid use update_grid=False"
        )
    if batch != -1 and batch < 1:
        raise ValueError(f"batch must be -1 for all rows, or at least 1, got {batch}")
    settings = Settings(
        steps=steps,
        log=log,
        lamb=lamb,
        penalty=(lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff),
        reg_metric=reg_metric,
        update_grid=update_grid,
        grid_update_num=grid_update_num,
        grid_update_steps=(start_grid_update_step, stop_grid_update_step),
        loss_fn=loss_fn,
        batch=batch,
        metrics=tuple(metrics or ()),
        seed=seed,
    )
    network.samples = dataset["train_input"].detach()
    optimizer = make_optimizer(network, opt, lr, dataset if loss_fn is None else None)
    if loss_fn is None:
        x, y = dataset["train_input"], dataset["train_label"]
        count = len(x) if batch == -1 else min(batch, len(x))
        every = slice(None, count * (len(x) // count), len(x) // count)
        adopt_units(network, x[every], y[every], stretch_grid=update_grid)
    return descend(network, dataset, optimizer, settings)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
