"""Integers as users have them: Python's, NumPy's, and torch's of no dimension."""

from __future__ import annotations

import operator
from typing import Any

import torch


def integer(name: str, value: Any) -> int:
    """The value as an int.

    Raises:
        TypeError: It is none: a float, a bool, a string, a tensor of more than one number.

    Example:
        >>> integer("grid_size", torch.tensor(5))
        5
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if torch.compiler.is_compiling():
        raise TypeError(f"{name} must be an int, got {value!r}")
    is_bool = isinstance(value, bool) or getattr(value, "dtype", None) in (bool, torch.bool)
    try:
        if not is_bool:
            return operator.index(value)
    except TypeError:
        pass  # said below
    raise TypeError(f"{name} must be an int, got {value!r}")
