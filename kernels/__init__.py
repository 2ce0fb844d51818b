"""The Triton kernels behind kanfast.ops: three launchers, tensors in, tensors out. Mathematics in
README.md."""

from .forward import forward
from .input_grad import input_grad
from .runtime import interpreting
from .weight_grad import weight_grad

__all__ = ["forward", "input_grad", "interpreting", "weight_grad"]
