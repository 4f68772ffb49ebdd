"""What one training step processes, in which precision, under which framework."""

from fractions import Fraction
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from moeopt.errors import InputError
from moeopt.problem.base import Input, Positive
from moeopt.problem.batches import Batches, GlobalBatch, read_batch
from moeopt.problem.formats import FORMATS, Format, Precision

Optimizer: TypeAlias = Literal["adam", "muon"]


class Routing(Input):
    """How evenly tokens reach the experts.

    `imbalance` is tokens on the busiest rank / mean (1.0 = balanced, what benchmarks force). `capacity_factor` drops
    tokens above that many times the mean and pads below it. `worst` sizes memory for all tokens on one rank.
    """

    imbalance: Annotated[float, Field(ge=1.0, le=10_000.0)] = 1.0
    capacity_factor: Annotated[float, Field(gt=0.0, le=10_000.0)] | None = None
    worst: bool = False
    initial: bool = False
    """As uneven as the router of a run from random weights is at first (`accounting.routing`), by ep."""

    @property
    def description(self) -> str:
        """The assumption as every report states it."""
        if self.worst:
            return "worst case: every token of the expert-parallel group may reach one rank"
        if self.capacity_factor is not None:
            return f"capacity factor {self.capacity_factor:g}: tokens above it are dropped"
        if self.initial:
            return "initial: the busiest rank receives what a freshly initialised router sends it (by formula, with ep)"
        if self.imbalance == 1.0:
            return "balanced: every expert receives the same number of tokens"
        return f"imbalance {self.imbalance:g}: the busiest rank receives {self.imbalance:g} times the mean"


class Workload(Input):
    """Sequence length and batch in tokens and sequences, precision, and choices of the training recipe."""

    sequence_length: Positive = 4096
    global_batch_size: GlobalBatch = 2048
    """Sequences an optimizer step, over all GPUs: a number, or a range or list that the search chooses from."""
    precision: Precision = "bf16"
    """bf16 or fp16; fp8 = per-tensor or block scaling on bf16 weights; mxfp8 = scales for blocks of 32, nvfp4 = 4 bits
    with scales for blocks of 16 (both Blackwell, both with quantised parameters)."""
    fp8_param_gather: bool = False
    """Under precision fp8: parameters are kept and gathered in 8 bits, with no 16-bit copy (--fp8-param-gather, as
    Megatron-Bridge's recipes with current and delayed scaling do). mxfp8 and nvfp4 keep theirs quantised anyway."""
    framework: Literal["megatron-core"] = "megatron-core"
    optimizer: Optimizer = "adam"
    """muon: matrices of weights by Muon, everything else by Adam (Megatron's `--optimizer muon`)."""
    muon_tp_mode: Literal["duplicated", "blockwise"] = "duplicated"
    """What Muon orthogonalises of a matrix that tensor parallelism divides: all of it on every rank, or each rank its
    part (the default of Megatron-Bridge's recipes; the update then depends on tp)."""
    routing: Routing = Routing()
    cross_entropy: Literal["unfused", "native", "te"] = "native"
    """Loss kernel: Megatron's unfused one, its fused "native" one, or Transformer Engine's (refused by Megatron-LM's
    command line, used by Megatron-Bridge)."""
    attention_backend: Literal["fused", "unfused"] = "fused"
    make_vocab_size_divisible_by: Positive = 128
    mtp: bool = True
    """Train the architecture's MTP modules."""
    software: str = "latest"
    """Software generation that the step-time data refers to."""

    @model_validator(mode="after")
    def _quantized_parameters(self) -> "Workload":
        if self.fp8_param_gather and not self.format.quantized:
            raise ValueError(f"fp8_param_gather: precision {self.precision} has no 8-bit parameters; it takes fp8")
        return self

    @property
    def format(self) -> Format:
        """What the precision asks and costs."""
        return FORMATS[self.precision]

    @property
    def keeps_parameters(self) -> bool:
        """Whether the parameters of linears are kept quantised, with no 16-bit copy."""
        return self.format.keeps_parameters or self.fp8_param_gather

    @property
    def gather_bytes(self) -> Fraction:
        """What the gather of an expert's parameters moves an element."""
        return Fraction(1) if self.precision == "fp8" and self.fp8_param_gather else self.format.gather_bytes

    @property
    def batches(self) -> Batches:
        """The global batches that a layout may have."""
        return Batches.of(self.global_batch_size)

    @property
    def batch(self) -> int:
        """The global batch of a problem that leaves no choice."""
        (batch,) = self.batches.values
        return batch

    @field_validator("global_batch_size", mode="before")
    @classmethod
    def _batch_words(cls, given: Any) -> Any:
        try:
            return read_batch(given)
        except InputError as error:
            raise ValueError(str(error).removeprefix("global_batch_size").lstrip(".: ")) from None

    @model_validator(mode="before")
    @classmethod
    def _routing_words(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("routing"), str):
            words = {"balanced": {}, "worst": {"worst": True}, "initial": {"initial": True}}
            if values["routing"] not in words:
                raise ValueError(
                    f"routing: {values['routing']!r} is unknown; write balanced, initial, worst, {{imbalance: 1.2}} or "
                    "{capacity_factor: 1.0}"
                )
            return {**values, "routing": words[values["routing"]]}
        return values
