"""Predicted against measured memory, for every published run that gives enough to predict it.

    python benchmarks/memory.py            by source, GPU and feature; the ten worst, each with what would close it;
                                           what cannot be predicted; runs that ran or failed, judged (feasibility.py)
    python benchmarks/memory.py --all      every row

Measured figures are torch's allocated bytes: no CUDA context, no NCCL, no fragmentation. So the prediction is
`total_bytes - overhead_bytes` (peak) and the bytes between steps (allocated).
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from moeopt.accounting.fsdp import unit_elements
from moeopt.accounting.memory import graphs
from moeopt.accounting.memory.persistent import held_after_step_bytes
from moeopt.accounting.memory.recipe import Recipe
from moeopt.accounting.memory.stage import StageMemory, stage_memory
from moeopt.accounting.memory.symbols import Symbols, symbols
from moeopt.accounting.memory.tensors import total
from moeopt.accounting.memory.terms import MemoryTerms, memory_terms
from moeopt.accounting.pieces import Piece, contents, priced_total
from moeopt.layout import Choices, Degrees, Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.cluster import Cluster, PeakFlops
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem
from moeopt.schedule.in_flight import in_flight_vectors

DATA = Path(__file__).parent / "data" / "published_memory.json"


@dataclass(frozen=True)
class Comparison:
    """One predicted figure and its measurement, in bytes."""

    source: str
    run: str
    quantity: str
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """Signed relative error."""
        return self.predicted / self.measured - 1


def load() -> dict[str, Any]:
    """The published rows."""
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return data


def problem_of(row: Mapping[str, Any], architectures: Mapping[str, Any]) -> Problem:
    """The run as a problem; only the GPU's compute capability matters for allocated bytes."""
    cluster = Cluster(
        gpu="as published",
        memory=2**38,
        memory_bandwidth_bytes_per_s=1e12,
        peak_flops=PeakFlops(bf16=1e15),
        nvlink_bandwidth_bytes_per_s=1e11,
        nvlink_latency_ns=1,
        network_bandwidth_bytes_per_s=1e10,
        network_latency_ns=1,
        compute_capability=row["compute_capability"],
    )
    architecture = architectures[row["architecture"]]
    return Problem(architecture=architecture, cluster=cluster, gpus=row["gpus"], workload=row["workload"])


def degrees_of(row: Mapping[str, Any], layout: Layout) -> Degrees:
    """All degrees of the run."""
    dense, expert = layout.tp * layout.pp * layout.cp, (layout.etp or layout.tp) * layout.ep * layout.pp
    dp = row["gpus"] // dense
    return Degrees(
        tp=layout.tp,
        pp=layout.pp,
        cp=layout.cp,
        dp=dp,
        ep=layout.ep,
        etp=layout.etp or layout.tp,
        edp=row["gpus"] // expert,
        vpp=layout.vpp,
        micro_batch_size=layout.micro_batch_size,
        num_microbatches=row["workload"]["global_batch_size"] // (dp * layout.micro_batch_size),
        interleave_group=layout.pp,
    )


def predict(row: Mapping[str, Any], architectures: Mapping[str, Any], moments: bool) -> tuple[list[StageMemory], int]:
    """Memory of every stage, and what the last one holds between steps beyond that. Peaks are those of the steps before
    CUDA graphs are captured: torch counts nothing of the pool that they allocate from once they are."""
    problem, layout = problem_of(row, architectures), Layout(**row["layout"])
    degrees, captured = degrees_of(row, layout), layout.choices
    choices = captured.model_copy(update={"cuda_graphs": "none"})
    terms = memory_terms(problem, degrees, choices, Recipe(**row["recipe"], moments_allocated=moments))
    layers = problem.architecture.num_hidden_layers
    if layout.pipeline_layout:
        pipeline = PipelineLayout.parse(layout.pipeline_layout, layout.pp)
    else:
        even = PipelineLayout.even(layers, layout.pp, layout.vpp, problem.mtp_layers)
        assert even is not None, row["id"]
        pipeline = even
    schedule = (degrees.pp, degrees.vpp, degrees.num_microbatches, degrees.interleave_group)
    stages = [
        stage_memory(
            terms,
            problem,
            [contents(problem.architecture, chunk, choices.recompute.block_layers) for chunk in pipeline.of_rank(rank)],
            in_flight_vectors(*schedule, rank, choices.overlap.ep_all_to_all),
        )
        for rank in range(layout.pp)
    ]
    last = [contents(problem.architecture, chunk) for chunk in pipeline.of_rank(layout.pp - 1)]
    held = held_after_step_bytes(symbols(problem, degrees, choices), layout.vpp)
    held += gradient_copies_bytes(terms, choices, last)
    vectors = in_flight_vectors(*schedule, layout.pp - 1, choices.overlap.ep_all_to_all)
    return stages, held + graph_tensors_bytes(problem, symbols(problem, degrees, captured), captured, last, vectors)


def graph_tensors_bytes(
    problem: Problem, sizes: Symbols, choices: Choices, chunks: list[dict[Piece, int]], vectors: Sequence[Sequence[int]]
) -> int:
    """Between steps: the inputs of captured layers, as many as are in flight at most, and gradients of what graphs
    return. (Whole iterations under one graph leave none of them.)"""
    if not graphs.captures_router(choices):
        return 0
    each = []
    for chunk in chunks:
        layers = {kind: n for kind, n in chunk.items() if isinstance(kind, LayerKind)}
        for kind in problem.architecture.mtp_kinds if "mtp" in chunk else ():
            layers[kind] = layers.get(kind, 0) + chunk["mtp"]
        masks = sum(n * total(graphs.static_inputs(sizes, kind, choices)) for kind, n in layers.items())
        each.append(masks + 2 * sizes.T * sizes.h * sum(layers.values()))
    inputs = max(sum(q * size for q, size in zip(vector, each, strict=True)) for vector in vectors)
    parts = {**graphs.layer_parts(sizes, choices, 0), **graphs.router_parts(problem, sizes, choices)}
    return int(inputs + sum(parts.values()))


def gradient_copies_bytes(terms: MemoryTerms, choices: Choices, chunks: list[dict[Piece, int]]) -> int:
    """Between steps, with 16-bit gradients and without the precision-aware optimizer: fp32 copies of a rank's gradient
    shards, which the next step clears before it begins (megatron/core/optimizer/distrib_optimizer.py:
    _copy_model_grads_to_main_grads). Never part of the peak."""
    if choices.optimizer.main_grads == "fp32" or choices.optimizer.precision_aware:
        return 0
    dense, expert = (
        sum(int(priced_total(chunk, elements)) for chunk in chunks)
        for elements in (terms.dense_elements, terms.expert_elements)
    )
    return 4 * (dense // int(terms.dense_shards) + expert // int(terms.expert_shards))


def released_bytes(row: Mapping[str, Any], architectures: Mapping[str, Any]) -> int:
    """Bytes that a stage is counted with and that are not there between steps: what Megatron-FSDP gathered or held to
    be reduced of parameters outside layers. Until 378d81fbd (30 May 2026) those parameters were released as well; that
    commit raised the recorded bytes between steps of two tests by just their size, and no peak."""
    layout = Layout(**row["layout"])
    if layout.fsdp != "optim_grads_params" or layout.pp > 1:
        return 0
    problem = problem_of(row, architectures)
    degrees, choices = degrees_of(row, layout), layout.choices
    terms = memory_terms(problem, degrees, choices)
    price = terms.gradient_bytes_per_element + terms.sharded_gradient_bytes_per_element
    outside = {piece: unit_elements(problem, piece, degrees, choices).outside for piece in ("embedding", "loss")}
    released = 2 * sum(outside.values()) if row.get("released_between_steps") else 0
    return int(released + price * outside["loss"])


def compare(row: Mapping[str, Any], architectures: Mapping[str, Any]) -> Iterator[Comparison]:
    """Every measured figure of a row against its prediction."""
    measured = row["measured"]
    stages, held = predict(row, architectures, moments=True)
    peaks = [stage.total_bytes - stage.overhead_bytes for stage in stages]
    for rank, peak in enumerate(measured.get("stage_peaks", ())):
        yield Comparison(row["group"], row["id"], f"peak of stage {rank}", peaks[rank], peak)
    released = released_bytes(row, architectures)
    between = {"allocated": stages[-1].allocated_bytes + held - released}
    between["largest_allocated"] = max(stage.allocated_bytes + held for stage in stages)
    for name, value in between.items():
        if name in measured:
            yield Comparison(row["group"], row["id"], "allocated", value, measured[name])
    if "peak" in measured:
        yield Comparison(row["group"], row["id"], "peak", peaks[-1], measured["peak"])
    if "first_peak" in measured:
        first = predict(row, architectures, moments=False)[0][-1]
        value = first.total_bytes - first.overhead_bytes
        yield Comparison(row["group"], row["id"], "peak of iteration 1", value, measured["first_peak"])


def everything() -> list[Comparison]:
    """All comparisons."""
    data = load()
    return [item for row in data["rows"] for item in compare(row, data["architectures"])]


RECORDED = ("release", "small tests")
"""Sources that are records of Megatron-LM's own functional tests."""
GPUS = {"8.0": "A100", "9.0": "H100", "10.0": "B200 and GB200"}


def features(row: Mapping[str, Any]) -> Iterator[str]:
    """What a run uses that its bytes depend on."""
    layout, work = Layout(**row["layout"]), row["workload"]
    for degree in ("tp", "pp", "vpp", "cp", "ep"):
        if getattr(layout, degree) > 1:
            yield f"{degree} > 1"
    if layout.etp not in (None, layout.tp):
        yield "etp other than tp"
    yield "distributed optimizer" if layout.distributed_optimizer else "no distributed optimizer"
    if layout.recompute.granularity != "none":
        yield f"recompute {layout.recompute.granularity}"
    if layout.dispatcher != "alltoall":
        yield f"dispatcher {layout.dispatcher}"
    if layout.overlap.ep_all_to_all:
        yield "overlap of the expert all-to-all"
    if layout.optimizer.offload_fraction:
        yield "optimizer offload"
    if layout.fsdp != "none":
        yield "Megatron-FSDP"
    if layout.offload:
        yield "activation offload"
    if work.get("attention_backend") == "unfused":
        yield "unfused attention"
    yield f"loss kernel {work.get('cross_entropy', 'native')}"


def _kind(item: Comparison) -> str:
    return item.quantity.split(" of stage")[0]


def _summary(items: list[Comparison]) -> Iterator[str]:
    yield _heading("source", "quantity")
    for source, quantity in dict.fromkeys((item.source, _kind(item)) for item in items):
        errors = [item.error for item in items if (item.source, _kind(item)) == (source, quantity)]
        yield _errors(source, quantity, errors)
    recorded = [item.error for item in items if item.source in RECORDED and _kind(item) == "peak"]
    yield _errors(" and ".join(RECORDED), "peak", recorded)


def _groups(items: list[Comparison], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Errors of peaks by GPU and by feature (a run counts under each feature that it has)."""
    labels = {
        name: [GPUS.get(row["compute_capability"], row["compute_capability"]), *features(row)]
        for name, row in rows.items()
    }
    yield _heading("GPU or feature", "")
    peaks = [item for item in items if _kind(item) == "peak"]
    for label in dict.fromkeys(label for group in zip_longest(*labels.values()) for label in group if label):
        errors = [item.error for item in peaks if label in labels[item.run]]
        if errors:
            yield _errors(label, "peak", errors)


def _heading(first: str, second: str) -> str:
    return f"{first:32s} {second:20s} {'n':>4s} {'median':>8s} {'p90':>8s} {'worst':>8s} {'bias':>8s}"


def _errors(first: str, second: str, errors: list[float]) -> str:
    sizes = sorted(abs(error) for error in errors)
    p90 = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    worst, bias = max(errors, key=abs), sum(errors) / len(errors)
    return f"{first:32s} {second:20s} {len(errors):4d} {median(sizes):8.2%} {p90:8.2%} {worst:+8.2%} {bias:+8.2%}"


def explanation(item: Comparison, row: Mapping[str, Any], architectures: Mapping[str, Any]) -> str:
    """What would close the gap. Dropless routing is not recorded: for a MoE run above its balanced prediction, the
    routing imbalance (busiest rank over mean) at which the prediction meets the measurement."""
    if not architectures[row["architecture"]].get("num_experts") or item.error > 0:
        return (
            f"not explained: {'above' if item.error > 0 else 'below'} the measurement with every mechanism on the list"
        )
    if item.quantity == "allocated":
        return "not explained: bytes between steps do not depend on routing"
    low, high = 1.0, 4.0
    for _ in range(12):
        middle = round((low + high) / 2, 3)
        routed = {**row, "workload": {**row["workload"], "routing": {"imbalance": middle}}}
        found = next(i for i in compare(routed, architectures) if i.quantity == item.quantity)
        low, high = (middle, high) if found.error < 0 else (low, middle)
    assumed = "initial" if row["workload"].get("routing") == "initial" else "balanced"
    return f"{assumed} routing is assumed; an imbalance of {high:.2f} on the recorded rank would close the gap"


def _line(item: Comparison) -> str:
    return (
        f"{item.error:+8.2%} {(item.predicted - item.measured) / 2**20:+9.0f} MiB of {item.measured / 2**20:8.0f}  "
        f"{item.quantity:20s} {item.run}"
    )


def main() -> None:
    """Print the benchmark."""
    items, data = everything(), load()
    rows = {row["id"]: row for row in data["rows"]}
    print("\n".join(_summary(items)) + "\n")
    print("\n".join(_groups(items, rows)))
    if "--all" in sys.argv[1:]:
        print("\nall rows\n" + "\n".join(_line(item) for item in items))
    print("\nten worst")
    for item in sorted(items, key=lambda item: -abs(item.error))[:10]:
        print(f"{_line(item)}\n{'':9s}{explanation(item, rows[item.run], data['architectures'])}")
    print(f"\nnot predictable ({len(data['unpredictable'])})")
    print("\n".join(f"  {row['id']}: {row['reason']}" for row in data["unpredictable"]))
    from feasibility import table

    print("\n" + "\n".join(table()))


if __name__ == "__main__":
    main()
