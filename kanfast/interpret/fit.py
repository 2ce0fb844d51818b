"""`KAN.fit`: training on a pykan dataset by L-BFGS or any other optimizer of torch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.progress import progress
from kanfast.interpret.regularization import RegMetric, check_metric, regularization

if TYPE_CHECKING:
    from kanfast.nn.workflow import TrainedStack

Loss = Callable[[Tensor, Tensor], Tensor]
OptimizerLike = str | type[torch.optim.Optimizer] | torch.optim.Optimizer

# torch's L-BFGS drops pairs (s, y) of step and change of the gradient with s y <= 1e-10, and so
# stops learning at small losses. It does not depend on the unit of the objective otherwise: the
# first step has a length of lr. So the objective is multiplied by a power of two.
_LBFGS_UNIT = {torch.float64: 2.0**60, torch.float32: 2.0**20}
# Pairs it remembers. On fine grids 30 reach a tenth of the loss that 10, pykan's number, reach in
# as many steps; 100 are hardly better, and dearer than an evaluation of a small network.
_LBFGS_HISTORY = 30


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
    optimizer, unit = make_optimizer(model, opt, lr)
    loss_of = _mean_squared_error if loss_fn is None else loss_fn
    grid_update_every = max(1, stop_grid_update_step // max(1, grid_update_num))
    generator = torch.Generator().manual_seed(seed)
    metrics = metrics or ()
    names = ["train_loss", "test_loss", "reg", *(_name(metric) for metric in metrics)]
    history: dict[str, list[float]] = {name: [] for name in names}
    model.samples = dataset["train_input"].detach()
    searches = isinstance(optimizer, torch.optim.LBFGS)  # evaluates the objective many times a step

    def terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        trace = model.trace(x)
        loss = loss_of(trace.nodes[-1], y)
        if lamb == 0:
            return loss, loss.new_zeros(())
        weights = (lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff)
        return loss, regularization(model, trace, reg_metric, *weights)

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        last: list[Tensor] = []

        def closure() -> float:
            optimizer.zero_grad()
            last[:] = terms(x, y)
            objective = unit * (last[0] + lamb * last[1])
            objective.backward()
            return objective.item()

        optimizer.step(closure)
        if searches:  # the last point that was tried need not be the one that was taken
            with torch.no_grad():
                return terms(x, y)
        return last[0].detach(), last[1].detach()

    with progress(steps, quiet=log == 0) as show:
        for index in range(steps):
            kept = copy.deepcopy(model.state_dict())
            x, y = _rows(dataset, "train", batch, generator)
            moves_grid = (
                update_grid
                and start_grid_update_step <= index < stop_grid_update_step
                and index % grid_update_every == 0
            )
            if moves_grid:
                model.update_grid_from_samples(x)
                if searches:
                    optimizer.state.clear()  # its curvature is that of other coefficients
            losses = step(x, y)
            with torch.no_grad():
                x, y = _rows(dataset, "test", batch, generator)
                values = torch.stack([*losses, loss_of(model(x), y)])
            train, reg, test = values.tolist()
            if not values.isfinite().all():
                model.load_state_dict(kept)
                if moves_grid or not (searches and _converged(history["train_loss"])):
                    message = _stopped(index, train, reg, test)
                    warnings.warn(message, RuntimeWarning, stacklevel=3)
                    break
                # No step leads further down, and the line search has divided 0 by 0.
                optimizer.state.clear()
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


def make_optimizer(
    model: TrainedStack, opt: OptimizerLike, lr: float
) -> tuple[torch.optim.Optimizer, float]:
    """The optimizer of `KAN.fit`, and the factor of its objective.

    Raises:
        ValueError: An unknown name, nothing to train, or an optimizer of other parameters.
        TypeError: Not an optimizer.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("there is nothing to train: no parameter of the model requires a gradient")
    if isinstance(opt, torch.optim.Optimizer):
        held = {id(p) for group in opt.param_groups for p in group["params"]}
        if not any(id(p) in held for p in trained):
            raise ValueError(
                "the optimizer holds no parameter of this model; refine and prune return new "
                "models: see kanfast.parameter_groups"
            )
        return opt, 1.0
    if opt == "LBFGS":
        # Stop only where nothing changes any more; with 0 the line search would then divide 0 by 0.
        lbfgs = torch.optim.LBFGS(
            trained,
            lr=lr,
            history_size=_LBFGS_HISTORY,
            tolerance_grad=0,
            tolerance_change=1e-32,
            line_search_fn="strong_wolfe",
        )
        return lbfgs, _LBFGS_UNIT.get(trained[0].dtype, 1.0)
    found = getattr(torch.optim, opt, None) if isinstance(opt, str) else opt
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        return found(trained, lr=lr), 1.0  # type: ignore[call-arg]
    wanted = (
        'opt must be "LBFGS", the name of an optimizer in torch.optim, its class, or an optimizer'
    )
    error = ValueError if isinstance(opt, str) else TypeError
    raise error(f"{wanted}; got {opt!r}")


def _mean_squared_error(prediction: Tensor, label: Tensor) -> Tensor:
    if prediction.shape != label.shape:
        raise ValueError(
            f"labels must have the shape of the model's output, {list(prediction.shape)}, got "
            f"{list(label.shape)}: unsqueeze them, or give a loss_fn"
        )
    return (prediction - label).square().mean()


def _rows(
    dataset: Dataset, split: str, batch: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """All rows of a split, or `batch` random ones (as many as there are)."""
    x, y = dataset[f"{split}_input"], dataset[f"{split}_label"]
    if batch == -1 or batch >= len(x):
        return x, y
    index = torch.randperm(len(x), generator=generator)[:batch].to(x.device)
    return x[index], y[index]


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
