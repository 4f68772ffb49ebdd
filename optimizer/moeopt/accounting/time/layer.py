"""One decoder layer on one GPU and one micro-batch: forward and backward time, split into parts."""

from collections.abc import Sequence

from moeopt.accounting.time import attention, collectives, delta_net, feed_forward, gemm
from moeopt.accounting.time.dispatch import dispatch_ns
from moeopt.accounting.time.efficiency import exact
from moeopt.accounting.time.host import exposed_host_ns, host_ns
from moeopt.accounting.time.memory_bound import BACKWARD_PASSES, memory_ns, quantize_bytes
from moeopt.accounting.time.recompute import finish_repeats
from moeopt.accounting.time.scene import COMPUTE, Scene, Timed
from moeopt.arithmetic import Number, ceil_div, maximum
from moeopt.problem.architecture import LayerKind


def add_products(scene: Scene, timed: Timed, work: gemm.Products, bf16: bool = False) -> Number:
    """Add products in the recipe's precision (or bf16) to both passes; returns the forward time."""
    rates = scene.rates
    rate = rates.bf16_gemm_flops_per_ns if bf16 else rates.gemm_flops_per_ns
    width = 2 if bf16 else rates.weight_bytes
    forward = gemm.forward_ns(work, rate, width, rates)
    timed.forward.add("gemm", forward)
    timed.backward.add("gemm", gemm.backward_ns(work, rate, width, rates, scene.choices))
    return forward


def add_bytes(scene: Scene, timed: Timed, forward: Number, quantized: tuple[Number, Number] = (0, 0)) -> Number:
    """Add memory-bound bytes, and the quantisation of inputs (forward) and output gradients (backward); returns the
    forward time."""
    rates = scene.rates
    time = memory_ns(forward + quantize_bytes(quantized[0], rates), rates)
    timed.forward.add("memory_bound", time)
    backward = forward * BACKWARD_PASSES + quantize_bytes(quantized[1], rates)
    timed.backward.add("memory_bound", memory_ns(backward, rates))
    return time


def add_tensor_block(scene: Scene, timed: Timed, bf16: bool = False) -> Number:
    """Add the tensor-parallel communication of one block in the recipe's precision (or bf16); returns the forward
    time."""
    forward, backward = scene.tensor_block_bf16 if bf16 else scene.tensor_block
    timed.forward.add("tp_comm", forward)
    timed.backward.add("tp_comm", backward)
    return forward


def attention_block(scene: Scene, timed: Timed, window: int) -> None:
    """The attention block; what its recompute modules core_attn, mla_up_proj and layernorm repeat."""
    architecture, tokens, degrees = scene.problem.architecture, scene.tokens, scene.degrees
    rates = scene.rates
    add_products(scene, timed, attention.projections(architecture, tokens, degrees))
    add_bytes(
        scene,
        timed,
        attention.memory_bytes(architecture, tokens, degrees),
        attention.gemm_inputs(architecture, tokens, degrees),
    )
    core = attention.core_ns(scene.problem, degrees, rates, window)
    timed.forward.add("attention", core[0])
    timed.backward.add("attention", core[1])
    heads, groups = attention.local_heads(architecture, degrees)
    exchanged = groups * (architecture.qk_head_dim + architecture.value_head_dim)
    ring = collectives.context_ring_ns(scene.problem, degrees, tokens, rates, exchanged, core)
    timed.forward.add("cp_comm", ring[0])
    timed.backward.add("cp_comm", ring[1])
    add_tensor_block(scene, timed)
    timed.repeats["core_attn"] = core[0] + ring[0]
    if architecture.is_mla:
        up = gemm.forward_ns(
            attention.up_projections(architecture, tokens, degrees), rates.gemm_flops_per_ns, rates.weight_bytes, rates
        )
        elements = tokens.attention * attention.query_key_value(architecture, heads, groups)
        timed.repeats["mla_up_proj"] = up + memory_ns(elements * 4, rates)
    timed.repeats["layernorm"] = _norms_ns(scene)


def delta_net_block(scene: Scene, timed: Timed) -> None:
    """A gated delta net; of the recompute modules only layernorm repeats something of it."""
    architecture, tokens, degrees = scene.problem.architecture, scene.tokens, scene.degrees
    add_products(scene, timed, delta_net.projections(architecture, tokens, degrees))
    add_bytes(
        scene,
        timed,
        delta_net.memory_bytes(architecture, tokens, degrees),
        delta_net.gemm_inputs(architecture, tokens, degrees),
    )
    exchange = delta_net.exchange_ns(scene.problem, degrees, tokens, scene.rates)
    rule = delta_net.rule_ns(scene.problem, degrees, tokens, scene.rates)
    for run, time in zip((timed.forward, timed.backward), rule, strict=True):
        run.add("attention", time)
        run.add("cp_comm", exchange)
    add_tensor_block(scene, timed)
    timed.repeats["layernorm"] = _norms_ns(scene)


def _norms_ns(scene: Scene) -> Number:
    """A layer's two norms."""
    return memory_ns(scene.tokens.local * (8 * scene.problem.architecture.hidden_size), scene.rates)


def dense_block(scene: Scene, timed: Timed) -> None:
    """A dense feed-forward block; recompute module mlp repeats its products and activation."""
    architecture, tokens = scene.problem.architecture, scene.tokens
    width = feed_forward.dense_width(architecture, scene.degrees)
    again = add_products(scene, timed, feed_forward.mlp(architecture, tokens, width))
    activation = feed_forward.mlp_activation_bytes(architecture, tokens, width)
    quantized = feed_forward.mlp_quantized(architecture, tokens, width)
    add_bytes(scene, timed, feed_forward.dense_bytes(architecture, tokens) + activation, quantized)
    timed.repeats["mlp"] = again + add_tensor_block(scene, timed) + memory_ns(activation, scene.rates)


def shared_block(scene: Scene, timed: Timed) -> Number:
    """Shared experts, beside the routed ones; returns their forward time."""
    architecture, tokens = scene.problem.architecture, scene.tokens
    if not architecture.shared_expert_intermediate_size:
        return 0
    width = feed_forward.shared_width(architecture, scene.degrees)
    again = add_products(scene, timed, feed_forward.mlp(architecture, tokens, width))
    activation = feed_forward.mlp_activation_bytes(architecture, tokens, width)
    again = again + add_bytes(scene, timed, activation, feed_forward.mlp_quantized(architecture, tokens, width))
    again = again + add_tensor_block(scene, timed)
    timed.repeats["shared_experts"] = again
    return again


def moe_block(scene: Scene, timed: Timed) -> None:
    """Router, dispatch, experts, combine and shared experts; recompute module moe repeats all of it, communication
    included, moe_act only the activation."""
    architecture, tokens, degrees = scene.problem.architecture, scene.tokens, scene.degrees
    choices = scene.choices
    again = add_products(scene, timed, feed_forward.router(architecture, tokens), bf16=True)
    again = again + add_products(scene, timed, feed_forward.experts(architecture, tokens, degrees))
    activation = feed_forward.expert_activation_bytes(scene.problem, tokens, degrees, choices)
    quantized = feed_forward.expert_quantized(scene.problem, tokens, degrees, choices)
    routing = feed_forward.routing_bytes(architecture, tokens, choices)
    again = again + add_bytes(scene, timed, routing + activation, quantized)
    exchange = 2 * dispatch_ns(scene.problem, degrees, choices, tokens, scene.rates)
    if choices.dispatcher != "allgather":
        exchange = exchange + collectives.expert_tensor_ns(scene.problem, degrees, tokens, scene.rates)
    timed.forward.add("ep_comm", exchange)
    timed.backward.add("ep_comm", exchange)
    timed.repeats["moe"] = again + exchange + shared_block(scene, timed)
    timed.repeats["moe_act"] = memory_ns(activation, scene.rates)


def hide_expert_communication(scene: Scene, timed: Timed, blocks: Sequence[Timed]) -> None:
    """overlap.ep_all_to_all: the all-to-all of one micro-batch runs under the computation of another's opposite pass.

    Two exchanges run beside each block (attention, experts): one of the forward layer beside the block's backward pass,
    one of the backward layer beside its forward pass; each waits for what stood beside the one before it
    (model_chunk_schedule_plan.py, TransformerLayerSchedulePlan.run). Of an exchange a share can be hidden, the rest is
    exposed in any case; computation slows while it shares its SMs. Ignored: the launch of it all, and that an exchange
    may also find a dense layer beside it.
    """
    table = scene.rates.efficiency
    share = exact(table.overlap_hidden.eager if scene.choices.cuda_graphs == "none" else table.overlap_hidden.graphs)
    slow = exact(table.overlap_slowdown) - 1
    forward, backward = (
        run.of("ep_comm") * share.numerator // (2 * share.denominator) for run in (timed.forward, timed.backward)
    )
    left = [exposed_exchanges_ns(block, forward, backward, scene.choices.overlap.delay_wgrad) for block in blocks]
    for index, (run, sent) in enumerate(((timed.forward, forward), (timed.backward, backward))):
        slower = ceil_div(run.of(*COMPUTE) * slow.numerator, slow.denominator)
        run.add("ep_comm", slower + sum(each[index] for each in left) - 2 * sent)


def exposed_exchanges_ns(block: Timed, forward: Number, backward: Number, delayed: bool) -> tuple[Number, Number]:
    """What a block leaves exposed of an exchange of the forward layer, which starts with the block's backward pass,
    and of one of the backward layer, which needs that pass's input gradients. Weight gradients end the backward pass;
    `delayed`, the second exchange runs beside them too."""
    inputs, weights, outputs = block.backward.of(*COMPUTE), 0, block.forward.of(*COMPUTE)
    if delayed:
        weights = block.backward.of("gemm") // 2
        inputs = inputs - weights
    second = maximum(inputs, forward) + backward
    end = maximum(second, maximum(inputs + weights, forward) + outputs)
    first = maximum(forward - inputs - weights, 0)
    return first, end - inputs - weights - outputs - first


def unfuse(scene: Scene, timed: Timed) -> None:
    """What an architecture with biased experts and attention sinks costs beyond its shapes (gpt-oss): its clamped
    activation and its biases run unfused. One measured factor on the block's products and memory-bound kernels (sinks
    add one column to the core, which no factor multiplies: it would grow with the sequence), attached to the fields
    `mlp_bias` and `attention_sinks`, not to a name."""
    architecture = scene.problem.architecture
    if not (architecture.mlp_bias and architecture.attention_sinks):
        return
    extra = exact(scene.rates.efficiency.biased_expert_slowdown) - 1
    for run in (timed.forward, timed.backward):
        run.add("unfused", ceil_div(run.of("gemm", "memory_bound") * extra.numerator, extra.denominator))


def add_host(timed: Timed, host: Number) -> None:
    """Add exposed host time, shared between the passes as their GPU times are."""
    forward, both = timed.forward.total, timed.total
    exposed = exposed_host_ns(both, host)
    first = exposed * forward // both
    timed.forward.add("host", first)
    timed.backward.add("host", exposed - first)


_BLOCKS = {"delta_net": delta_net_block, "moe": moe_block, "dense": dense_block}


def _block(scene: Scene, name: int | str) -> Timed:
    """An attention block by its window, or any other block by its name."""
    if name not in scene.blocks:
        block = scene.blocks[name] = Timed()
        if isinstance(name, int):
            attention_block(scene, block, name)
        else:
            _BLOCKS[name](scene, block)
        unfuse(scene, block)
    return scene.blocks[name]


def layer(scene: Scene, kind: LayerKind) -> Timed:
    """One decoder layer with nothing recomputed, and what repeating its modules or its whole forward takes."""
    moe = kind.ffn == "moe"
    blocks = [_block(scene, name) for name in ("delta_net" if kind.delta_net else kind.window, kind.ffn)]
    timed = blocks[0] + blocks[1]
    forward = timed.forward.total
    if moe and scene.choices.overlap.ep_all_to_all:
        hide_expert_communication(scene, timed, blocks)
    host = host_ns(scene.problem, scene.degrees, scene.choices, scene.rates, kind)
    add_host(timed, host)
    finish_repeats(scene, timed, moe, forward, host)
    return timed
