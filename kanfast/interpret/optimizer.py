"""The optimizers of `KAN.fit`: torch's L-BFGS on one vector, or any other optimizer of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset
from kanfast.interpret.units import parameter_units
from kanfast.nn.network import Network

OptimizerLike = str | type[torch.optim.Optimizer] | torch.optim.Optimizer

# torch's L-BFGS drops pairs (s, y) of step and change of the gradient with s y <= 1e-10, and so
# stops learning at small losses. It does not depend on the unit of the objective otherwise: the
# first step has a length of lr. So the objective is multiplied until it starts about here, low
# enough for the products of slopes in the line search.
_LBFGS_START = {torch.float64: 2.0**60, torch.float32: 2.0**20}
# Pairs it remembers. On fine grids 30 reach a tenth of the loss that 10, pykan's number, reach in
# as many steps; 100 are hardly better, and dearer than an evaluation of a small network.
_LBFGS_HISTORY = 30

# A first step that goes nowhere is tried again, so many times and so much shorter each time: next
# to a minimum one of length lr is so far away that its line search does not find back.
_SHORTER_STEPS, _SHORTER = 4, 1e-3


class Steps(Protocol):
    """What `KAN.fit` asks of an optimizer."""

    searches: bool
    """Whether a step ends with a line search."""
    normalized: bool
    """Whether the objective is to be one of labels of about 1."""
    lowest: float
    """The objective at the parameters that an exception in `step` left; inf if they are any."""

    def step(self, evaluate: Callable[[], Tensor], *, same: bool) -> bool:
        """One step on the objective, a scalar with a graph, that `evaluate` returns.

        Args:
            evaluate: called once or several times.
            same: the objective is the same function of the parameters as in the step before.

        Returns:
            Whether `evaluate` was last called where its value is wanted for the history: at the
            parameters after the step for an optimizer that searches, else at those before it.
        """

    def restart(self) -> None:
        """Forget what earlier points taught: the parameters mean something else now."""


class VectorLBFGS:
    """torch's L-BFGS on all parameters as one vector.

    On a list of tensors it works piece by piece, which for a small network takes longer than the
    network itself. The numbers are the same. The point at which a step ends, and the next one
    begins, is evaluated once.

    Args:
        parameters: What is trained.
        lr: As that of `torch.optim.LBFGS`.
        units: Of the parameters that have one, by their `id`.
        normalized: The objective of an untrained network is about 1.
    """

    searches = True

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        units: Mapping[int, Tensor],
        *,
        normalized: bool,
    ) -> None:
        self._parameters = parameters
        self._units = [units.get(id(p)) for p in parameters]
        self._vector = self._flat(parameters)
        self._vector.grad = torch.zeros_like(self._vector)
        sizes = [p.numel() for p in parameters]
        pieces = zip(self._vector.split(sizes), parameters, strict=True)
        self._pieces = [piece.view_as(p) for piece, p in pieces]
        self.normalized = normalized
        self._unit = _LBFGS_START.get(self._vector.dtype, 1.0) if normalized else None
        self._value = 0.0  # of the objective where it was last evaluated, with its gradient
        self.lowest = math.inf
        self._best: Tensor | None = None  # where it was lowest in this step
        self._evaluated: Tensor | None = None
        # Stop only where nothing changes any more; with 0 the line search would then divide 0 by 0.
        self._lbfgs = torch.optim.LBFGS(
            [self._vector],
            lr=lr,
            history_size=_LBFGS_HISTORY,
            tolerance_grad=0,
            tolerance_change=1e-32,
            line_search_fn="strong_wolfe",
        )

    def step(self, evaluate: Callable[[], Tensor], *, same: bool) -> bool:
        """See `Steps`."""

        def closure() -> float:
            if not self._known():
                with torch.inference_mode(False), torch.enable_grad():
                    self._evaluate(evaluate)
            return self._value

        self._vector.copy_(self._flat(self._parameters))
        if not same:
            self._evaluated = None
        self.lowest, self._best = math.inf, None
        start, (group,) = self._vector.clone(), self._lbfgs.param_groups
        lr, knows_nothing = group["lr"], not self._lbfgs.state
        try:
            with torch.inference_mode():  # a tenth off the price of its many small operations
                self._lbfgs.step(closure)
                for _ in range(_SHORTER_STEPS if knows_nothing else 0):
                    if not torch.equal(self._vector, start) and math.isfinite(self._value):
                        break
                    self._vector.copy_(start)
                    self._lbfgs.state.clear()
                    group["lr"] *= _SHORTER
                    self._lbfgs.step(closure)
        except BaseException:
            if self._best is not None:
                self._vector.copy_(self._best)
                self._set_parameters()
            raise
        finally:
            group["lr"] = lr
        self._set_parameters()
        self.lowest = math.inf
        return self._known()

    def restart(self) -> None:
        """See `Steps`."""
        self._lbfgs.state.clear()
        self._evaluated = None

    def _evaluate(self, evaluate: Callable[[], Tensor]) -> None:
        self._set_parameters()
        for p in self._parameters:
            p.grad = None
        objective = evaluate()
        value = objective.item()
        if self._unit is None:
            self._unit = _unit_of(value, self._vector.dtype)
        objective.backward(torch.full_like(objective, self._unit))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        self._vector.grad = self._flat(gradients, slopes=True)
        self._value = value * self._unit
        self._evaluated = self._vector.clone()
        if value < self.lowest:
            self.lowest, self._best = value, self._evaluated

    def _known(self) -> bool:
        return self._evaluated is not None and torch.equal(self._vector, self._evaluated)

    @torch.no_grad()
    def _set_parameters(self) -> None:
        for p, piece, unit in zip(self._parameters, self._pieces, self._units, strict=True):
            p.copy_(piece if unit is None else piece * unit)

    def _flat(self, tensors: Sequence[Tensor], *, slopes: bool = False) -> Tensor:
        """One vector of parameters, or of slopes by them, in the units."""
        flat = []
        for t, unit in zip(tensors, self._units, strict=True):
            own = t.detach() if unit is None else t.detach() * unit if slopes else t.detach() / unit
            flat.append(own.reshape(-1))
        return torch.cat(flat)


class AnyOptimizer:
    """An optimizer of torch as it is."""

    normalized = False

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.lowest = math.inf
        self.searches = isinstance(optimizer, torch.optim.LBFGS)

    def step(self, evaluate: Callable[[], Tensor], *, same: bool) -> bool:
        """See `Steps`."""

        def closure() -> float:
            self._optimizer.zero_grad()
            objective = evaluate()
            objective.backward()
            return objective.item()

        self._optimizer.step(closure)
        return not self.searches

    def restart(self) -> None:
        """See `Steps`: L-BFGS forgets its curvature; others keep their averages."""
        if self.searches:
            self._optimizer.state.clear()


def make_optimizer(
    model: Network, opt: OptimizerLike, lr: float, dataset: Dataset | None = None
) -> Steps:
    """The optimizer of `KAN.fit`.

    Args:
        model: The network.
        opt, lr: As in `fit`.
        dataset: In whose units L-BFGS takes its steps; the objective is then normalised to
            them. None for an objective of any size.

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
        return AnyOptimizer(opt)
    if opt == "LBFGS":
        if dataset is None:
            return VectorLBFGS(trained, lr, {}, normalized=False)
        units = parameter_units(model, dataset["train_input"], dataset["train_label"])
        return VectorLBFGS(trained, lr, units, normalized=True)
    found = getattr(torch.optim, opt, None) if isinstance(opt, str) else opt
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        # The base class, whose constructor is all that is known here, has no lr.
        return AnyOptimizer(found(trained, lr=lr))  # type: ignore[call-arg]
    wanted = (
        'opt must be "LBFGS", the name of an optimizer in torch.optim, its class, or an optimizer'
    )
    error = ValueError if isinstance(opt, str) else TypeError
    raise error(f"{wanted}; got {opt!r}")


def _unit_of(value: float, dtype: torch.dtype) -> float:
    """The power of two by which L-BFGS's objective is multiplied where it starts at a value."""
    if not 0 < abs(value) < math.inf:
        return 1.0
    return _LBFGS_START.get(dtype, 1.0) / 2.0 ** round(math.log2(abs(value)))
