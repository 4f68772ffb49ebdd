"""A candidate: one combination of degrees and other decisions, with its ledger, before its layers are placed."""

from dataclasses import dataclass, fields
from functools import cached_property

from moeopt.accounting.ledger import Ledger
from moeopt.layout import Choices, Degrees, Layout
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
    def grid(self) -> tuple[int, int]:
        """Pipeline stages and chunks a stage."""
        return self.degrees.pp, self.degrees.vpp

    @property
    def schedule(self) -> tuple[int, int, int, int, bool]:
        """What fixes the order of operations: pp, vpp, micro-batches, group, expert-parallel overlap."""
        return (*self.ledger.schedule, self.choices.overlap.ep_all_to_all)

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
