"""One KAN layer: a module that takes the place of efficient-kan's `KANLinear` or of `nn.Linear`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn.utils import parametrize

from kanfast import checks
from kanfast import grid as grids
from kanfast import layer as layers
from kanfast.activations import Activation
from kanfast.basis import MAX_DEGREE, Basis, shared_basis
from kanfast.nn import resize
from kanfast.nn import symbolic as symbols
from kanfast.nn.residual import fused_name, make_residual
from kanfast.nn.selection import Selection, version_of
from kanfast.ops import Backend, kan_linear, pack_coefficients
from kanfast.statistics import EdgeStatistics, edge_statistics

if TYPE_CHECKING:
    from kanfast.symbolic.edges import SymbolicEdges


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
    """

    grid: Tensor
    mask: Tensor | None
    symbolic: SymbolicEdges | None
    base_weight: nn.Parameter | None
    spline_weight: nn.Parameter
    spline_scaler: nn.Parameter

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
        _check_sizes(in_features, out_features, grid_size, spline_order, grid_range)
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
        self.register_buffer("grid", self._initial_grid(device, _at_least_float32(dtype)))
        edges = torch.empty(out_features, in_features, device=device, dtype=dtype)
        splines = edges.new_empty(out_features, in_features, grid_size + spline_order)
        has_base = base_activation is not None
        self.register_parameter("base_weight", nn.Parameter(edges) if has_base else None)
        self.spline_weight = nn.Parameter(splines)
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

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws new parameters for the present grid, as efficient-kan does and in its order."""
        if self.spline_weight.is_meta:
            return
        if self.base_weight is not None:
            nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5) * self.scale_base)
        weight = self.spline_weight
        points = self._core_knots().T
        noise = torch.rand(
            *points.shape,
            self.out_features,
            device=weight.device,
            dtype=_at_least_float32(weight.dtype),
        )
        noise = (noise - 1 / 2) * self.scale_noise / self.grid_size
        factor = 1.0 if self.enable_standalone_scale_spline else self.scale_spline
        weight.copy_(factor * self.curve2coeff(points, noise))
        if self.enable_standalone_scale_spline:
            nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5) * self.scale_spline)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> y [..., O]; any number of rows, also none.

        Inputs without a live edge are not looked at.
        """
        y = self._in_one_call(x)
        if y is None:
            activation = self._fused_activation()
            if activation is None:
                y = self._fused(x, "none") + self._base(x)
            else:
                y = self._fused(x, activation)
        return y if self.symbolic is None else y + self.symbolic(x).to(y.dtype)

    def _in_one_call(self, x: Tensor) -> Tensor | None:
        """The layer by `kanfast.layer`, or None if it is not the usual case."""
        arguments = self.usual_arguments()
        if arguments is None or not layers.fits(x, (arguments,)):
            return None
        return layers.evaluate(x, (arguments,))

    def usual_arguments(self) -> layers.Arguments | None:
        """What `kanfast.layer` needs for the splines, or None if they are not the usual case.

        Takes parameters and buffers from their dictionaries: as attributes of a module they cost
        more than the evaluation of a small layer.
        """
        if self._backend not in ("auto", "native"):
            return None
        parameters, buffers = self._parameters, self._buffers
        weight, base = parameters.get("spline_weight"), parameters.get("base_weight")
        scaler, grid = parameters.get("spline_scaler"), buffers.get("grid")
        activation = fused_name(self._modules.get("base_activation"))
        if (
            weight is None
            or grid is None
            or activation is None
            or buffers.get("mask") is not None
            or (scaler is None) == self.enable_standalone_scale_spline
            or not (weight.requires_grad or base is None or not base.requires_grad)
            or is_batchedtensor(grid)
        ):
            return None
        if torch.compiler.is_compiling():
            basis = Basis(self.grid_size, self.spline_order, activation, self._uniform)
        else:
            basis = shared_basis(
                self.grid_size, self.spline_order, activation, self._is_uniform_now(grid)
            )
        return weight, base, scaler, grid, basis

    def _base(self, x: Tensor) -> Tensor:
        act, weight = self.base_activation, self.base_weight
        if act is None or weight is None:
            raise ValueError(
                f"base_activation {act} does not fit base_weight {weight}: both or none"
            )
        values, masked = act(x), self._masked(weight)
        live = self._live_inputs.of(self.mask)
        if live is not None:
            values, masked = values.index_select(-1, live), masked[:, live]
        return F.linear(values, masked)

    def _fused(self, x: Tensor, activation: Activation) -> Tensor:
        c, grid = self._packed(with_base=activation != "none"), self.grid
        live = self._live_inputs.of(self.mask)
        if live is not None:
            self._check_features("x", x)
            x, c, grid = x.index_select(-1, live), c[:, live], grid[live]
        return kan_linear(x, c, grid, basis=self._basis(activation), backend=self._backend)

    def _basis(self, activation: Activation) -> Basis:
        return Basis(self.grid_size, self.spline_order, activation, self._grid_is_uniform())

    def _packed(self, *, with_base: bool) -> Tensor:
        """Coefficients for `kan_linear`, with zeros for removed edges."""
        base = self.base_weight if with_base else None
        return pack_coefficients(
            self.spline_weight, None if base is None else self._masked(base), self._scaler()
        )

    def _fused_activation(self) -> Activation | None:
        """Name of the residual function if it goes into the fused op."""
        if self._only_base_is_trained():
            # Fused, the gradient of base_weight would cost that of all the splines.
            return None
        return fused_name(self.base_activation)

    def _only_base_is_trained(self) -> bool:
        if self.base_weight is None or not self.base_weight.requires_grad:
            return False
        scaled = self.enable_standalone_scale_spline and self.spline_scaler.requires_grad
        return not (self.spline_weight.requires_grad or scaled)

    @property
    def scaled_spline_weight(self) -> Tensor:
        """Coefficients [O, I, G+k] with the factor of each edge, 0 for removed ones."""
        scaler = self._scaler()
        return self.spline_weight if scaler is None else self.spline_weight * scaler.unsqueeze(-1)

    def _scaler(self) -> Tensor | None:
        if self.enable_standalone_scale_spline:
            return self._masked(self.spline_scaler)
        return None if self.mask is None else self.mask.to(self.spline_weight.dtype)

    def _masked(self, values: Tensor) -> Tensor:
        """Values [O, I] of the edges, 0 for removed ones."""
        return values if self.mask is None else torch.where(self.mask, values, 0)

    def set_mask(self, mask: Tensor | None) -> None:
        """Removes splines with their residual functions: they are zero, and so are their gradients.

        Symbolic functions stay. Parameters of removed edges keep their values, whatever an
        optimizer does to them has no effect, and a later mask may bring the edges back. The mask is
        part of the state dict, and loading such a state dict sets it.

        Args:
            mask: [O, I], bool, False for removed ones; copied. None brings all of them back.

        Raises:
            ValueError: Another shape or dtype.
        """
        shape = (self.out_features, self.in_features)
        if mask is not None and (mask.shape != shape or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be a bool tensor [out_features, in_features] = {list(shape)}, got "
                f"{mask.dtype} {list(mask.shape)}"
            )
        self.mask = None if mask is None else mask.detach().clone().to(self.grid.device)
        self._live_inputs.of(self.mask)

    def edge_statistics(self, x: Tensor) -> EdgeStatistics:
        """Mean, size, deviation and range of every edge's function over the rows of x [..., I].

        Exact, differentiable once, without a tensor of rows x edges: see
        `kanfast.edge_statistics`.
        """
        self._check_features("samples", x)
        activation = fused_name(self.base_activation)
        residual = None
        if activation is None and self.base_activation is not None:
            residual = self.base_activation(x)
        numeric = edge_statistics(
            x,
            self._packed(with_base=True),
            self.grid,
            basis=self._basis(activation or "none"),
            residual=residual,
            backend=self._backend,
        )
        if self.symbolic is None:
            return numeric
        live = symbols.numeric_mask(self)
        return symbols.with_symbolic(numeric, self.symbolic, x, self._splines(), live)

    def _splines(self) -> Callable[[int, int, Tensor], Tensor]:
        """(o, i, rows) -> [rows]: what edges are without their symbolic functions, from now on."""
        activation = fused_name(self.base_activation)
        basis, grid = self._basis(activation or "none"), self.grid
        c = self._packed(with_base=activation is not None)
        weight = None if self.base_weight is None else self._masked(self.base_weight)

        def spline(o: int, i: int, rows: Tensor) -> Tensor:
            packed = c[:, i : i + 1, o : o + 1].to(rows.dtype)
            y = kan_linear(rows[:, i : i + 1], packed, grid[i : i + 1], basis=basis)[:, 0]
            if activation is None and self.base_activation is not None and weight is not None:
                y = y + self.base_activation(rows)[:, i] * weight[o, i]
            return y

        return spline

    @property
    def edge_mask(self) -> Tensor:
        """Which edges are there, as splines or symbolic functions: bool [O, I]."""
        return symbols.numeric_mask(self) | symbols.symbolic_mask(self)

    def b_splines(self, x: Tensor) -> Tensor:
        """Values of the B-splines, x [..., I] -> [..., I, G+k]; `forward` never builds these."""
        self._check_features("x", x)
        rows = x.reshape(-1, self.in_features).to(_at_least_float32(x.dtype))
        values = grids.b_splines(rows, self.grid, self.spline_order)
        return values.reshape(*x.shape, self.grid_size + self.spline_order).to(x.dtype)

    def curve2coeff(self, x: Tensor, y: Tensor) -> Tensor:
        """Coefficients [O, I, G+k] of the splines closest to the points x [N, I], y [N, I, O].

        Least squares of minimal norm, on the CPU in float64 wherever the tensors are; the result is
        on y's device in y's dtype.
        """
        expected = (self.in_features, self.out_features)
        if x.dim() != 2 or x.shape[1] != self.in_features or y.shape != (len(x), *expected):
            raise ValueError(
                f"curve2coeff expects x [N, {self.in_features}] and y [N, {self.in_features}, "
                f"{self.out_features}], got {list(x.shape)} and {list(y.shape)}"
            )
        return grids.fit_coefficients(x, y, self.grid, self.spline_order)

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01) -> None:
        """Moves the knots to where the samples are, and keeps the function there by least squares.

        The knots of each input become `grid_eps` times an equally spaced grid over its samples and
        1 - `grid_eps` times their quantiles. `spline_weight` is refitted at the samples, with no
        change to the other parameters; what the samples leave open follows the old splines.

        The samples are copied to the CPU, where knots and fits are computed in float64 with a
        rank-revealing solver, and the results are copied back: on a GPU this waits for the device.

        Args:
            x: Samples [..., I], at least one row, finite.
            margin: How far beyond the samples the equally spaced part reaches.

        Raises:
            ValueError: Wrong shape, no rows, or NaN or infinite samples.
            RuntimeError: `spline_weight` is computed from other tensors (`torch.nn.utils.prune`),
                so it cannot be set.
        """
        self._check_features("samples", x)
        samples = x.detach().reshape(-1, self.in_features)
        if not len(samples):
            raise ValueError("update_grid needs at least one row of samples, got an empty batch")
        finite = samples.isfinite().all(dim=0)
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise ValueError(
                f"update_grid needs finite samples; there are NaN or infinite values in the "
                f"features {bad[:8]}{' ...' if len(bad) > 8 else ''}"
            )
        knots = grids.knots_from_samples(
            samples, self.grid, self.spline_order, grid_eps=self.grid_eps, margin=margin
        )
        weight = grids.refit(self.spline_weight, samples, self.grid, knots, self.spline_order)
        self._set_spline_weight(weight)
        self.grid.copy_(knots)
        self.refresh_grid()

    def _set_spline_weight(self, weight: Tensor) -> None:
        if parametrize.is_parametrized(self, "spline_weight"):
            self.spline_weight = weight  # type: ignore[assignment]  # by its right inverse
        elif "spline_weight" in self._parameters:
            self.spline_weight.copy_(weight)
        else:
            raise RuntimeError(
                "update_grid cannot set spline_weight: it is not a parameter but computed from "
                "others before each forward; make that permanent first "
                "(torch.nn.utils.prune.remove)"
            )

    def refine(self, new_grid_size: int) -> KANLinear:
        """A copy with another number of grid intervals and the same function.

        From grid_size on, the function is the same wherever it is evaluated, also where its splines
        fade out beyond the grid: every interval is split into new_grid_size / grid_size parts, or
        into the integers next to that, the k outer knots on either side stay, and coefficients
        follow by knot insertion. So an equally spaced grid is none any more (`update_grid` with
        grid_eps=1 makes one again). With fewer intervals the splines are approximated by least
        squares all along the grid.

        Dtype, device, what is frozen, masks and settings are those of this layer.

        Raises:
            TypeError, ValueError: new_grid_size is not an int of at least 1.
            RuntimeError: `spline_weight` is computed from other tensors.
        """
        finer = copy.deepcopy(self)
        resize.set_grid_size(finer, new_grid_size)
        return finer

    def regularization_loss(
        self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0
    ) -> Tensor:
        """efficient-kan's stand-in for the L1 norm and entropy of the KAN paper (section 2.5.1).

        The size of an edge is the mean absolute coefficient of its unscaled spline. The loss is the
        weighted sum of the total size and the entropy -sum p log p of the sizes' shares p. Edges of
        size zero have no part in it, nor a gradient.
        """
        size = self._masked(self.spline_weight.abs().mean(-1))
        total = size.sum()
        share = size / torch.where(total > 0, total, 1)
        entropy = -(share * torch.where(share > 0, share, 1).log()).sum()
        return regularize_activation * total + regularize_entropy * entropy

    def extra_repr(self) -> str:
        """Sizes and backend, for `print(layer)`."""
        names = ("in_features", "out_features", "grid_size", "spline_order", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    # The grid: its dtype, and whether its rows are equally spaced, which decides on the fast path.

    def refresh_grid(self) -> None:
        """Looks again whether the grid is equally spaced.

        Needed only after an in-place change of `grid` by hand whose next use is a compiled forward.
        Everything else notices by itself.
        """
        grid = self.grid
        self._uniform = grid.is_meta or grids.is_uniform(grid, self.spline_order)
        self._looked_at = (grid, version_of(grid))

    def _grid_is_uniform(self) -> bool:
        if is_batchedtensor(self.grid):
            return False  # inside vmap: kan_linear has to say what it can do
        return self._uniform if torch.compiler.is_compiling() else self._is_uniform_now(self.grid)

    def _is_uniform_now(self, grid: Tensor) -> bool:
        # Comparing identity and version costs no look at the values, so no wait for a GPU.
        seen, version = self._looked_at
        if grid is not seen or version != version_of(grid):
            self.refresh_grid()
        return self._uniform

    def _initial_grid(self, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
        return grids.uniform_knots(
            self.grid_range,
            self.grid_size,
            self.spline_order,
            self.in_features,
            device=device,
            dtype=dtype,
        )

    def _core_knots(self) -> Tensor:
        return self.grid[:, self.spline_order : self.spline_order + self.grid_size + 1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KANLinear:
        """Moves and casts as every module, but keeps the grid at float32 when casting to 16 bits.

        A knot in bfloat16 is off by up to 1/256 of its value, an eighth of an interval at G = 64 on
        [-1, 1]: that would deform every spline of a trained layer, and saves next to no memory.
        """
        grid = self.grid
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        wide = _at_least_float32(self.grid.dtype)
        if grid.is_meta and not self.grid.is_meta:
            self.grid = self._initial_grid(self.grid.device, wide)
        elif wide != self.grid.dtype:
            self.grid = grid.to(self.grid.device, wide)
        self.refresh_grid()
        self._live_inputs.of(self.mask)
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}mask" in state_dict and self.mask is None:
            shape = (self.out_features, self.in_features)
            self.mask = torch.ones(shape, dtype=torch.bool, device=self.grid.device)
        if f"{prefix}symbolic.affine" in state_dict and self.symbolic is None:
            self.symbolic = symbols.make_edges(self)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.grid = self.grid.to(_at_least_float32(self.grid.dtype))
        self.refresh_grid()
        self._live_inputs.of(self.mask)

    def _check_features(self, what: str, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"{what} must be [..., {self.in_features}], got {list(x.shape)}")


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _check_sizes(
    in_features: int,
    out_features: int,
    grid_size: int,
    spline_order: int,
    grid_range: Sequence[float],
) -> None:
    for name, value, least in (
        ("in_features", in_features, 1),
        ("out_features", out_features, 1),
        ("grid_size", grid_size, 1),
        ("spline_order", spline_order, 0),
    ):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if spline_order > MAX_DEGREE:
        raise ValueError(f"spline_order must be 0 to {MAX_DEGREE}, got {spline_order}")
    if len(grid_range) != 2 or not -math.inf < grid_range[0] < grid_range[1] < math.inf:
        raise ValueError(f"grid_range must be two finite numbers, low < high, got {grid_range}")
