"""Units in which networks train well, whatever those of the data are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanfast.interpret.dataset import Dataset

Moments = tuple[Tensor, Tensor]
"""Shifts and factors: the value in other units is factor * value + shift."""

# Columns that networks train on as they are.
_LARGEST_INPUT, _SMALLEST_RANGE = 10.0, 0.1
_LARGEST_OFFSET, _DEVIATIONS = 10.0, (0.1, 10.0)
CONSTANT = 1e-14  # labels that vary by less of their size do not


def composed(inner: Moments, outer: Moments) -> Moments:
    """One change of units after another."""
    shift, factor = outer
    return factor * inner[0] + shift, factor * inner[1]


@dataclass(frozen=True)
class Scaling:
    """A dataset in units of its own, with shifts and factors that give the data's units back.

    Columns of ordinary size stay as they are. Others are mapped to [-1, 1], and labels to mean 0
    and deviation 1, of the training rows.
    """

    inputs: Moments
    outputs: Moments

    @staticmethod
    def of(dataset: Dataset) -> Scaling:
        """The units for these training rows, with finite values."""
        x, y = (dataset[f"train_{part}"].detach().cpu().double() for part in ("input", "label"))
        low, high = x.amin(0), x.amax(0)
        middle, half = low / 2 + high / 2, high / 2 - low / 2
        ordinary = (x.abs().amax(0) <= _LARGEST_INPUT) & (half >= _SMALLEST_RANGE)
        size = y.abs().amax(0)
        unit = torch.where(size > 0, size, 1)  # squares of large labels are infinite
        mean, std = (y / unit).mean(0), (y / unit).std(0, correction=0)
        constant = std <= CONSTANT
        std = torch.where(constant, 1, std)
        mean, std = mean * unit, std * unit
        least, most = _DEVIATIONS
        usual = (std >= least) & (std <= most) & (mean.abs() <= _LARGEST_OFFSET * std)
        return Scaling(
            _but(ordinary, middle, torch.where(half > 0, half, 1)), _but(usual, mean, std)
        )

    def scaled(self, dataset: Dataset) -> Dataset:
        """The dataset in these units: float64, on its device."""
        units = {"input": self.inputs, "label": self.outputs}
        result = {}
        for name, values in dataset.items():
            shift, factor = (moment.to(values.device) for moment in units[name.split("_")[1]])
            result[name] = (values.detach().double() - shift) / factor
        return result


def _but(leave: Tensor, shift: Tensor, factor: Tensor) -> Moments:
    return torch.where(leave, 0, shift), torch.where(leave, 1, factor)
