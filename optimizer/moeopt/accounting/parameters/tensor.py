"""One parameter tensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from moeopt.problem.architecture import Architecture

Component: TypeAlias = Literal[
    "embedding",
    "attention",
    "dense_mlp",
    "routed_experts",
    "shared_experts",
    "router",
    "norms",
    "mtp",
    "output_head",
]
COMPONENTS: tuple[Component, ...] = get_args(Component)


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor, counted over all GPUs; `copies` equal ones where a layer has one an expert."""

    name: str
    component: Component
    numel: int
    """Elements of one copy, before any sharding or padding."""
    sharding: Literal["replicated", "tensor", "expert"]
    """replicated: whole on every tensor-parallel rank; tensor: 1/tp of it; expert: copies/ep copies of 1/etp each."""
    trainable: bool = True
    """False: a buffer without gradient (the router's correction bias)."""
    copies: int = 1
    split: bool = True
    """Expert tensors: whether expert tensor parallelism divides a copy (not the bias of the second linear)."""
    vocabulary: bool = False
    """Whether the rows are the vocabulary, which the framework pads."""
    columns: int = 0
    """Columns of one copy, where it is a matrix of weights (0: a table of the vocabulary, a vector, a filter)."""
    stacked: tuple[int, ...] = ()
    """Rows of the matrices that it stacks (queries, keys and values), where there are several."""
    origin: Literal["architecture", "framework", "pipeline_copy"] = "architecture"
    """framework: built by Megatron though the architecture has none. pipeline_copy: a second copy of a table that
    another pipeline stage holds, only where pp > 1. Neither counts for the size of the architecture."""

    @property
    def total(self) -> int:
        """Elements of all copies."""
        return self.numel * self.copies

    @property
    def cut_by_columns(self) -> bool:
        """Whether tensor parallelism divides a matrix's columns: output projections, where others divide rows."""
        return self.name.endswith(("linear_proj.weight", "linear_fc2.weight", "out_proj.weight"))


def matrix(
    name: str, component: Component, rows: int, columns: int, sharding: Literal["replicated", "tensor"]
) -> Parameter:
    """A weight of so many output and input features."""
    return Parameter(name, component, rows * columns, sharding, columns=columns)


def norm(architecture: Architecture, name: str, width: int) -> Iterator[Parameter]:
    """Weight of a norm, and its bias where it has one."""
    yield Parameter(f"{name}weight", "norms", width, "replicated")
    if architecture.norm_bias:
        yield Parameter(f"{name}bias", "norms", width, "replicated")
