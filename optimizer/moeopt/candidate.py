"""A candidate: one combination of degrees and other decisions, with its prices, before its layers are placed."""

from dataclasses import dataclass, fields, replace
from functools import cached_property

from moeopt.accounting.ledger import Ledger
from moeopt.accounting.memory.terms import MemoryTerms
from moeopt.accounting.pieces import Piece
from moeopt.accounting.time.recompute import effective
from moeopt.accounting.time.terms import TimeTerms
from moeopt.arithmetic import Number
from moeopt.layout import Choices, Degrees, Layout, Recompute
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem

TIE_BREAK = ("tp", "pp", "cp", "ep", "etp", "vpp", "micro_batch_size")
"""Between layouts of equal objective, GPUs and memory the smaller degree wins, in this order."""


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
    def time_terms(self) -> TimeTerms:
        """Prices in nanoseconds."""
        return self.ledger.time_terms

    @property
    def memory_terms(self) -> MemoryTerms:
        """Prices in bytes."""
        return self.ledger.memory_terms

    @property
    def kept_bytes(self) -> dict[Piece, int]:
        """Activation bytes that one micro-batch in flight keeps, by piece, under this candidate's recompute setting."""
        memory = self.memory_terms
        if self.choices.recompute.granularity != "full":
            return memory.kept_bytes
        return {**memory.kept_bytes, **memory.kept_recomputed_bytes}

    @property
    def grid(self) -> tuple[int, int]:
        """Pipeline stages and chunks a stage."""
        return self.degrees.pp, self.degrees.vpp

    @property
    def schedule(self) -> tuple[int, int, int, int, bool]:
        """What fixes the order of operations: pp, vpp, micro-batches, group, expert-parallel overlap."""
        d = self.degrees
        return d.pp, d.vpp, d.num_microbatches, d.interleave_group, self.choices.overlap.ep_all_to_all

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key of the tie-break: degrees first, then the simpler choices."""
        recompute = self.choices.recompute
        return (
            *(getattr(self.degrees, name) for name in TIE_BREAK),
            self.choices.overlap.ep_all_to_all,
            ("alltoall", "deepep", "hybridep", "allgather").index(self.choices.dispatcher),
            ("none", "selective", "full").index(recompute.granularity),
            len(recompute.modules),
            recompute.modules,
        )

    def layout(self, pipeline: PipelineLayout) -> Layout:
        """The complete layout for a placement."""
        degrees = {field.name: int(getattr(self.degrees, field.name)) for field in fields(Degrees)}
        return Layout(**dict(self.choices), **degrees, pipeline_layout=str(pipeline))


@dataclass(frozen=True)
class Family(Candidate):
    """Candidates that differ in their recompute setting alone, and a relaxation of all of them: it pays the least
    price that any of them pays, so a placement that it rules out is ruled out for each.

    `choices` recompute nothing; `settings` lists each recompute setting with its bound on the step time.
    """

    settings: tuple[tuple[Recompute, int], ...]
    bound_bytes: int
    """Bytes that the fullest rank needs at least, under any of the settings."""

    @property
    def members(self) -> list[Candidate]:
        """One candidate a setting, lowest bound first."""
        found = [
            Candidate(self.problem, self.degrees, self.choices.model_copy(update={"recompute": recompute}), bound_ns)
            for recompute, bound_ns in self.settings
        ]
        return sorted(found, key=lambda candidate: (candidate.bound_ns, candidate.order))

    @cached_property
    def time_terms(self) -> TimeTerms:
        """The shortest backward pass of any setting (modules add up); everything else is the same for all."""
        terms = self.ledger.time_terms
        backward = {
            piece: least + min(added_ns(terms, recompute, piece) for recompute, _ in self.settings)
            for piece, least in terms.backward_ns.items()
        }
        return replace(terms, backward_ns=backward)

    @property
    def kept_bytes(self) -> dict[Piece, int]:
        """The least that any setting keeps. What passes is least where nothing is recomputed."""
        memory = self.ledger.memory_terms
        kept = {
            piece: size - max(freed_bytes(memory, recompute, piece) for recompute, _ in self.settings)
            for piece, size in memory.kept_bytes.items()
        }
        full = next((recompute for recompute, _ in self.settings if recompute.granularity == "full"), None)
        if full is None:
            return kept
        choices = self.choices.model_copy(update={"recompute": full})
        recomputed = Candidate(self.problem, self.degrees, choices, self.bound_ns).kept_bytes
        return {piece: min(size, recomputed[piece]) for piece, size in kept.items()}


def added_ns(terms: TimeTerms, recompute: Recompute, piece: Piece) -> Number:
    """What a recompute setting adds to the backward pass of one piece."""
    if recompute.granularity == "full":
        return terms.full_recompute_ns[piece]
    return sum(terms.recompute_ns[module][piece] for module in effective(recompute))


def freed_bytes(memory: MemoryTerms, recompute: Recompute, piece: Piece) -> Number:
    """What selective recompute takes off the bytes that one piece keeps (full recompute is priced apart)."""
    return sum(memory.freed_bytes[module][piece] for module in effective(recompute))
