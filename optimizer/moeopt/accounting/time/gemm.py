"""Matrix products: tensor-core time plus one pass over the weights; in 8 bits one over inputs and outputs as well.

    forward  = 2 m n k / rate + (w n k + [m k + 2 m n]) / bandwidth          w = 2 bytes (bf16) or 1 (fp8)
    backward = 4 m n k / rate + (w + 2 g) n k / bandwidth + [3 m k + 2 m n] / bandwidth
                                                                g = bytes of a main gradient, read and written
    [] in 8-bit products alone

The pass over the weights, made for every micro-batch, is what makes few rows an expert slow: it reproduces the
measured grouped-GEMM table of SimuMax (b200_bf16_ceperm.json) to 8 %, so no separate curve is needed. The bandwidth is
that of streaming inside a product (`weight_memory`), higher than that of elementwise kernels.
The other operands: 16-bit products hide them (a depth of 2,048 instead of 8,192 costs H100 nothing in aiconfigurator's
tables), 8-bit ones, whose tensor cores are twice as fast, do not (a third): 1 byte an element read, 2 written, forward,
for the input's gradient, and read again for the weight's.
Ignored: wave quantisation, tile padding of odd shapes.
"""

from dataclasses import dataclass

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


def forward_ns(work: Products, flops_per_ns: int, weight_bytes: int, rates: Rates) -> Number:
    """Time of the forward products."""
    moved = work.weights * weight_bytes
    if weight_bytes == 1:
        moved = moved + work.inputs + 2 * work.outputs
    return ceil_div(work.flops, flops_per_ns) + ceil_div(1000 * moved, rates.weight_bytes_per_us)


def backward_ns(work: Products, flops_per_ns: int, weight_bytes: int, rates: Rates, choices: Choices) -> Number:
    """Time of both backward products (input and weight gradients)."""
    moved = work.weights * (weight_bytes + 2 * gradient_bytes(choices))
    if weight_bytes == 1:
        moved = moved + 3 * work.inputs + 2 * work.outputs
    return ceil_div(2 * work.flops, flops_per_ns) + ceil_div(1000 * moved, rates.weight_bytes_per_us)
