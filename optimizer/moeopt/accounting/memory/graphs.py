"""What CUDA graphs of layers hold beside what the layers keep anyway (`cuda_graphs` router or attention).

Transformer Engine captures each layer once for every micro-batch in flight, and all graphs allocate from one pool that
nothing else uses (transformer_engine/pytorch/graph.py, _make_graphed_callables). What that costs:

- static inputs, one set a captured layer in flight (megatron/core/transformer/cuda_graphs.py, _get_sample_arguments).
  The hidden states take the place of the input that a layer keeps anyway; a layer with attention also gets a mask of
  batch * s * s/c bytes (transformer_layer.py, get_layer_static_inputs), which a fresh one of zeros is copied into;
- with pp > 1 the schedule still holds the tensor that a chunk received, beside the copy;
- the gradients of the graphs' outputs, one set a list of shapes;
- what passes during captured attention: a pool of its own cannot be lent to the rest of the layer.

What the driver holds for the nodes of graphs is part of the overhead. Whole iterations under one graph need none of
this. Ignored: what passes in a captured router.
"""

from moeopt.accounting.launches import captures_attention, captures_router
from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor
from moeopt.arithmetic import Number, where
from moeopt.layout import Choices
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem


def static_inputs(sizes: Symbols, kind: LayerKind, choices: Choices) -> list[TensorBytes]:
    """What the graph of a layer in flight takes beyond the hidden states (a Mamba layer takes no mask)."""
    if not captures_attention(choices) or kind.mixer in ("mamba", "none"):
        return []
    source = "megatron/core/transformer/transformer_layer.py"
    return [tensor(sizes, "mask that attention's graph takes", "batch*s*s_local", (), source, width=1)]


def received_bytes(sizes: Symbols, choices: Choices) -> Number:
    """What a chunk in flight holds: the tensor that it received, where its first layer keeps a copy."""
    return where(sizes.pp > 1, 2 * sizes.T * sizes.h, 0) if captures_attention(choices) else 0


def layer_parts(sizes: Symbols, choices: Choices, passing: Number) -> dict[str, Number]:
    """What graphs hold once a stage that has a layer. `passing`: most bytes that pass in what mixes tokens."""
    if not captures_attention(choices):
        return {}
    return {
        "gradient of what attention's graphs return": 2 * sizes.T * sizes.h,
        "what passes inside attention's graphs": passing,
    }


def router_parts(problem: Problem, sizes: Symbols, choices: Choices) -> dict[str, Number]:
    """What graphs hold once a stage that has a router: gradients of the tokens, of their probabilities (fp32), of the
    residual and of the shared experts' output (moe_utils.py, get_early_return_outputs)."""
    if not captures_router(choices):
        return {}
    outputs = 3 if problem.architecture.shared_expert_intermediate_size else 2
    return {"gradients of what router graphs return": 2 * sizes.T * sizes.h * outputs + 4 * sizes.T * sizes.E}
