"""Decoder layers in plain PyTorch, and the bytes that autograd keeps of them (CPU, one rank, bf16).

No Transformer Engine and no Megatron: the operators are torch's own. `plain_torch_bytes` lists, tensor by tensor, what
that changes against the list of `moeopt.accounting.memory`, each with the operator that causes it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moeopt.problem.architecture import Architecture

DTYPE = torch.bfloat16


def kept_bytes(module: nn.Module, tokens: Tensor) -> int:
    """Bytes of all storages that autograd saves in one forward pass, each storage once, parameters left out."""
    storages: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(tokens)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    total = sum(size for pointer, (size, _) in storages.items() if pointer not in parameters)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    return total


class Layer(nn.Module):
    """One decoder layer. `recompute` names the parts that run under torch's checkpoint."""

    def __init__(self, architecture: Architecture, moe: bool, recompute: frozenset[str] = frozenset()) -> None:
        super().__init__()
        a = self.a = architecture
        self.moe, self.recompute = moe, recompute
        heads, h = a.num_attention_heads, a.hidden_size
        self.weights = nn.ParameterDict()
        if a.is_mla:
            self._linear("q down", a.q_lora_rank or 0, h)
            self._linear("q up", heads * a.qk_head_dim, a.q_lora_rank or 0)
            self._linear("kv down", (a.kv_lora_rank or 0) + a.qk_rope_head_dim, h)
            self._linear("kv up", heads * (a.qk_nope_head_dim + a.v_head_dim), a.kv_lora_rank or 0)
            self._norms(input=h, query=a.q_lora_rank or 0, latent=a.kv_lora_rank or 0)
        else:
            self._linear("qkv", (heads + 2 * a.num_key_value_heads) * a.head_dim, h)
            self._norms(input=h)
            if a.qk_norm == "head":
                self._norms(query=a.head_dim, key=a.head_dim)
        self._linear("proj", h, heads * a.value_head_dim)
        self._norms(ffn=h)
        blocks = {"mlp": a.intermediate_size}
        if moe:
            blocks = {f"expert {i}": a.moe_intermediate_size for i in range(a.num_experts)}
            blocks["shared"] = a.shared_expert_intermediate_size
            self._linear("router", a.num_experts, h)
        for name, width in blocks.items():
            if width:
                self._linear(f"{name} fc1", 2 * width, h)
                self._linear(f"{name} fc2", h, width)

    def _linear(self, name: str, rows: int, columns: int) -> None:
        self.weights[name] = nn.Parameter(torch.randn(rows, columns, dtype=DTYPE) * columns**-0.5)

    def _norms(self, **widths: int) -> None:
        for name, width in widths.items():
            self.weights[f"{name} norm"] = nn.Parameter(torch.ones(width, dtype=DTYPE))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.weights[f"{name} norm"]
        if self.a.norm == "rmsnorm":
            return functional.rms_norm(x, weight.shape, weight, 1e-6)
        return functional.layer_norm(x, weight.shape, weight, None, 1e-6)

    def _apply(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[name])

    def _run(self, part: str, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """The function, under torch's checkpoint where the part is recomputed."""
        if part not in self.recompute:
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._run("full", self._layer, x)

    def _layer(self, x: Tensor) -> Tensor:
        x = x + (self._latent(x) if self.a.is_mla else self._grouped(x))
        if self.moe:
            return x + self._experts(x)
        block: Tensor = self._run("mlp", lambda y: self._swiglu(self._norm(y, "ffn"), "mlp"), x)
        return x + block

    # Attention --------------------------------------------------------------------------------------------------

    def _grouped(self, x: Tensor) -> Tensor:
        a, n = self.a, len(x)
        widths = [heads * a.head_dim for heads in (a.num_attention_heads, a.num_key_value_heads, a.num_key_value_heads)]
        query, key, value = self._apply(self._norm(x, "input"), "qkv").split(widths, -1)
        query, key, value = (part.reshape(n, -1, a.head_dim) for part in (query, key, value))
        if a.qk_norm == "head":
            query, key = self._norm(query, "query"), self._norm(key, "key")
        core: Tensor = self._run("core_attn", _core, _rotated(query), _rotated(key), value.contiguous())
        return self._apply(core, "proj")

    def _latent(self, x: Tensor) -> Tensor:
        def down(y: Tensor) -> tuple[Tensor, Tensor]:
            normed = self._norm(y, "input")
            return self._apply(normed, "q down"), self._apply(normed, "kv down")

        query, latent = self._run("layernorm", down, x)
        core: Tensor = self._run("mla_up_proj", self._up, query, latent)
        return self._apply(core, "proj")

    def _up(self, query: Tensor, latent: Tensor) -> Tensor:
        a, n = self.a, len(query)
        nope, rope = a.qk_nope_head_dim, a.qk_rope_head_dim
        compressed, shared_key = latent.split([a.kv_lora_rank or 0, rope], -1)
        queries = self._apply(self._norm(query, "query"), "q up").reshape(n, -1, nope + rope)
        query_nope, query_rope = queries.split([nope, rope], -1)
        up = self._apply(self._norm(compressed, "latent"), "kv up").reshape(n, -1, nope + a.v_head_dim)
        key_nope, value = up.split([nope, a.v_head_dim], -1)
        rotated = _rotated(shared_key[:, None]).expand(n, a.num_attention_heads, rope)
        keys = torch.cat([key_nope, rotated], -1)
        return _core(torch.cat([query_nope, _rotated(query_rope)], -1), keys, value.contiguous())

    # Feed-forward blocks ----------------------------------------------------------------------------------------

    def _swiglu(self, x: Tensor, name: str) -> Tensor:
        gate, up = self._apply(x, f"{name} fc1").chunk(2, -1)
        return self._apply(functional.silu(gate) * up, f"{name} fc2")

    def _experts(self, x: Tensor) -> Tensor:
        if "layernorm" in self.recompute and "moe" in self.recompute:
            return self._run("moe", lambda y: self._moe(self._norm(y, "ffn")), x)
        return self._run("moe", self._moe, self._norm(x, "ffn"))

    def _moe(self, x: Tensor) -> Tensor:
        """Router, permutation without a fused kernel (megatron/core/.../moe_utils.py), experts one by one."""
        a, n = self.a, len(x)
        logits = self._apply(x, "router").float()
        scores, for_balance = torch.softmax(logits, -1), torch.softmax(logits, -1)
        top, chosen = torch.topk(scores, a.num_experts_per_tok, -1)
        probabilities = torch.zeros_like(scores).scatter(1, chosen, top).T.contiguous()
        routing = torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True).T.contiguous()
        order = torch.arange(n).expand(a.num_experts, n).masked_select(routing)
        rows = x.index_select(0, order)
        weights = probabilities.masked_select(routing)
        outputs, start = [], 0
        for expert, count in enumerate(routing.sum(1).tolist()):
            wide = self._apply(rows[start : start + count], f"expert {expert} fc1")
            parts = wide, weights[start : start + count, None]
            outputs.append(self._run("moe_act", lambda y, p, e=expert: self._second(y, p, e), *parts))
            start += count
        output = torch.zeros_like(x).scatter_add(0, order[:, None].expand(-1, a.hidden_size), torch.cat(outputs))
        if a.shared_expert_intermediate_size:
            output = output + self._run("shared_experts", lambda y: self._swiglu(y, "shared"), x)
        return output + for_balance.mean(0).sum().to(DTYPE)

    def _second(self, wide: Tensor, weight: Tensor, expert: int) -> Tensor:
        gate, up = wide.chunk(2, -1)
        return self._apply((functional.silu(gate) * up * weight).to(DTYPE), f"expert {expert} fc2")


def _rotated(x: Tensor) -> Tensor:
    """Rotary embedding with fixed angles: products with constants keep only the constants (here scalars: nothing)."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * 0.6 - second * 0.8, second * 0.6 + first * 0.8], -1)


def _core(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Flash attention of torch's CPU kernels, causal; tokens first in and out."""
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    found = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return found[0].transpose(0, 1).reshape(query.shape[2], -1)
