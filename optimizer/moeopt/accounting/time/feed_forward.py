"""Feed-forward blocks: dense MLP, routed experts and shared experts; their products and their memory-bound bytes."""

from dataclasses import replace

from moeopt.accounting.time.gemm import Products, product
from moeopt.accounting.time.tokens import Tokens, fused_experts
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import FLEX_DISPATCHERS, Choices, Degrees
from moeopt.problem.architecture import Architecture
from moeopt.problem.problem import Problem


def _matrices(architecture: Architecture) -> int:
    return 3 if architecture.gated else 2


def _activation_bytes(architecture: Architecture) -> int:
    """Bytes a row and a unit of width that the activation reads and writes: 2 + 2 read, 2 written when gated."""
    return 6 if architecture.gated else 4


def _block(architecture: Architecture, rows: Number, width: Number, hidden: int) -> Products:
    """Up (and gate) projection as one product, and the down projection."""
    return product(rows, (_matrices(architecture) - 1) * width, hidden) + product(rows, hidden, width)


def mlp(architecture: Architecture, tokens: Tokens, width: Number) -> Products:
    """Products of a dense or shared block of that local width."""
    return _block(architecture, tokens.attention, width, architecture.hidden_size)


def mlp_activation_bytes(architecture: Architecture, tokens: Tokens, width: Number) -> Number:
    """Forward bytes of its activation."""
    return tokens.attention * width * _activation_bytes(architecture)


def mlp_quantized(architecture: Architecture, tokens: Tokens, width: Number) -> tuple[Number, Number]:
    """Elements that fp8 recipes quantise: inputs, and gradients of outputs."""
    up = _matrices(architecture) - 1
    return tokens.attention * (width + architecture.hidden_size), tokens.attention * (
        width * up + architecture.hidden_size
    )


def dense_width(architecture: Architecture, degrees: Degrees) -> Number:
    """Local width of the dense block."""
    return ceil_div(architecture.intermediate_size, degrees.tp)


def shared_width(architecture: Architecture, degrees: Degrees) -> Number:
    """Local width of the shared experts."""
    return ceil_div(architecture.shared_expert_intermediate_size, degrees.tp)


def experts(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Products:
    """Products of the routed experts on one GPU."""
    width = ceil_div(architecture.moe_intermediate_size, degrees.etp)
    all_rows = _block(architecture, tokens.expert_rows, width, architecture.expert_hidden_size)
    return replace(all_rows, weights=all_rows.weights * tokens.local_experts)


def expert_activation_bytes(problem: Problem, tokens: Tokens, degrees: Degrees, choices: Choices) -> Number:
    """Forward bytes of the experts' activation; 0.6 of them where quantisation is fused into it (assumed)."""
    architecture = problem.architecture
    width = ceil_div(architecture.moe_intermediate_size, degrees.etp)
    full = tokens.expert_rows * width * _activation_bytes(architecture)
    return ceil_div(full * 3, 5) if fused_experts(problem, choices) else full


def expert_quantized(problem: Problem, tokens: Tokens, degrees: Degrees, choices: Choices) -> tuple[Number, Number]:
    """Elements that fp8 recipes quantise: inputs, and gradients of outputs; half of them where the fused grouped MLP
    of full-iteration graphs quantises while it computes (assumed)."""
    architecture = problem.architecture
    width = ceil_div(architecture.moe_intermediate_size, degrees.etp)
    seen = architecture.expert_hidden_size
    inputs = tokens.expert_rows * (seen + width)
    gradients = tokens.expert_rows * (seen + width * (_matrices(architecture) - 1))
    if fused_experts(problem, choices):
        return ceil_div(inputs, 2), ceil_div(gradients, 2)
    return inputs, gradients


def latent(architecture: Architecture, tokens: Tokens) -> Products:
    """Products of the projections to the experts' width and back, whole on every rank; none without them."""
    width, hidden = architecture.moe_latent_size, architecture.hidden_size
    if not width:
        return Products()
    return product(tokens.local, width, hidden) + product(tokens.local, hidden, width)


def latent_quantized(architecture: Architecture, tokens: Tokens) -> Number:
    """Elements that fp8 recipes quantise for them: their inputs, and as many gradients of their outputs."""
    width = architecture.moe_latent_size
    return tokens.local * (architecture.hidden_size + width) if width else 0


def router(architecture: Architecture, tokens: Tokens) -> Products:
    """The router's product; bf16 (or fp32) in every recipe."""
    return product(tokens.local, architecture.num_experts, architecture.hidden_size)


def routing_bytes(architecture: Architecture, tokens: Tokens, choices: Choices) -> Number:
    """Forward bytes of routing: norm, residual and router input 10 T h, fp32 scores 16 T E, and the permutations:
    2 bytes an element of the routed rows four times with NCCL's dispatcher, three times with the fused ones."""
    passes = 3 if choices.dispatcher in FLEX_DISPATCHERS else 4
    glue = tokens.local * (10 * architecture.hidden_size + 16 * architecture.num_experts)
    return glue + tokens.routed * (2 * passes * architecture.expert_hidden_size)


def dense_bytes(architecture: Architecture, tokens: Tokens) -> Number:
    """Forward bytes around a dense block: norm and residual, 10 T h."""
    return tokens.local * (10 * architecture.hidden_size)
