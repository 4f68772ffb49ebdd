"""Tensors that feed-forward blocks keep for their backward pass: dense, routed experts and shared experts.

Sources: megatron/core/transformer/mlp.py, moe/moe_layer.py, moe/router.py, moe/token_dispatcher.py, moe/experts.py
(probabilities are applied inside the activation, so the second GEMM's output is not kept: experts.py:943-1017; gated
activations and squared ReLU take them along in their kernel, GELU does not).
"""

from moeopt.accounting.memory.recipe import Recipe
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor
from moeopt.layout import Choices, RecomputeModule
from moeopt.problem.problem import Problem

_MLP = "megatron/core/transformer/mlp.py"
_ROUTER = "megatron/core/transformer/moe/router.py"
_DISPATCH = "megatron/core/transformer/moe/token_dispatcher.py"
_EXPERTS = "megatron/core/transformer/moe/experts.py"
_SHARED = "megatron/core/transformer/moe/shared_experts.py"


def _statistics(problem: Problem) -> str:
    return "4*T" if problem.architecture.norm == "rmsnorm" else "8*T"


def _mask(sizes: Symbols, recipe: Recipe) -> list[TensorBytes]:
    if not recipe.hidden_dropout:
        return []
    return [tensor(sizes, "dropout mask after the feed-forward block", "T*h", (), "bias_dropout_add")]


def dense_tensors(problem: Problem, sizes: Symbols, recipe: Recipe) -> list[TensorBytes]:
    """Dense block: its norm is fused into the first linear, so the `mlp` checkpoint drops the normed input too."""
    quantized = sizes.quantized
    drop: tuple[RecomputeModule, ...] = ("mlp",)
    found = [
        tensor(sizes, "feed-forward input (residual)", "2*T*h", (), _MLP),
        tensor(sizes, "fc1 input (normed)", "T*h" if quantized else "2*T*h", drop, _MLP, quantized=quantized),
        tensor(sizes, "feed-forward norm statistics", _statistics(problem), drop, _MLP),
        tensor(sizes, "fc1 output", "2*A*gate*f", drop, _MLP),
        tensor(sizes, "activation (fc2 input)", "A*f" if quantized else "2*A*f", drop, _MLP, quantized=quantized),
    ]
    return found + _mask(sizes, recipe)


def moe_tensors(problem: Problem, sizes: Symbols, choices: Choices, recipe: Recipe) -> list[TensorBytes]:
    """MoE block: residual, norm, router, dispatch, routed experts and shared experts."""
    entry = [
        tensor(sizes, "feed-forward input (residual)", "2*T*h", (), _MLP, offload="mlp_norm"),
        tensor(sizes, "MoE input (normed)", "2*T*h", ("layernorm",), "pre_mlp_layernorm: router, experts and shared"),
        tensor(sizes, "feed-forward norm statistics", _statistics(problem), ("layernorm",), "pre_mlp_layernorm"),
    ]
    return (
        entry
        + _router(sizes)
        + _dispatch(sizes, choices)
        + _experts(problem, sizes)
        + _shared(problem, sizes)
        + _mask(sizes, recipe)
    )


def _router(sizes: Symbols) -> list[TensorBytes]:
    """Scores for the choice and for the balancing loss are two fp32 matrices; then probabilities and the map."""
    return [
        tensor(sizes, "router scores (choice and balancing loss)", "8*T*E", ("moe",), _ROUTER),
        tensor(sizes, "router probabilities", "4*T*E", ("moe",), _ROUTER),
        tensor(sizes, "routing map", "T*E", ("moe",), _ROUTER),
    ]


def _dispatch(sizes: Symbols, choices: Choices) -> list[TensorBytes]:
    found = [tensor(sizes, "row map of the fused permutation", "4*T*row_map", ("moe",), _DISPATCH)]
    if choices.dispatcher == "allgather":
        found += [
            tensor(sizes, "gathered probabilities", "4*gathered*E", ("moe",), _DISPATCH),
            tensor(sizes, "gathered routing map", "gathered*E", ("moe",), _DISPATCH),
        ]
    return found


def _experts(problem: Problem, sizes: Symbols) -> list[TensorBytes]:
    quantized = sizes.quantized
    drop: tuple[RecomputeModule, ...] = ("moe",)
    rows = "R*he" if sizes.latent else "R*h"
    found = [
        *_latent(sizes),
        tensor(
            sizes,
            "routed fc1 input (sorted)",
            rows if quantized else f"2*{rows}",
            drop,
            _EXPERTS,
            quantized=quantized,
            offload="expert_fc1",
        ),
        tensor(sizes, "routed fc1 output", "2*R*gate*fe", drop, _EXPERTS, offload="moe_act"),
    ]
    if not problem.architecture.gated and not problem.architecture.fuses_squared_relu:
        found.append(
            tensor(
                sizes,
                "routed activation before its probability",
                "2*R*fe",
                ("moe", "moe_act"),
                _EXPERTS,
                offload="moe_act",
            )
        )
    elements = "R*fe" if quantized else "2*R*fe"
    found += [
        tensor(sizes, "routed activation (fc2 input)", elements, ("moe", "moe_act"), _EXPERTS, quantized=quantized),
        tensor(sizes, "probabilities of the rows", "4*R", drop, _EXPERTS, offload="moe_act", width=4),
    ]
    return found


def _latent(sizes: Symbols) -> list[TensorBytes]:
    """Inputs of the projections to the experts' width and back (moe_layer.py:488-493, 590-592); in 16 bits the first is
    the MoE input that the router keeps."""
    if not sizes.latent:
        return []
    drop: tuple[RecomputeModule, ...] = ("moe",)
    quantized, source = sizes.quantized, "megatron/core/transformer/moe/moe_layer.py"
    elements = "T*latent" if quantized else "2*T*latent"
    found = [tensor(sizes, "combined latent (fc2_latent_proj input)", elements, drop, source, quantized=quantized)]
    if quantized:
        found.append(tensor(sizes, "fc1_latent_proj input", "T*h", drop, source, quantized=True))
    return found


def _shared(problem: Problem, sizes: Symbols) -> list[TensorBytes]:
    """Shared experts. Their input is the MoE input, which the router keeps in 16 bits: fc1 saves that very tensor in
    8-bit recipes too, unless scaling is delayed (shared_experts.py, set_save_original_input)."""
    if not problem.architecture.shared_expert_intermediate_size:
        return []
    quantized = sizes.quantized
    drop: tuple[RecomputeModule, ...] = ("moe", "shared_experts")
    elements = "A*fs" if quantized else "2*A*fs"
    found = [
        tensor(sizes, "shared fc1 output", "2*A*gate*fs", drop, _SHARED),
        tensor(sizes, "shared activation (fc2 input)", elements, drop, _SHARED, quantized=quantized),
    ]
    if problem.architecture.shared_expert_gate:
        found.append(tensor(sizes, "shared output before its gate", "2*T*h", drop, _SHARED))
    return found
