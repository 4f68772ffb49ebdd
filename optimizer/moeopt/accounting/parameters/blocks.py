"""The tensors of feed-forward blocks: dense ones, and routed experts with their router and shared experts.

Megatron-Core 0.20.0: transformer/mlp.py, transformer/moe/{router,experts,shared_experts,moe_layer}.py.
"""

from collections.abc import Iterator
from dataclasses import replace

from moeopt.accounting.parameters.tensor import Component, Parameter, matrix, norm
from moeopt.problem.architecture import Architecture
from moeopt.problem.layer_kind import LayerKind


def block_parameters(architecture: Architecture, kind: LayerKind) -> Iterator[Parameter]:
    """Those of one layer, with the norm before it."""
    if kind.ffn == "moe":
        yield from norm(architecture, "pre_mlp_layernorm.", architecture.hidden_size)
        yield from _moe(architecture)
    elif kind.ffn == "dense":
        yield from norm(architecture, "mlp.linear_fc1.layer_norm_", architecture.hidden_size)
        yield from _mlp(architecture, "mlp.", "dense_mlp", architecture.intermediate_size, architecture.hidden_size)


def _mlp(architecture: Architecture, name: str, component: Component, width: int, hidden: int) -> Iterator[Parameter]:
    """A dense block or the shared experts (one wide block): two linears, the first of twice the width when gated."""
    first = (2 if architecture.gated else 1) * width
    yield matrix(f"{name}linear_fc1.weight", component, first, hidden, "tensor")
    if architecture.mlp_bias:
        yield Parameter(f"{name}linear_fc1.bias", component, first, "tensor")
    yield matrix(f"{name}linear_fc2.weight", component, hidden, width, "tensor")
    if architecture.mlp_bias:
        yield Parameter(f"{name}linear_fc2.bias", component, hidden, "replicated")


def _moe(architecture: Architecture) -> Iterator[Parameter]:
    hidden, experts = architecture.hidden_size, architecture.num_experts
    yield matrix("mlp.router.weight", "router", experts, hidden, "replicated")
    if architecture.router_bias:
        yield Parameter("mlp.router.bias", "router", experts, "replicated")
    if architecture.router_correction_bias:
        yield Parameter("mlp.router.expert_bias", "router", experts, "replicated", trainable=False)
    yield from _latent_projections(architecture)
    width, seen = architecture.moe_intermediate_size, architecture.expert_hidden_size
    for parameter in _mlp(architecture, "mlp.experts.", "routed_experts", width, seen):
        yield replace(parameter, sharding="expert", copies=experts, split=parameter.sharding == "tensor")
    if architecture.shared_expert_intermediate_size:
        name = "mlp.shared_experts."
        if architecture.shared_expert_gate:
            yield matrix(f"{name}gate_weight", "shared_experts", 1, hidden, "replicated")
        yield from _mlp(architecture, name, "shared_experts", architecture.shared_expert_intermediate_size, hidden)


def _latent_projections(architecture: Architecture) -> Iterator[Parameter]:
    """What takes tokens to the experts' width and back: whole on every rank (moe/moe_layer.py:265-304)."""
    hidden, latent = architecture.hidden_size, architecture.moe_latent_size
    for name, width, seen in (("fc1", latent, hidden), ("fc2", hidden, latent)) if latent else ():
        yield matrix(f"mlp.{name}_latent_proj.weight", "routed_experts", width, seen, "replicated")
        if architecture.mlp_bias:
            yield Parameter(f"mlp.{name}_latent_proj.bias", "routed_experts", width, "replicated")
