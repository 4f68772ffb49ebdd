"""One layout: every decision that a launch needs, frozen, with the degrees that follow from them.

Two grids over the same GPUs share only `pp`:
    gpus = tp * cp * dp * pp        attention, dense feed-forward, shared experts, router, embeddings
    gpus = etp * ep * edp * pp      routed experts
so `ep` folds inside `tp * cp * dp`; the product tp*pp*ep*dp is not the GPU total.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moeopt.arithmetic import Number
from moeopt.problem.base import Input, NonNegative, Positive

RecomputeModule = Literal["core_attn", "mla_up_proj", "layernorm", "moe_act", "mlp", "moe", "shared_experts"]
RECOMPUTE_MODULES: tuple[RecomputeModule, ...] = (
    "core_attn",
    "layernorm",
    "mla_up_proj",
    "mlp",
    "moe",
    "moe_act",
    "shared_experts",
)


FLEX_DISPATCHERS = ("deepep", "hybridep")
"""Megatron's flex dispatchers: their kernels send a token once to each rank it visits, and run on SMs of their own."""
Sharding = Literal["none", "no_shard", "optim", "optim_grads", "optim_grads_params"]
"""Megatron-FSDP's `--data-parallel-sharding-strategy`; none: DistributedDataParallel, without Megatron-FSDP."""
OffloadModule = Literal["attn_norm", "attn_proj", "core_attn", "expert_fc1", "mlp_norm", "moe_act", "qkv_linear"]


@dataclass(frozen=True)
class Degrees:
    """The integers of a layout (or columns of them: see `moeopt.arithmetic`)."""

    tp: Number
    pp: Number
    cp: Number
    dp: Number
    ep: Number
    etp: Number
    edp: Number
    vpp: Number
    micro_batch_size: Number
    num_microbatches: Number
    interleave_group: Number

    @property
    def gpus(self) -> Number:
        """GPU total, by the dense grid."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def batch(self) -> Number:
        """Sequences of a step: the global batch."""
        return self.micro_batch_size * self.dp * self.num_microbatches


class Recompute(Input):
    """Which activations are dropped in the forward pass and computed again in the backward pass."""

    granularity: Literal["none", "selective", "full"] = "none"
    modules: tuple[RecomputeModule, ...] = ()
    method: Literal["uniform", "block"] | None = None
    num_layers: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"granularity": values}
        if isinstance(values, dict):
            values = dict(values)
            if values.get("modules"):
                values.setdefault("granularity", "selective")
                values["modules"] = tuple(sorted(set(values["modules"])))
            if values.get("granularity") == "full":
                values.setdefault("method", "uniform")
                values.setdefault("num_layers", 1)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Recompute":
        if self.granularity == "selective" and not self.modules:
            raise ValueError("granularity selective needs modules (for example [moe_act, layernorm])")
        if self.granularity != "selective" and self.modules:
            raise ValueError(f"granularity {self.granularity} takes no modules, got {list(self.modules)}")
        if self.granularity != "full" and (self.method or self.num_layers):
            raise ValueError(f"granularity {self.granularity} takes neither method nor num_layers")
        return self

    @property
    def block_layers(self) -> int:
        """The first layers of every chunk that method block recomputes; 0 under any other setting."""
        return (self.num_layers or 0) if self.method == "block" else 0

    def drops(self, module: RecomputeModule) -> bool:
        """Whether this selective module is recomputed."""
        return module in self.modules

    def __str__(self) -> str:
        if self.granularity == "full":
            return f"full, {self.method}, {self.num_layers} layers"
        return ", ".join(self.modules) if self.modules else "none"


class OptimizerChoices(Input):
    """Types of the optimizer's state, and the part of it kept in host memory."""

    moments: Literal["fp32", "bf16", "fp8"] = "fp32"
    main_params: Literal["fp32", "fp16"] = "fp32"
    main_grads: Literal["fp32", "bf16"] = "fp32"
    precision_aware: bool = False
    offload_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    instances: Positive = 1
    """Distributed-optimizer instances: each keeps a whole copy of the state, sharded over its own ranks."""


class Overlap(Input):
    """Which communication runs under computation."""

    grad_reduce: bool = True
    param_gather: bool = True
    ep_all_to_all: bool = False
    delay_wgrad: bool = False
    """Under `ep_all_to_all`: weight gradients wait, and run beside the next exchange (--delay-wgrad-compute)."""
    tp_comm: bool = False


class Choices(Input):
    """The decisions of a layout that are not degrees: the same for a whole sweep of degrees."""

    recompute: Recompute = Recompute()
    distributed_optimizer: bool = True
    optimizer: OptimizerChoices = OptimizerChoices()
    sequence_parallel: bool = True
    """Takes effect where tp > 1."""
    dispatcher: Literal["alltoall", "deepep", "hybridep", "allgather"] = "alltoall"
    dispatcher_sms: Positive | None = None
    """SMs that deepep or hybridep copy tokens with, each; absent means their own default."""
    overlap: Overlap = Overlap()
    cuda_graphs: Literal["none", "router", "attention", "full_iteration"] = "none"
    fsdp: Sharding = "none"
    """What Megatron-FSDP shares out over data-parallel ranks (experts over theirs) beside or instead of the state."""
    fsdp_double_buffer: bool = False
    """Megatron-FSDP gathers and reduces through two buffers that stay, instead of allocating for every unit."""
    offload: tuple[OffloadModule, ...] = ()
    """Modules whose saved inputs wait in host memory between the passes (fine-grained activation offloading)."""

    @field_validator("offload", mode="after")
    @classmethod
    def _each_once(cls, modules: tuple[OffloadModule, ...]) -> tuple[OffloadModule, ...]:
        return tuple(sorted(set(modules)))

    def with_recompute(self, recompute: Recompute) -> "Choices":
        """The same with another recompute setting."""
        return self.model_copy(update={"recompute": recompute})


class Layout(Choices):
    """A layout as its file and its JSON object write it. Degrees that follow from others may be absent."""

    tp: Positive = 1
    pp: Positive = 1
    cp: Positive = 1
    dp: Positive | None = None
    ep: Positive = 1
    etp: Positive | None = None
    """Expert tensor parallel. Absent means what Megatron does: the same as tp."""
    edp: Positive | None = None
    vpp: Positive = 1
    micro_batch_size: Positive = 1
    num_microbatches: Positive | None = None
    pipeline_layout: str | None = None
    interleave_group: NonNegative | None = None

    @property
    def choices(self) -> Choices:
        """The decisions that are not degrees."""
        return Choices(**{name: getattr(self, name) for name in Choices.model_fields})
