"""`KAN`: a network and all that can be done with it.

A function whose first argument is a network is a method: the class below is a table of contents,
and each of its entries is documented where its body is, in `interpret`, `explain` and `nn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from kanfast.engine.backends import Backend
from kanfast.explain import explain as explaining
from kanfast.interpret import attribution, ensemble, formulas, inspection, pruning, refinement
from kanfast.interpret import fit as training
from kanfast.interpret import regularization as penalties
from kanfast.nn.from_pykan import Residual, layers_from_pykan, layers_from_pykan_state_dict
from kanfast.nn.network import Network

Self = TypeVar("Self", bound="KAN")


class KAN(Network):
    """A Kolmogorov-Arnold network, in place of efficient-kan's `KAN` and of pykan's.

    Args:
        layers_hidden: Widths of inputs, hidden layers and outputs: at least two. A width may be
            [n_sum, n_mult]: n_sum nodes that are sums over edges, as usual, and n_mult that are
            products of such sums (KAN 2.0, Liu et al., 2024).
        grid_size, spline_order, scale_noise, scale_base, scale_spline, base_activation, grid_eps,
            grid_range, enable_standalone_scale_spline, device, dtype, backend: As in `KANLinear`,
            for all layers. A module given as `base_activation` (not its class) is shared by them.
        mult_arity: How many sums a product takes, at least 2; or for every width a list with those
            of each of its products, as in pykan.
        affine_trainable: Whether sums and nodes have a trainable scale and bias (`Nodes`).

    Attributes:
        layers, nodes, grid_size, spline_order, samples, input_mask: See `Network`.

    Raises:
        ValueError, TypeError: As `KANLinear`; fewer than two widths, or arities that do not fit.

    Example:
        >>> model = KAN([2, 5, 1])
        >>> model(torch.rand(100, 2)).shape
        torch.Size([100, 1])
        >>> products = KAN([2, [3, 1], 1], grid_size=3)  # three sums and a product
        >>> products.width
        [2, 4, 1]
    """

    # Training
    fit = training.fit
    fit_starts = ensemble.fit_starts
    regularization = penalties.regularization
    refine = refinement.refine

    # Looking at it
    plot = inspection.plot
    get_act = inspection.get_act
    get_fun = inspection.get_fun
    get_range = inspection.get_range
    evaluate = inspection.evaluate

    # What matters, and taking away what does not
    attribute = attribution.attribute
    prune = pruning.prune
    prune_node = pruning.prune_node
    prune_edge = pruning.prune_edge
    prune_input = pruning.prune_input
    remove_edge = pruning.remove_edge
    remove_node = pruning.remove_node

    # From edges to a formula
    fix_symbolic = formulas.fix_symbolic
    unfix_symbolic = formulas.unfix_symbolic
    unfix_symbolic_all = formulas.unfix_symbolic_all
    suggest_symbolic = formulas.suggest_symbolic
    auto_symbolic = formulas.auto_symbolic
    symbolic_formula = formulas.symbolic_formula
    explain = explaining.explain

    @property
    def edge_scores(self) -> list[Tensor]:
        """Scores [O, I] of the edges of each layer, at `samples` and the present parameters."""
        return attribution.attribute(self).edge_scores

    @property
    def node_scores(self) -> list[Tensor]:
        """Scores of the nodes, inputs to outputs, at `samples` and the present parameters."""
        return attribution.attribute(self).node_scores

    @property
    def feature_score(self) -> Tensor:
        """Scores [inputs] of the inputs, at `samples` and the present parameters."""
        return self.node_scores[0]

    @property
    def width_in(self) -> list[int]:
        """The same as `width`: what goes into each layer, and the outputs."""
        return self.width

    @property
    def n_sum(self) -> list[int]:
        """Numbers of hidden nodes that are sums."""
        return [w - n for w, n in zip(self.width[1:-1], self.n_mult, strict=True)]

    @property
    def n_mult(self) -> list[int]:
        """Numbers of hidden nodes that are products."""
        return [len(arities) for arities in self.arities[1:-1]]

    @classmethod
    def from_pykan(cls: type[Self], model: Any, *, backend: Backend = "auto") -> Self:
        """The function of a pykan model (`kan.KAN`, version 0.2), in its dtype and on its device.

        Grid sizes and degrees may differ between layers. Masks fold into the weights, and an edge
        with mask 0 is removed. Multiplication nodes, affine maps and symbolic edges come along;
        where a layer has only node scales, they fold into the weights. Parameters frozen in pykan
        stay frozen. Draws no random numbers and copies all tensors. pykan need not be installed.

        Raises:
            TypeError: Not such a model.
            ValueError: Unsupported, with the place: symbolic functions that the default library
                does not have, such as pykan's anonymous ones, a selection of inputs
                (`prune_input`), or an unknown `base_fun`.
        """
        return cls.from_layers(*layers_from_pykan(model, backend=backend))

    @classmethod
    def from_pykan_state_dict(
        cls: type[Self],
        state_dict: Mapping[str, Tensor],
        base_fun: Residual | Sequence[Residual] = "silu",
        *,
        mult_arity: int | Sequence[Sequence[int]] = 2,
        backend: Backend = "auto",
    ) -> Self:
        """As `from_pykan`, from `model.state_dict()`.

        Args:
            state_dict: All of pykan's tensors. They determine widths, grid sizes and degrees.
            base_fun: What the state dict does not hold: "silu", "identity", "zero", a module or
                a function of a tensor, for all layers or one for each.
            mult_arity: pykan's argument, if there are multiplication nodes.
            backend: As in `KANLinear`.

        Raises:
            ValueError: Missing or unknown names, arities that do not fit, or something unsupported
                as in `from_pykan`: symbolic edges, too, as their functions are not in it.
        """
        return cls.from_layers(
            *layers_from_pykan_state_dict(
                state_dict, base_fun, mult_arity=mult_arity, backend=backend
            )
        )
