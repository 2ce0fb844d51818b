"""One KAN layer: a module that takes the place of efficient-kan's `KANLinear` or of `nn.Linear`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanfast.engine import checks
from kanfast.engine.activations import Activation
from kanfast.engine.backends import Backend
from kanfast.engine.basis import shared_basis
from kanfast.engine.layer import layer
from kanfast.nn import knots, masks, measures, parameters, resize, splines, symbols
from kanfast.nn.layer import check_features
from kanfast.nn.residual import fused_name, make_residual
from kanfast.nn.selection import Selection

if TYPE_CHECKING:  # SymPy, behind it, takes a while
    from kanfast.symbolic.edges import SymbolicEdges

Self = TypeVar("Self", bound="KANLinear")


class KANLinear(nn.Module):
    """A layer whose every edge is a function: a B-spline plus a residual activation.

        y[..., o] = sum_i base_weight[o,i] b(x[..., i]) + spline_scaler[o,i] spline[o,i](x[..., i])

    (Liu et al., "KAN: Kolmogorov-Arnold Networks", 2024, section 2.2.) The arguments up to
    `grid_range` are those of efficient-kan, with the same names, order, defaults and initial values
    for the same seed.

    Args:
        in_features: Inputs I.
        out_features: Outputs O.
        grid_size: Grid intervals G, at least 1.
        spline_order: Degree k of the splines, 0 to 7.
        scale_noise: Size of the random splines at the start.
        scale_base: The larger, the *smaller* `base_weight` at the start: it enters as
            `kaiming_uniform_(a=sqrt(5) * scale_base)`.
        scale_spline: The same for `spline_scaler`; without it, a factor of the random splines.
        enable_standalone_scale_spline: Whether each edge has a trainable factor `spline_scaler`.
        base_activation: The residual function: a module class or any function without arguments
            that makes one, a module, or None for none (then there is no `base_weight`). SiLU, exact
            GELU, Tanh, Sigmoid, ReLU and Identity are fused with the splines; anything else is
            evaluated by itself, followed by a matrix product.
        grid_eps: Share of the equally spaced grid in `update_grid`, 0 to 1; 1 stays on the path
            for equally spaced knots, which is the fastest.
        grid_range: Where the grid begins and ends. Outside it the splines fade to zero over k
            intervals, and only the residual remains.
        device: Device of parameters and grid.
        dtype: Their dtype. The grid is never narrower than float32.
        backend: "auto", "triton", "native" or "reference", as in `kanfast.kan_linear`. May be set
            later.

    Attributes:
        base_weight: Parameter [O, I], or None without a residual function.
        spline_weight: Parameter [O, I, G+k], the coefficients of the splines.
        spline_scaler: Parameter [O, I]; absent if `enable_standalone_scale_spline` is False.
        grid: Buffer of knots [I, G+2k+1].
        mask: Buffer [O, I], False for the edges without a spline, which were removed or are
            symbolic, or None as long as all have one (then it is not in the state dict). See
            `set_mask`.
        symbolic: Module of the edges c f(a x + b) + d, which are added to the others; None, and not
            in the state dict, as long as there are none. See `KAN.fix_symbolic`.

    Raises:
        ValueError: A size, order or range that makes no sense, or an unknown backend.
        TypeError: A `base_activation` that is neither a module nor makes one.

    Example:
        >>> layer = KANLinear(3, 4)
        >>> layer(torch.rand(10, 3)).shape
        torch.Size([10, 4])
        >>> layer.spline_weight.shape  # [O, I, G + k]
        torch.Size([4, 3, 8])
        >>> head = torch.nn.Sequential(torch.nn.LayerNorm(3), KANLinear(3, 2, spline_order=2))
        >>> head(torch.rand(5, 7, 3)).shape
        torch.Size([5, 7, 2])
    """

    grid: Tensor
    base_weight: nn.Parameter | None
    spline_scaler: nn.Parameter
    mask: Tensor | None
    symbolic: SymbolicEdges | None
    _uniform: bool
    _looked_at: tuple[Tensor, int]

    reset_parameters = parameters.reset_parameters
    refresh_grid = knots.refresh_grid
    update_grid = splines.update_grid
    refine = resize.refine
    b_splines = splines.b_splines
    curve2coeff = splines.curve2coeff
    set_mask = masks.set_mask
    edge_statistics = measures.edge_statistics
    regularization_loss = measures.regularization_loss

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid_size: int = 5,
        spline_order: int = 3,
        scale_noise: float = 0.1,
        scale_base: float = 1.0,
        scale_spline: float = 1.0,
        enable_standalone_scale_spline: bool = True,
        base_activation: Callable[..., Any] | None = nn.SiLU,
        grid_eps: float = 0.02,
        grid_range: Sequence[float] = (-1, 1),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        in_features, out_features, grid_size, spline_order = parameters.check_sizes(
            in_features, out_features, grid_size, spline_order, grid_range
        )
        self.in_features = in_features
        self.out_features = out_features
        self.grid_size = grid_size
        self.spline_order = spline_order
        self.scale_noise = scale_noise
        self.scale_base = scale_base
        self.scale_spline = scale_spline
        self.enable_standalone_scale_spline = enable_standalone_scale_spline
        self.grid_eps = grid_eps
        self.grid_range = tuple(grid_range)
        self.backend = backend

        dtype = dtype or torch.get_default_dtype()
        self.register_buffer("grid", knots.initial_grid(self, device, dtype))
        edges = torch.empty(out_features, in_features, device=device, dtype=dtype)
        coefficients = edges.new_empty(out_features, in_features, grid_size + spline_order)
        has_base = base_activation is not None
        self.register_parameter("base_weight", nn.Parameter(edges) if has_base else None)
        self.spline_weight = nn.Parameter(coefficients)
        if enable_standalone_scale_spline:
            self.spline_scaler = nn.Parameter(torch.empty_like(edges))
        self.base_activation = make_residual(base_activation)
        self.register_buffer("mask", None)
        self.register_module("symbolic", None)
        self._live_inputs = Selection()
        self.refresh_grid()
        self.reset_parameters()

    @property
    def backend(self) -> Backend:
        """What evaluates the layer: "auto", "triton", "native" or "reference"."""
        return self._backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        checks.check_backend(backend)
        self._backend: Backend = backend

    @property
    def edge_mask(self) -> Tensor:
        """Which edges are there, as splines or symbolic functions: bool [O, I]."""
        return symbols.edge_mask(self)

    @property
    def scaled_spline_weight(self) -> Tensor:
        """Coefficients [O, I, G+k] with the factor of each edge, 0 for removed ones."""
        return masks.scaled_spline_weight(self)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> y [..., O]; any number of rows, also none.

        Inputs without a live edge are not looked at.
        """
        modules = self._modules  # in this module an attribute costs a tenth of a small layer
        function = modules.get("base_activation")
        activation = fused_name(function or self.base_activation)
        if activation is None or self._only_base_is_trained():
            # Fused, the gradient of base_weight alone would cost that of all the splines.
            y = self._fused(x, "none") + self._base(x)
        else:
            y = self._fused(x, activation)
        symbolic = modules["symbolic"]
        return y if symbolic is None else y + symbolic(x).to(y.dtype)

    def _fused(self, x: Tensor, activation: Activation) -> Tensor:
        """The splines, and a residual function of this name, in one call of the engine."""
        weight, grid = self._parameter("spline_weight"), self._buffers.get("grid")
        base = None if activation == "none" else self._parameter("base_weight")
        if grid is None:  # it is a parameter, or computed from others
            grid = self.grid
        scaler = None
        if self._buffers.get("mask") is not None:
            scaler = masks.scaler_of(self)
            base = None if base is None else masks.masked(self, base)
            live = self._live_inputs.of(self.mask)
            if live is not None:
                check_features(self, "x", x)
                x, weight, grid = x[..., live], cast(Tensor, weight)[:, live], grid[live]
                base = None if base is None else base[:, live]
                scaler = None if scaler is None else scaler[:, live]
        elif self.enable_standalone_scale_spline:
            scaler = self._parameter("spline_scaler")
        uniform = grid.is_cpu or knots.says_uniform(self)
        basis = shared_basis(self.grid_size, self.spline_order, activation, uniform)
        return layer(
            x, cast(Tensor, weight), base, scaler, grid, basis=basis, backend=self._backend
        )

    def _parameter(self, name: str) -> Tensor | None:
        """The parameter of this name, or what is computed in its place before each forward."""
        parameters = self._parameters
        if name in parameters:
            return parameters[name]
        computed: Tensor | None = getattr(self, name)
        return computed

    def _base(self, x: Tensor) -> Tensor:
        act, weight = self.base_activation, self.base_weight
        if act is None or weight is None:
            raise ValueError(
                "base_activation and base_weight must be both there or both None, got "
                f"{act} and {None if weight is None else list(weight.shape)}: set both"
            )
        values, masked = act(x), masks.masked(self, weight)
        live = self._live_inputs.of(self.mask)
        if live is not None:
            values, masked = values.index_select(-1, live), masked[:, live]
        return F.linear(values, masked)

    def _only_base_is_trained(self) -> bool:
        weight = self._parameter("spline_weight")
        if weight is not None and weight.requires_grad:
            return False
        if self.base_weight is None or not self.base_weight.requires_grad:
            return False
        scaled = self.enable_standalone_scale_spline and self.spline_scaler.requires_grad
        return not scaled

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts as every module; a cast to 16 bits leaves the grid at float32."""
        before = self.grid
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        knots.keep_wide(self, before)
        self._live_inputs.of(self.mask)
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        masks.make_room(self, state_dict, prefix)
        symbols.make_room(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.grid = self.grid.to(knots.at_least_float32(self.grid.dtype))
        self.refresh_grid()
        self._live_inputs.of(self.mask)

    def extra_repr(self) -> str:
        """Sizes and backend, for `print(layer)`."""
        names = ("in_features", "out_features", "grid_size", "spline_order", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
