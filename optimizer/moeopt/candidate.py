"""A candidate: one combination of degrees and other decisions, with its prices, before its layers are placed."""

from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property

from moeopt.accounting.ledger import Ledger
from moeopt.accounting.memory.terms import MemoryTerms
from moeopt.accounting.pieces import Piece, piece_counts
from moeopt.accounting.time.recompute import effective
from moeopt.arithmetic import Number
from moeopt.freedom import simplicity
from moeopt.layout import Choices, Degrees, Layout, Recompute
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem

TIE_BREAK = ("tp", "pp", "cp", "ep", "etp", "vpp", "micro_batch_size")
"""Between layouts of equal objective, GPUs and memory the smaller degree wins, in this order."""
PER_SEQUENCE = ("step_time", "cost")
"""Objectives of a step: those of different batches are compared by their value a sequence."""


@dataclass(frozen=True)
class Candidate:
    """Everything about a layout but the placement of its layers. `bound_ns` holds for every placement."""

    problem: Problem
    degrees: Degrees
    choices: Choices
    bound_ns: int

    @cached_property
    def ledger(self) -> Ledger:
        """Exact prices of this candidate."""
        return Ledger(self.problem, self.degrees, self.choices)

    @property
    def backward_ns(self) -> dict[Piece, int]:
        """Backward time of one micro-batch, by piece."""
        return self.ledger.time_terms.backward_ns

    @property
    def kept_bytes(self) -> dict[Piece, int]:
        """Activation bytes that one micro-batch in flight keeps, by piece."""
        return self.ledger.memory_terms.kept_bytes

    @property
    def block_layers(self) -> int:
        """The first layers of every chunk that are recomputed by block."""
        return self.choices.recompute.block_layers

    @property
    def most_pieces(self) -> dict[Piece, int]:
        """How many of each piece there are at the dearest: where recomputed by block, every layer is."""
        return piece_counts(self.problem, self.block_layers > 0)

    @property
    def unit_layers(self) -> int:
        """Decoder layers that the largest chunk must hold: a unit of full recompute, where that is several layers."""
        return self.choices.recompute.num_layers or 0

    @property
    def grid(self) -> tuple[int, int]:
        """Pipeline stages and chunks a stage."""
        return self.degrees.pp, self.degrees.vpp

    @property
    def schedule(self) -> tuple[int, int, int, int, bool]:
        """What fixes the order of operations: pp, vpp, micro-batches, group, expert-parallel overlap."""
        d = self.degrees
        return d.pp, d.vpp, d.num_microbatches, d.interleave_group, self.choices.overlap.ep_all_to_all

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Sort key of the tie-break: degrees first, then the simpler choices. No two candidates of a problem share it;
        the number of GPUs is decided before it."""
        d = self.degrees
        return (
            *(int(getattr(d, name)) for name in TIE_BREAK),
            *simplicity(self.choices),
            int(d.interleave_group),
            int(d.dp),
            int(d.num_microbatches),
        )

    @property
    def key(self) -> tuple[object, ...]:
        """What tells this candidate from every other one of its problem."""
        return int(self.degrees.gpus), *self.order

    def own_value(self, objective: str, time_ns: int, peak_bytes: int) -> int:
        """Value of an objective for a layout of this candidate; step time and cost of its own step."""
        gpus = int(self.degrees.gpus)
        values = {"step_time": time_ns, "cost": gpus * time_ns, "gpus": gpus, "peak_memory": peak_bytes}
        return values[objective]

    def value(self, objective: str, time_ns: int, peak_bytes: int) -> int | Fraction:
        """The same as a search compares it: where the problem leaves the batch open, step time and cost are brought to
        the largest batch that it allows, in proportion."""
        value, batches = self.own_value(objective, time_ns, peak_bytes), self.problem.workload.batches
        if batches.exact or objective not in PER_SEQUENCE:
            return value
        return Fraction(value * batches.most, int(self.degrees.batch))

    def step_ns(self, objective: str, value: int | Fraction) -> int:
        """Nanoseconds of a step of this candidate at a value of `step_time` or `cost`, rounded down."""
        batches = self.problem.workload.batches
        own = value if batches.exact else Fraction(value) * int(self.degrees.batch) / batches.most
        return int(own // (int(self.degrees.gpus) if objective == "cost" else 1))

    def layout(self, pipeline: PipelineLayout) -> Layout:
        """The complete layout for a placement."""
        degrees = {field.name: int(getattr(self.degrees, field.name)) for field in fields(Degrees)}
        return Layout(**dict(self.choices), **degrees, pipeline_layout=str(pipeline))


def freed_bytes(memory: MemoryTerms, recompute: Recompute, piece: Piece) -> Number:
    """What selective recompute takes off the bytes that one piece keeps (full recompute is priced apart)."""
    return sum(memory.freed_bytes[module][piece] for module in effective(recompute))
