"""Matrix products: tensor-core time plus one pass over the weights, and over inputs and outputs where quantised.

    forward  = 2 m n k / rate + (w n k + [w m k + 2 m n]) / bandwidth        w = 2 bytes (bf16), 1 (fp8), 9/16 (nvfp4)
    backward = 4 m n k / rate + (w + 2 g) n k / bandwidth + [(2 + w) m k + 2 w m n] / bandwidth
                                                                g = bytes of a main gradient, read and written
    [] in quantised products alone

The pass over the weights, made for every micro-batch, is what makes few rows an expert slow: it reproduces the
measured grouped-GEMM table of SimuMax (b200_bf16_ceperm.json) to 8 %, so no separate curve is needed. The bandwidth is
that of streaming inside a product (`weight_memory`), higher than that of elementwise kernels.
The other operands: 16-bit products hide them (a depth of 2,048 instead of 8,192 costs H100 nothing in aiconfigurator's
tables), 8-bit ones, whose tensor cores are twice as fast, do not (a third): operands read, 16 bits written, forward and
for the input's gradient, and operands read again for the weight's.
Ignored: wave quantisation, tile padding of odd shapes.
"""

from dataclasses import dataclass
from fractions import Fraction

from moeopt.accounting.time.efficiency import Rates
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Choices


@dataclass(frozen=True)
class Products:
    """Several matrix products of one pass: forward FLOP, and elements of weights, inputs and outputs."""

    flops: Number = 0
    weights: Number = 0
    inputs: Number = 0
    outputs: Number = 0

    def __add__(self, other: "Products") -> "Products":
        return Products(
            self.flops + other.flops,
            self.weights + other.weights,
            self.inputs + other.inputs,
            self.outputs + other.outputs,
        )


def product(rows: Number, width: Number, depth: Number) -> Products:
    """One product of `rows` rows of `depth` elements with a local weight matrix, into `width` elements a row."""
    return Products(2 * rows * width * depth, width * depth, rows * depth, rows * width)


def gradient_bytes(choices: Choices) -> int:
    """Bytes of one main-gradient element."""
    return 2 if choices.optimizer.main_grads == "bf16" else 4


def forward_ns(work: Products, flops_per_ns: int, element_bytes: Fraction, rates: Rates) -> Number:
    """Time of the forward products."""
    read, written = work.weights, 0
    if element_bytes < 2:
        read, written = read + work.inputs, 2 * work.outputs
    return ceil_div(work.flops, flops_per_ns) + _moved_ns(read, written, element_bytes, rates)


def backward_ns(work: Products, flops_per_ns: int, element_bytes: Fraction, rates: Rates, choices: Choices) -> Number:
    """Time of both backward products (input and weight gradients)."""
    read, written = work.weights, work.weights * (2 * gradient_bytes(choices))
    if element_bytes < 2:
        read, written = read + work.inputs + 2 * work.outputs, written + 2 * work.inputs
    return ceil_div(2 * work.flops, flops_per_ns) + _moved_ns(read, written, element_bytes, rates)


def _moved_ns(read: Number, written_bytes: Number, element_bytes: Fraction, rates: Rates) -> Number:
    """Time to read that many elements of operands and to write (or read and write) that many bytes."""
    unit, per = element_bytes.numerator, element_bytes.denominator
    return ceil_div(1000 * (read * unit + written_bytes * per), per * rates.weight_bytes_per_us)
