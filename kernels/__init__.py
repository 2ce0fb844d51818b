"""The Triton kernels behind kanfast: launchers, tensors in, tensors out. Mathematics in
README.md."""

from .forward import forward
from .input_grad import input_grad
from .layer import layer_forward, layer_grad
from .runtime import interpreting
from .statistics import edge_statistics
from .statistics_grad import edge_statistics_grad
from .weight_grad import weight_grad

__all__ = [
    "edge_statistics",
    "edge_statistics_grad",
    "forward",
    "input_grad",
    "interpreting",
    "layer_forward",
    "layer_grad",
    "weight_grad",
]
