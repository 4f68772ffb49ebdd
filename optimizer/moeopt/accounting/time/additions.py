"""What every block adds to its two passes: products, memory-bound bytes, tensor-parallel communication."""

from fractions import Fraction

from moeopt.accounting.time import gemm
from moeopt.accounting.time.memory_bound import BACKWARD_PASSES, memory_ns, quantize_bytes
from moeopt.accounting.time.scene import Scene, Timed
from moeopt.arithmetic import Number


def products_ns(scene: Scene, work: gemm.Products, bf16: bool = False) -> Number:
    """Forward time of products in the recipe's precision (or bf16)."""
    return gemm.forward_ns(work, *_precision(scene, bf16), scene.rates)


def _precision(scene: Scene, bf16: bool) -> tuple[int, Fraction]:
    """FLOP a nanosecond, and bytes of an operand's element."""
    rates = scene.rates.in_16_bits if bf16 else scene.rates
    return rates.gemm_flops_per_ns, rates.format.product_bytes


def add_products(scene: Scene, timed: Timed, work: gemm.Products, bf16: bool = False) -> Number:
    """Add products in the recipe's precision (or bf16) to both passes; returns the forward time."""
    forward = products_ns(scene, work, bf16)
    timed.forward.add("gemm", forward)
    backward = gemm.backward_ns(work, *_precision(scene, bf16), scene.rates, scene.choices)
    timed.backward.add("gemm", backward)
    return forward


def add_bytes(scene: Scene, timed: Timed, forward: Number, quantized: tuple[Number, Number] = (0, 0)) -> Number:
    """Add memory-bound bytes, and the quantisation of inputs (forward) and output gradients (backward); returns the
    forward time."""
    rates = scene.rates
    time = memory_ns(forward + quantize_bytes(quantized[0], rates), rates)
    timed.forward.add("memory_bound", time)
    backward = forward * BACKWARD_PASSES + quantize_bytes(quantized[1], rates)
    timed.backward.add("memory_bound", memory_ns(backward, rates))
    return time


def add_tensor_block(scene: Scene, timed: Timed, bf16: bool = False) -> Number:
    """Add the tensor-parallel communication of one block in the recipe's precision (or bf16); returns the forward
    time."""
    forward, backward = scene.tensor_block_bf16 if bf16 else scene.tensor_block
    timed.forward.add("tp_comm", forward)
    timed.backward.add("tp_comm", backward)
    return forward
