"""What gated delta nets and Mamba-2 layers share: two linears around a scan, and heads exchanged for tokens."""

from dataclasses import dataclass

from moeopt.accounting.time.collectives import ring_ns
from moeopt.accounting.time.efficiency import Rates
from moeopt.accounting.time.gemm import Products, product
from moeopt.accounting.time.tokens import Tokens
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Degrees
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class Linears:
    """From the hidden size into a scan, and from its output back: rows and widths on one GPU."""

    rows: Number
    hidden: int
    into: Number
    out: Number

    @property
    def products(self) -> Products:
        """Both."""
        return product(self.rows, self.into, self.hidden) + product(self.rows, self.hidden, self.out)

    @property
    def quantized(self) -> tuple[Number, Number]:
        """Elements that fp8 recipes quantise: inputs, and gradients of outputs."""
        return self.rows * (self.hidden + self.out), self.rows * (self.into + self.hidden)


def head_exchange_ns(
    problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates, width: Number, operations: int
) -> Number:
    """Context parallelism, one direction: all heads of some tokens become some heads of all tokens, and back; nothing
    hides it. `width`: 16-bit elements a token, there and back; `operations`: all-to-alls."""
    c = degrees.cp
    moved = ceil_div(tokens.attention * (2 * width) * (c - 1), c)
    return ring_ns(problem, degrees, rates, moved, c, degrees.tp, operations)
