"""Matrix products: tensor-core time plus one pass over the weights.

    forward  = 2 m n k / rate + w n k / bandwidth                  w = 2 bytes (bf16) or 1 (fp8)
    backward = 4 m n k / rate + (w + 2 g) n k / bandwidth          g = bytes of a main gradient, read and written

The pass over the weights, made for every micro-batch, is what makes few rows an expert slow: it reproduces the
measured grouped-GEMM table of SimuMax (b200_bf16_ceperm.json) to 8 %, so no separate curve is needed. The bandwidth is
that of streaming inside a product (`weight_memory`), higher than that of elementwise kernels.
Ignored: passes over inputs and outputs, wave quantisation, tile padding of odd shapes.
"""

from dataclasses import dataclass

from moeopt.accounting.time.efficiency import Rates
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Choices


@dataclass(frozen=True)
class Products:
    """Several matrix products of one pass: forward FLOP, and weight elements read once each."""

    flops: Number = 0
    weights: Number = 0

    def __add__(self, other: "Products") -> "Products":
        return Products(self.flops + other.flops, self.weights + other.weights)


def product(rows: Number, weights: Number) -> Products:
    """One product of `rows` rows with a weight matrix of that many local elements."""
    return Products(2 * rows * weights, weights)


def gradient_bytes(choices: Choices) -> int:
    """Bytes of one main-gradient element."""
    return 2 if choices.optimizer.main_grads == "bf16" else 4


def forward_ns(work: Products, flops_per_ns: int, weight_bytes: int, rates: Rates) -> Number:
    """Time of the forward products."""
    return ceil_div(work.flops, flops_per_ns) + ceil_div(
        work.weights * (1000 * weight_bytes), rates.weight_bytes_per_us
    )


def backward_ns(work: Products, flops_per_ns: int, weight_bytes: int, rates: Rates, choices: Choices) -> Number:
    """Time of both backward products (input and weight gradients)."""
    touched = weight_bytes + 2 * gradient_bytes(choices)
    return ceil_div(2 * work.flops, flops_per_ns) + ceil_div(work.weights * (1000 * touched), rates.weight_bytes_per_us)
