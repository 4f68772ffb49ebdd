"""Kernels whose time is their bytes over the memory bandwidth; a backward pass moves twice the forward's bytes."""

from moeopt.accounting.time.efficiency import Rates
from moeopt.arithmetic import Number, ceil_div, times

BACKWARD_PASSES = 2
"""Backward bytes over forward bytes: gradients are read and written beside the values."""


def memory_ns(count_bytes: Number, rates: Rates) -> Number:
    """Time to move that many bytes."""
    return ceil_div(count_bytes * 1000, rates.memory_bytes_per_us)


def quantize_bytes(elements: Number, rates: Rates) -> Number:
    """Bytes that quantising those elements moves; none in 16-bit recipes."""
    return times(elements, rates.format.quantize_bytes)
