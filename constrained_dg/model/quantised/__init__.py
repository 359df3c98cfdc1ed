"""Weights that stay quantised in memory: FP8, one scale for each row, and NVFP4, one for each 16 numbers of a row.

formats.py   the number formats: quantise and dequantise, the obvious twin of every product
weight.py    a weight as a module of buffers, and which product multiplies it where
kernel.py    NVFP4 on a GPU: a Triton kernel that dequantises tile by tile; imported where it is used
"""

from constrained_dg.model.quantised.weight import QuantisedLinear, QuantisedWeight

__all__ = ["QuantisedLinear", "QuantisedWeight"]
