"""Prices of one candidate as rows: they hold while the candidate is the chosen one.

Mirrors `moeopt.accounting.memory.stage` and `moeopt.accounting.ledger`, with counts of pieces as the unknowns.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import gcd, lcm
from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from moeopt.accounting.memory.persistent import Feature
from moeopt.accounting.memory.stage import BUFFER_MULTIPLE, piece_features
from moeopt.accounting.pieces import Piece, piece_counts, priced_total
from moeopt.accounting.time.step_end import SCALE
from moeopt.arithmetic import ceil_div
from moeopt.candidate import Candidate
from moeopt.cpsat.caps import add_caps
from moeopt.cpsat.expressions import Expression

if TYPE_CHECKING:
    from moeopt.cpsat.encode import Encoding, GridVariables

Counts = dict[Piece, Expression]
Prices = Mapping[Piece, int]


def add_candidate(encoding: "Encoding", candidate: Candidate, grid: "GridVariables", literal: cp_model.IntVar) -> None:
    """Time, kept and passing bytes of every stage; static bytes and step end of every rank."""
    rows = _Rows(encoding, candidate, grid, literal)
    for stage in range(grid.placement.stages):
        rows.stage(stage)
    add_caps(encoding, candidate, grid, literal)
    for rank in range(candidate.degrees.pp):
        rows.static_memory(rank)
        rows.step_end(rank)


class _Rows:
    """The rows of one candidate."""

    def __init__(
        self, encoding: "Encoding", candidate: Candidate, grid: "GridVariables", literal: cp_model.IntVar
    ) -> None:
        self.encoding, self.candidate, self.grid, self.literal = encoding, candidate, grid, literal
        self.pp, self.vpp = candidate.grid
        self.choices = candidate.choices
        self.problem = candidate.problem
        self.time, self.memory = candidate.ledger.time_terms, candidate.ledger.memory_terms

    def counts(self, stage: int) -> Counts:
        """Pieces of one stage."""
        columns = self.grid.placement.pieces(self.candidate.block_layers)
        return {piece: column[stage] for piece, column in columns.items()}

    def at_least(self, above: Expression, below: Expression, *conditions: cp_model.IntVar) -> None:
        """A row of this candidate."""
        self.encoding.at_least(above, below, self.literal, *conditions)

    def stage(self, stage: int) -> None:
        """What one micro-batch costs on a stage."""
        counts = self.counts(stage)
        self.at_least(self.grid.forward[stage], priced(counts, self.time.forward_ns))
        self.at_least(self.grid.backward[stage], priced(counts, self.candidate.backward_ns))
        self.at_least(self.grid.kept[stage], priced(counts, self.candidate.kept_bytes) + self.memory.chunk_kept_bytes)
        for piece, passing in self.memory.transient_bytes.items():
            present = self.grid.placement.present(piece, stage, self.candidate.block_layers)
            if passing and present is not False:
                self.at_least(self.grid.passing[stage], int(passing) * present)

    def static_memory(self, rank: int) -> None:
        """Everything that does not depend on what is in flight."""
        memory = self.memory
        total: Expression = int(memory.overhead_bytes + self.vpp * memory.chunk_fixed_bytes)
        beside = {piece: memory.beside_bytes(piece) for piece in memory.quantized_bytes}
        for stage in range(rank, self.pp * self.vpp, self.pp):
            counts = self.counts(stage)
            total = total + priced(counts, beside)
            total = total + self._buffer_bytes(priced(counts, memory.dense_elements), int(memory.dense_shards))
            total = total + self._buffer_bytes(priced(counts, memory.expert_elements), int(memory.expert_shards))
        for feature, size in memory.present_bytes.items():
            if size:
                total = total + int(size) * self._feature(rank, feature)
        self.at_least(self.grid.static[rank], total)

    def _feature(self, rank: int, feature: Feature) -> Expression:
        """1 where any chunk of the rank has a piece with this feature."""
        placement = self.grid.placement
        pieces = [piece for piece in placement.counts if feature in piece_features(self.problem, piece)]
        return placement.any_present(pieces, range(rank, self.pp * self.vpp, self.pp))

    def _buffer_bytes(self, elements: Expression, shards: int) -> Expression:
        """Weights, gradients and state of one buffer, its elements padded as the distributed optimizer does."""
        memory = self.memory
        unit = lcm(shards, BUFFER_MULTIPLE) if memory.pads_buffers else 1
        replicated = unit * (memory.weight_bytes_per_element + memory.gradient_bytes_per_element)
        state = memory.optimizer_bytes_per_shard_element * Fraction(unit, shards)
        if isinstance(elements, int):
            units = -(-elements // unit)
            return units * replicated + -(-units * state.numerator // state.denominator)
        padded = elements
        if unit > 1:
            padded = self.encoding.cp.new_int_var(0, self.encoding.limit_bytes // max(replicated, 1), "")
            self.at_least(unit * padded, elements)
        return padded * replicated + self._ceiling(padded, state)

    def _ceiling(self, amount: Expression, price: Fraction) -> Expression:
        """ceil(amount * price), with a variable of its own only where the price is not an integer."""
        if price.denominator == 1:
            return amount * price.numerator
        rounded = self.encoding.cp.new_int_var(0, self.encoding.limit_bytes, "")
        self.at_least(price.denominator * rounded, price.numerator * amount)
        return rounded

    def step_end(self, rank: int) -> None:
        """The exposed end of the step on one rank: a maximum of rows over its elements and its work.

        Work hides communication, so it must be the exact price: the time variables are only bounded from below.
        """
        stages = range(rank, self.pp * self.vpp, self.pp)
        dense = sum(priced(self.counts(stage), self.memory.dense_elements) for stage in stages)
        expert = sum(priced(self.counts(stage), self.memory.expert_elements) for stage in stages)
        work = sum(
            priced(self.counts(stage), price_list)
            for stage in stages
            for price_list in (self.time.forward_ns, self.candidate.backward_ns)
        )
        end = self.time.step_end
        update = sum(priced(self.counts(stage), end.update_ns) for stage in stages)
        for row in end.rows:
            prices = (int(row.dense), int(row.expert), int(row.stage), int(row.update))
            common = gcd(SCALE, *prices, int(row.fixed))
            amounts = (dense, expert, work, update)
            value = sum(price // common * amount for price, amount in zip(prices, amounts, strict=True))
            self.at_least(SCALE // common * self.encoding.end_time, value + int(row.fixed) // common)


def longest_end_ns(candidate: Candidate) -> int:
    """The step's end of a rank that holds everything; a rank's own work only ever hides some of it."""
    counts, memory = piece_counts(candidate.problem), candidate.ledger.memory_terms
    dense, expert = priced_total(counts, memory.dense_elements), priced_total(counts, memory.expert_elements)
    end = candidate.ledger.time_terms.step_end
    update = end.updates_ns(counts)
    return int(max(ceil_div(row.scaled_ns(dense, expert, 0, update) + row.fixed, SCALE) for row in end.rows))


def priced(counts: Counts, prices: Prices) -> Expression:
    """Counts times prices, over the pieces that have one."""
    return sum(column * int(prices[piece]) for piece, column in counts.items() if piece in prices)
