"""Small random problems, and every layout of one: what the search, frontiers and certificates are compared with.

The listing shares the exact reader (the ledger), the legality rules and the space of choices with the search, and
nothing of its bounds, heuristics, encoding or solver.
"""

import os
import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from moeopt.accounting.ledger import Ledger
from moeopt.candidate import Candidate
from moeopt.configurations import modes, recomputes
from moeopt.frameworks.megatron_core import legal
from moeopt.pipeline import PipelineLayout
from moeopt.problem.loading import load_architecture, load_problem
from moeopt.problem.problem import Problem
from moeopt.space import enumerate_degrees, row, with_chunks, with_microbatches

NUMBER = "MOEOPT_RANDOM_PROBLEMS"
"""Environment variable for a long run: how many random problems the tests of frontiers and conflicts take."""


def random_seeds(usual: int) -> range:
    """Seeds of so many random problems, or of as many as the environment asks for."""
    return range(int(os.environ.get(NUMBER, usual)))


SPARSE: dict[str, Any] = {
    "kv_lora_rank": 512,
    "q_lora_rank": 64,
    "index_topk": 256,
    "index_n_heads": 4,
    "index_head_dim": 32,
    "num_nextn_predict_layers": 0,
}
"""MLA whose keys an indexer chooses (a search takes no MTP modules beside it)."""


def random_problem(seed: int) -> Problem:
    """A problem small enough to enumerate: a few layers, a few GPUs, a memory limit that often binds."""
    rng = random.Random(seed)
    sparse, hybrid = seed % 6 == 4, seed % 6 == 3
    moe, mla = rng.random() < 0.75, (rng.random() < 0.3 or sparse) and not hybrid
    layers = rng.randint(2, 5)
    architecture: dict[str, Any] = {
        "hidden_size": rng.choice([256, 512]),
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": rng.choice([1, 2, 4]),
        "head_dim": 64,
        "vocab_size": rng.choice([1000, 8000]),
        "intermediate_size": 512,
    }
    if moe:
        architecture |= {
            "num_experts": rng.choice([2, 4]),
            "num_experts_per_tok": 1 if rng.random() < 0.3 else 2,
            "moe_intermediate_size": 256,
            "first_k_dense_replace": rng.randint(0, layers - 1),
            "num_nextn_predict_layers": int(rng.random() < 0.3),
            "shared_expert_intermediate_size": rng.choice([0, 256]),
        }
    if mla:
        architecture |= {
            "num_key_value_heads": 4,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "v_head_dim": 64,
        }
    if sparse:
        architecture |= SPARSE
    if hybrid:
        architecture |= _hybrid(random.Random(seed), layers, moe)
    if seed % 14 == 6:
        architecture |= {"num_layers_at_start_in_bf16": 1, "num_layers_at_end_in_bf16": layers // 2}
    if seed % 6 == 5:
        architecture |= _delta_nets(random.Random(seed), layers)
    gpus = rng.choice([1, 2, 4, 4])
    limits: dict[str, Any] = {"micro_batch_size": {"max": 2}, "vpp": {"max": 2}, "cp": {"max": 2}}
    four_bits = seed % 7 == 6 and not (sparse or hybrid)
    overhead = (7 if four_bits else 6) * 2**30
    limits["peak_memory"] = overhead + rng.choice([2**26, 2**27, 2**28, 2**29, 2**33])
    return load_problem(
        {
            "architecture": architecture,
            "cluster": "b200" if four_bits else "h100-sxm",
            "gpus": gpus if rng.random() < 0.8 else {"min": 1, "max": gpus},
            "workload": {
                "sequence_length": rng.choice([512, 2048]),
                "global_batch_size": rng.choice([4, 8]),
                "routing": {"imbalance": rng.choice([1.0, 1.3])},
                "precision": "nvfp4" if four_bits else "bf16",
                "optimizer": "muon" if seed % 5 == 1 and not four_bits else "adam",
            },
            "limits": limits,
            "fix": _fixed(rng, moe, mla, hybrid),
            "objective": rng.choice(["step_time", "step_time", "step_time", "cost", "peak_memory", "gpus"]),
        }
    )


def _hybrid(rng: random.Random, layers: int, moe: bool) -> dict[str, Any]:
    """Layers of one block each, in any order (the last with experts where the problem has them); some with MTP modules
    of two layers."""
    pattern = "".join(rng.choice("M*-E" if moe else "M*-") for _ in range(layers - 1)) + ("E" if moe else "-")
    fields = {
        "hybrid_pattern": pattern,
        "first_k_dense_replace": 0,
        "gated": False,
        "mamba_num_heads": rng.choice([4, 8]),
        "mamba_head_dim": 32,
        "mamba_num_groups": rng.choice([1, 4]),
        "mamba_state_dim": 16,
        "num_nextn_predict_layers": rng.choice([0, 0, 1, 2]),
    }
    modules = {"mtp_hybrid_pattern": pattern[-2:], "mtp_use_repeated_layer": rng.random() < 0.5}
    return fields | (modules if fields["num_nextn_predict_layers"] else {})


def _delta_nets(rng: random.Random, layers: int) -> dict[str, Any]:
    """Gated delta nets in place of attention on some layers (the last keeps attention, as MTP modules need it)."""
    return {
        "linear_attention_pattern": [*(rng.randint(0, 1) for _ in range(layers - 1)), 0],
        "linear_num_key_heads": rng.choice([2, 4]),
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": rng.choice([32, 128]),
        "linear_conv_kernel_dim": 4,
    }


def _fixed(rng: random.Random, moe: bool, mla: bool, hybrid: bool) -> dict[str, Any]:
    """Most problems decide recompute and dispatch, so that enumeration stays small; every tenth leaves all open."""
    if rng.random() < 0.1:
        return {"tp": rng.choice([1, 2]), "micro_batch_size": 1}
    modules = ["layernorm", "moe_act"] if moe else ["layernorm"] if mla else []
    recompute = rng.choice(["none", "full", {"modules": modules} if modules else "none"])
    overlap = {"ep_all_to_all": moe and recompute != "full" and rng.random() < 0.2 and not hybrid}
    return {"recompute": recompute, "dispatcher": rng.choice(["alltoall", "deepep"]), "overlap": overlap}


def block_problem(seed: int) -> Problem:
    """A random problem with the first layers of every chunk recomputed by block, its layers in any order of kinds."""
    problem, rng = random_problem(seed), random.Random(seed)
    layers = problem.architecture.num_hidden_layers
    architecture = problem.architecture
    if architecture.is_moe and rng.random() < 0.5 and not architecture.is_hybrid:
        order = [rng.randint(0, 1) for _ in range(layers - 1)]
        update = {"first_k_dense_replace": 0, "moe_layer_freq": [*order, 1]}
        architecture = load_architecture({**architecture.model_dump(exclude_defaults=True), **update})
    covered = rng.randint(1, max(1, layers - 1))
    recompute = {"granularity": "full", "method": "block", "num_layers": covered}
    fix = {**problem.fix, "recompute": recompute, "overlap": {"ep_all_to_all": False}}
    return Problem(**{**dict(problem), "architecture": architecture, "fix": fix})


FREED = (
    ("recompute",),
    ("cuda_graphs",),
    ("overlap",),
    ("interleave_group",),
    ("optimizer.moments", "optimizer.main_grads"),
    ("dispatcher", "recompute"),
    ("distributed_optimizer", "overlap.grad_reduce"),
    ("fsdp", "fsdp_double_buffer"),
    ("recompute", "interleave_group"),
    ("sequence_parallel", "overlap.tp_comm"),
    ("optimizer.offload_fraction", "optimizer.main_params"),
    ("recompute", "cuda_graphs", "overlap.param_gather"),
    ("optimizer",),
    ("offload",),
)
"""Decisions to free together, so few that a listing stays small."""


def freed_problem(seed: int) -> Problem:
    """A random problem of which some decisions are freed, and what else is open is little."""
    problem, free = random_problem(seed), FREED[seed % len(FREED)]
    rng = random.Random(seed)
    fix = {"recompute": "none", "dispatcher": "alltoall", "overlap": {"ep_all_to_all": False}, **problem.fix}
    fix = {name: value for name, value in fix.items() if name not in free}
    gpus = problem.gpus
    if free in (("offload",), ("optimizer",)) or len({*free} - {"interleave_group"}) > 1:
        gpus = rng.choice([1, 2])
    elif free == ("interleave_group",):
        fix |= {"pp": 2, "vpp": 2}
        gpus = 4
    fields = {**dict(problem), "gpus": gpus, "fix": fix, "free": free}
    workload = problem.workload
    if rng.random() < 0.4:
        fields["workload"] = workload.model_copy(update={"attention_backend": "unfused"})
    return Problem(**fields)


def placements(problem: Problem, pp: int, vpp: int) -> list[PipelineLayout]:
    """Every split of the layers: inner stages hold at least one, none comes after the MTP modules."""
    layers, stages = problem.architecture.num_hidden_layers, pp * vpp
    mtp_stages = [stages - 1]
    if problem.mtp_layers and not problem.architecture.is_hybrid:
        mtp_stages = [s for s in range((vpp - 1) * pp, stages) if s % pp or pp == 1]
    found = []
    for cuts in combinations(range(layers + stages - 1), stages - 1):
        edges = [-1, *cuts, layers + stages - 1]
        counts = [b - a - 1 for a, b in pairwise(edges)]
        for mtp_stage in mtp_stages:
            if all(counts[1:mtp_stage]) and not any(counts[mtp_stage + 1 :]):
                found.append(PipelineLayout.from_counts(pp, counts, problem.mtp_layers, mtp_stage))
    return found


def legal_candidates(problem: Problem) -> Iterator[Ledger]:
    """The prices of every legal combination of degrees and choices; its placements are `placements` of its grid."""
    degrees, _ = with_chunks(problem, with_microbatches(problem, enumerate_degrees(problem))[0])
    for mode in modes(problem):
        for recompute in recomputes(problem):
            choices = mode.model_copy(update={"recompute": recompute})
            for index in np.flatnonzero(np.broadcast_to(legal(problem, degrees, choices), degrees.tp.shape)):
                yield Ledger(problem, row(degrees, int(index)), choices)


def placed(ledger: Ledger) -> list[PipelineLayout]:
    """Every placement of a candidate's layers that the framework takes."""
    unit = ledger.choices.recompute.num_layers or 0
    every = placements(ledger.problem, ledger.degrees.pp, ledger.degrees.vpp)
    return [each for each in every if max(chunk.layers for chunk in each.chunks) >= unit]


def peak_bytes(ledger: Ledger, pipeline: PipelineLayout) -> int:
    """Bytes of the fullest rank."""
    return max(stage.total_bytes for stage in ledger.memory(pipeline))


def brought(problem: Problem, ledger: Ledger, time_ns: int) -> Fraction:
    """A step's time in proportion to the largest batch that the problem allows: what different batches share."""
    return Fraction(time_ns * problem.workload.batches.most, ledger.degrees.batch)


def exhaustive_best(problem: Problem) -> tuple[Fraction | int, ...] | None:
    """Lowest (objective, then step time where GPUs are the objective) over every legal layout that fits."""
    best: tuple[Fraction | int, ...] | None = None
    for ledger in legal_candidates(problem):
        gpus = ledger.degrees.gpus
        for pipeline in placed(ledger):
            time_ns = brought(problem, ledger, ledger.step_time(pipeline).total_ns)
            hopeless = {"step_time": time_ns, "cost": time_ns * gpus, "gpus": gpus}.get(problem.objective, -1)
            if best is not None and hopeless > best[0]:
                continue
            peak = peak_bytes(ledger, pipeline)
            if peak > problem.memory_limit:
                continue
            value: tuple[Fraction | int, ...] = {
                "step_time": (time_ns,),
                "cost": (time_ns * gpus,),
                "peak_memory": (peak,),
                "gpus": (gpus, time_ns),
            }[problem.objective]
            best = value if best is None else min(best, value)
    return best


def canonical_best(problem: Problem) -> tuple[tuple[Any, ...], Ledger] | None:
    """The layout that the tie-break picks, as (objective, the goals of the tie-break, the candidate's order) and its
    prices; layers apart."""
    best: tuple[tuple[Any, ...], Ledger] | None = None
    for ledger in legal_candidates(problem):
        gpus, order = ledger.degrees.gpus, Candidate(problem, ledger.degrees, ledger.choices, 0).order
        for pipeline in placed(ledger):
            time_ns = brought(problem, ledger, ledger.step_time(pipeline).total_ns)
            first = {"step_time": time_ns, "cost": time_ns * gpus, "gpus": gpus}.get(problem.objective, -1)
            if best is not None and first > best[0][0]:
                continue
            peak = peak_bytes(ledger, pipeline)
            if peak > problem.memory_limit:
                continue
            key: tuple[Any, ...] = {
                "step_time": (time_ns, gpus, peak),
                "cost": (time_ns * gpus, gpus, peak),
                "peak_memory": (peak, gpus, time_ns),
                "gpus": (gpus, time_ns, peak),
            }[problem.objective]
            if best is None or (*key, order) < best[0]:
                best = (*key, order), ledger
    return best
