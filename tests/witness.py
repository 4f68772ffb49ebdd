"""An independent count of what every GPU holds, for tiny problems: walk the GPUs, list tensors, add bytes.

Written from the definitions of the layers and of Megatron's shards, tensor by tensor and GPU by GPU, with no formula of
`moeopt.accounting`: of the package only its input classes are read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moeopt.layout import Layout
from moeopt.pipeline import Chunk, PipelineLayout
from moeopt.problem.architecture import Architecture
from moeopt.problem.problem import Problem

ROWS, COLUMNS, WHOLE = "rows", "columns", "whole"


@dataclass(frozen=True)
class Weight:
    """One parameter tensor of the whole transformer and how Megatron cuts it over tensor-parallel ranks."""

    name: str
    rows: int
    columns: int
    cut: str
    expert: int | None = None
    linear: bool = False
    """Whether 8-bit training quantises it."""
    shared: bool = False
    """A table of which another pipeline stage holds a copy: a bucket of its own."""


@dataclass(frozen=True)
class Gpu:
    """Where one GPU sits in both grids."""

    pp: int
    tp: int
    data: int
    """Its place among the dp * cp GPUs that hold the same dense shard."""
    etp: int
    ep: int
    expert_data: int


def gpus(layout: Layout) -> Iterator[Gpu]:
    """All GPUs of a complete layout: both grids number the GPUs of a stage, the fastest index first."""
    assert layout.dp is not None
    assert layout.etp is not None
    stage_size = layout.tp * layout.cp * layout.dp
    for rank in range(stage_size * layout.pp):
        stage, inside = divmod(rank, stage_size)
        data, tp = divmod(inside, layout.tp)
        rest, etp = divmod(inside, layout.etp)
        expert_data, ep = divmod(rest, layout.ep)
        yield Gpu(stage, tp, data, etp, ep, expert_data)


# Definitions of the layers --------------------------------------------------------------------------------------


def _norm(a: Architecture, name: str, width: int, cut: str = WHOLE) -> list[Weight]:
    vectors = ["weight", "bias"] if a.norm_bias else ["weight"]
    return [Weight(f"{name}.{vector}", width, 1, cut) for vector in vectors]


def _linear(
    name: str, rows: int, columns: int, cut: str, bias: bool = False, expert: int | None = None
) -> list[Weight]:
    """y = W x (+ b). A bias is cut like the rows; a row-parallel linear adds it whole, after its reduction."""
    weight = [Weight(name, rows, columns, cut, expert, linear=True)]
    return weight + ([Weight(f"{name}.bias", rows, 1, ROWS if cut == ROWS else WHOLE, expert)] if bias else [])


def _attention(a: Architecture) -> list[Weight]:
    h, heads = a.hidden_size, a.num_attention_heads
    bias, out_bias = a.attention_bias, a.attention_output_bias
    if a.kv_lora_rank is None:
        dim, groups = a.head_dim, a.num_key_value_heads
        found = _norm(a, "input norm", h) + _linear("qkv", (heads + 2 * groups) * dim, h, ROWS, bias)
        if a.qk_norm == "head":
            found += _norm(a, "q norm", dim) + _norm(a, "k norm", dim)
        if a.qk_norm == "hidden":
            found += _norm(a, "q norm", heads * dim, ROWS) + _norm(a, "k norm", groups * dim, ROWS)
        return found + _linear("proj", h, heads * dim, COLUMNS, out_bias)
    nope, rope, value, rank = a.qk_nope_head_dim, a.qk_rope_head_dim, a.v_head_dim, a.kv_lora_rank
    found = _norm(a, "input norm", h)
    if a.q_lora_rank:
        found += _linear("q down", a.q_lora_rank, h, WHOLE, bias) + _norm(a, "q norm", a.q_lora_rank)
        found += _linear("q up", heads * (nope + rope), a.q_lora_rank, ROWS)
    else:
        # Megatron-Core 0.20.0 fuses a second norm into this projection (gpt_layer_specs.py).
        found += _norm(a, "q input norm", h) + _linear("q", heads * (nope + rope), h, ROWS)
    found += _linear("kv down", rank + rope, h, WHOLE, bias) + _norm(a, "kv norm", rank)
    found += _linear("kv up", heads * (nope + value), rank, ROWS)
    return found + _linear("proj", h, heads * value, COLUMNS, out_bias)


def _block(a: Architecture, name: str, width: int, expert: int | None = None) -> list[Weight]:
    first = _linear(f"{name} fc1", (2 if a.gated else 1) * width, a.hidden_size, ROWS, a.mlp_bias, expert)
    return first + _linear(f"{name} fc2", a.hidden_size, width, COLUMNS, a.mlp_bias, expert)


def layer(a: Architecture, moe: bool) -> list[Weight]:
    """One decoder layer."""
    found = _attention(a) + _norm(a, "ffn norm", a.hidden_size)
    if not moe:
        return found + _block(a, "mlp", a.intermediate_size)
    found.append(Weight("router", a.num_experts, a.hidden_size, WHOLE))
    for expert in range(a.num_experts):
        found += _block(a, f"expert {expert}", a.moe_intermediate_size, expert)
    if a.shared_expert_intermediate_size:
        found += _block(a, "shared", a.shared_expert_intermediate_size)
    return found


def is_moe(a: Architecture, index: int) -> bool:
    """Hugging Face's rule: the first layers dense, then every `moe_layer_freq`-th, or a pattern."""
    if not a.num_experts or index < a.first_k_dense_replace:
        return False
    if isinstance(a.moe_layer_freq, tuple):
        return bool(a.moe_layer_freq[index])
    return index % a.moe_layer_freq == 0


def _table(problem: Problem, layout: Layout, name: str, shared: bool) -> Weight:
    rows = problem.architecture.vocab_size
    while rows % (problem.workload.make_vocab_size_divisible_by * layout.tp):
        rows += 1
    return Weight(name, rows, problem.architecture.hidden_size, ROWS, shared=shared)


def chunk_weights(problem: Problem, layout: Layout, chunk: Chunk) -> list[Weight]:
    """The tensors of one chunk in registration order: embedding, decoder layers, MTP, final norm and head."""
    a = problem.architecture
    mtp = a.num_nextn_predict_layers if problem.workload.mtp else 0
    copied = layout.pp > 1 and (a.tie_word_embeddings or mtp > 0)
    found: list[Weight] = []
    if chunk.embedding or (chunk.mtp and layout.pp > 1):
        found.append(_table(problem, layout, "embedding", copied))
        if a.position_embedding == "learned":
            found.append(Weight("positions", a.max_position_embeddings or 0, a.hidden_size, WHOLE))
    for index in range(chunk.first, chunk.first + chunk.layers):
        found += layer(a, is_moe(a, index))
    # With MTP modules the final norm follows the last decoder layer, else it comes with the loss.
    ends = chunk.layers > 0 and chunk.first + chunk.layers == a.num_hidden_layers
    if ends if mtp else chunk.loss:
        found += _norm(a, "final norm", a.hidden_size)
    for _ in range(chunk.mtp):
        found += _norm(a, "enorm", a.hidden_size) + _norm(a, "hnorm", a.hidden_size)
        found += _linear("eh proj", a.hidden_size, 2 * a.hidden_size, ROWS)
        found += layer(a, is_moe(a, a.num_hidden_layers - 1)) + _norm(a, "mtp norm", a.hidden_size)
    if chunk.loss and not a.tie_word_embeddings:
        found.append(_table(problem, layout, "head", shared=False))
    elif chunk.loss and layout.pp > 1:
        found.append(_table(problem, layout, "head", shared=not chunk.mtp))
    return found


# Shards and bytes -----------------------------------------------------------------------------------------------


def shard(weight: Weight, layout: Layout, gpu: Gpu, experts: int) -> tuple[range, range] | None:
    """The rows and columns of a tensor that one GPU holds; None where another expert-parallel rank holds it."""
    rank, ranks = gpu.tp, layout.tp
    if weight.expert is not None:
        local = experts // layout.ep
        if weight.expert not in range(gpu.ep * local, (gpu.ep + 1) * local):
            return None
        assert layout.etp is not None
        rank, ranks = gpu.etp, layout.etp
    rows, columns = range(weight.rows), range(weight.columns)
    if weight.cut == ROWS:
        rows = range(rank * weight.rows // ranks, (rank + 1) * weight.rows // ranks)
    if weight.cut == COLUMNS:
        columns = range(rank * weight.columns // ranks, (rank + 1) * weight.columns // ranks)
    return rows, columns


@dataclass(frozen=True)
class Held:
    """Bytes and elements of one GPU."""

    dense_elements: int
    expert_elements: int
    weights: int
    gradients: int
    optimizer: int


def held(problem: Problem, layout: Layout, pipeline: PipelineLayout, gpu: Gpu, master: int, gradient: int) -> Held:
    """Add up one GPU: `master` bytes of optimizer state an element, `gradient` bytes of gradient."""
    dense_elements = expert_elements = weights = gradients = optimizer = 0
    assert layout.dp is not None
    assert layout.edp is not None
    instances = layout.optimizer.instances
    for chunk in pipeline.of_rank(gpu.pp):
        dense: list[tuple[int, bool]] = []
        expert: list[tuple[int, bool]] = []
        for weight in chunk_weights(problem, layout, chunk):
            part = shard(weight, layout, gpu, problem.architecture.num_experts)
            if part is None:
                continue
            numel = len(part[0]) * len(part[1])
            own = weight.expert is not None and not one_buffer(layout)
            (expert if own else dense).append((numel, weight.shared))
            expert_elements += numel if weight.expert is not None else 0
            dense_elements += numel if weight.expert is None else 0
            if weight.linear and problem.workload.precision == "fp8":
                weights += 2 * numel
        groups = ((dense, gpu.data, layout.dp * layout.cp), (expert, gpu.expert_data, layout.edp))
        for tensors, place, ranks in groups:
            shards = ranks // instances
            size = buffer(tensors, shards) if layout.distributed_optimizer else sum(numel for numel, _ in tensors)
            weights, gradients = weights + 2 * size, gradients + gradient * size
            mine = range(place % shards * size // shards, (place % shards + 1) * size // shards)
            optimizer += master * (len(mine) if layout.distributed_optimizer else size)
    return Held(dense_elements, expert_elements, weights, gradients, optimizer)


def one_buffer(layout: Layout) -> bool:
    """Whether routed experts lie among the dense parameters: they are no expert-parallel parameters at all then."""
    return layout.ep == 1 and layout.etp == layout.tp


def buffer(tensors: Sequence[tuple[int, bool]], shards: int) -> int:
    """Elements of a distributed optimizer's buffer: last tensor first, each from a multiple of 64, the end of a bucket
    at a multiple of 128 and of the shards (param_layout.py). Tiny buffers have one bucket; a shared table closes one
    before and one after itself."""
    end = 0
    opened = False
    for numel, shared in reversed(tensors):
        end = _next(end, 64)
        if shared and opened:
            end = _next(end, 128, shards)
        end += numel
        opened = not shared
        if shared:
            end = _next(end, 128, shards)
    return _next(end, 128, shards) if opened else end


def _next(position: int, *multiples: int) -> int:
    while any(position % multiple for multiple in multiples):
        position += 1
    return position
