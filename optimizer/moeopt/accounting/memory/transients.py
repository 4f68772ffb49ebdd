"""The largest passing allocation while one piece runs, on top of everything that is kept.

Each candidate is a moment of the forward or backward pass: what exists then beyond the kept tensors, minus kept
tensors of the same piece that backward has already freed. The moments at which SimuMax's measured peaks sit (the end
of the MoE forward pass, the first dense block of the backward pass, the head's backward pass) are among them.
"""

from collections.abc import Sequence

from moeopt.accounting.launches import captures_attention
from moeopt.accounting.memory.activations import layer_attention, layer_ffn, unit_layers, without_recompute
from moeopt.accounting.memory.graphs import static_inputs
from moeopt.accounting.memory.recipe import Recipe
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.tensors import TensorBytes, on_gpu, total
from moeopt.accounting.pieces import Piece, is_recomputed
from moeopt.arithmetic import Number, maximum, minimum, where
from moeopt.layout import Choices
from moeopt.problem.architecture import MAMBA_CHUNK
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

Moments = dict[str, Number]


def transient_bytes(problem: Problem, sizes: Symbols, piece: Piece, choices: Choices, recipe: Recipe) -> Number:
    """The largest moment of one piece."""
    mask = sizes.batch * sizes.s * sizes.s_local if recipe.dataloader_mask else 0
    return maximum(0 * sizes.T, *moments(problem, sizes, piece, choices, recipe).values()) + mask


def moments(problem: Problem, sizes: Symbols, piece: Piece, choices: Choices, recipe: Recipe) -> Moments:
    """Bytes that pass at each moment of one piece, by name."""
    if piece == "loss":
        return loss_moments(problem, sizes)
    if piece == "embedding":
        return {"output of the embedding": 2 * sizes.A * sizes.h}
    if isinstance(piece, LayerKind):
        kinds: tuple[LayerKind, ...] = (piece,)
    else:
        sizes, kinds = sizes.of_mtp(problem), problem.architecture.mtp_kinds
    if not is_recomputed(piece, choices.recompute):
        return _largest(problem, sizes, kinds, choices, recipe)
    plain = without_recompute(choices)
    layers: Number = 0
    for kind in kinds:
        layers = layers + total(layer_attention(problem, sizes, kind, recipe))
        layers = layers + total(layer_ffn(problem, sizes, kind, plain, recipe))
    replayed = unit_layers(choices.recompute) * (layers - 2 * sizes.T * sizes.h) + 2 * sizes.T * sizes.h
    found = {"nothing but the layer computed again": 0 * sizes.T, **_largest(problem, sizes, kinds, plain, recipe)}
    return {f"{name}, the layer computed again": size + replayed for name, size in found.items()}


def _largest(problem: Problem, sizes: Symbols, kinds: Sequence[LayerKind], choices: Choices, recipe: Recipe) -> Moments:
    """Moments of layers one after the other, as if nothing of a later one were freed yet (MTP modules of hybrids have
    several)."""
    found: Moments = {}
    for kind in dict.fromkeys(kinds):
        for name, size in layer_moments(problem, sizes, kind, choices, recipe).items():
            found[name] = maximum(found[name], size) if name in found else size
    return found


def layer_moments(problem: Problem, sizes: Symbols, kind: LayerKind, choices: Choices, recipe: Recipe) -> Moments:
    """Moments of one layer under selective recomputation: in its feed-forward block, or in its attention."""
    ffn = layer_ffn(problem, sizes, kind, choices, recipe)
    block = block_moments(problem, sizes, kind, ffn, choices)
    freed = total(on_gpu([item for item in ffn if item.kept_under(choices)], choices))
    if captures_attention(choices):  # it has memory of its own (`graphs.layer_parts`)
        found = {**block, "mask handed to attention's graph": total(static_inputs(sizes, kind, choices))}
    else:
        attention = mixer_moments(problem, sizes, kind, choices, recipe)
        found = {**block, **{name: size - freed for name, size in attention.items()}}
    if choices.overlap.ep_all_to_all:
        # The forward layer of a joint step stores its tensors before the backward layer frees those of its own.
        kept = [item for item in layer_attention(problem, sizes, kind, recipe) if item.kept_under(choices)]
        joint = freed + total(on_gpu(kept, choices))
        found = {f"{name}, beside a forward layer": maximum(size, 0) + joint for name, size in found.items()}
    if choices.offload:
        window = offload_window_bytes([*ffn, *layer_attention(problem, sizes, kind, recipe)], choices)
        return {f"{name}, a layer not yet offloaded": size + window for name, size in found.items()}
    return found


def block_moments(
    problem: Problem, sizes: Symbols, kind: LayerKind, tensors: list[TensorBytes], choices: Choices
) -> Moments:
    """Moments of a layer's feed-forward block, if it has one."""
    if kind.ffn == "none":
        return {}
    return (
        moe_moments(problem, sizes, tensors, choices) if kind.ffn == "moe" else dense_moments(sizes, tensors, choices)
    )


def offload_window_bytes(tensors: list[TensorBytes], choices: Choices) -> Number:
    """What activation offloading holds on the GPU of one layer: the layer whose backward pass comes first stays there,
    and the next module's tensors are on their way (pipeline_parallel/fine_grained_activation_offload.py:614-640,
    1176-1240). Taken as all of a layer's offloaded bytes and, once more, those of its largest module,
    whatever is recomputed beside it (a bound for all recompute settings relies on that)."""
    if not choices.offload:
        return 0
    by_module: dict[str, Number] = {}
    for item in tensors:
        if item.offloaded_by in choices.offload:
            by_module[item.offloaded_by] = by_module.get(item.offloaded_by, 0) + item.host_bytes(choices)
    sizes = list(by_module.values())
    return sum(sizes) + maximum(sizes[0], *sizes[1:]) if sizes else 0


def _dropped(tensors: list[TensorBytes], choices: Choices) -> Number:
    """Bytes that selective recomputation brings back before the backward pass of their block."""
    return total([item for item in tensors if not item.kept_under(choices)])


def _full_sequence(sizes: Symbols) -> Number:
    """A tensor of all the tokens of a tensor-parallel group: 2*A*h where it is gathered, else none."""
    return where(sizes.sequence_parallel, 2 * sizes.A * sizes.h, 0)


def _incoming_gradient(sizes: Symbols) -> Number:
    """The gradient of a layer's output. With pp > 1 it is the one that the schedule holds (`present_bytes`)."""
    return where(sizes.pp > 1, 0, 2 * sizes.T * sizes.h)


def dense_moments(sizes: Symbols, tensors: list[TensorBytes], choices: Choices) -> Moments:
    """Dense block, backward: activation (its gradient replaces its value), or fc1 (gathered input and gradient)."""
    incoming, wide = _incoming_gradient(sizes), _full_sequence(sizes)
    inner = 2 * sizes.A * sizes.f
    outer = inner * sizes.gate
    dropped = _dropped(tensors, choices)
    return {
        "backward of fc2": dropped + incoming + wide + inner,
        "backward of the activation": dropped + incoming + outer,
        "backward of fc1": dropped + incoming + wide + 2 * sizes.A * sizes.h - inner,
    }


def moe_moments(problem: Problem, sizes: Symbols, tensors: list[TensorBytes], choices: Choices) -> Moments:
    """MoE block: the end of its forward pass (replayed in the backward pass when `moe` is recomputed), or the
    backward pass through the experts."""
    local = 2 * sizes.T * sizes.h
    outputs = local * (2 if problem.architecture.shared_expert_intermediate_size else 1)
    forward = dispatch_copies(sizes, choices) + outputs
    inner = 2 * sizes.R * sizes.fe
    rows = 2 * sizes.R * sizes.he
    incoming = _incoming_gradient(sizes) + 2 * sizes.received * sizes.he
    fc2, activation, fc1 = rows + inner, inner + inner * sizes.gate, rows + inner * (sizes.gate - 1)
    if choices.overlap.delay_wgrad:
        # The gradients of both products' outputs, and the inputs, wait for the weights' (experts.py, backward_dw).
        activation, fc1 = activation + rows, fc1 + inner + rows
    backward = incoming + maximum(fc2, activation, fc1)
    if choices.overlap.ep_all_to_all:
        # A forward and a backward layer of two micro-batches run as one.
        backward = backward + forward
    dropped = _dropped(tensors, choices)
    if choices.recompute.drops("moe"):
        again = dropped + _incoming_gradient(sizes)
        return {"end of the MoE forward pass": forward + again, "backward of the experts": backward + again}
    return {"end of the MoE forward pass": forward, "backward of the experts": backward + dropped}


def dispatch_copies(sizes: Symbols, choices: Choices) -> Number:
    """Copies of routed tokens alive when the MoE forward pass ends.

    alltoall: permuted, received, unsorted and combined (the Python frame holds the first two until the block returns;
    the second GEMM's output is gone before the combine exchange), plus the gather over expert-tensor-parallel ranks,
    whose reduction is in fp32 with an fp32 router (token_dispatcher.py:741-835). deepep and hybridep: a token crosses
    once for each rank it visits, at most min(k, e) times. allgather: the outputs of all
    tokens of the group (their inputs lie in a buffer for good, see persistent.py).
    """
    h = sizes.he
    if choices.dispatcher == "allgather":
        return 2 * sizes.gathered * h
    split = where(sizes.q > 1, 2 * (sizes.received + sizes.R) * h, 0)
    if choices.dispatcher == "alltoall":
        return 4 * sizes.sent * h + 2 * (sizes.received + sizes.R) * h + split
    # A rank that receives r copies receives at most r distinct tokens.
    return 4 * sizes.received * h + split


def mixer_moments(problem: Problem, sizes: Symbols, kind: LayerKind, choices: Choices, recipe: Recipe) -> Moments:
    """Moments of a layer's attention, or of what stands in for it."""
    if kind.mixer == "delta_net":
        return delta_net_moments(sizes, choices)
    if kind.mixer == "mamba":
        return mamba_moments(sizes)
    if kind.mixer == "none":
        return {}
    if problem.architecture.has_indexer:
        return sparse_moments(sizes, _dropped(layer_attention(problem, sizes, kind, recipe), choices))
    return attention_moments(problem, sizes, kind, choices, recipe)


def attention_moments(problem: Problem, sizes: Symbols, kind: LayerKind, choices: Choices, recipe: Recipe) -> Moments:
    """Attention, backward: core (gradients of q, k, v and the output; an fp32 accumulator of the query's gradient), or
    the QKV projection (its gradient, the gathered input and the gradient of that)."""
    incoming, wide = _incoming_gradient(sizes), _full_sequence(sizes)
    out = 2 * sizes.A * sizes.heads * sizes.dv
    gradients = 2 * sizes.A * (sizes.heads * sizes.qk + sizes.groups * (sizes.qk + sizes.dv))
    if problem.architecture.attention_output_gate:
        gradients = gradients + out
    core = incoming + out + gradients + 4 * sizes.A * sizes.heads * sizes.qk
    if problem.workload.attention_backend == "unfused":
        scores = 4 * sizes.batch * sizes.heads * sizes.s * sizes.s_local
        core = maximum(core, incoming + out + scores)
    projection = incoming + wide + gradients + 2 * sizes.A * sizes.h - out
    if choices.overlap.delay_wgrad:
        # The output projection's input and the gradient of its output wait for its weights' gradient.
        projection = projection + out + where(sizes.sequence_parallel, wide, 2 * sizes.T * sizes.h)
    dropped = _dropped(layer_attention(problem, sizes, kind, recipe), choices)
    return {"backward of attention's core": dropped + core, "backward of the QKV projection": dropped + projection}


def delta_net_moments(sizes: Symbols, choices: Choices) -> Moments:
    """Gated delta net, backward (flash-linear-attention 0.6.0, ops/gated_delta_rule/chunk.py, whose frame holds all of
    it until it returns): transformed keys, values and states computed again, gradients of states, queries, keys (three
    times) and values (twice) and of the output; or the input projection (its gradient and the gathered input)."""
    incoming, wide = _incoming_gradient(sizes), _full_sequence(sizes)
    again = sizes.lk + 2 * sizes.lv + sizes.lstate
    gradients = 4 * sizes.lk + 3 * sizes.lv + sizes.lstate
    projection = incoming + wide + 2 * sizes.A * (sizes.lin + sizes.h)
    if choices.overlap.delay_wgrad:
        # The output projection's input and the gradient of its output wait for its weights' gradient.
        projection = projection + 2 * sizes.A * sizes.lv + where(sizes.sequence_parallel, wide, 2 * sizes.T * sizes.h)
    return {
        "backward of the delta rule": incoming + 2 * sizes.A * (again + gradients),
        "backward of the delta net's projection": projection,
    }


def mamba_moments(sizes: Symbols) -> Moments:
    """Mamba-2, backward (mamba-ssm 2.3.2, ops/triton/ssd_combined.py:430-508): states and their gradients in fp32 and
    16 bits, products of B and C within 128 tokens and their gradients, gradients of B, C and of the steps in fp32, the
    convolution's output again with its gradient, and the gradient of the projection; or the input projection."""
    incoming, wide = _incoming_gradient(sizes), _full_sequence(sizes)
    tokens = sizes.batch * sizes.s
    groups = tokens * sizes.mamba_groups * (8 * MAMBA_CHUNK + 8 * sizes.mamba_states)
    inside = 16 * sizes.mamba_state + 16 * sizes.mamba_heads + 4 * sizes.mamba_conv + 2 * sizes.mamba_inner
    gradient = 2 * sizes.A * sizes.mamba_in
    return {
        "backward of the scan": incoming + sizes.A * inside + groups + gradient,
        "backward of the Mamba layer's projection": incoming + wide + gradient + 2 * sizes.A * sizes.h,
    }


SCORE_BYTES, SCRATCH_BYTES = 2**30, 2**31
"""Most bytes of index scores at once, and of what choosing among them takes (dsa_cudnn_kernels.py:129-139)."""
LOSS_BYTES = 33
"""Bytes of a chosen key while the indexer's loss is computed: scores, their log-softmax and softmax, the target before
and after it is normalised, the clamped copy and two lists of indices in 4 bytes each, and a mask."""


def sparse_moments(sizes: Symbols, dropped: Number) -> Moments:
    """Sparse attention: the index scores (forward; fp32, in chunks), the indexer's loss (forward), or the backward pass
    of its core, which copies queries, outputs, their gradients and the chosen keys twice to leave out empty rows
    (dsa_cudnn_kernels.py:1996-2097) and adds up the gradient of the keys in fp32."""
    incoming, heads = _incoming_gradient(sizes), 2 * sizes.A * sizes.padded_heads
    scores = sizes.A * sizes.s
    chosen = sizes.A * sizes.topk
    keys = sizes.batch * sizes.s * sizes.kv_down
    gradients = heads * (2 * sizes.kv_down + sizes.rk) + 6 * keys
    copies = 2 * heads * (sizes.kv_down + 2 * sizes.rk) + 2 * 4 * chosen
    return {
        "scores of the indexer": minimum(4 * scores, SCORE_BYTES) + minimum(8 * scores, SCRATCH_BYTES),
        "loss of the indexer": LOSS_BYTES * chosen,
        "backward of sparse attention's core": dropped + incoming + copies + gradients,
    }


LOGIT_BYTES = {"te": 2, "unfused": 6, "native": 10}
"""Bytes a logit at the loss: te keeps the 16-bit logits and writes their gradient in place; unfused holds the fp32
softmax and the 16-bit gradient; the fused native kernel holds the 16-bit logits and two fp32 copies. The first is what
SimuMax's peaks say, the others what Megatron-LM's recorded peaks say (benchmarks/memory.py)."""
SAVED_LOGIT_BYTES = {"te": 2, "unfused": 4, "native": 4}
"""Bytes a logit that a loss keeps for its own backward pass: te the 16-bit logits, the others the fp32 softmax."""


def loss_moments(problem: Problem, sizes: Symbols) -> Moments:
    """Final norm, logits and loss: alive only between the last forward and the first backward operation of a
    micro-batch. Each MTP module's loss comes first and keeps what its backward pass needs (gpt_model.py,
    process_mtp_loss)."""
    sets = 1 + problem.mtp_layers
    local = 2 * sizes.T * sizes.h
    # No output gradient comes from a next stage here, though `present_bytes` counts one for every stage.
    held = where(sizes.pp > 1, local, 0)
    saved = SAVED_LOGIT_BYTES[problem.workload.cross_entropy] * sizes.A * sizes.V
    logits = LOGIT_BYTES[problem.workload.cross_entropy] * sizes.A * sizes.V
    scattered = where(sizes.sequence_parallel, local, 0)
    head_backward = 2 * sizes.A * sizes.V + 2 * sizes.A * sizes.h + scattered
    around = sets * 2 * local + (sets - 1) * saved - held
    return {"logits and loss": around + logits, "backward of the output head": around + head_backward}
