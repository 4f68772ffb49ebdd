"""What no formula gives: library workspaces by GPU generation, CUDA context, NCCL buffers, fragmentation.

The numbers live in presets/overheads.yaml, each with its source; another file of the same form replaces it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from moeopt.accounting.launches import captured_launches
from moeopt.arithmetic import Number, ceil_div, where
from moeopt.errors import InputError
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem
from moeopt.units import parse_bytes


@dataclass(frozen=True)
class Workspaces:
    """Bytes that torch's allocator counts for matrix-multiplication workspaces."""

    linear: int
    torch: int
    grouped: int


@dataclass(frozen=True)
class Overheads:
    """One table of overheads (see presets/overheads.yaml for the meaning and the source of each)."""

    by_capability: Mapping[str, Workspaces]
    context_bytes: int
    communicator_bytes: int
    dispatcher_bytes: Mapping[str, int]
    graph_launch_bytes: int
    fragmentation: float

    def workspaces(self, compute_capability: str) -> Workspaces:
        """The entry of a compute capability, or of the nearest lower one."""
        known = sorted(self.by_capability, key=_version)
        below = [name for name in known if _version(name) <= _version(compute_capability)]
        return self.by_capability[below[-1] if below else known[0]]


def _version(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        return (0,)


def load_overheads(path: str | Path) -> Overheads:
    """Read a table. Raises InputError that names the file and what is wrong."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return _read(values)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a table of overheads: {error!r}") from None


@cache
def default_overheads() -> Overheads:
    """The table that ships with the package."""
    text = (files("moeopt") / "presets" / "overheads.yaml").read_text(encoding="utf-8")
    return _read(yaml.safe_load(text))


def _read(values: Mapping[str, Any]) -> Overheads:
    return Overheads(
        by_capability={
            str(name): Workspaces(**{field: parse_bytes(size, field) for field, size in entry.items()})
            for name, entry in values["workspaces"].items()
        },
        context_bytes=parse_bytes(values["context"], "context"),
        communicator_bytes=parse_bytes(values["communicator"], "communicator"),
        dispatcher_bytes={name: parse_bytes(size, name) for name, size in values["dispatcher"].items()},
        graph_launch_bytes=parse_bytes(values["graph_launch"], "graph_launch"),
        fragmentation=float(values["fragmentation"]),
    )


def communicators(degrees: Degrees) -> Number:
    """NCCL communicators of a rank with more than one member: tp, cp, dp, pp, the expert group and edp."""
    count: Number = 0
    groups = (degrees.tp, degrees.cp, degrees.dp * degrees.cp, degrees.pp, degrees.ep * degrees.etp, degrees.edp)
    for size in groups:
        count = count + where(size > 1, 1, 0)
    return count


def graph_launches(problem: Problem, degrees: Degrees, choices: Choices) -> Number:
    """Launches that CUDA graphs hold on a GPU with its share of the layers. Layers are captured for every micro-batch
    of a step where pp > 1 or the expert all-to-all is overlapped, else once (megatron/core/transformer/cuda_graphs.py,
    _get_cuda_graph_input_data); a whole iteration is captured as it is."""
    if choices.cuda_graphs == "none":
        return 0
    architecture, quantized = problem.architecture, problem.workload.format.quantized
    layers: Number = 0
    for kind, count in architecture.layers_of_kind.items():
        layers = layers + count * captured_launches(problem, degrees, choices, kind, quantized)
    for kind in architecture.mtp_kinds:
        layers = layers + problem.mtp_layers * captured_launches(problem, degrees, choices, kind, quantized)
    every = choices.cuda_graphs == "full_iteration" or choices.overlap.ep_all_to_all
    times = degrees.num_microbatches if every else where(degrees.pp > 1, degrees.num_microbatches, 1)
    return ceil_div(layers * times, degrees.pp)


def overhead_bytes(problem: Problem, degrees: Degrees, choices: Choices, overheads: Overheads) -> Number:
    """Bytes of a GPU outside torch's allocated bytes, the same on every stage (the sum of `overhead_parts`)."""
    total: Number = 0
    for size in overhead_parts(problem, degrees, choices, overheads).values():
        total = total + size
    return total


def overhead_parts(problem: Problem, degrees: Degrees, choices: Choices, overheads: Overheads) -> dict[str, Number]:
    """Context, NCCL, dispatcher, graphs, and a share of the GPU's memory that the caching allocator cannot hand out."""
    dispatcher = overheads.dispatcher_bytes.get(choices.dispatcher, 0) if problem.architecture.is_moe else 0
    return {
        "CUDA context": overheads.context_bytes,
        "NCCL communicators": communicators(degrees) * overheads.communicator_bytes,
        f"dispatcher {choices.dispatcher}": dispatcher,
        f"nodes of CUDA graphs ({choices.cuda_graphs})": graph_launches(problem, degrees, choices)
        * overheads.graph_launch_bytes,
        f"fragmentation, {overheads.fragmentation:.1%} of the GPU": math.ceil(
            overheads.fragmentation * problem.cluster.memory
        ),
    }
