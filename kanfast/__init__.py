"""Kolmogorov-Arnold networks on fused kernels."""

from kanfast.engine.basis import Basis as Basis
from kanfast.engine.ops import kan_linear as kan_linear
from kanfast.engine.ops import pack_coefficients as pack_coefficients
from kanfast.engine.statistics import EdgeStatistics as EdgeStatistics
from kanfast.engine.statistics import edge_statistics as edge_statistics
from kanfast.interpret.dataset import create_dataset as create_dataset
from kanfast.interpret.dataset import create_dataset_from_data as create_dataset_from_data
from kanfast.interpret.parameters import parameter_groups as parameter_groups
from kanfast.nn import KAN as KAN
from kanfast.nn import KANLinear as KANLinear
