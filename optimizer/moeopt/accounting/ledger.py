"""How terms add up: from the prices of pieces to stages, steps and devices. The exact reader.

The sweep reads the same terms over columns (`moeopt.screening`) and CP-SAT takes them as coefficients
(`moeopt.cpsat.encode`); the composition written here in integers is what both are tested against.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from moeopt.accounting.memory.stage import StageMemory, stage_memory
from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.pieces import Piece, contents, piece_counts, priced_total
from moeopt.accounting.time.step_end import step_end_ns
from moeopt.accounting.time.terms import TimeTerms, time_terms
from moeopt.arithmetic import ceil_div
from moeopt.layout import Choices, Degrees
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.schedule.bounds import ledger_pipeline_ns
from moeopt.schedule.in_flight import in_flight_vectors
from moeopt.schedule.placement_bound import replay_lower_bound
from moeopt.schedule.replay import Replay, replay

Contents = dict[Piece, int]


@dataclass(frozen=True)
class StepTime:
    """One optimizer step in nanoseconds; `parts` add up to `total_ns` exactly.

    `busiest_rank` is the pipeline rank whose own work the compute and communication parts describe.
    """

    total_ns: int
    pipeline_ns: int
    parts: dict[str, int]
    busiest_rank: int


@dataclass(frozen=True)
class Ledger:
    """The costs of one choice of degrees and other decisions, for any pipeline layout of that grid."""

    problem: Problem
    degrees: Degrees
    choices: Choices

    @cached_property
    def memory_terms(self) -> MemoryTerms:
        """Prices in bytes, by piece."""
        return memory_terms(self.problem, self.degrees, self.choices)

    @cached_property
    def time_terms(self) -> TimeTerms:
        """Prices in nanoseconds, by piece."""
        return time_terms(self.problem, self.degrees, self.choices)

    @property
    def schedule(self) -> tuple[int, int, int, int]:
        """What fixes the order of operations: pp, vpp, micro-batches, interleave group."""
        d = self.degrees
        return d.pp, d.vpp, d.num_microbatches, d.interleave_group

    def contents(self, pipeline: PipelineLayout) -> list[Contents]:
        """Pieces a stage, in stage order."""
        block_layers = self.choices.recompute.block_layers
        return [contents(self.problem.architecture, chunk, block_layers) for chunk in pipeline.chunks]

    def stage_times(self, stages: Sequence[Contents]) -> tuple[list[int], list[int]]:
        """Forward and backward time of one micro-batch, a stage."""
        terms = self.time_terms
        return [_sum(stage, terms.forward_ns) for stage in stages], [_sum(stage, terms.backward_ns) for stage in stages]

    def memory(self, pipeline: PipelineLayout) -> list[StageMemory]:
        """Bytes on one GPU of each pipeline rank."""
        stages = self.contents(pipeline)
        pp, vpp, microbatches, group = self.schedule
        return [
            stage_memory(
                self.memory_terms,
                self.problem,
                stages[rank::pp],
                in_flight_vectors(pp, vpp, microbatches, group, rank, self._ep_overlap),
            )
            for rank in range(pp)
        ]

    def step_time(self, pipeline: PipelineLayout) -> StepTime:
        """The ledger's time of one step: the time whose optimum is proven."""
        stages = self.contents(pipeline)
        forward, backward = self.stage_times(stages)
        pp, _, microbatches, _ = self.schedule
        pipeline_ns = ledger_pipeline_ns(*self.schedule, forward, backward, self.time_terms.hop_ns, self._ep_overlap)
        work = [sum(forward[rank::pp]) + sum(backward[rank::pp]) for rank in range(pp)]
        busiest = max(range(pp), key=lambda rank: work[rank])
        parts = self._work_parts(stages[busiest::pp], microbatches)
        parts["pipeline_bubble"] = pipeline_ns - sum(parts.values())
        worst_end = max((self.step_end(stages[rank::pp], work[rank]) for rank in range(pp)), key=_total)
        parts.update(worst_end)
        return StepTime(pipeline_ns + _total(worst_end), pipeline_ns, parts, busiest)

    def step_end(self, chunks: Sequence[Contents], work_ns: int) -> dict[str, int]:
        """Parts of the step end of a rank that holds these chunks; `work_ns` is forward + backward of a micro-batch."""
        memory = self.memory_terms
        dense = sum(_sum(chunk, memory.dense_elements) for chunk in chunks)
        expert = sum(_sum(chunk, memory.expert_elements) for chunk in chunks)
        update = sum(self.time_terms.step_end.updates_ns(chunk) for chunk in chunks)
        return step_end_ns(self.time_terms, dense, expert, work_ns, update)

    def replay(self, pipeline: PipelineLayout) -> Replay:
        """The pipeline part replayed operation by operation."""
        forward, backward = self.stage_times(self.contents(pipeline))
        return replay(*self.schedule, forward, backward, self.time_terms.hop_ns, ep_overlap=self._ep_overlap)

    def replay_bound_ns(self) -> int:
        """A step that no replayed placement of any layers on this grid goes below: its rows from the total work, and
        the step's end at the mean rank, which is convex."""
        counts, terms, memory, d = piece_counts(self.problem), self.time_terms, self.memory_terms, self.degrees
        forward, backward = priced_total(counts, terms.forward_ns), priced_total(counts, terms.backward_ns)
        pieces = [(count, terms.forward_ns[piece] + terms.backward_ns[piece]) for piece, count in counts.items()]
        shape = d.pp, d.vpp, d.num_microbatches
        pipeline = replay_lower_bound(shape, forward, backward, terms.hop_ns, pieces, self._ep_overlap)
        dense = priced_total(counts, memory.dense_elements) // d.pp
        expert = priced_total(counts, memory.expert_elements) // d.pp
        # How many layers a block method recomputes depends on the placement: at most all, whose work hides most.
        most = piece_counts(self.problem, self.choices.recompute.block_layers > 0)
        work = ceil_div(forward + priced_total(most, terms.backward_ns), d.pp)
        update = terms.step_end.updates_ns(counts) // d.pp
        return int(pipeline + max(_total(step_end_ns(terms, dense, expert, work, update)) - 1, 0))

    @property
    def _ep_overlap(self) -> bool:
        return self.choices.overlap.ep_all_to_all

    def _work_parts(self, chunks: Sequence[Contents], microbatches: int) -> dict[str, int]:
        """Time of all micro-batches on one rank, by part."""
        terms = self.time_terms
        parts: dict[str, int] = {}
        for source in (terms.forward_parts, terms.backward_parts):
            for part, prices in source.items():
                ns = microbatches * sum(_sum(chunk, prices) for chunk in chunks)
                parts[part] = parts.get(part, 0) + ns
        return {part: int(ns) for part, ns in parts.items() if ns}


def _total(parts: dict[str, int]) -> int:
    return sum(parts.values())


def _sum(counts: Contents, prices: dict[Piece, int]) -> int:
    return int(priced_total(counts, prices))
