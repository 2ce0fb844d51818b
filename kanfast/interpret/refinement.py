"""More grid intervals for a network, without a change of its function."""

from __future__ import annotations

from collections.abc import Sequence

from kanfast.nn import resize
from kanfast.nn.network import AnyNetwork


def refine(
    network: AnyNetwork, new_grid_size: int, layers: Sequence[int] | None = None
) -> AnyNetwork:
    """A new model with `new_grid_size` grid intervals and the same function.

    See `KANLinear.refine`. An optimizer of this model does not know the parameters of the new
    one: see `kanfast.parameter_groups`.

    Args:
        new_grid_size: Number of intervals.
        layers: Indices of the layers to refine; all of them if None.

    Raises:
        TypeError, ValueError, RuntimeError: As `KANLinear.refine`.
        IndexError: There is no such layer.

    Example:
        >>> model = KAN([2, 5, 1], grid_size=5, dtype=torch.float64)
        >>> x = torch.rand(100, 2, dtype=torch.float64)
        >>> fine = model.refine(20)
        >>> fine.grid_size
        20
        >>> torch.allclose(fine(x), model(x))
        True
    """
    finer = network.copy()
    depth = len(network.layers)
    for index in range(depth) if layers is None else layers:
        if not -depth <= index < depth:
            raise IndexError(f"layers must be among {-depth} to {depth - 1}, got {index}")
        resize.set_grid_size(finer.kan_layers[index], new_grid_size)
    finer.refresh_sizes()
    return finer
