"""`KAN.explain`: from data to a formula.

1. A copy of the model is trained with a penalty and loses its dead nodes. The model and what is
   left of it are trained without a penalty: that tells what accuracy may be hoped for.
2. For 1, 2, ... nodes in every hidden layer, networks of that size are trained: the most important
   nodes of the sparse one, and new starts. Sizes that are far worse than hoped for are put off. The
   best get a finer grid (`networks`).
3. The curves of these networks are matched with functions, edge by edge; the most likely
   combinations become networks of functions, whose parameters are all fitted to the data together.
   From the best of them a beam search goes on: other functions on an edge or on a group of edges,
   edges and nodes taken away (`start`, `moves`, `search`).
4. Formulas are compared by their description length (`score`), with the mean of the labels among
   them. The search ends when one is exact up to rounding, or as good as the best network is but for
   its number of parameters (as with noise), or the time is over.
5. Constants become simple numbers where the data allow it (`tidy`, `constants`), and terms that do
   nothing leave the formula as it is written (`shorten`).

Columns of unusual size are trained on in other units (`scaling`); formulas are in the data's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kanfast.explain.budget import Budget
from kanfast.explain.scaling import Scaling, composed
from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.edges import live_edges
from kanfast.interpret.progress import progress
from kanfast.interpret.pruning import prune_input
from kanfast.nn.network import AnyNetwork

if TYPE_CHECKING:
    import sympy

    from kanfast.explain.report import Explanation
    from kanfast.interpret.candidates import Functions


def explain(
    network: AnyNetwork,
    dataset: Dataset,
    *,
    lib: Functions = None,
    var: Sequence[str | sympy.Symbol] | None = None,
    digits: int | None = None,
    normalizer: Any = None,
    output_normalizer: Any = None,
    steps: int = 20,
    lamb: float = 0.01,
    restarts: int = 4,
    seconds: float = 60.0,
    seed: int = 0,
    log: int = 1,
) -> Explanation[AnyNetwork]:
    """Turns data into a formula: the whole workflow, on copies; this model stays as it is.

    Trains with a penalty, prunes, and reads formulas off small networks whose shapes, degrees
    and residual functions are this model's; formulas are fitted to the data as a whole and
    chosen by accuracy and simplicity. How, and by which rule, is said in
    `kanfast.explain.explain` and `kanfast.explain.score`.

    Networks are trained in float64 on the model's device; formulas are searched in float64 on
    the CPU, on at most 4096 rows. Nothing but the time limit makes results differ from run to
    run: the global generators of random numbers play no part and are not touched.

    Args:
        dataset: train_input, train_label, test_input, test_label, on the model's device: see
            `kanfast.create_dataset`. In any units: columns far from the order of 1 are trained
            on in others. The test rows only measure accuracies.
        lib: The functions a formula may have: names or functions of the default library, or a
            `Library`; all of the default one if None.
        var: Names or SymPy symbols of all features; x_1, x_2, ... if None.
        digits: Significant digits of `Explanation.rounded`; if None the fewest, from 2 on, with
            which an exact formula is exact, if they are no more than 10, else those that add no
            more than a tenth, plus a thousandth of the labels' deviation, to the training
            error.
        normalizer, output_normalizer: Means and standard deviations of the features and labels,
            if the dataset holds (x - mean) / std: formulas are of x, in the labels' own unit.
        steps: Steps of each training.
        lamb: The penalty of the first training, as in `fit`, but in units of the variance of
            the labels.
        restarts: How many networks of each size start from new parameters.
        seconds: Time for all of it. Parts that take time look at the clock; the first steps of
            each, and what is imported in the first call, are not interrupted.
        seed: Of the new parameters.
        log: 0 for no progress bar.

    Raises:
        ValueError: Symbolic edges in this model, NaN or infinite values in the dataset, or
            arguments that make no sense.
        KeyError: A function the library does not have.

    Example:
        >>> data = kanfast.create_dataset(lambda x: x[:, [0]] ** 2 + 3 * x[:, [1]], 2)
        >>> explanation = KAN([2, 1, 1]).explain(data, lib=["x", "x^2", "sin"], log=0, seconds=20)
        >>> print(explanation.rounded)
        x_1**2 + 3*x_2
    """
    from kanfast.explain.attempts import find_formulas, is_exact, simplest, some_rows
    from kanfast.explain.finish import Attempt, finish
    from kanfast.explain.names import Names
    from kanfast.explain.networks import important_inputs, sparsified
    from kanfast.explain.problem import check_values, distinct, problem_of, rounding_floor

    begin = time.monotonic()
    dataset = check_dataset(dataset)
    if live_edges(network, symbolic=True):
        raise ValueError(
            "expected a model whose edges are all splines, got one with symbolic edges; "
            "call unfix_symbolic_all() first"
        )
    if len(network.nodes):
        raise ValueError(
            "expected a model whose nodes are sums over edges, got one with multiplication nodes "
            "or affine maps of nodes; give a KAN without them: products are found as differences "
            "of squares or by logarithms"
        )
    _check(steps=steps, restarts=restarts, lamb=lamb, seconds=seconds, digits=digits)
    check_values(dataset)
    names = Names(network, var, normalizer, output_normalizer, dataset["train_input"])
    functions = distinct(lib)
    budget = Budget.of(begin, seconds)
    scaling = Scaling.of(dataset)
    wide = scaling.scaled(dataset)
    units = composed(scaling.inputs, names.features), composed(scaling.outputs, names.outputs)
    few = some_rows(wide, seed)
    with progress(None, quiet=log == 0) as show:
        floor = rounding_floor(dataset)
        problem = problem_of(wide, network.input_id, units, floor, seed)
        simple = simplest(functions, network.width, problem, budget)
        whole = network.copy().double()
        show("training with a penalty")
        sparse = sparsified(whole, few, steps, lamb, budget.first)
        inputs = important_inputs(sparse, simple[-1].batch.used_inputs)
        if len(inputs) < sparse.width[0]:
            whole, sparse = (prune_input(m, active_inputs=inputs) for m in (whole, sparse))
            problem = problem_of(wide, whole.input_id, units, floor, seed)
            simple = [ranking.of_inputs(inputs) for ranking in simple]
        attempts = [Attempt(ranking, sparse) for ranking in simple]
        if not is_exact(simple[-1], problem):
            attempts += find_formulas(
                whole, sparse, simple[-1].batch, few, problem, functions, steps, restarts, seed,
                budget, show,
            )  # fmt: skip
        show("constants")
        like = whole.to(network.kan_layers[0].grid.dtype)
        return finish(attempts, like, dataset, scaling, problem, names, digits, budget)


def _check(*, steps: int, restarts: int, lamb: float, seconds: float, digits: int | None) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for name, value in (("restarts", restarts), ("lamb", lamb)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be 0 or more, got {value}")
    if digits is not None and digits < 1:
        raise ValueError(f"digits must be at least 1, got {digits}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
