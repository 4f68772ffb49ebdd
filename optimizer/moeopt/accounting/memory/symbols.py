"""The letters that every memory formula is written in, as one GPU sees them."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeVar

from moeopt.accounting.routing import UNIT, initial_imbalance
from moeopt.arithmetic import Number, both, ceil_div, maximum, minimum, round_up, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.architecture import DELTA_CHUNK, FLASH_MLA_HEADS, MAMBA_CHUNK
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

Made = TypeVar("Made")


@dataclass(frozen=True)
class Symbols:
    """Local sizes: tokens, rows and widths of one micro-batch on one GPU (integers, or columns of layouts).

    Widths are already divided over tensor-parallel ranks (rounded up where they do not divide: such a layout is
    illegal anyway). Key-value groups that are fewer than tp are replicated, one a rank, as Megatron does.
    """

    A: Number
    """Tokens of a micro-batch on one context-parallel rank: s*b/c."""
    T: Number
    """Tokens outside tensor-parallel regions: A/t under sequence parallelism, else A."""
    batch: Number
    s: int
    """Sequence length, all ranks together."""
    s_local: Number
    h: int
    heads: Number
    groups: Number
    qk: int
    """Width of one query or key head."""
    dv: int
    rq: int
    rk: int
    kv_down: int
    """Width of MLA's joint key-value down-projection: rk plus the rotary part."""
    qk_width: Number
    f: Number
    """Width of the dense feed-forward block on one rank."""
    gate: int
    """Matrices into the feed-forward width: 2 when gated, else 1."""
    lheads: Number
    """Value heads of a gated delta net on one rank."""
    lqk: Number
    """Width of its queries, and of its keys, on one rank."""
    lk: Number
    """The same repeated for every value head: what its kernel reads."""
    lv: Number
    """Width of its values on one rank."""
    lin: Number
    """Width of its input projection on one rank."""
    lstate: Number
    """Elements of its recurrent states a token: one key width times value width for each head and 64 tokens."""
    mamba_in: Number
    """Width of a Mamba-2 layer's input projection on one rank."""
    mamba_inner: Number
    """Width of its heads on one rank."""
    mamba_conv: Number
    """Width of what it convolves on one rank."""
    mamba_heads: Number
    mamba_groups: Number
    """Groups of B and C that a rank scans: at least 1, also where context parallelism shares heads further."""
    mamba_states: int
    """Width of one group's B, and of its C."""
    mamba_state: Number
    """Elements of its states a token: head width times state width for each head and 128 tokens."""
    topk: int
    """Keys that a query of sparse attention sees at most."""
    index_heads: int
    """Query heads of its indexer, all on every tensor-parallel rank."""
    index_dim: int
    index_width: int
    padded_heads: Number
    """Attention heads on one rank as its kernels see them: at least 64."""
    gathered_rows: Number
    """Tokens that its indexer gathers a copy of: A under sequence parallelism, else none."""
    other_keys: Number
    """Keys that context parallelism gathers: batch*s, or none without it."""
    E: int
    experts_local: Number
    k: int
    he: int
    """Width of the tokens that routed experts see."""
    latent: int
    """The same where it is not the hidden size, else 0."""
    fe: Number
    """Width of one routed expert on one rank."""
    fs: Number
    """Width of the shared experts on one rank."""
    sent: Number
    """Token copies this rank sends to experts (T*k, or capacity-padded)."""
    received: Number
    """Token copies this rank receives, before the expert-tensor-parallel gather."""
    R: Number
    """Rows the local experts compute: received * q, padded for quantisation."""
    V: Number
    """Padded vocabulary on one rank."""
    row_map: int
    """Entries a token of the fused permutation's row map: 2E + 1."""
    gathered: Number
    """Tokens after the gather of the allgather dispatcher: T*e*q."""
    t: Number
    c: Number
    e: Number
    q: Number
    pp: Number
    sequence_parallel: Number
    """Whether sequence parallelism is on (a boolean, or a column)."""
    element_bytes: Fraction
    """Bytes of an element of a linear's saved input, with its scales: 2 where linears compute in 16 bits."""
    made: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)
    """What `once` has made."""

    @property
    def quantized(self) -> bool:
        """Whether linears compute in fewer than 16 bits, so that they save quantised inputs."""
        return self.element_bytes < 2

    def of_mtp(self, problem: Problem) -> "Symbols":
        """The sizes of MTP modules, which some formats leave in 16 bits."""
        return self if problem.workload.format.covers_mtp else self.in_16_bits

    def of_layer(self, kind: LayerKind) -> "Symbols":
        """The sizes of a layer, which may stay in 16 bits."""
        return self.in_16_bits if kind.in_bf16 else self

    @property
    def in_16_bits(self) -> "Symbols":
        """The same where linears compute in 16 bits."""
        if not self.quantized:
            return self
        return self.once("in 16 bits", lambda: replace(self, element_bytes=Fraction(2), made={}))

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is made of these sizes, made at the first call with a key."""
        if key not in self.made:
            self.made[key] = make()
        found: Made = self.made[key]
        return found


def symbols(problem: Problem, degrees: Degrees, choices: Choices) -> Symbols:
    """Local sizes of one layout (or column of layouts)."""
    a, work = problem.architecture, problem.workload
    t, c, e, q = degrees.tp, degrees.cp, degrees.ep, degrees.etp
    sharded = both(t > 1, choices.sequence_parallel)
    tokens = ceil_div(work.sequence_length * degrees.micro_batch_size, c)
    local = where(sharded, ceil_div(tokens, t), tokens)
    sent, received = _routed_rows(problem, local, e)
    experts_local = ceil_div(a.num_experts, e)
    padding = (work.format.expert_rows - 1) * experts_local
    multiple = work.make_vocab_size_divisible_by * t
    return Symbols(
        A=tokens,
        T=local,
        batch=degrees.micro_batch_size,
        s=work.sequence_length,
        s_local=ceil_div(work.sequence_length, c),
        h=a.hidden_size,
        heads=ceil_div(a.num_attention_heads, t),
        groups=ceil_div(a.num_attention_heads if a.is_mla else a.num_key_value_heads, t),
        qk=a.qk_head_dim,
        dv=a.value_head_dim,
        rq=a.q_lora_rank or 0,
        rk=a.kv_lora_rank or 0,
        kv_down=(a.kv_lora_rank or 0) + a.qk_rope_head_dim,
        qk_width=ceil_div(a.num_attention_heads, t) * a.qk_head_dim,
        f=ceil_div(a.intermediate_size, t),
        gate=2 if a.gated else 1,
        lheads=ceil_div(a.linear_num_value_heads, t),
        lqk=ceil_div(a.delta_net_key_dim, t),
        lk=ceil_div(a.linear_num_value_heads * a.linear_key_head_dim, t),
        lv=ceil_div(a.delta_net_value_dim, t),
        lin=ceil_div(a.delta_net_projection_dim, t),
        lstate=ceil_div(a.linear_num_value_heads * a.linear_key_head_dim * a.linear_value_head_dim, t * DELTA_CHUNK),
        mamba_in=ceil_div(a.mamba_projection_dim, t),
        mamba_inner=ceil_div(a.mamba_inner_dim, t),
        mamba_conv=ceil_div(a.mamba_conv_dim, t),
        mamba_heads=ceil_div(a.mamba_num_heads, t),
        mamba_groups=ceil_div(a.mamba_num_groups, t * c),
        mamba_states=a.mamba_state_dim,
        mamba_state=ceil_div(a.mamba_inner_dim * a.mamba_state_dim, t * MAMBA_CHUNK),
        topk=min(a.index_topk or 0, work.sequence_length),
        index_heads=a.index_n_heads,
        index_dim=a.index_head_dim,
        index_width=a.index_width,
        padded_heads=maximum(ceil_div(a.num_attention_heads, t), FLASH_MLA_HEADS),
        gathered_rows=where(sharded, tokens, 0),
        other_keys=where(c > 1, work.sequence_length * degrees.micro_batch_size, 0),
        E=a.num_experts,
        experts_local=experts_local,
        k=a.num_experts_per_tok,
        he=a.expert_hidden_size,
        latent=a.moe_latent_size,
        fe=ceil_div(a.moe_intermediate_size, q),
        fs=ceil_div(a.shared_expert_intermediate_size, t),
        sent=sent,
        received=received,
        R=received * q + padding,
        V=round_up(a.vocab_size, multiple) // t,
        row_map=2 * a.num_experts + 1,
        gathered=local * e * q,
        t=t,
        c=c,
        e=e,
        q=q,
        pp=degrees.pp,
        sequence_parallel=sharded,
        element_bytes=work.format.element_bytes,
    )


def _routed_rows(problem: Problem, local: Number, e: Number) -> tuple[Number, Number]:
    """Token copies sent and received by one rank, before the expert-tensor-parallel gather (a mean does not depend
    on ep). Worst case: all tokens of the ep ranks choose the E/e experts here. Pad-to-capacity: each rank sends
    ceil(T*k/E*factor) rows to every expert (megatron/core/transformer/moe/moe_utils.py, get_capacity)."""
    a, routing = problem.architecture, problem.workload.routing
    if not a.num_experts:
        return 0 * local, 0 * local
    even = local * a.num_experts_per_tok
    if routing.worst:
        return even, e * local * minimum(a.num_experts_per_tok, ceil_div(a.num_experts, e))
    if routing.capacity_factor is not None:
        factor = _ratio(routing.capacity_factor)
        padded = a.num_experts * ceil_div(even * factor.numerator, a.num_experts * factor.denominator)
        return padded, padded
    if routing.initial:
        return even, ceil_div(even * initial_imbalance(a, e), UNIT)
    factor = _ratio(routing.imbalance)
    return even, ceil_div(even * factor.numerator, factor.denominator)


def _ratio(value: float) -> Fraction:
    """A factor as typed, to a thousandth (upwards), so that products stay within 64 bits."""
    return Fraction(-(-Fraction(str(value)).numerator * 1000 // Fraction(str(value)).denominator), 1000)
