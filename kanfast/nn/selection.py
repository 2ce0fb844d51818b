"""Indices of what a mask leaves alive."""

from __future__ import annotations

import torch
from torch import Tensor

from kanfast.engine._torch import is_batched


class Selection:
    """The live columns of a mask, looked up again only when the mask has changed.

    A look at values waits for a GPU, a comparison of identity and version does not. Compiled code
    never looks: it takes what was last found, so owners of a mask call `of` whenever they set it.
    """

    def __init__(self) -> None:
        self._looked_at: tuple[Tensor | None, int] = (None, -1)
        self._indices: Tensor | None = None

    def of(self, mask: Tensor | None) -> Tensor | None:
        """Indices of the entries of [N], or the columns of [M, N], that are not all False.

        None stands for all of them, also when there is no mask or its values cannot be seen (meta
        tensors, inside vmap).
        """
        if mask is None or mask.is_meta or is_batched(mask):
            return None
        if not torch.compiler.is_compiling():
            seen, version = self._looked_at
            if seen is not mask or version != version_of(mask):
                alive = mask if mask.dim() == 1 else mask.any(dim=0)
                self._indices = None if alive.all() else alive.nonzero().flatten()
                self._looked_at = (mask, version_of(mask))
        return self._indices


def version_of(tensor: Tensor) -> int:
    """A number that grows with every change in place; -1 for inference tensors, which have none."""
    return -1 if tensor.is_inference() else tensor._version
