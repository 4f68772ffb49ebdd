"""One decoder layer on one GPU and one micro-batch: forward and backward time, split into parts."""

from collections.abc import Sequence
from functools import reduce
from operator import add

from moeopt.accounting.time import collectives, feed_forward
from moeopt.accounting.time.additions import add_bytes, add_products, add_tensor_block
from moeopt.accounting.time.dispatch import dispatch_ns
from moeopt.accounting.time.efficiency import exact
from moeopt.accounting.time.host import exposed_host_ns, host_ns
from moeopt.accounting.time.memory_bound import memory_ns
from moeopt.accounting.time.mixers import attention_block, delta_net_block, mamba_block, norm_ns, sparse_block
from moeopt.accounting.time.recompute import finish_repeats
from moeopt.accounting.time.scene import COMPUTE, Scene, Timed
from moeopt.arithmetic import Number, ceil_div, maximum
from moeopt.problem.layer_kind import LayerKind


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
    again = again + add_products(scene, timed, feed_forward.latent(architecture, tokens))
    activation = feed_forward.expert_activation_bytes(scene.problem, tokens, degrees, choices)
    inputs, gradients = feed_forward.expert_quantized(scene.problem, tokens, degrees, choices)
    beside = feed_forward.latent_quantized(architecture, tokens)
    routing = feed_forward.routing_bytes(architecture, tokens, choices)
    again = again + add_bytes(scene, timed, routing + activation, (inputs + beside, gradients + beside))
    exchange = 2 * dispatch_ns(scene.problem, degrees, choices, tokens, scene.rates)
    if choices.dispatcher != "allgather":
        exchange = exchange + collectives.expert_tensor_ns(scene.problem, degrees, tokens, scene.rates)
    timed.forward.add("ep_comm", exchange)
    timed.backward.add("ep_comm", exchange)
    timed.repeats["moe"] = again + exchange + shared_block(scene, timed)
    timed.repeats["moe_act"] = memory_ns(activation, scene.rates)
    if architecture.is_hybrid:
        timed.repeats["layernorm"] = norm_ns(scene)


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


_BLOCKS = {
    "delta_net": delta_net_block,
    "mamba": mamba_block,
    "sparse": sparse_block,
    "moe": moe_block,
    "dense": dense_block,
}


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


def _names(scene: Scene, kind: LayerKind) -> list[int | str]:
    """The blocks of a layer: what mixes its tokens (attention by its window), and its feed-forward block."""
    mixer: int | str = kind.mixer
    if kind.mixer == "attention":
        mixer = "sparse" if scene.problem.architecture.has_indexer else kind.window
    return [name for name in (mixer, kind.ffn) if name != "none"]


def layer(scene: Scene, kind: LayerKind) -> Timed:
    """One decoder layer with nothing recomputed, and what repeating its modules or its whole forward takes."""
    if kind.in_bf16:
        scene = scene.in_16_bits
    moe = kind.ffn == "moe"
    blocks = [_block(scene, name) for name in _names(scene, kind)]
    timed = reduce(add, blocks, Timed())
    forward = timed.forward.total
    if moe and scene.choices.overlap.ep_all_to_all:
        hide_expert_communication(scene, timed, blocks)
    host = host_ns(scene.problem, scene.degrees, scene.choices, scene.rates, kind)
    add_host(timed, host)
    finish_repeats(scene, timed, moe, forward, host)
    return timed
