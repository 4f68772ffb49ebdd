"""Tensors that a gated delta net keeps for its backward pass.

Sources: megatron/core/ssm/gated_delta_net/{common,gdn}.py of Megatron-LM d98e8a6 (what is an input of which operator);
flash-linear-attention 0.6.0, ops/gated_delta_rule/chunk.py (what its autograd functions save; they make views
contiguous). No recorded peak tests this list. The projection's output is counted whole, as views of it are saved.
Under context parallelism every rank has all tokens of fewer heads: the same products.
Ignored: convolution states at sequence ends, scalars a chunk, sequence indices.
"""

from moeopt.accounting.memory.activations_attention import norm_statistics
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor
from moeopt.problem.problem import Problem

_NET = "megatron/core/ssm/gated_delta_net/common.py"
_RULE = "flash-linear-attention, ops/gated_delta_rule/chunk.py: save_for_backward"
_TE = "Transformer Engine, module/layernorm_linear.py: saved tensors"


def delta_net_tensors(problem: Problem, sizes: Symbols) -> list[TensorBytes]:
    """Everything from the layer's input to the input of the output projection, for one micro-batch."""
    statistics, quantized = norm_statistics(problem), sizes.quantized
    output = "A*lv" if quantized else "2*A*lv"
    return [
        tensor(sizes, "layer input (residual)", "2*T*h", (), "megatron/core/transformer/transformer_layer.py"),
        tensor(sizes, "projection input (normed)", "T*h" if quantized else "2*T*h", (), _TE, quantized=quantized),
        tensor(sizes, "input norm statistics", f"{statistics}*T", (), _TE),
        tensor(sizes, "queries, keys, values and gates", "2*A*lin", (), f"{_NET}: the gates are views of it"),
        tensor(sizes, "queries and keys before the convolution", "4*A*lqk", (), f"{_NET}: conv1d keeps its input"),
        tensor(sizes, "values before the convolution", "2*A*lv", (), f"{_NET}: conv1d keeps its input"),
        tensor(sizes, "queries and keys after the convolution", "4*A*lqk", (), f"{_NET}: l2norm keeps its input"),
        tensor(sizes, "values after the convolution", "2*A*lv", (), f"{_NET}: one tensor with queries and keys"),
        tensor(sizes, "query, repeated for every value head", "2*A*lk", (), _RULE),
        tensor(sizes, "key, repeated for every value head", "2*A*lk", (), _RULE),
        tensor(sizes, "value", "2*A*lv", (), _RULE),
        tensor(sizes, "log-decay and write strength", "6*A*lheads", (), _RULE),
        tensor(sizes, "products of keys within 64 tokens", "128*A*lheads", (), _RULE),
        tensor(sizes, "delta rule's output", "2*A*lv", (), f"{_NET}: out_norm keeps its input"),
        tensor(sizes, "output norm statistics", f"{statistics}*A*lheads", (), _NET),
        tensor(sizes, "normed output", "2*A*lv", (), f"{_NET}: multiplied by the gate"),
        tensor(sizes, "output gate", "2*A*lv", (), f"{_NET}: a contiguous copy"),
        tensor(sizes, "gated output (projection input)", output, (), _TE, quantized=quantized),
    ]
