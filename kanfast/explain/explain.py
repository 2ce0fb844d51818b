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
4. Formulas are compared by their description length (`score`). The search ends when one is exact up
   to rounding, or as good as the best network is but for its number of parameters (as with noise),
   or the time is over.
5. Constants become simple numbers where the data allow it (`tidy`, `constants`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kanfast.interpret.dataset import Dataset, check_dataset
from kanfast.interpret.edges import live_edges
from kanfast.interpret.progress import progress
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
            `kanfast.create_dataset`. Labels are best of the order of 1, as for `fit`. The test
            rows only measure accuracies.
        lib: The functions a formula may have: names or functions of the default library, or a
            `Library`; all of the default one if None.
        var: Names or SymPy symbols of all features; x_1, x_2, ... if None.
        digits: Decimals of `Explanation.rounded`; if None the fewest, from 2 to 6, that add no
            more than a tenth, plus a thousandth of the labels' deviation, to the training
            error.
        normalizer, output_normalizer: Means and standard deviations of the features and labels,
            if the dataset holds (x - mean) / std: formulas are of x, in the labels' own unit.
        steps: Steps of each training.
        lamb: The penalty of the first training, as in `fit`, but in units of the variance of
            the labels.
        restarts: How many networks of each size start from new parameters.
        seconds: After so many seconds nothing new is begun; finishing may take some more.
        seed: Of the new parameters.
        log: 0 for no progress bar.

    Raises:
        ValueError: Symbolic edges in this model, NaN or infinite values in the dataset, labels
            that are all the same, or arguments that make no sense.
        KeyError: A function the library does not have.
    """
    from kanfast.explain.attempts import find_formulas
    from kanfast.explain.finish import finish
    from kanfast.explain.names import Names
    from kanfast.explain.problem import distinct, problem_of

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
    _check(steps=steps, restarts=restarts, lamb=lamb, seconds=seconds, digits=digits or 0)
    names = Names(network, var, normalizer, output_normalizer)
    functions = distinct(lib)
    problem = problem_of(dataset, network.input_id, seed)
    wide = {key: value.detach().double() for key, value in dataset.items()}
    with progress(None, quiet=log == 0) as show:
        attempts = find_formulas(
            network.copy().double(), wide, problem, functions, steps, lamb, restarts, seed,
            begin + seconds, show,
        )  # fmt: skip
        show("constants")
        return finish(attempts, network, dataset, problem, names, digits, begin)


def _check(*, steps: int, restarts: int, lamb: float, seconds: float, digits: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for name, value in (("restarts", restarts), ("lamb", lamb), ("digits", digits)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be 0 or more, got {value}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
