"""Measured and fitted shares of peak by GPU generation, and the integer rates made of them once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from moeopt.errors import InputError
from moeopt.problem.base import Bandwidth, Input, Nanoseconds, Positive, read_fields
from moeopt.problem.formats import FORMATS, Format
from moeopt.problem.loading import preset_fields
from moeopt.problem.problem import Problem
from moeopt.problem.reading import read_file

Share = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(ge=1)]
DELTA_RULE_PERCENT = 86
"""Of the memory bandwidth, what a delta rule's kernels stream where they could stream more (H100: 2.9 of 3.35 TB/s)."""
FILES = (".yaml", ".yml", ".json")


class Gemm(Input):
    """Share of the dense peak that matrix products reach, by recipe; absent where the generation has no such type."""

    bf16: Share
    fp16: Share
    fp8: Share | None = None
    mxfp8: Share | None = None
    nvfp4: Share | None = None


class DispatchLatency(Input):
    """Time of one dispatch or combine that no byte explains, by dispatcher."""

    alltoall: Nanoseconds
    deepep: Nanoseconds
    hybridep: Nanoseconds
    allgather: Nanoseconds


class PerSm(Input):
    """Bytes a second that one SM of a fused dispatcher moves inside an NVLink domain."""

    deepep: Bandwidth
    hybridep: Bandwidth


class Launch(Input):
    """Host time of one launch-equivalent."""

    x86: Nanoseconds
    grace: Nanoseconds


class Hidden(Input):
    """Share of the expert-parallel communication that computation hides, with and without CUDA graphs."""

    graphs: Share
    eager: Share


class SparseAttention(Input):
    """Shares of the dense bf16 peak that the kernels of sparse attention reach (`sparse_attention.py`)."""

    forward: Share = 0.6
    forward_heads: Positive = 64
    """Heads that the forward kernel computes at least, and in multiples of."""
    backward: Share = 0.3
    indexer: Share = 0.41
    indexer_backward: Share = 0.19


class Efficiency(Input):
    """One generation's table (presets/efficiency); `sources` says measured, fitted or assumed for every field."""

    gemm: Gemm
    attention: Share
    """Of the dense bf16 peak, for long sequences and 128-wide heads; see `attention.core_rate`."""
    attention_backward: Share
    """Backward rate over forward rate of the attention core."""
    memory: Share
    """Of the memory bandwidth, for kernels whose time is their bytes."""
    weight_memory: Share
    """The same for the pass of a matrix product over its weights and their gradients."""
    nvlink: Share
    network: Share
    dispatch_latency_ns: DispatchLatency
    dispatch_bytes_per_s_per_sm: PerSm
    delta_rule_bytes_per_s: Bandwidth | None = None
    """What the kernels of a gated delta net stream at most; absent: nothing but the memory limits them."""
    sparse_attention: SparseAttention = SparseAttention()
    """Kernels over chosen keys; absent: Hopper's."""
    launch_ns: Launch
    overlap_hidden: Hidden
    overlap_slowdown: Factor
    biased_expert_slowdown: Factor
    """Time of a layer with biased experts and attention sinks over what its shapes explain."""
    calibration: dict[str, Any] = Field(default={})
    """Where the fitted numbers come from: software, rows, date, errors (written by benchmarks/calibrate.py)."""
    sources: dict[str, str] = Field(default={})


_TABLES: ContextVar[Mapping[str, Efficiency]] = ContextVar("tables", default={})  # noqa: B039 - never written to


@contextmanager
def using(tables: Mapping[str, Efficiency]) -> Iterator[None]:
    """Let these tables stand in for the shipped ones of the same name: other software, other measurements, a fit."""
    token = _TABLES.set(tables)
    try:
        yield
    finally:
        _TABLES.reset(token)


def load_efficiency(name: str) -> Efficiency:
    """A table by the name of a shipped one, or from a YAML file of the same form. Raises InputError with the nearest
    name where there is none."""
    given = _TABLES.get().get(name)
    return given if given is not None else _read(name)


@lru_cache(maxsize=16)
def _read(name: str) -> Efficiency:
    fields = read_file(Path(name), "efficiency") if name.endswith(FILES) else preset_fields("efficiency", name)
    return read_fields(Efficiency, fields, f"efficiency {name}")


@dataclass(frozen=True)
class Rates:
    """Whole-number rates of one problem: FLOP a nanosecond, bytes a microsecond (rounded down: pessimistic)."""

    gemm_flops_per_ns: int
    """In the recipe's precision."""
    bf16_gemm_flops_per_ns: int
    """Router and output head, which stay in bf16 in every recipe."""
    peak_bf16_flops_per_ns: int
    memory_bytes_per_us: int
    weight_bytes_per_us: int
    delta_rule_bytes_per_us: int
    nvlink_bytes_per_us: int
    network_bytes_per_us: int
    format: Format
    """What linears compute in."""
    efficiency: Efficiency

    @property
    def in_16_bits(self) -> "Rates":
        """Those of what stays in bf16 in every recipe."""
        return replace(self, gemm_flops_per_ns=self.bf16_gemm_flops_per_ns, format=FORMATS["bf16"])


def exact(value: float) -> Fraction:
    """The number as written: 0.53 is 53/100."""
    return Fraction(str(value))


def rates(problem: Problem) -> Rates:
    """Rates of the problem's GPU and precision. Raises InputError where the GPU lacks the precision."""
    cluster, form = problem.cluster, problem.workload.format
    table = load_efficiency(cluster.efficiency)
    peak, share = getattr(cluster.peak_flops, form.peak), getattr(table.gemm, form.name)
    if peak is None or share is None:
        raise InputError(
            f"workload.precision: {form.name} cannot be timed on {cluster.gpu}: its peak_flops or its efficiency table "
            f"{cluster.efficiency!r} has no {form.name}"
        )
    bf16 = exact(cluster.peak_flops.bf16)
    bandwidth = exact(cluster.memory_bandwidth_bytes_per_s) / 10**6
    return Rates(
        gemm_flops_per_ns=int(exact(peak) * exact(share) / 10**9),
        bf16_gemm_flops_per_ns=int(bf16 * exact(table.gemm.bf16) / 10**9),
        peak_bf16_flops_per_ns=int(bf16 / 10**9),
        memory_bytes_per_us=int(bandwidth * exact(table.memory)),
        weight_bytes_per_us=int(bandwidth * exact(table.weight_memory)),
        delta_rule_bytes_per_us=_delta_rule(bandwidth, table.delta_rule_bytes_per_s),
        nvlink_bytes_per_us=int(exact(cluster.nvlink_bandwidth_bytes_per_s) * exact(table.nvlink) / 10**6),
        network_bytes_per_us=int(exact(cluster.network_bandwidth_bytes_per_s) * exact(table.network) / 10**6),
        format=form,
        efficiency=table,
    )


def _delta_rule(bandwidth: Fraction, most_bytes_per_s: float | None) -> int:
    """Bytes a microsecond of a delta rule's kernels, by the memory's bandwidth in the same unit."""
    streamed = bandwidth * DELTA_RULE_PERCENT / 100
    return int(streamed if most_bytes_per_s is None else min(streamed, exact(most_bytes_per_s) / 10**6))
