"""Tensors that a Mamba-2 layer keeps for its backward pass.

Sources: megatron/core/ssm/mamba_mixer.py:514-523, 679-733 of Megatron-LM d98e8a6 (the memory-efficient path, which
training takes; norm and output projection stand outside it); mamba-ssm 2.3.2, ops/triton/ssd_combined.py:883 (what its
function saves: the projection and the scan's output; convolution, steps and states are computed again) and
layernorm_gated.py:360. No recorded peak tests this list, and no recompute module reaches it but full recompute.
Under context parallelism every rank scans all tokens of fewer heads, and at least one group of B and C.
Ignored: vectors a head or channel, sequence indices.
"""

from moeopt.accounting.memory.activations_attention import norm_statistics
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor
from moeopt.problem.problem import Problem

_MIXER = "megatron/core/ssm/mamba_mixer.py"
_SCAN = "mamba-ssm, ops/triton/ssd_combined.py: save_for_backward"
_TE = "Transformer Engine, module/layernorm_linear.py: saved tensors"


def mamba_tensors(problem: Problem, sizes: Symbols) -> list[TensorBytes]:
    """Everything from the layer's input to the input of the output projection, for one micro-batch."""
    statistics, quantized = norm_statistics(problem), sizes.quantized
    normed, output = ("T*h", "A*mamba_inner") if quantized else ("2*T*h", "2*A*mamba_inner")
    return [
        tensor(sizes, "layer input (residual)", "2*T*h", (), "megatron/core/ssm/mamba_layer.py"),
        tensor(sizes, "projection input (normed)", normed, (), _TE, quantized=quantized),
        tensor(sizes, "input norm statistics", f"{statistics}*T", (), _TE),
        tensor(sizes, "gate and heads before the convolution", "4*A*mamba_inner", (), _SCAN),
        tensor(sizes, "steps", "2*A*mamba_heads", (), _SCAN),
        tensor(sizes, "B and C before the convolution", "4*batch*s*mamba_groups*mamba_states", (), _SCAN),
        tensor(sizes, "scan's output before its gate", "2*A*mamba_inner", (), _SCAN),
        tensor(sizes, "gated output", "2*A*mamba_inner", (), f"{_MIXER}: norm keeps its input"),
        tensor(sizes, "output norm statistics", "4*A*mamba_groups", (), _MIXER),
        tensor(sizes, "normed output (projection input)", output, (), _TE, quantized=quantized),
    ]
