"""The whole workflow in one call: `KAN.explain`. Its body is in `kanfast.explain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kanfast.interpret.dataset import Dataset
from kanfast.nn.formulas import SymbolicStack

if TYPE_CHECKING:
    import sympy

    from kanfast.explain.report import Explanation
    from kanfast.interpret.symbolic import Functions


class ExplainedStack(SymbolicStack):
    """A `SymbolicStack` that can be turned into a formula in one call."""

    def explain(
        self,
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
    ) -> Explanation:
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
        """
        from kanfast.explain import explain as explaining

        return explaining.explain(
            self,  # type: ignore[arg-type]  # every ExplainedStack is a KAN
            dataset,
            steps,
            lamb,
            restarts,
            lib,
            var,
            normalizer,
            output_normalizer,
            digits,
            seconds,
            seed,
            log,
        )
