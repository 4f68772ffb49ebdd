"""The accounting against the rank-by-rank witness (tests/witness.py), over tiny problems drawn at random."""

from collections import Counter
from dataclasses import replace
from math import lcm
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, assume, given, settings

from megatron_truth import CLUSTER
from moeopt.accounting.ledger import Ledger
from moeopt.accounting.memory.stage import activations_bytes
from moeopt.accounting.pieces import contents
from moeopt.evaluation import evaluate
from moeopt.layout import Layout
from moeopt.pipeline import PipelineLayout
from moeopt.problem.architecture import Architecture
from moeopt.problem.cluster import PeakFlops
from moeopt.problem.problem import Problem
from moeopt.problem.workload import Workload
from moeopt.resolve import degrees_of
from moeopt.schedule.in_flight import in_flight_vectors
from witness import ROWS, WHOLE, chunk_weights, gpus, held, one_buffer, shard
from witness_activations import microbatch_bytes, peak_bytes

CLUSTER_FP8 = CLUSTER.model_copy(update={"peak_flops": PeakFlops(bf16=1e15, fp8=2e15)})
SETTINGS = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


class Case:
    """A problem, a complete layout and evaluate's answer; short where it is printed."""

    def __init__(self, problem: Problem, layout: Layout, answer: dict[str, Any]) -> None:
        self.problem, self.layout, self.answer = problem, layout, answer

    def __repr__(self) -> str:
        shown = (self.problem.architecture, self.problem.workload, self.layout)
        return str([item.model_dump(mode="json", exclude_defaults=True) for item in shown])

    @property
    def pipeline(self) -> PipelineLayout:
        assert self.layout.pipeline_layout is not None
        return PipelineLayout.parse(self.layout.pipeline_layout, self.layout.pp)


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    """Tiny transformers: GQA or MLA, dense, MoE or mixed, tied or not, with odd widths."""
    layers = draw(st.integers(1, 6))
    fields: dict[str, Any] = {
        "hidden_size": draw(st.sampled_from([24, 40, 64])),
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "vocab_size": draw(st.integers(50, 300)),
        "tie_word_embeddings": draw(st.booleans()),
        "norm": draw(st.sampled_from(["rmsnorm", "layernorm"])),
        "gated": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "intermediate_size": draw(st.sampled_from([16, 56, 72])),
        "num_experts": draw(st.sampled_from([0, 4, 8])),
    }
    fields["attention_output_bias"] = fields["attention_bias"]
    if fields["num_experts"]:
        fields["num_experts_per_tok"] = draw(st.integers(1, 3))
        fields["moe_intermediate_size"] = draw(st.sampled_from([16, 24, 40]))
        fields["shared_expert_intermediate_size"] = draw(st.sampled_from([0, 16, 48]))
        fields["moe_layer_freq"] = draw(st.lists(st.integers(0, 1), min_size=layers, max_size=layers))
        fields["num_nextn_predict_layers"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        return {
            **fields,
            "q_lora_rank": draw(st.sampled_from([None, 20])),
            "kv_lora_rank": draw(st.sampled_from([8, 12])),
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
        }
    return {
        **fields,
        "num_key_value_heads": draw(st.sampled_from([2, 4, 8])),
        "head_dim": draw(st.sampled_from([8, 12])),
        "qk_norm": draw(st.sampled_from(["none", "head"])),
    }


MODULES = ["core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts"]


@st.composite
def recomputes(draw: st.DrawFn) -> Any:
    """Nothing, any modules (rules refuse some), or full recomputation by blocks or one layer at a time."""
    full = {"granularity": "full", "method": "block", "num_layers": draw(st.integers(1, 3))}
    modules = {"modules": draw(st.lists(st.sampled_from(MODULES), min_size=1, max_size=3, unique=True))}
    return draw(st.sampled_from(["none", "full", full, modules, modules]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Legal layouts on 1 to 48 GPUs: both grids, uneven pipelines, one or two chunks, both kinds of optimizer."""
    architecture = Architecture(**draw(architectures()))
    moe = bool(architecture.num_experts)
    tp, cp, dp, pp = (draw(st.sampled_from(list(reach))) for reach in ((1, 2), (1, 2), (1, 2, 3, 4), (1, 2, 3)))
    etp = draw(st.sampled_from([1, 2])) if moe else tp
    ep = draw(st.sampled_from([1, 2, 4])) if moe else 1
    assume(tp * cp * dp % (etp * ep) == 0)
    vpp = draw(st.sampled_from([1, 2])) if pp > 1 else 1
    microbatches = pp * draw(st.integers(1, 3))
    counts = _split(draw, architecture.num_hidden_layers, pp * vpp)
    workload = Workload(
        sequence_length=64,
        global_batch_size=dp * microbatches,
        precision=draw(st.sampled_from(["bf16", "fp8"])),
        make_vocab_size_divisible_by=draw(st.sampled_from([1, 16])),
    )
    problem = Problem(architecture=architecture, cluster=CLUSTER_FP8, gpus=tp * cp * dp * pp, workload=workload)
    distributed = draw(st.booleans())
    layout = Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        ep=ep,
        etp=etp,
        vpp=vpp,
        distributed_optimizer=distributed,
        overlap={"param_gather": distributed, "grad_reduce": distributed},
        optimizer={"instances": draw(st.sampled_from([1, 2])) if distributed else 1},
        recompute=draw(recomputes()),
        pipeline_layout=str(PipelineLayout.from_counts(pp, counts, problem.mtp_layers)),
    )
    answer = evaluate(problem, layout)
    assume(answer["status"] == "evaluated")
    return Case(problem, Layout(**answer["layout"]), answer)


def _split(draw: st.DrawFn, layers: int, stages: int) -> list[int]:
    cuts = sorted(draw(st.integers(0, layers)) for _ in range(stages - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, layers], strict=True)]


@SETTINGS
@given(cases())
def test_shards_tile_every_tensor(case: Case) -> None:
    """The witness itself: over the GPUs of a stage, the shards of a tensor cover it, each element equally often: once
    a data-parallel copy, times tp where a tensor is whole on every tensor-parallel rank."""
    layout, experts = case.layout, case.problem.architecture.num_experts
    everywhere = list(gpus(layout))
    for stage in range(layout.pp):
        here = [gpu for gpu in everywhere if gpu.pp == stage]
        for chunk in case.pipeline.of_rank(stage):
            for weight in chunk_weights(case.problem, layout, chunk)[:60]:
                parts = [part for gpu in here if (part := shard(weight, layout, gpu, experts)) is not None]
                cut = [rows if weight.cut == ROWS else columns for rows, columns in parts]
                times = Counter(index for indices in cut for index in indices)
                whole = weight.rows if weight.cut == ROWS else weight.columns
                copies = len(here) // (layout.tp if weight.expert is None else (layout.etp or 1) * layout.ep)
                if weight.cut == WHOLE:
                    copies *= layout.tp if weight.expert is None else layout.etp or 1
                assert times == dict.fromkeys(range(whole), copies), weight


@SETTINGS
@given(cases())
def test_parameters_and_states_of_every_gpu(case: Case) -> None:
    """Every GPU of every stage holds the elements, weights, gradients and optimizer bytes that evaluate states.

    A table shared between stages ends a bucket of its own, which evaluate's one-bucket law leaves out: there evaluate
    may be below by one multiple of lcm(shards, 128) elements a table. Where the last decoder layer and the loss are not
    in one chunk, evaluate's bytes count the final norm of a transformer with MTP beside the loss. Experts that share
    the dense buffer (ep 1) are padded with it; evaluate pads them apart, up to one multiple a chunk more.
    """
    layout = case.layout
    master, gradient = 4 + 4 + 4, 4
    assert layout.dp is not None
    for gpu in gpus(layout):
        mine = held(case.problem, layout, case.pipeline, gpu, master, gradient)
        parameters = case.answer["parameters"]["per_stage"][gpu.pp]
        memory = case.answer["memory"]["per_stage"][gpu.pp]
        assert (parameters["dense"], parameters["expert"]) == (mine.dense_elements, mine.expert_elements), gpu
        found = {name: memory[f"{name}_bytes"] for name in ("weights", "gradients", "optimizer")}
        weights = [w for chunk in case.pipeline.of_rank(gpu.pp) for w in chunk_weights(case.problem, layout, chunk)]
        closing = sum(weight.shared for weight in weights) if layout.distributed_optimizer else 0
        unit = lcm(layout.dp * layout.cp // layout.optimizer.instances, 128)
        moved = _moved_norm(case, gpu.pp) + unit if _moved_norm(case, gpu.pp) else 0
        joint = unit if one_buffer(layout) and layout.distributed_optimizer else 0
        for name, price in (("weights", 2), ("gradients", gradient), ("optimizer", master)):
            missing = getattr(mine, name) - found[name]
            assert -price * (moved + joint * layout.vpp) <= missing <= price * (closing * unit + moved), (gpu, name)


def _moved_norm(case: Case, stage: int) -> int:
    """Elements of the final norm where this stage has the last decoder layer and not the loss, or the reverse."""
    a, chunks = case.problem.architecture, case.pipeline.of_rank(stage)
    if not case.problem.mtp_layers:
        return 0
    ends = [(chunk.layers > 0 and chunk.last == a.num_hidden_layers) != chunk.loss for chunk in chunks]
    return 2 * 64 if any(ends) else 0


@SETTINGS
@given(cases())
def test_activations_of_every_rank(case: Case) -> None:
    """Walking a rank's operations and adding the tensors of each layer gives evaluate's kept bytes exactly. With
    passing allocations, evaluate's peak lies between the walk's and the kept bytes plus the largest of them."""
    assume(case.problem.workload.precision == "bf16")
    terms = Ledger(case.problem, degrees_of(case.layout), case.layout.choices).memory_terms
    still = replace(terms, transient_bytes=dict.fromkeys(terms.transient_bytes, 0))
    for stage in range(case.layout.pp):
        chunks = case.pipeline.of_rank(stage)
        block_layers = case.layout.recompute.block_layers
        held_pieces = [contents(case.problem.architecture, chunk, block_layers) for chunk in chunks]
        passing = [max((int(terms.transient_bytes[piece]) for piece in counts), default=0) for counts in held_pieces]
        sizes = [microbatch_bytes(case.problem, case.layout, chunk) for chunk in chunks]
        kept, peak = peak_bytes(case.layout, stage, sizes, passing)
        d = degrees_of(case.layout)
        vectors = in_flight_vectors(d.pp, d.vpp, d.num_microbatches, d.interleave_group, stage)
        assert kept == activations_bytes(still, held_pieces, vectors), (stage, sizes)
        found = case.answer["memory"]["per_stage"][stage]["activations_bytes"]
        assert peak <= found <= kept + max(passing), stage
