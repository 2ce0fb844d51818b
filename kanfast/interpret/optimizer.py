"""The optimizers of `KAN.fit`: torch's L-BFGS on one vector, or any other optimizer of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

OptimizerLike = str | type[torch.optim.Optimizer] | torch.optim.Optimizer

# torch's L-BFGS drops pairs (s, y) of step and change of the gradient with s y <= 1e-10, and so
# stops learning at small losses. It does not depend on the unit of the objective otherwise: the
# first step has a length of lr. So the objective is multiplied by a power of two.
_LBFGS_UNIT = {torch.float64: 2.0**60, torch.float32: 2.0**20}
# Pairs it remembers. On fine grids 30 reach a tenth of the loss that 10, pykan's number, reach in
# as many steps; 100 are hardly better, and dearer than an evaluation of a small network.
_LBFGS_HISTORY = 30


class Steps(Protocol):
    """What `KAN.fit` asks of an optimizer."""

    searches: bool
    """Whether a step ends with a line search."""

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
    """

    searches = True

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        self._parameters = parameters
        self._vector = _flat(parameters)
        self._vector.grad = torch.zeros_like(self._vector)
        sizes = [p.numel() for p in parameters]
        pieces = zip(self._vector.split(sizes), parameters, strict=True)
        self._pieces = [piece.view_as(p) for piece, p in pieces]
        self._unit = _LBFGS_UNIT.get(self._vector.dtype, 1.0)
        self._value = 0.0  # of the objective where it was last evaluated, with its gradient
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

        self._vector.copy_(_flat(self._parameters))
        if not same:
            self._evaluated = None
        with torch.inference_mode():  # a tenth off the price of its many small operations
            self._lbfgs.step(closure)
        self._set_parameters()
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
        objective.backward(torch.full_like(objective, self._unit))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        self._vector.grad = _flat(gradients)
        self._value = objective.item() * self._unit
        self._evaluated = self._vector.clone()

    def _known(self) -> bool:
        return self._evaluated is not None and torch.equal(self._vector, self._evaluated)

    @torch.no_grad()
    def _set_parameters(self) -> None:
        for p, piece in zip(self._parameters, self._pieces, strict=True):
            p.copy_(piece)


class AnyOptimizer:
    """An optimizer of torch as it is."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
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


def make_optimizer(model: nn.Module, opt: OptimizerLike, lr: float) -> Steps:
    """The optimizer of `KAN.fit`.

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
        return VectorLBFGS(trained, lr)
    found = getattr(torch.optim, opt, None) if isinstance(opt, str) else opt
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        # The base class, whose constructor is all that is known here, has no lr.
        return AnyOptimizer(found(trained, lr=lr))  # type: ignore[call-arg]
    wanted = (
        'opt must be "LBFGS", the name of an optimizer in torch.optim, its class, or an optimizer'
    )
    error = ValueError if isinstance(opt, str) else TypeError
    raise error(f"{wanted}; got {opt!r}")


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])
