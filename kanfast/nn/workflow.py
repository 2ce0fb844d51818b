"""The first part of pykan's workflow, with its names: train, look, prune, refine.

The bodies of longer methods are in `kanfast.interpret`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor

from kanfast.interpret import attribution
from kanfast.interpret import fit as fitting
from kanfast.interpret import prune as pruning
from kanfast.interpret import regularization as regularizing
from kanfast.interpret.attribution import Attribution
from kanfast.interpret.regularization import RegMetric
from kanfast.nn import resize
from kanfast.nn.stack import LayerStack

Self = TypeVar("Self", bound="TrainedStack")


class TrainedStack(LayerStack):
    """A `LayerStack` with the methods for training, attribution, pruning and refinement."""

    fit = fitting.fit

    def regularization(
        self,
        x: Tensor | None = None,
        reg_metric: RegMetric = "edge_forward_spline_n",
        lamb_l1: float = 1.0,
        lamb_entropy: float = 2.0,
        lamb_coef: float = 0.0,
        lamb_coefdiff: float = 0.0,
    ) -> Tensor:
        """Penalty on what the edges do at the samples x; differentiable once.

        Summed over the layers: lamb_l1 times the sum of the sizes of edges, lamb_entropy times an
        entropy of their shares, lamb_coef (lamb_coefdiff) times the mean over outputs of absolute
        coefficients (differences of neighbours).

        Args:
            x: Samples [..., inputs]; `samples` if None.
            reg_metric: What the size of an edge is: "edge_forward_l1", its mean |phi|, with the
                entropy of all shares in a layer (the KAN paper, eqs. 2.17-2.20); or one of pykan's,
                with the mean entropies of rows and columns: "edge_forward_spline_u", the deviation
                of phi; "edge_forward_spline_n", that over the deviation of the input plus 0.1, and
                0 for symbolic edges; "edge_forward_sum", the same with symbolic edges (pykan's has
                no gradient); "edge_backward", the edge scores of `attribute`; "node_backward", the
                scores of inputs for all nodes.
        """
        trace = self.trace(self.samples_or(x))
        return regularizing.regularization(
            self, trace, reg_metric, lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff
        )

    @torch.no_grad()
    def update_grid_from_samples(self, x: Tensor, margin: float = 0.0) -> None:
        """Moves the knots of every layer to its inputs at the samples x [..., inputs].

        As `forward(x, update_grid=True)`, but with pykan's margin.
        """
        x = self._select_inputs(x)
        for index, layer in enumerate(self.kan_layers):
            layer.update_grid(x, margin)
            x = self._to_nodes(index, layer(x))

    def refine(self: Self, new_grid_size: int, layers: Sequence[int] | None = None) -> Self:
        """A new model with `new_grid_size` grid intervals and the same function.

        See `KANLinear.refine`. An optimizer of this model does not know the parameters of the new
        one: see `kanfast.parameter_groups`.

        Args:
            new_grid_size: Number of intervals.
            layers: Indices of the layers to refine; all of them if None.

        Raises:
            TypeError, ValueError, RuntimeError: As `KANLinear.refine`.
            IndexError: There is no such layer.
        """
        finer = self.copy()
        depth = len(self.layers)
        for index in range(depth) if layers is None else layers:
            if not -depth <= index < depth:
                raise IndexError(f"layers must be among {-depth} to {depth - 1}, got {index}")
            resize.set_grid_size(finer.kan_layers[index], new_grid_size)
        finer._layers_changed()
        return finer

    @overload
    def attribute(
        self,
        l: None = None,
        i: None = None,
        out_score: Tensor | None = None,
        *,
        x: Tensor | None = None,
    ) -> Attribution: ...

    @overload
    def attribute(
        self, l: int, i: int | None = None, out_score: None = None, *, x: Tensor | None = None
    ) -> Tensor: ...

    def attribute(
        self,
        l: int | None = None,
        i: int | None = None,
        out_score: Tensor | None = None,
        *,
        x: Tensor | None = None,
    ) -> Attribution | Tensor:
        """Scores of edges and nodes: pykan 2.0's backward attribution.

        Each output starts with score 1. The score of a node is divided among the edges into it in
        proportion to the deviation of their values over the samples, and that of an edge goes to
        the node it comes from.

        Args:
            l: Layer of nodes, 1 (after the first layer) to the number of layers.
            i: One of its nodes.
            out_score: Scores of the outputs, [outputs], in place of 1.
            x: Samples [..., inputs]; `samples` if None.

        Returns:
            Without l the `Attribution` of the outputs. With l the scores of the inputs for each
            node of that layer, times its own score, [nodes, inputs]; with i as well, [inputs].

        Raises:
            ValueError: No samples, or no such node.
        """
        return attribution.attribute(self, l, i, out_score, x=x)

    @property
    def edge_scores(self) -> list[Tensor]:
        """Scores [O, I] of the edges of each layer, at `samples` and the present parameters."""
        return self.attribute().edge_scores

    @property
    def node_scores(self) -> list[Tensor]:
        """Scores of the nodes, inputs to outputs, at `samples` and the present parameters."""
        return self.attribute().node_scores

    @property
    def feature_score(self) -> Tensor:
        """Scores [inputs] of the inputs, at `samples` and the present parameters."""
        return self.node_scores[0]

    def prune(
        self: Self, node_th: float = 1e-2, edge_th: float = 3e-2, *, x: Tensor | None = None
    ) -> Self:
        """A new model without the nodes, and then the edges, of low scores.

        `prune_node`, then `prune_edge` by the scores of what is left.
        """
        return self.prune_node(node_th, x=x).prune_edge(edge_th, x=x)

    def prune_node(
        self: Self,
        threshold: float = 1e-2,
        mode: Literal["auto", "manual"] = "auto",
        active_neurons_id: Sequence[Sequence[int]] | None = None,
        *,
        x: Tensor | None = None,
    ) -> Self:
        """A new, smaller model of the hidden nodes with scores above the threshold.

        All else is that of this model: dtype, device, frozen parameters, masks, settings. An
        optimizer of this model does not know the new parameters: see `kanfast.parameter_groups`.

        Args:
            threshold: Nodes stay if their score in `attribute` is above it.
            mode: "manual" needs active_neurons_id (which implies it, as in pykan).
            active_neurons_id: The nodes to keep, a list for each hidden layer; scores play no part.
            x: Samples [..., inputs]; `samples` if None.

        Raises:
            ValueError: A layer would have no nodes left; scores that are not finite; no samples.
        """
        return pruning.prune_node(self, threshold, mode, active_neurons_id, x)

    def prune_edge(self: Self, threshold: float = 3e-2, *, x: Tensor | None = None) -> Self:
        """Removes the edges whose score is not above the threshold, in place; returns this model.

        Removed edges are zero and stay zero, whatever the optimizer (`KANLinear.set_mask`).
        """
        pruning.prune_edge(self, threshold, x)
        return self

    def prune_input(
        self: Self,
        threshold: float = 1e-2,
        active_inputs: Sequence[int] | None = None,
        *,
        x: Tensor | None = None,
    ) -> Self:
        """A new, smaller model of the inputs with scores above the threshold, or of those given.

        It still takes all features, and selects its inputs itself (`input_mask`, `input_id`).
        """
        return pruning.prune_input(self, threshold, active_inputs, x)

    def remove_edge(self, l: int, i: int, j: int) -> None:
        """Removes the edge from input i to output j of layer l, in place."""
        pruning.remove_edge(self, l, i, j)

    def remove_node(self, l: int, i: int, mode: Literal["all", "up", "down"] = "all") -> None:
        """Removes the edges of node i of layer l of nodes (0: inputs), in place.

        Args:
            l: Layer of nodes. i: The node.
            mode: "up" for the edges that leave it, "down" for those that come in, "all" for both.
        """
        pruning.remove_node(self, l, i, mode)
