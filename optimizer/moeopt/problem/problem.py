"""A question: architecture + cluster + GPUs + workload + what is fixed, limited and wanted."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from moeopt.errors import InputError
from moeopt.problem.architecture import Architecture
from moeopt.problem.base import Bytes, Input, NonNegative, Positive, sentence, shown
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


def mtp_stages(pp: int, vpp: int, with_loss: bool) -> list[int]:
    """Stages that may end the layers: the last chunk of any rank but the first; the last stage alone where MTP modules
    must sit with the loss, or where there are none."""
    stages = range(pp * vpp)
    return [stage for stage in stages[-1 if with_loss else -pp :] if stage % pp or pp == 1]


class Problem(Input):
    """Everything that a solve needs; `gpus` is exact or a range.

    `Problem(architecture="deepseek-v3", cluster="h100-sxm", gpus=1024, workload={"precision": "fp8"})`: architecture
    and cluster are objects, names of presets, paths, or mappings of fields, as in a problem file, which `Problem.load`
    reads.
    """

    architecture: Architecture
    cluster: Cluster
    gpus: Positive | GpuRange
    workload: Workload = Workload()
    fix: dict[str, Any] = Field(default_factory=dict)
    """Decisions that are made already: degrees by name, and the layout's other fields (dispatcher, recompute, ...)."""
    free: tuple[str, ...] = ()
    """Decisions that keep their default otherwise and that the search is to make: names of `moeopt.freedom`, with a dot
    for a part (`optimizer.moments`)."""
    limits: Limits = Limits()
    constraints: tuple[str, ...] = ()
    """Further conditions on a layout, as expressions over its decisions (`moeopt.constraints`)."""
    objective: Objective = "step_time"
    then: tuple[Objective, ...] = ()
    """Further objectives, each minimised among the optima of those before it (`objective: step_time,peak_memory`)."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        """A chain of objectives in one field, and targets among the limits (they become constraints)."""
        from moeopt.problem.targets import spell_out

        return spell_out(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _each_once(self) -> "Problem":
        chain = (self.objective, *self.then)
        for name in chain:
            if chain.count(name) > 1:
                raise ValueError(f"objective: {name} is given twice")
        return self

    @field_validator("constraints", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("free", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("constraints")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value:
            from moeopt.constraints import check_all

            try:
                check_all(value)
            except InputError as error:
                raise ValueError(str(error)) from None
        return value

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An answer's problem says nothing of freed decisions, constraints or further objectives if there are none."""
        fields: dict[str, Any] = handler(self)
        for name in ("free", "constraints", "then"):
            if not getattr(self, name):
                fields.pop(name, None)
        return fields

    def __init__(self, **fields: Any) -> None:
        """Raises InputError: one sentence with the field, the value and what is wrong with it."""
        from moeopt.problem.loading import check_names, resolved

        check_names(fields)
        try:
            super().__init__(**resolved(fields))
        except ValidationError as error:
            raise InputError(sentence(type(self), error, "problem")) from None
        if self.fix:
            from moeopt.problem.checks import check_fix

            check_fix(self)
        if self.free:
            from moeopt.freedom import check_free

            check_free(self)

    @classmethod
    def load(cls, source: "str | PathLike[str] | Mapping[str, Any] | Problem", **changes: Any) -> "Problem":
        """From a problem or solution file (YAML, JSON), a mapping as such a file holds, or a problem; `changes` replace
        whole fields.

        Checked like a command's problem: raises InputError where no layout at all can satisfy what is fixed.
        """
        from moeopt.problem.checks import check
        from moeopt.problem.loading import load_problem, problem_fields, question

        if isinstance(source, Problem):
            fields, folder = dict(source), None
        elif isinstance(source, Mapping):
            fields, folder = question(source), None
        else:
            fields, folder = problem_fields(Path(source)), Path(source).parent
        problem = load_problem({**fields, **changes}, folder)
        check(problem)
        return problem

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

    def mtp_stages(self, pp: int, vpp: int) -> list[int]:
        """Stages that may hold the MTP modules (a hybrid's sit with the loss); without any, the last."""
        return mtp_stages(pp, vpp, self.architecture.is_hybrid or not self.mtp_layers)

    def at_batch(self, batch: int) -> "Problem":
        """The same problem with the global batch decided."""
        return self.model_copy(update={"workload": self.workload.model_copy(update={"global_batch_size": batch})})

    def bound(self, degree: str) -> Bound:
        """The limits of one degree."""
        value: Bound = getattr(self.limits, degree)
        return value


def check_problem(given: object) -> None:
    """Raise InputError for what is no problem."""
    if not isinstance(given, Problem):
        raise InputError(f"problem: {shown(given)} is no Problem; make one with Problem(...) or Problem.load(...)")
