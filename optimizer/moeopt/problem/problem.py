"""A question: architecture + cluster + GPUs + workload + what is fixed, limited and wanted."""

from typing import Any, Literal

from pydantic import Field, model_validator

from moeopt.problem.architecture import Architecture
from moeopt.problem.base import Bytes, Input, NonNegative, Positive
from moeopt.problem.cluster import Cluster
from moeopt.problem.workload import Workload

DEGREES = ("tp", "pp", "cp", "dp", "ep", "etp", "edp", "vpp", "micro_batch_size", "num_microbatches")
"""The integer decisions that `fix` and `limits` may name."""
Objective = Literal["step_time", "gpus", "cost", "peak_memory"]


class GpuRange(Input):
    """How many GPUs a layout may use."""

    min: Positive
    max: Positive

    @model_validator(mode="after")
    def _ordered(self) -> "GpuRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Bound(Input):
    """Limits of one integer decision."""

    min: NonNegative | None = None
    max: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Bound":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def admits(self, value: int) -> bool:
        """Whether a value lies within."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class Limits(Input):
    """Bounds on decisions and on memory; absent means free."""

    tp: Bound = Bound()
    pp: Bound = Bound()
    cp: Bound = Bound()
    dp: Bound = Bound()
    ep: Bound = Bound()
    etp: Bound = Bound()
    edp: Bound = Bound()
    vpp: Bound = Bound()
    micro_batch_size: Bound = Bound()
    num_microbatches: Bound = Bound()
    peak_memory: Bytes | None = None
    """Bytes of one GPU that a layout may use at its peak; absent means all of the cluster's memory."""


class Problem(Input):
    """Everything that a solve needs; `gpus` is exact or a range."""

    architecture: Architecture
    cluster: Cluster
    gpus: Positive | GpuRange
    workload: Workload = Workload()
    fix: dict[str, Any] = Field(default_factory=dict)
    """Decisions that are made already: degrees by name, and the layout's other fields (dispatcher, recompute, ...)."""
    limits: Limits = Limits()
    objective: Objective = "step_time"

    @property
    def gpu_range(self) -> GpuRange:
        """The GPU counts allowed, as a range."""
        return self.gpus if isinstance(self.gpus, GpuRange) else GpuRange(min=self.gpus, max=self.gpus)

    @property
    def memory_limit(self) -> int:
        """Bytes of one GPU that a layout may use: the cluster's memory, or less where the problem says so."""
        limit = self.limits.peak_memory
        return self.cluster.memory if limit is None else min(limit, self.cluster.memory)

    @property
    def mtp_layers(self) -> int:
        """MTP modules that are trained."""
        return self.architecture.num_nextn_predict_layers if self.workload.mtp else 0

    def bound(self, degree: str) -> Bound:
        """The limits of one degree."""
        value: Bound = getattr(self.limits, degree)
        return value
