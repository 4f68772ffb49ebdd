"""Tensors that sparse attention keeps for its backward pass: MLA whose keys an indexer chooses, absorbed.

Sources (Megatron-LM d98e8a6, megatron/core/transformer/experimental_attention_variant): absorbed_mla.py (what is an
input of which operator; the key up-projection is applied to the query, the value one to the output, by products with
views of their weight), dsa.py (the indexer, which reads detached, gathered inputs), dsa_cudnn_kernels.py:2100-2290
(FlashMLA forward, cuDNN backward; with the indexer's loss the forward pass computes the indexer's gradients and keeps
those). Heads fewer than 64 are padded to 64, and outputs stay views of the padded ones. No recorded peak tests this
list. Context parallelism gathers keys of all ranks. Recomputing core_attn repeats the indexer too; recomputing
mla_up_proj also drops the absorbed query.
Pessimistic by 2*A*rk: the normed key-value latent is counted where mla_up_proj is not recomputed, too.
"""

from moeopt.accounting.memory.activations_attention import norm_statistics
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor
from moeopt.layout import RecomputeModule
from moeopt.problem.problem import Problem

_MLA = "megatron/core/transformer/experimental_attention_variant/absorbed_mla.py"
_INDEXER = "megatron/core/transformer/experimental_attention_variant/dsa.py: DSAIndexer"
_KERNEL = "megatron/core/transformer/experimental_attention_variant/dsa_cudnn_kernels.py: save_for_backward"


def sparse_tensors(problem: Problem, sizes: Symbols) -> list[TensorBytes]:
    """Everything from the layer's input to the input of the output projection, for one micro-batch."""
    statistics = norm_statistics(problem)
    return [
        tensor(sizes, "layer input (residual)", "2*T*h", (), _MLA, offload="attn_norm"),
        tensor(sizes, "input norm statistics", f"{statistics}*T", ("layernorm",), _MLA),
        *_latents(sizes, statistics),
        tensor(sizes, "query", "2*A*heads*qk", ("mla_up_proj",), _MLA),
        tensor(sizes, "absorbed query", "2*A*heads*kv_down", ("mla_up_proj",), _MLA),
        tensor(sizes, "keys (latent and rotary part)", "2*A*kv_down", ("mla_up_proj",), _MLA),
        *_indexer(sizes),
        tensor(sizes, "keys of all context-parallel ranks", "2*other_keys*kv_down", ("core_attn",), _KERNEL),
        tensor(sizes, "chosen keys", "4*A*topk", ("core_attn",), _KERNEL, width=4),
        tensor(sizes, "latent output", "2*A*padded_heads*rk", ("core_attn",), _KERNEL),
        tensor(sizes, "log-sum-exp of the softmax", "4*A*padded_heads", ("core_attn",), _KERNEL, width=4),
        tensor(sizes, "attention output", "2*A*heads*dv", (), _MLA),
    ]


def _latents(sizes: Symbols, statistics: int) -> list[TensorBytes]:
    """Down-projections and their norms, which stand alone here."""
    quantized = sizes.quantized
    return [
        tensor(
            sizes,
            "attention input (normed)",
            "2*T*h",
            ("layernorm",),
            f"{_MLA}: shared by both down-projections, in 8 bits one copy each",
            quantized=quantized,
        ),
        tensor(sizes, "compressed query", "2*T*rq", (), _MLA),
        tensor(sizes, "compressed query (normed)", "T*rq" if quantized else "2*T*rq", (), _MLA, quantized=quantized),
        tensor(sizes, "compressed key-value and rotary key", "2*T*kv_down", (), _MLA),
        tensor(sizes, "compressed key-value (normed, gathered)", "2*A*rk", (), _MLA),
        tensor(sizes, "compressed norm statistics", f"{2 * statistics}*T", (), _MLA),
    ]


def _indexer(sizes: Symbols) -> list[TensorBytes]:
    """Inputs of its three projections (gathered over tensor-parallel ranks; in 8 bits a copy each), of its norm, and
    the gradients that its loss computes ahead."""
    quantized = sizes.quantized
    dropped: tuple[RecomputeModule, ...] = ("core_attn",)
    inputs, latents = ("2*A*h", "A*rq") if quantized else ("2*gathered_rows*h", "2*gathered_rows*rq")
    return [
        tensor(sizes, "indexer input", inputs, dropped, _INDEXER, quantized=quantized),
        tensor(sizes, "indexer query latent", latents, dropped, _INDEXER, quantized=quantized),
        tensor(sizes, "index key norm input", "2*A*index_dim", dropped, _INDEXER),
        tensor(sizes, "index key norm statistics", "8*A", dropped, _INDEXER, width=4),
        tensor(sizes, "gradient of the index queries", "2*A*index_width", dropped, _KERNEL),
        tensor(sizes, "gradient of the index keys", "2*batch*s*index_dim", dropped, _KERNEL),
        tensor(sizes, "gradient of the index weights", "2*A*index_heads", dropped, _KERNEL),
    ]
