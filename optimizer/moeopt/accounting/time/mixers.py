"""Blocks that mix a layer's tokens: attention, gated delta nets, sparse attention, Mamba; what recomputing repeats."""

from moeopt.accounting.time import attention, collectives, delta_net, gemm, mamba, sparse_attention
from moeopt.accounting.time.additions import add_bytes, add_products, add_tensor_block, products_ns
from moeopt.accounting.time.memory_bound import memory_ns
from moeopt.accounting.time.scan import Linears
from moeopt.accounting.time.scene import Scene, Timed
from moeopt.arithmetic import Number


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
        up = products_ns(scene, attention.up_projections(architecture, tokens, degrees))
        elements = tokens.attention * attention.query_key_value(architecture, heads, groups)
        timed.repeats["mla_up_proj"] = up + memory_ns(elements * 4, rates)
    if not architecture.is_hybrid:  # there the norm is part of the projection, and no other block follows
        timed.repeats["layernorm"] = _norms_ns(scene)


def delta_net_block(scene: Scene, timed: Timed) -> None:
    """A gated delta net; of the recompute modules only layernorm repeats something of it."""
    problem, tokens, degrees, rates = scene.problem, scene.tokens, scene.degrees, scene.rates
    linears = delta_net.linears(problem.architecture, tokens, degrees)
    around = delta_net.memory_bytes(problem.architecture, tokens, degrees)
    rule = delta_net.rule_ns(problem, degrees, tokens, rates)
    _add_scan(scene, timed, linears, around, rule, delta_net.exchange_ns(problem, degrees, tokens, rates))
    timed.repeats["layernorm"] = _norms_ns(scene)


def sparse_block(scene: Scene, timed: Timed) -> None:
    """Sparse attention; core_attn repeats the indexer with the core, mla_up_proj the absorbed query."""
    problem, tokens, degrees = scene.problem, scene.tokens, scene.degrees
    architecture, rates = problem.architecture, scene.rates
    add_products(scene, timed, sparse_attention.projections(architecture, tokens, degrees))
    query, value = sparse_attention.absorbed(architecture, tokens, degrees)
    add_products(scene, timed, query + value, bf16=True)
    made = sparse_attention.query_bytes(architecture, tokens, degrees)
    add_bytes(
        scene,
        timed,
        made + sparse_attention.memory_bytes(architecture, tokens, degrees),
        sparse_attention.gemm_inputs(architecture, tokens, degrees),
    )
    index = products_ns(scene, sparse_attention.index_projections(architecture, tokens))
    timed.forward.add("gemm", index)
    timed.backward.add("gemm", index)  # gradients of weights alone: the inputs are detached
    core = sparse_attention.core_ns(problem, degrees, rates)
    chosen = sparse_attention.index_scores_ns(problem, degrees, rates)
    loss = sparse_attention.loss_ns(problem, degrees, rates)
    timed.forward.add("attention", core[0] + chosen + loss)
    timed.backward.add("attention", core[1])
    gathered: Number = 0
    if scene.choices.sequence_parallel:
        gathered = sparse_attention.gather_ns(problem, degrees, tokens, rates)
    timed.forward.add("tp_comm", gathered)
    exchange = sparse_attention.exchange_ns(problem, degrees, tokens, rates)
    for run in (timed.forward, timed.backward):
        run.add("cp_comm", exchange)
    add_tensor_block(scene, timed)
    timed.repeats["core_attn"] = index + core[0] + chosen + loss + gathered + exchange
    rank = architecture.q_lora_rank or 0
    up = gemm.product(
        tokens.attention, attention.local_heads(architecture, degrees)[0] * architecture.qk_head_dim, rank
    )
    again = products_ns(scene, up) + products_ns(scene, query, bf16=True)
    timed.repeats["mla_up_proj"] = again + memory_ns(made, rates)
    timed.repeats["layernorm"] = _norms_ns(scene)


def mamba_block(scene: Scene, timed: Timed) -> None:
    """A Mamba-2 layer; no recompute module repeats any of it."""
    problem, tokens, degrees, rates = scene.problem, scene.tokens, scene.degrees, scene.rates
    linears = mamba.linears(problem.architecture, tokens, degrees)
    around = mamba.memory_bytes(problem.architecture, tokens, degrees)
    scan = mamba.scan_ns(problem, degrees, tokens, rates)
    _add_scan(scene, timed, linears, around, scan, mamba.exchange_ns(problem, degrees, tokens, rates))


def _add_scan(
    scene: Scene, timed: Timed, linears: Linears, around: Number, scan: tuple[Number, Number], exchange: Number
) -> None:
    """Add a scan (forward and backward time), what is around it (forward bytes), and the exchange of its heads."""
    add_products(scene, timed, linears.products)
    add_bytes(scene, timed, around, linears.quantized)
    for run, time in zip((timed.forward, timed.backward), scan, strict=True):
        run.add("attention", time)
        run.add("cp_comm", exchange)
    add_tensor_block(scene, timed)


def _norms_ns(scene: Scene) -> Number:
    """A layer's two norms."""
    return 2 * norm_ns(scene)


def norm_ns(scene: Scene) -> Number:
    """One norm of the hidden size, forward."""
    return memory_ns(scene.tokens.local * (4 * scene.problem.architecture.hidden_size), scene.rates)
