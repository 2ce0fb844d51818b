"""The modules: `KANLinear`, and `KAN`, a stack of them."""

from kanfast.nn.kan import KAN
from kanfast.nn.linear import KANLinear

__all__ = ["KAN", "KANLinear"]
