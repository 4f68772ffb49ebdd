"""Sparse attention: MLA whose keys an indexer chooses, absorbed (Megatron-LM d98e8a6 with its cudnn kernels).

    core      forward 2 (d_k + d_v), backward 2 (3 d_k + 2 d_v) FLOP a head and pair; d_k = r_kv + d_rope, d_v = r_kv
    pairs     causal, at most `index_topk` keys a query (FlashMLA reads their number)
    indexer   2 w FLOP a causal pair, w = index heads * width; its scores are written and read in fp32
    loss      the core's scores again (2 d_k a head and pair), the indexer's gradients (6 w a chosen pair), both forward

Rates are shares of the dense bf16 peak (`sparse_attention` of the efficiency tables). The indexer stands whole on every
tensor-parallel rank. Its scores leave cuDNN's kernel for fp32 products, head by head, with context parallelism or where
they take more than 1 GiB (dsa_cudnn_kernels.py:567-640): that slow path is priced as it is; packed sequences, which
would avoid it, are not priced. Ignored: the all-reduce of the indexer's gradients once a step, dropped empty rows.
"""

from moeopt.accounting.time.attention import core_pairs_twice, local_heads
from moeopt.accounting.time.collectives import ring_ns
from moeopt.accounting.time.efficiency import Rates, exact
from moeopt.accounting.time.gemm import Products, product
from moeopt.accounting.time.memory_bound import memory_ns
from moeopt.accounting.time.tokens import Tokens
from moeopt.arithmetic import Number, ceil_div, either, round_up, where
from moeopt.layout import Degrees
from moeopt.problem.architecture import FLASH_MLA_HEADS, Architecture
from moeopt.problem.problem import Problem

SCORE_BYTES = 16
"""Bytes that an index score moves: written, masked and read twice by the choice of the largest (aiconfigurator's
glm5_topk_module: 13 bytes a score for the choice alone at 8K tokens on H100, flat scores)."""
LOSS_BYTES = 120
"""Bytes that a chosen key moves in the loss: some fifteen fp32 tensors of their number, read and written."""
UNFUSED_SCORE_BYTES = 32
"""Bytes that a score moves for every index head where it is not cuDNN's: product written, ReLU, weight, sum."""
UNFUSED_FLOPS_PER_NS = 60_000
"""fp32 products without tensor cores (H100 SXM data sheet: 67 TFLOP/s)."""
MOST_SCORE_BYTES = 2**30
ROTATED_BYTES = 24
"""Bytes that an element moves in a rotary embedding that is not fused (Megatron refuses the fused one)."""


def heads_as_computed(problem: Problem, degrees: Degrees, multiple: int) -> Number:
    """Attention heads of one rank, padded as a kernel pads them."""
    heads, _ = local_heads(problem.architecture, degrees)
    return round_up(heads, multiple)


def projections(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Products:
    """Linears with an input gradient: both down-projections, the query's up-projection, the output's."""
    heads, _ = local_heads(architecture, degrees)
    hidden, query = architecture.hidden_size, architecture.q_lora_rank or 0
    return (
        product(tokens.local, _down_width(architecture), hidden)
        + product(tokens.attention, heads * architecture.qk_head_dim, query)
        + product(tokens.attention, hidden, heads * architecture.v_head_dim)
    )


def _down_width(architecture: Architecture) -> int:
    """Of both down-projections."""
    a = architecture
    return (a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + a.qk_rope_head_dim


def index_projections(architecture: Architecture, tokens: Tokens) -> Products:
    """The indexer's linears: of the gathered tokens, with detached inputs."""
    a = architecture
    keys = product(tokens.attention, a.index_head_dim + a.index_n_heads, a.hidden_size)
    return product(tokens.attention, a.index_width, a.q_lora_rank or 0) + keys


def absorbed(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> tuple[Products, Products]:
    """Products with views of the key-value up-projection, of the query and of the output: one a head, in bf16."""
    heads, _ = local_heads(architecture, degrees)
    rank = architecture.kv_lora_rank or 0
    rows = tokens.attention * heads
    found = []
    for width, depth in ((rank, architecture.qk_nope_head_dim), (architecture.v_head_dim, rank)):
        found.append(Products(2 * rows * width * depth, heads * width * depth, rows * depth, rows * width))
    return found[0], found[1]


def gemm_inputs(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> tuple[Number, Number]:
    """Elements that fp8 recipes quantise: inputs of the linears, and gradients of their outputs."""
    a = architecture
    heads, _ = local_heads(a, degrees)
    query = a.q_lora_rank or 0
    inputs = tokens.local * (2 * a.hidden_size) + tokens.attention * (
        2 * query + heads * a.v_head_dim + 2 * a.hidden_size
    )
    index = a.index_width + a.index_head_dim + a.index_n_heads
    gradients = tokens.local * _down_width(a) + tokens.attention * (heads * a.qk_head_dim + a.hidden_size + index)
    return inputs, gradients


def query_bytes(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Number:
    """Forward bytes of making the absorbed query: the product's operands and its contiguous copy, the rotary part, and
    joining them."""
    a = architecture
    heads, _ = local_heads(a, degrees)
    rank, rope = a.kv_lora_rank or 0, a.qk_rope_head_dim
    each = 2 * a.qk_nope_head_dim + 6 * rank + ROTATED_BYTES * rope + 4 * (rank + rope)
    return tokens.attention * heads * each


def memory_bytes(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Number:
    """Forward bytes of the other memory-bound kernels: norm, residual and glue 10 T h; compressed norms 4 T (r_q +
    r_kv); the value product's operands and copy; the index queries rotated, transformed and copied."""
    a = architecture
    heads, _ = local_heads(a, degrees)
    rank = a.kv_lora_rank or 0
    outside = 10 * a.hidden_size + 4 * ((a.q_lora_rank or 0) + rank)
    inside = heads * (2 * rank + 6 * a.v_head_dim) + a.index_width * 12
    return tokens.local * outside + tokens.attention * inside


def _ns(flops: Number, share: float, rates: Rates) -> Number:
    return ceil_div(flops, int(rates.peak_bf16_flops_per_ns * exact(share)))


def index_scores_ns(problem: Problem, degrees: Degrees, rates: Rates) -> Number:
    """The indexer's scores and the choice of the largest, forward."""
    a, length = problem.architecture, problem.workload.sequence_length
    scores = ceil_div(length * length * degrees.micro_batch_size, degrees.cp)
    fused = _ns(scores * a.index_width, rates.efficiency.sparse_attention.indexer, rates) + memory_ns(
        scores * SCORE_BYTES, rates
    )
    products = ceil_div(scores * (2 * a.index_width), UNFUSED_FLOPS_PER_NS)
    passes = memory_ns(scores * (UNFUSED_SCORE_BYTES * a.index_n_heads + SCORE_BYTES), rates)
    return where(either(degrees.cp > 1, 4 * scores > MOST_SCORE_BYTES), products + passes, fused)


def loss_ns(problem: Problem, degrees: Degrees, rates: Rates) -> Number:
    """The indexer's loss, forward: the core's scores of the chosen keys again, the indexer's gradients, and the bytes
    between; over tensor-parallel ranks their targets are added up (4 bytes a chosen key, all-reduced)."""
    a, shares = problem.architecture, rates.efficiency.sparse_attention
    pairs, chosen = _pairs(problem, degrees)
    width = (a.kv_lora_rank or 0) + a.qk_rope_head_dim
    heads = heads_as_computed(problem, degrees, FLASH_MLA_HEADS)
    again = _ns(pairs * heads * width, shares.forward, rates)
    gradients = _ns(3 * pairs * a.index_width, shares.indexer_backward, rates)
    t = degrees.tp
    moved = ceil_div(8 * chosen * (t - 1), t)
    added = ring_ns(problem, degrees, rates, moved, t, 1, 2)
    return again + gradients + memory_ns(chosen * LOSS_BYTES, rates) + added


def _pairs(problem: Problem, degrees: Degrees) -> tuple[Number, Number]:
    """Twice the pairs of query and key on one GPU, and the slots for chosen keys."""
    length, topk = problem.workload.sequence_length, problem.architecture.index_topk or 0
    pairs = ceil_div(degrees.micro_batch_size * core_pairs_twice(problem, topk), degrees.cp)
    return pairs, ceil_div(degrees.micro_batch_size * length * min(topk, length), degrees.cp)


def core_ns(problem: Problem, degrees: Degrees, rates: Rates) -> tuple[Number, Number]:
    """Forward and backward time of the core over the chosen keys. The backward pass first copies queries, outputs,
    gradients and chosen keys twice, to leave out rows without a key."""
    a, shares = problem.architecture, rates.efficiency.sparse_attention
    pairs, chosen = _pairs(problem, degrees)
    value = a.kv_lora_rank or 0
    key = value + a.qk_rope_head_dim
    forward = pairs * heads_as_computed(problem, degrees, shares.forward_heads) * (key + value)
    heads = heads_as_computed(problem, degrees, FLASH_MLA_HEADS)
    backward = pairs * heads * (3 * key + 2 * value)
    rows = ceil_div(problem.workload.sequence_length * degrees.micro_batch_size, degrees.cp)
    copied = rows * heads * 8 * (2 * key + 2 * value) + 16 * chosen
    return _ns(forward, shares.forward, rates), _ns(backward, shares.backward, rates) + memory_ns(copied, rates)


def gather_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """Sequence parallelism, forward: the indexer gathers its two inputs in 16 bits; no gradient goes back."""
    a, t = problem.architecture, degrees.tp
    moved = ceil_div(tokens.attention * (2 * (a.hidden_size + (a.q_lora_rank or 0))), t) * (t - 1)
    return ring_ns(problem, degrees, rates, moved, t, 1, 2)


def exchange_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """Context parallelism, one direction: keys of attention and indexer are gathered (forward), their gradients
    scattered (backward); nothing hides them (dsa.py:1820-1880)."""
    a, c = problem.architecture, degrees.cp
    width = (a.kv_lora_rank or 0) + a.qk_rope_head_dim + a.index_head_dim
    moved = tokens.attention * (c - 1) * (2 * width)
    return ring_ns(problem, degrees, rates, moved, c, degrees.tp, 2)
