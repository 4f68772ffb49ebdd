"""Activations of one pipeline rank by walking its operations: a second, independent list of what each layer keeps.

Written from the layers' definitions (docs/memory.md names the sources): what each operator needs for its backward
pass under Transformer Engine's kernels, 16 bits an element unless said, no dropout, fused attention.
"""

from dataclasses import dataclass

from moeopt.layout import Layout
from moeopt.pipeline import Chunk
from moeopt.problem.problem import Problem
from schedule_cases import megatron_blocks
from witness import is_moe


@dataclass(frozen=True)
class Kept:
    """One tensor that waits for the backward pass, and the recompute modules that drop it."""

    name: str
    shape: tuple[int, ...]
    itemsize: int = 2
    modules: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        total = self.itemsize
        for extent in self.shape:
            total *= extent
        return total


class Layer:
    """One decoder layer on one GPU: `inner` tokens inside tensor-parallel regions, `outer` outside."""

    def __init__(self, problem: Problem, layout: Layout) -> None:
        self.a, self.layout = problem.architecture, layout
        self.inner = problem.workload.sequence_length * layout.micro_batch_size // layout.cp
        self.outer = self.inner // layout.tp if layout.sequence_parallel else self.inner
        self.statistics = 2 if self.a.norm == "layernorm" else 1

    def tensors(self, moe: bool) -> list[Kept]:
        return self.attention() + (self.experts() if moe else self.mlp())

    def attention(self) -> list[Kept]:
        return [
            Kept("residual", (self.outer, self.a.hidden_size)),
            *(self._latent() if self.a.kv_lora_rank else self._grouped()),
            Kept("attention output", (self.inner, self._heads, self._value)),
            Kept("log-sum-exp", (self.inner, self._heads), 4, ("core_attn",)),
        ]

    @property
    def _heads(self) -> int:
        return self.a.num_attention_heads // self.layout.tp

    @property
    def _value(self) -> int:
        return self.a.v_head_dim if self.a.kv_lora_rank else self.a.head_dim

    def _norm(self, name: str, modules: tuple[str, ...] = ()) -> list[Kept]:
        """The output, which the next linear reads, and its statistics: 1/deviation, of LayerNorm also the mean."""
        return [
            Kept(f"{name} output", (self.outer, self.a.hidden_size), 2, modules),
            Kept(f"{name} statistics", (self.outer, self.statistics), 4, modules),
        ]

    def _grouped(self) -> list[Kept]:
        dim, groups = self.a.head_dim, -(-self.a.num_key_value_heads // self.layout.tp)
        found = self._norm("input norm")
        widths = {"query": self._heads, "key": groups, "value": groups}
        found += [Kept(name, (self.inner, heads, dim)) for name, heads in widths.items()]
        if self.a.qk_norm != "none":
            for name in ("query", "key"):
                found.append(Kept(f"{name} before its norm", (self.inner, widths[name], dim)))
                found.append(Kept(f"{name} statistics", (self.inner, widths[name], self.statistics), 4))
        return found

    def _latent(self) -> list[Kept]:
        a, up = self.a, ("mla_up_proj",)
        found = self._norm("input norm", ("layernorm",))
        if a.q_lora_rank:
            found += [Kept("query latent", (self.outer, a.q_lora_rank))]
            found += [Kept("query latent, normed", (self.outer, a.q_lora_rank), 2, up)]
            found += [Kept("query latent statistics", (self.outer, self.statistics), 4, up)]
        else:
            found += self._norm("query projection's own norm", up)
        rank, rope = a.kv_lora_rank or 0, a.qk_rope_head_dim
        found += [
            Kept("key-value latent and rotary key", (self.outer, rank + rope)),
            Kept("key-value latent, normed", (self.outer, rank), 2, up),
            Kept("key-value latent statistics", (self.outer, self.statistics), 4, up),
        ]
        for name, width in (("query", a.qk_nope_head_dim + rope), ("key", a.qk_nope_head_dim + rope)):
            found.append(Kept(name, (self.inner, self._heads, width), 2, up))
        return [*found, Kept("value", (self.inner, self._heads, a.v_head_dim), 2, up)]

    def mlp(self) -> list[Kept]:
        drop, width = ("mlp",), self.a.intermediate_size // self.layout.tp
        gate = 2 if self.a.gated else 1
        return [
            Kept("ffn residual", (self.outer, self.a.hidden_size)),
            *self._norm("ffn norm", drop),
            Kept("fc1 output", (self.inner, gate, width), 2, drop),
            Kept("fc2 input", (self.inner, width), 2, drop),
        ]

    def experts(self) -> list[Kept]:
        a, drop = self.a, ("moe",)
        assert self.layout.etp is not None
        rows = self.outer * a.num_experts_per_tok * self.layout.etp
        width, gate = a.moe_intermediate_size // self.layout.etp, 2 if a.gated else 1
        tokens, act = self.outer, ("moe", "moe_act")
        found = [
            Kept("ffn residual", (tokens, a.hidden_size)),
            *self._norm("ffn norm", ("layernorm",)),
            Kept("router scores", (2, tokens, a.num_experts), 4, drop),
            Kept("router probabilities", (tokens, a.num_experts), 4, drop),
            Kept("routing map", (tokens, a.num_experts), 1, drop),
            Kept("row map of the fused permutation", (tokens, 2 * a.num_experts + 1), 4, drop),
            Kept("sorted rows", (rows, a.hidden_size), 2, drop),
            Kept("routed fc1 output", (rows, gate, width), 2, drop),
            Kept("routed fc2 input", (rows, width), 2, act),
            Kept("probabilities of the rows", (rows,), 4, drop),
        ]
        if not a.gated:
            found.append(Kept("activation before its probability", (rows, width), 2, act))
        if a.shared_expert_intermediate_size:
            wide, both = a.shared_expert_intermediate_size // self.layout.tp, ("moe", "shared_experts")
            found.append(Kept("shared fc1 output", (self.inner, gate, wide), 2, both))
            found.append(Kept("shared fc2 input", (self.inner, wide), 2, both))
        return found


def microbatch_bytes(problem: Problem, layout: Layout, chunk: Chunk) -> int:
    """What one micro-batch leaves in one chunk after its forward pass: token ids, layers, MTP modules."""
    one, recompute = Layer(problem, layout), layout.recompute
    layer_input = Kept("layer input", (one.outer, problem.architecture.hidden_size)).size
    total = 8 * one.inner if chunk.embedding else 0
    for position in range(chunk.layers):
        covered = recompute.granularity == "full" and (
            recompute.method == "uniform" or position < (recompute.num_layers or 0)
        )
        kept = one.tensors(is_moe(problem.architecture, chunk.first + position))
        total += layer_input if covered else _kept(kept, layout)
    for _ in range(chunk.mtp):
        entry = 4 * layer_input
        kept = one.tensors(is_moe(problem.architecture, problem.architecture.num_hidden_layers - 1))
        covered = recompute.granularity == "full" and recompute.method == "uniform"
        total += 2 * layer_input if covered else entry + _kept(kept, layout)
    return total


def _kept(tensors: list[Kept], layout: Layout) -> int:
    dropped = set(layout.recompute.modules)
    return sum(tensor.size for tensor in tensors if not dropped.intersection(tensor.modules))


def peak_bytes(layout: Layout, stage: int, sizes: list[int], passing: list[int]) -> tuple[int, int]:
    """Walk a rank's operations: the largest sum of kept bytes, and the same with what passes in the running chunk."""
    assert layout.num_microbatches is not None
    assert layout.interleave_group is not None
    shape = (layout.pp, layout.vpp, layout.num_microbatches, layout.interleave_group)
    live = most = most_passing = 0
    for block in megatron_blocks(shape, stage):
        for kind, chunk, _ in block:
            live += sizes[chunk] if kind == "F" else 0
            most, most_passing = max(most, live), max(most_passing, live + passing[chunk])
            live -= sizes[chunk] if kind == "B" else 0
    return most, most_passing
