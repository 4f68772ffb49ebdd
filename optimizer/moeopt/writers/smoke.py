"""The same layout scaled to one node: every feature that fits stays, and our rules judge the result.

A smoke run shows that the software stack starts, steps and stops with this combination of decisions: degrees above 1
stay above 1 where a node has room, all other decisions (recompute, optimizer types, dispatcher, overlap, graphs) stay
as they are, layers and experts shrink with the degrees that hold them, widths stay.
"""

from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

from moeopt.errors import InputError
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.architecture import Architecture
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Limits, Problem
from moeopt.writers.job import Job, job_of

_SEQUENCES = (4096, 2048, 1024)
_VOCABULARIES = (None, 32768)
_FEATURES = ("pp", "vpp", "tp", "ep", "etp other than tp", "etp", "cp", "dp")
"""Degrees whose being above 1 is a feature (and etp apart from tp); the first is given up last."""


@dataclass(frozen=True)
class Smoke:
    """The scaled job, and what it could not keep."""

    job: Job
    lost: tuple[str, ...]


def smoke(job: Job) -> Smoke:
    """The one-node job that keeps most features. Raises InputError where none is legal."""
    for degrees in _candidates(job):
        for length, vocabulary in product(_SEQUENCES, _VOCABULARIES):
            try:
                scaled = job_of(*_scaled(job, degrees, length, vocabulary))
            except InputError:
                continue
            return Smoke(scaled, tuple(_lost(job, degrees)))
    raise InputError(
        f"smoke: no scaled layout is legal on one node of {job.problem.cluster.gpus_per_node} GPUs; every one tried "
        "breaks a rule"
    )


def _lost(job: Job, degrees: dict[str, int]) -> list[str]:
    return [feature for feature in _FEATURES if _has(feature, vars_of(job)) and not _has(feature, degrees)]


def vars_of(job: Job) -> dict[str, int]:
    """The degrees of a job by name."""
    return {name: getattr(job.layout, name) for name in ("tp", "cp", "pp", "ep", "etp", "vpp", "dp")}


def _has(feature: str, degrees: dict[str, int]) -> bool:
    return degrees["etp"] != degrees["tp"] if " " in feature else degrees[feature] > 1


def _candidates(job: Job) -> list[dict[str, int]]:
    """Degrees that fill one node, those that keep most features first, then the least model-parallel."""
    gpus, layout = job.gpus_per_node, job.layout
    assert layout.etp is not None
    found = []
    for tp, cp, pp, ep, etp in product(
        *(_parts(own, gpus) for own in (layout.tp, layout.cp, layout.pp, layout.ep, layout.etp))
    ):
        if gpus % (tp * cp * pp) or gpus % (etp * ep * pp):
            continue
        vpp = min(layout.vpp, 2) if pp > 1 else 1
        dp = gpus // (tp * cp * pp)
        found.append({"tp": tp, "cp": cp, "pp": pp, "ep": ep, "etp": etp, "vpp": vpp, "dp": dp})

    def order(degrees: dict[str, int]) -> tuple[Any, ...]:
        lost = _lost(job, degrees)
        return tuple(feature in lost for feature in _FEATURES), sum(degrees.values()), tuple(degrees.values())

    return sorted(found, key=order)


def _parts(own: int, most: int) -> list[int]:
    """Divisors of a degree that a node has room for."""
    return [part for part in range(1, min(own, most) + 1) if own % part == 0]


def _scaled(job: Job, degrees: dict[str, int], length: int, vocabulary: int | None) -> tuple[Problem, Layout]:
    layout, workload = job.layout, job.problem.workload
    pipeline = _pipeline(job, degrees["pp"], degrees["vpp"])
    layers = sum(chunk.layers for chunk in pipeline.chunks)
    group = degrees["pp"] if layout.interleave_group == layout.pp else 2 * degrees["pp"]
    microbatches = 2 * group
    batch = layout.micro_batch_size * degrees["dp"] * microbatches
    problem = Problem(
        architecture=_architecture(job, layers, degrees["ep"], vocabulary),
        cluster=job.problem.cluster,
        gpus=job.gpus_per_node,
        workload=workload.model_copy(
            update={"sequence_length": min(length, workload.sequence_length), "global_batch_size": batch}
        ),
        limits=Limits(),
    )
    fields = layout.model_dump()
    recompute = dict(fields["recompute"])
    if recompute["num_layers"]:
        recompute["num_layers"] = min(recompute["num_layers"], max(chunk.layers for chunk in pipeline.chunks))
    fields.update(degrees, edp=None, num_microbatches=microbatches, interleave_group=group, recompute=recompute)
    fields["pipeline_layout"] = str(pipeline)
    fields["optimizer"] = {**fields["optimizer"], "instances": _instances(job, degrees)}
    return problem, read_fields(Layout, fields, "smoke")


def _instances(job: Job, degrees: dict[str, int]) -> int:
    edp = degrees["tp"] * degrees["cp"] * degrees["dp"] // (degrees["ep"] * degrees["etp"])
    return gcd(job.layout.optimizer.instances, gcd(degrees["dp"] * degrees["cp"], edp))


def _pipeline(job: Job, pp: int, vpp: int) -> PipelineLayout:
    """One layer a chunk, two in the larger chunks of an uneven layout, none where there was none; at least as many as
    there are kinds of layers. MTP stays with the loss, or one stage before it where that is not on the first
    rank."""
    counts = [chunk.layers for chunk in job.pipeline.chunks]
    stages = pp * vpp
    mtp_at = next((i for i, chunk in enumerate(job.pipeline.chunks) if chunk.mtp), None)
    before_loss = mtp_at is not None and not job.pipeline.chunks[mtp_at].loss and pp > 2
    scaled = [min(count, 1) for count in _sample(counts, stages)]
    if len(set(counts)) > 1 and stages > 1:
        larger = [count * len(counts) > sum(counts) for count in _sample(counts, stages)]
        scaled = [small + more for small, more in zip(scaled, larger, strict=True)]
    if before_loss:
        scaled[-1] = 0
    grow = 1 if stages > 1 else 0
    while sum(scaled) < max(2, len(job.problem.architecture.kinds)) or (len(set(counts)) > 1 and _even(scaled)):
        scaled[grow] += 1
    return PipelineLayout.from_counts(pp, scaled, job.pipeline.mtp, stages - 2 if before_loss else stages - 1)


def _even(counts: list[int]) -> bool:
    return len(counts) > 1 and len(set(counts)) == 1


def _sample(values: list[Any], count: int) -> list[Any]:
    """`count` entries spread evenly over a sequence, its two ends among them."""
    if count == 1:
        return [values[-1]]
    return [values[(index * (len(values) - 1) + (count - 1) // 2) // (count - 1)] for index in range(count)]


def _architecture(job: Job, layers: int, ep: int, vocabulary: int | None) -> Architecture:
    """The same widths; layers sampled so that every kind stays; experts a GPU as before."""
    old = job.problem.architecture
    kept = _kept_layers(old, layers)
    fields = old.model_dump()
    fields.update(
        num_hidden_layers=layers,
        first_k_dense_replace=0,
        moe_layer_freq=[int(old.layers[index].ffn == "moe") for index in kept]
        if old.num_experts and not old.is_hybrid
        else 1,
        vocab_size=old.vocab_size if vocabulary is None else min(vocabulary, old.vocab_size),
        num_layers_at_start_in_bf16=min(old.num_layers_at_start_in_bf16, 1),
        num_layers_at_end_in_bf16=min(old.num_layers_at_end_in_bf16, 1),
    )
    for name in ("window_pattern", "linear_attention_pattern"):
        if fields[name] is not None:
            fields[name] = [fields[name][index] for index in kept]
    if old.hybrid_pattern is not None:
        fields["hybrid_pattern"] = "".join(old.hybrid_pattern[index] for index in kept)
    if old.num_experts:
        fields.update(_experts(old, job.layout.ep, ep))
    return read_fields(Architecture, fields, "smoke")


def _kept_layers(old: Architecture, layers: int) -> list[int]:
    """Indices of the old layers that the new ones copy: spread evenly, then every missing kind put in. The last one
    stays, as MTP modules copy it."""
    kept = _sample(list(range(old.num_hidden_layers)), layers)
    for kind in old.kinds:
        if all(old.layers[index] != kind for index in kept):
            seen: set[Any] = {old.layers[kept[-1]]}
            for at, index in enumerate(kept[:-1]):
                if old.layers[index] in seen:
                    kept[at] = old.layers.index(kind)
                    break
                seen.add(old.layers[index])
    return kept


def _experts(old: Architecture, old_ep: int, ep: int) -> dict[str, Any]:
    """As many experts a GPU as before, but enough for the top-k (and its groups)."""
    experts = old.num_experts // old_ep * ep
    while experts < 2 * old.num_experts_per_tok and experts < old.num_experts:
        experts += ep
    groups = None if old.n_group is None else gcd(experts, old.n_group)
    chosen = None if old.topk_group is None or groups is None else min(old.topk_group, groups)
    if groups and chosen and experts // groups * chosen < old.num_experts_per_tok:
        chosen = groups
    return {"num_experts": experts, "n_group": groups, "topk_group": chosen}
