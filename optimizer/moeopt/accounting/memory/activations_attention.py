"""Tensors that attention keeps for its backward pass: grouped-query (or multi-head), and multi-head latent.

Sources: megatron/core/transformer/attention.py and multi_latent_attention.py (what is an input of which operator),
Transformer Engine's fused norm+linear (keeps its input, the norm's output in the form the GEMM reads, and one
statistic a row). The lists reproduce SimuMax's measured peaks (benchmarks/memory.py).
Ignored: dropout's random states, sequence-length index tensors, rotary factors a layer (all below 1 MiB).
"""

from moeopt.accounting.memory.recipe import Recipe
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor
from moeopt.layout import OffloadModule
from moeopt.problem.problem import Problem

_TE = "Transformer Engine, module/layernorm_linear.py: saved tensors"
_CORE = "Transformer Engine, fused attention: saves q, k, v, output and the log-sum-exp"
_MLA = "megatron/core/transformer/multi_latent_attention.py"


def attention_tensors(problem: Problem, sizes: Symbols, recipe: Recipe) -> list[TensorBytes]:
    """Everything from the layer's input to the input of the output projection, for one micro-batch."""
    # The input is saved by the first operator that reads it: MLA's own norm, or the linear that a norm is fused into.
    first: OffloadModule = "attn_norm" if problem.architecture.is_mla else "qkv_linear"
    source = "megatron/core/transformer/transformer_layer.py"
    entry = [tensor(sizes, "layer input (residual)", "2*T*h", (), source, offload=first)]
    projected = _latent(problem, sizes) if problem.architecture.is_mla else _grouped(problem, sizes)
    mask = (
        [tensor(sizes, "dropout mask after attention", "T*h", (), "bias_dropout_add")] if recipe.hidden_dropout else []
    )
    return entry + projected + _core(problem, sizes, recipe) + mask


def norm_statistics(problem: Problem) -> int:
    """Bytes a row: RMSNorm keeps the reciprocal deviation, LayerNorm also the mean (fp32 each)."""
    return 4 if problem.architecture.norm == "rmsnorm" else 8


def _grouped(problem: Problem, sizes: Symbols) -> list[TensorBytes]:
    statistics = norm_statistics(problem)
    quantized = sizes.quantized
    found = [
        tensor(
            sizes,
            "QKV input (normed)",
            "T*h" if quantized else "2*T*h",
            (),
            _TE,
            quantized=quantized,
            offload="qkv_linear",
        ),
        tensor(sizes, "input norm statistics", f"{statistics}*T", (), _TE),
        tensor(sizes, "query", "2*A*heads*qk", (), _CORE, offload="core_attn"),
        tensor(sizes, "key", "2*A*groups*qk", (), _CORE, offload="core_attn"),
        tensor(sizes, "value", "2*A*groups*dv", (), _CORE, offload="core_attn"),
    ]
    if problem.architecture.qk_norm != "none":
        source = "megatron/core/transformer/attention.py: q_layernorm and k_layernorm keep their inputs"
        found += [
            tensor(sizes, "query norm input", "2*A*heads*qk", (), source, offload="qkv_linear"),
            tensor(sizes, "key norm input", "2*A*groups*qk", (), source, offload="qkv_linear"),
            tensor(sizes, "query norm statistics", f"{statistics}*A*heads", (), source),
            tensor(sizes, "key norm statistics", f"{statistics}*A*groups", (), source),
        ]
    return found


def _latent(problem: Problem, sizes: Symbols) -> list[TensorBytes]:
    """MLA: the input norm is a module of its own; the norms of the compressed states are fused into the
    up-projections, so they fall inside the `mla_up_proj` checkpoint (gpt_layer_specs.py:286-310)."""
    statistics = norm_statistics(problem)
    quantized = sizes.quantized
    found = [
        tensor(
            sizes,
            "attention input (normed)",
            "2*T*h",
            ("layernorm",),
            f"{_MLA}: shared by both down-projections",
            offload="qkv_linear",
        ),
        tensor(sizes, "input norm statistics", f"{statistics}*T", ("layernorm",), _TE),
    ]
    if sizes.quantized:
        copies = 2 if problem.architecture.q_lora_rank else 1
        found[0] = tensor(
            sizes,
            "attention input (8-bit copies)",
            f"{copies}*T*h",
            ("layernorm",),
            f"{_MLA}: one a linear",
            quantized=True,
            offload="qkv_linear",
        )
    if problem.architecture.q_lora_rank:
        found += [
            tensor(sizes, "compressed query", "2*T*rq", (), _MLA, offload="qkv_linear"),
            tensor(
                sizes,
                "compressed query (normed)",
                "T*rq" if quantized else "2*T*rq",
                ("mla_up_proj",),
                _TE,
                quantized=quantized,
                offload="qkv_linear",
            ),
            tensor(sizes, "compressed query norm statistics", f"{statistics}*T", ("mla_up_proj",), _TE),
        ]
    else:
        found += _second_norm(sizes, statistics)
    found += [
        tensor(sizes, "compressed key-value and rotary key", "2*T*kv_down", (), _MLA, offload="qkv_linear"),
        tensor(
            sizes,
            "compressed key-value (normed)",
            "T*rk" if quantized else "2*T*rk",
            ("mla_up_proj",),
            _TE,
            quantized=quantized,
            offload="qkv_linear",
        ),
        tensor(sizes, "compressed key-value norm statistics", f"{statistics}*T", ("mla_up_proj",), _TE),
        tensor(sizes, "query", "2*A*heads*qk", ("mla_up_proj",), _MLA, offload="core_attn"),
        tensor(sizes, "key (one a head)", "2*A*heads*qk", ("mla_up_proj",), _MLA, offload="core_attn"),
        tensor(sizes, "value", "2*A*heads*dv", ("mla_up_proj",), _MLA, offload="core_attn"),
    ]
    return found


def _second_norm(sizes: Symbols, statistics: int) -> list[TensorBytes]:
    """Without a query latent Megatron-Core 0.20.0 fuses a norm into the query projection, inside the `mla_up_proj`
    checkpoint (multi_latent_attention.py, _resolve_qk_norm_config): it keeps its own normed input and statistics, and,
    where linears keep 8-bit copies, the 16-bit attention input that it normalises."""
    quantized, name = sizes.quantized, "query projection input (normed again)"
    found = [
        tensor(
            sizes,
            name,
            "T*h" if quantized else "2*T*h",
            ("mla_up_proj",),
            _TE,
            quantized=quantized,
            offload="qkv_linear",
        ),
        tensor(sizes, "query projection norm statistics", f"{statistics}*T", ("mla_up_proj",), _TE),
    ]
    if quantized:
        found.append(tensor(sizes, "attention input (normed)", "2*T*h", ("layernorm",), _MLA))
    return found


def _core(problem: Problem, sizes: Symbols, recipe: Recipe) -> list[TensorBytes]:
    """Softmax(QK)V. The output is the input of the projection (which keeps the same tensor in 8-bit training too:
    multi_latent_attention.py:235-251), so it is there once."""
    found = [tensor(sizes, "attention output", "2*A*heads*dv", (), _CORE, offload="attn_proj")]
    if problem.architecture.attention_output_gate:
        source = "megatron/core/transformer/attention.py: _apply_output_gate keeps its inputs"
        found += [
            tensor(sizes, "output gate", "2*A*heads*dv", (), source),
            tensor(sizes, "attention output (gated)", "2*A*heads*dv", (), source),
        ]
    if recipe.context_exchange == "a2a":
        before = tensor(
            sizes, "attention output before its exchange", "2*A*heads*dv", (), "Transformer Engine >= 2.8, a2a"
        )
        found.append(TensorBytes(before.name, before.bytes * (sizes.c > 1), before.arithmetic, (), before.source))
    if problem.workload.attention_backend == "fused":
        found.append(
            tensor(
                sizes, "log-sum-exp of the softmax", "4*A*heads", ("core_attn",), _CORE, offload="core_attn", width=4
            )
        )
        return found
    source = "megatron/core/transformer/dot_product_attention.py: no flash kernel"
    found.append(
        tensor(sizes, "softmax probabilities", "2*batch*heads*s*s_local", ("core_attn",), source, offload="core_attn")
    )
    if recipe.attention_dropout:
        found.append(
            tensor(
                sizes, "dropped probabilities", "2*batch*heads*s*s_local", ("core_attn",), source, offload="core_attn"
            )
        )
        found.append(
            tensor(sizes, "dropout mask", "batch*heads*s*s_local", ("core_attn",), source, offload="core_attn", width=1)
        )
    return found
