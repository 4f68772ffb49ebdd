"""What the formulas of one evaluation share: the problem at hand, and how a piece's time is written down."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from moeopt.accounting.time.collectives import tensor_block_ns
from moeopt.accounting.time.efficiency import Rates
from moeopt.accounting.time.tokens import Tokens
from moeopt.arithmetic import Number
from moeopt.layout import Choices, Degrees, RecomputeModule
from moeopt.problem.problem import Problem

COMPUTE = ("gemm", "attention", "memory_bound", "unfused")
PARTS = (*COMPUTE, "tp_comm", "cp_comm", "ep_comm", "fsdp_comm", "offload", "recompute", "host")
"""Names of the parts; a layer's time is their sum. `unfused` is what biased experts cost beyond their shapes,
`fsdp_comm` and `offload` what Megatron-FSDP and activation offloading leave exposed."""


@dataclass
class Pass:
    """Parts of one pass, in nanoseconds."""

    parts: dict[str, Number] = field(default_factory=dict)

    def add(self, part: str, time: Number) -> None:
        """Add time to a part."""
        self.parts[part] = self.parts.get(part, 0) + time

    @property
    def total(self) -> Number:
        """Sum of the parts."""
        return sum(self.parts.values())

    def of(self, *names: str) -> Number:
        """Sum of some parts."""
        return sum(self.parts.get(name, 0) for name in names)


@dataclass
class Timed:
    """Forward and backward passes of a piece."""

    forward: Pass = field(default_factory=Pass)
    backward: Pass = field(default_factory=Pass)
    repeats: dict[RecomputeModule, Number] = field(default_factory=dict)
    """What repeating a module's forward takes, whether or not it is chosen; GPU time in a block, with its host time
    in a finished layer."""
    full_repeat: Number = 0
    """What repeating the whole forward takes."""
    idle_backward: Number = 0
    """How long the backward pass waits, nothing recomputed, for communication that recomputation would hide."""

    @property
    def total(self) -> Number:
        """Both passes."""
        return self.forward.total + self.backward.total

    def __add__(self, other: "Timed") -> "Timed":
        """The parts of both, free to be added to."""
        total = Timed(
            Pass(dict(self.forward.parts)), Pass(dict(self.backward.parts)), {**self.repeats, **other.repeats}
        )
        total.full_repeat = self.full_repeat + other.full_repeat
        total.idle_backward = self.idle_backward + other.idle_backward
        for run, added in ((total.forward, other.forward), (total.backward, other.backward)):
            for part, time in added.parts.items():
                run.add(part, time)
        return total


@dataclass
class Scene:
    """Everything that the formulas of one evaluation share."""

    problem: Problem
    degrees: Degrees
    choices: Choices
    tokens: Tokens
    rates: Rates
    blocks: dict[int | str, Timed] = field(default_factory=dict)
    """Attention blocks by window and other blocks by name: layers that differ in one share the other."""

    @cached_property
    def in_16_bits(self) -> "Scene":
        """The same of layers that stay in bf16 where the precision is a narrower one."""
        if not self.rates.format.quantized:
            return self
        return replace(self, rates=self.rates.in_16_bits, blocks={})

    @cached_property
    def tensor_block(self) -> tuple[Number, Number]:
        """Tensor-parallel communication of a layer's block, forward and backward: the same for every block."""
        return self._tensor_block(self.rates.format.product_bytes)

    @cached_property
    def tensor_block_bf16(self) -> tuple[Number, Number]:
        """The same of the output head, which stays in bf16 in every recipe."""
        return self._tensor_block(self.rates.in_16_bits.format.product_bytes)

    def _tensor_block(self, gathered_bytes: Fraction) -> tuple[Number, Number]:
        return tensor_block_ns(self.problem, self.degrees, self.choices, self.tokens, self.rates, gathered_bytes)
