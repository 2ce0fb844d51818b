"""Kolmogorov-Arnold networks on fused kernels."""

from kanfast.basis import Basis as Basis
from kanfast.nn import KAN as KAN
from kanfast.nn import KANLinear as KANLinear
from kanfast.ops import kan_linear as kan_linear
from kanfast.ops import pack_coefficients as pack_coefficients
