"""The second part of pykan's workflow, with its names: edges become functions, and a formula.

The bodies are in `kanfast.interpret.symbolic`, imported where they are used: SymPy, behind them,
takes a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kanfast.nn import symbols
from kanfast.nn.inspection import InspectedStack

if TYPE_CHECKING:
    import sympy

    from kanfast.interpret.symbolic import Edge, Functions
    from kanfast.symbolic.formula import Formula
    from kanfast.symbolic.function import SymbolicFunction
    from kanfast.symbolic.ranges import Range
    from kanfast.symbolic.select import EdgeReport, Rule


class SymbolicStack(InspectedStack):
    """A stack whose edges may be symbolic: c f(a x + b) + d, with f from a library.

    Edges are (l, i, j): layer, input, output. A symbolic edge has no spline; it counts as an edge
    everywhere, and `fit` trains its a, b, c and d (`KANLinear.symbolic.affine`).
    """

    def fix_symbolic(
        self,
        l: int,
        i: int,
        j: int,
        fun_name: str | SymbolicFunction,
        fit_params_bool: bool = True,
        a_range: Range | None = None,
        b_range: Range | None = None,
        verbose: bool = False,
        *,
        x: Tensor | None = None,
    ) -> float | None:
        """Makes an edge symbolic: c f(a x + b) + d closest to its present function at the samples.

        An optimizer made before does not know the new parameters: make a new one.

        Args:
            l, i, j: Layer, input and output of the edge.
            fun_name: The name of a function in the library, such as "sin", or the function itself.
            fit_params_bool: False for a, b, c, d = 1, 0, 1, 0 instead of the closest ones.
            a_range, b_range: Where to look for a and b; everywhere if both are None, and if one is
                None it is pykan's (-10, 10). Not needed for good fits, and slower.
            verbose: Print r2.
            x: Samples [..., inputs] of the model; `samples` if None.

        Returns:
            r2, the share of the variance of the edge that the function explains; None without a
            fit.

        Raises:
            IndexError: There is no such edge.
            KeyError: The library has no such function: see `kanfast.symbolic.add_symbolic`.
            ValueError: No samples, samples or values that are not finite, or an impossible range.
        """
        from kanfast.interpret import symbolic as bodies

        r2 = bodies.fix_symbolic(self, l, i, j, fun_name, fit_params_bool, a_range, b_range, x)
        if verbose and r2 is not None:
            name = fun_name if isinstance(fun_name, str) else fun_name.name
            print(f"edge {(l, i, j)} is {name}, r2 = {r2:.10g}")
        return r2

    def unfix_symbolic(self, l: int, i: int, j: int) -> None:
        """Makes an edge the spline again that it was. IndexError if there is no such edge."""

        symbols.unfix(self.layer_of_edge(l, i, j), j, i)

    def unfix_symbolic_all(self) -> None:
        """Makes all symbolic edges splines again; removed edges stay removed."""
        from kanfast.interpret import symbolic as bodies

        for l, i, j in bodies.live_edges(self, symbolic=True):
            self.unfix_symbolic(l, i, j)

    def suggest_symbolic(
        self,
        l: int,
        i: int,
        j: int,
        a_range: Range | None = None,
        b_range: Range | None = None,
        lib: Functions = None,
        topk: int = 5,
        verbose: bool = False,
        *,
        weight_simple: float = 0.8,
        rule: Rule = "length",
        noise: float = 1e-9,
        x: Tensor | None = None,
    ) -> EdgeReport:
        """Which functions an edge may be, best first; the model stays as it is.

        Args:
            l, i, j, a_range, b_range, x: As in `fix_symbolic`.
            lib: The candidates: names or functions of the default library, or a `Library`; all of
                the default one if None.
            topk: How many candidates the report has at most.
            verbose: Print the report.
            weight_simple, rule, noise: How accuracy is weighed against simplicity: see
                `kanfast.symbolic.scores`. weight_simple is that of rule="pykan".

        Returns:
            The report; `report.best.name`, `.r2`, `.params` and `.complexity` are the best's.
        """
        from kanfast.interpret import symbolic as bodies

        self.layer_of_edge(l, i, j)
        (report,) = bodies.report_edges(
            self, [(l, i, j)], lib, a_range, b_range, topk, weight_simple, rule, noise, x
        )
        if verbose:
            print(report)
        return report

    def auto_symbolic(
        self,
        a_range: Range | None = None,
        b_range: Range | None = None,
        lib: Functions = None,
        verbose: int = 0,
        weight_simple: float = 0.8,
        r2_threshold: float = 0.0,
        *,
        topk: int = 5,
        rule: Rule = "length",
        noise: float = 1e-9,
        x: Tensor | None = None,
    ) -> dict[Edge, EdgeReport]:
        """Makes every edge that is still a spline its best function, in place.

        All edges are looked at as the model is before. Symbolic edges stay as they are, and removed
        ones removed.

        Args:
            verbose: 1 prints what each edge has become, 2 the reports.
            r2_threshold: Edges whose best function fits worse stay splines.
            a_range, b_range, lib, topk, weight_simple, rule, noise, x: As in `suggest_symbolic`.

        Returns:
            The reports of those edges by (l, i, j).
        """
        from kanfast.interpret import symbolic as bodies

        edges = bodies.live_edges(self, symbolic=False)
        if not edges:
            return {}
        found = bodies.report_edges(
            self, edges, lib, a_range, b_range, topk, weight_simple, rule, noise, x
        )
        reports = dict(zip(edges, found, strict=True))
        bodies.auto_symbolic(self, reports, lib, r2_threshold)
        for report in found if verbose else ():
            best = report.best
            became = best.name if best.r2 >= r2_threshold else "a spline still"
            line = f"{report.edge} is {became}, r2 = {best.r2:.10g}"
            print(report if verbose > 1 else line)
        return reports

    def symbolic_formula(
        self,
        var: Sequence[str | sympy.Symbol] | None = None,
        normalizer: Any = None,
        output_normalizer: Any = None,
    ) -> Formula:
        """The formula of a model whose edges are all symbolic or removed.

        The result is a `kanfast.symbolic.Formula` (`rounded`, `latex`, callable), and can be taken
        apart as pykan's: `expressions, variables = model.symbolic_formula()`, or
        `model.symbolic_formula()[0][0]` for the expression of the first output.

        Args:
            var: Names or SymPy symbols of all features of x; x_1, x_2, ... if None.
            normalizer: Means and standard deviations of the features, if the model was trained on
                (x - mean) / std: the formula is one of x.
            output_normalizer: The same for the outputs.

        Raises:
            ValueError: Edges that are still splines, with their places; a wrong number of
                variables, means or deviations.
        """
        from kanfast.interpret import symbolic as bodies

        return bodies.symbolic_formula(self, var, normalizer, output_normalizer)
