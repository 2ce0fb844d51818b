"""`KAN.fit`: training on a pykan dataset."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from kanfast.interpret.dataset import Dataset, check_dataset, check_weight
from kanfast.interpret.descent import Loss, Settings, descend
from kanfast.interpret.history import History
from kanfast.interpret.newton.plan import SECOND_ORDER, obstacle
from kanfast.interpret.newton.train import Search, train
from kanfast.interpret.optimizer import OptimizerLike, make_optimizer
from kanfast.interpret.regularization import RegMetric, check_metric
from kanfast.interpret.units import adopt_units
from kanfast.nn.network import Network


def fit(
    network: Network,
    dataset: Dataset,
    opt: OptimizerLike | None = None,
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
    restarts: int | None = None,
    grids: Sequence[int] | None = None,
    sample_weight: Tensor | None = None,
) -> History:
    """Trains on a pykan dataset, with pykan's arguments.

    Small networks are trained by Levenberg-Marquardt ("LM"), several starts at once, with grids
    that follow the nodes; docs/training.md says how. Without `opt` that is done for the mean
    squared error of all rows, without a penalty, where at most 2000 parameters are trained, all of
    them of splines, residual weights, symbolic edges and nodes. All else is for L-BFGS.

    The objective is loss + lamb * `regularization` of the rows of the step. Knots follow the
    samples (`update_grid_from_samples`) every stop_grid_update_step // grid_update_num steps,
    from start_grid_update_step on and before stop_grid_update_step. Afterwards `samples` are
    the training inputs. Frozen parameters stay as they are.

    If a loss is not finite, training stops with a RuntimeWarning, and the model is as it was
    before that step. Where L-BFGS finds no way further down, the model stays as it is.

    Args:
        dataset: train_input, train_label, test_input, test_label, of the model's dtype and on
            its device: see `kanfast.create_dataset`.
        opt: "LM" (Levenberg-Marquardt), "LBFGS" (torch's, with a strong-Wolfe line search), the
            name of another optimizer in torch.optim, such as "Adam", its class, or an optimizer
            (then lr is its own); None for one of the first two, see above.
        steps: Number of steps. One of L-BFGS has up to 20 iterations; "LM" ends earlier where it
            has converged, and has as many for the first of the `grids`, and up to 35 for others.
        log: Every how many steps the progress bar (if tqdm is installed) shows new losses; 0
            for no bar.
        lamb, lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff, reg_metric: As in
            `regularization`, times lamb.
        update_grid, grid_update_num, start_grid_update_step, stop_grid_update_step: See above.
        loss_fn: (prediction, label) -> scalar; the mean squared error if None.
        lr: Learning rate; that of L-BFGS is the length of the first trial steps.
        batch: Rows of a step, drawn anew for each one (of training and test rows); -1 for all.
        metrics: Functions without arguments that return a number, called after every step.
        seed: Of the drawn rows, of starts, and of the rows that are held out.
        restarts: "LM" only: how many starts. The first one is the model as it is; the others have
            new values for what is trained of the splines. None for 8 where the model fits no
            better than a constant, else 1.
        grids: "LM" only: numbers of grid intervals, ascending, such as (3, 5, 10, 20). One after
            the other, until one is no better on an eighth of the training rows, held out for
            that; then all rows are fitted. The model's layers get the best grid, in place.
        sample_weight: Weights [rows] of the training rows in the mean squared error, 0 or more.

    Returns:
        A `History`: a list with one number for each step under each of: "train_loss" and
        "test_loss", root mean squared errors (values of `loss_fn` if given), "reg", and the
        metrics' names.
        test_loss is taken after the step; train_loss and reg as well for L-BFGS, and before the
        step for others. Its attributes `starts` and `stages` tell what the starts of "LM" reached
        and which grids it tried.

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
    search = Search(restarts, _checked_grids(grids), check_weight(sample_weight, dataset))
    if sample_weight is not None and loss_fn is not None:
        raise ValueError("sample_weight is for the mean squared error, got a loss_fn: weigh in it")
    second_order = opt == "LM" or (opt is None and _applies(network, settings))
    if second_order:
        check_second_order(network, settings, restarts)
    elif restarts is not None or grids is not None:
        raise ValueError(
            'restarts and grids need opt="LM", got '
            + (f"opt={opt!r}" if opt is not None else "a training that is left to L-BFGS")
        )
    network.samples = dataset["train_input"].detach()
    if not second_order:
        optimizer = make_optimizer(
            network, opt or "LBFGS", lr, dataset if loss_fn is None else None
        )
    if loss_fn is None:
        x, y = dataset["train_input"], dataset["train_label"]
        count = len(x) if batch == -1 else min(batch, len(x))
        every = slice(None, count * (len(x) // count), len(x) // count)
        adopt_units(network, x[every], y[every], stretch_grid=update_grid)
    if second_order:
        return train(network, dataset, settings, search)
    return descend(network, dataset, optimizer, settings, search.sample_weight)


def _applies(network: Network, settings: Settings) -> bool:
    """Whether a training is second order where no optimizer is named."""
    if settings.loss_fn is not None or settings.batch != -1 or settings.lamb != 0:
        return False
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return 0 < trained <= SECOND_ORDER and obstacle(network) is None


def check_second_order(network: Network, settings: Settings, restarts: int | None) -> None:
    """Raise ValueError for what Levenberg-Marquardt cannot train."""
    why = obstacle(network)
    if why is not None:
        raise ValueError(f'opt="LM" cannot train this network: {why}; freeze it, or use "LBFGS"')
    if settings.loss_fn is not None:
        raise ValueError('opt="LM" minimises the mean squared error, got a loss_fn: use "LBFGS"')
    if settings.lamb != 0:
        raise ValueError(f'opt="LM" has no penalty, got lamb={settings.lamb}: use "LBFGS"')
    if not any(p.requires_grad for p in network.parameters()):
        raise ValueError("there is nothing to train: no parameter of the model requires a gradient")
    if restarts is not None and restarts < 1:
        raise ValueError(f"restarts must be 1 or more, got {restarts}")


def _checked_grids(grids: Sequence[int] | None) -> tuple[int, ...] | None:
    if grids is None:
        return None
    sizes = tuple(grids)
    ascending = all(a < b for a, b in itertools.pairwise(sizes))
    if not sizes or not ascending or not all(type(g) is int and g >= 1 for g in sizes):
        raise ValueError(f"grids must be ascending integers of at least 1, got {grids}")
    return sizes


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
