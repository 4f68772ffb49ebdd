"""The parameter tensors of every piece, in the order in which Megatron registers them, and what they sum to.

The tensors are those of Hugging Face's implementations (so that totals agree with published sizes), fused and ordered
as Megatron-Core 0.20.0's Transformer Engine layers register them: megatron/core/models/gpt/gpt_layer_specs.py
(norms fused into the linears that follow), transformer/{attention,multi_latent_attention,mlp}.py,
transformer/moe/{router,experts,shared_experts,moe_layer}.py, transformer/multi_token_prediction.py. Order matters only
to the buckets of `moeopt.accounting.buffers`.
"""

from moeopt.accounting.parameters.pieces import final_norm, piece_parameters
from moeopt.accounting.parameters.sizes import LayerCount, ParameterCount, count
from moeopt.accounting.parameters.tensor import COMPONENTS, Component, Parameter

__all__ = [
    "COMPONENTS",
    "Component",
    "LayerCount",
    "Parameter",
    "ParameterCount",
    "count",
    "final_norm",
    "piece_parameters",
]
