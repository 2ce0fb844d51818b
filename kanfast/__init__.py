"""Kolmogorov-Arnold networks on fused kernels."""

from typing import TYPE_CHECKING, Any

from kanfast.engine import native
from kanfast.engine.basis import Basis
from kanfast.engine.ops import kan_linear, pack_coefficients
from kanfast.engine.statistics import EdgeStatistics, edge_statistics
from kanfast.interpret.dataset import create_dataset, create_dataset_from_data
from kanfast.interpret.parameters import parameter_groups
from kanfast.kan import KAN
from kanfast.nn.linear import KANLinear

if TYPE_CHECKING:
    from kanfast import explain as explain
    from kanfast import interpret as interpret
    from kanfast import plot as plot
    from kanfast import symbolic as symbolic

    __version__: str

__all__ = [
    "KAN",
    "Basis",
    "EdgeStatistics",
    "KANLinear",
    "__version__",
    "create_dataset",
    "create_dataset_from_data",
    "edge_statistics",
    "kan_linear",
    "native",
    "pack_coefficients",
    "parameter_groups",
]

# Imported when they are asked for: SymPy and Matplotlib, behind some, take a while to load.
_ROOMS = ("explain", "interpret", "plot", "symbolic")


def __getattr__(name: str) -> Any:
    import importlib
    from importlib.metadata import version

    if name == "__version__":
        return version("kanfast")
    if name in _ROOMS:
        return importlib.import_module(f"kanfast.{name}")
    raise AttributeError(f"module 'kanfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
