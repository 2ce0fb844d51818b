"""The samples of many edges, checked and brought to one scale."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

BINS = 512


@dataclass(frozen=True)
class Samples:
    """Samples of E edges, sorted by x, with their normalised copies; float64 on the CPU.

    t = (x - center) / half lies in [-1, 1] and reaches both ends; v = (y - mean) / scale has
    weighted mean 0 and variance 1. Where `live` is False (y, or all x, equal) v and t mean nothing.
    """

    x: Tensor  # [E, N]
    y: Tensor  # [E, N]
    weights: Tensor  # [E, N], rows sum to 1
    t: Tensor  # [E, N]
    v: Tensor  # [E, N]
    center: Tensor  # [E]
    half: Tensor  # [E]
    mean: Tensor  # [E]
    scale: Tensor  # [E]
    spread: Tensor  # [E], max |y - mean|, 0 where y is constant
    live: Tensor  # [E] bool

    def take(self, edges: Tensor) -> "Samples":
        """These edges only."""
        return Samples(*(getattr(self, field.name)[edges] for field in fields(self)))

    def thinned(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """At most `most` of the (t, v, weights) of each edge, evenly chosen, the ends included.

        Their v has mean 0 again, and a variance near 1.
        """
        count = self.t.shape[1]
        if count <= most:
            return self.t, self.v, self.weights
        keep = torch.linspace(0, count - 1, most, dtype=torch.float64).round().long()
        weights = self.weights[:, keep]
        total = weights.sum(1, keepdim=True)
        uniform = torch.full_like(weights, 1 / most)
        weights = torch.where(total > 0, weights / total.clamp_min(1e-300), uniform)
        v = self.v[:, keep]
        return self.t[:, keep], v - (weights * v).sum(1, keepdim=True), weights

    def binned(self) -> tuple[Tensor, Tensor]:
        """Weights and weighted v, summed into the bins around linspace(-1, 1, BINS): [E, BINS]."""
        index = ((self.t + 1) * (0.5 * (BINS - 1))).round().long().clamp(0, BINS - 1)
        empty = torch.zeros(len(self.t), BINS, dtype=torch.float64)
        return (
            empty.scatter_add(1, index, self.weights),
            empty.scatter_add(1, index, self.weights * self.v),
        )


def check(x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, weights as float64 [E, N] on the CPU, detached.

    Raises:
        TypeError: not floating tensors.
        ValueError: shapes that do not fit together, no samples, values that are not finite,
            weights that are negative or all zero.
    """
    given = {"x": x, "y": y} | ({} if weights is None else {"weights": weights})
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"expected {name} to be a floating tensor, got {kind}")
    if y.ndim != 2 or y.shape[1] == 0:
        raise ValueError(f"expected y of shape [edges, samples >= 1], got {tuple(y.shape)}")
    for name, tensor in given.items():
        if tuple(tensor.shape) not in ((y.shape[1],), tuple(y.shape)):
            raise ValueError(
                f"expected {name} of shape {(y.shape[1],)} or {tuple(y.shape)} to go with y, "
                f"got {tuple(tensor.shape)}"
            )
        bad = ~tensor.isfinite()
        if bad.any():
            where = "" if tensor.ndim == 1 else f", first in edge {int(bad.any(1).nonzero()[0])}"
            raise ValueError(
                f"expected finite samples, got {int(bad.sum())} NaN or infinite values in {name}"
                f"{where}; leave those samples out"
            )
    wide = {
        name: tensor.detach().to("cpu", torch.float64).expand(y.shape)
        for name, tensor in given.items()
    }
    wide.setdefault("weights", torch.ones((), dtype=torch.float64).expand(y.shape))
    bad = (wide["weights"] < 0).any(1) | (wide["weights"].sum(1) <= 0)
    if bad.any():
        edge = int(bad.nonzero()[0])
        raise ValueError(
            "expected weights >= 0, not all of them 0 in any edge, got those of edge "
            f"{edge} between {wide['weights'][edge].min():g} and {wide['weights'][edge].max():g}"
        )
    return wide["x"], wide["y"], wide["weights"]


def normalise(x: Tensor, y: Tensor, weights: Tensor) -> Samples:
    """Samples of checked tensors [E, N]."""
    x, order = x.sort(1)
    y, weights = y.gather(1, order), weights.gather(1, order)
    weights = weights / weights.sum(1, keepdim=True)
    low, high = x[:, :1], x[:, -1:]
    center, half = low / 2 + high / 2, high / 2 - low / 2
    first = y[:, :1]  # subtracted first: the mean of equal values is that value
    mean = first + (weights * (y - first)).sum(1, keepdim=True)
    spread = (y - mean).abs().amax(1, keepdim=True)
    # y that differs by rounding only is constant; dividing by the spread first avoids underflow
    varies = spread > 1e-14 * y.abs().amax(1, keepdim=True)
    unit = torch.where(varies, (y - mean) / torch.where(varies, spread, 1), 0)
    deviation = (weights * unit.square()).sum(1, keepdim=True).sqrt()
    live = varies & (half > 1e-14 * x.abs().amax(1, keepdim=True)) & (deviation > 0)
    t = (x - center) / torch.where(live, half, 1)
    v = torch.where(live, unit / torch.where(live, deviation, 1), 0)
    spread = torch.where(varies, spread, 0)
    flat = [column.squeeze(1) for column in (center, half, mean, spread * deviation, spread, live)]
    return Samples(x, y, weights, t.clamp(-1, 1), v, *flat)
