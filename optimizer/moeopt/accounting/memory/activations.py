"""What one piece keeps for one micro-batch: the list behind every activation byte."""

from moeopt.accounting.memory.activations_attention import attention_tensors
from moeopt.accounting.memory.activations_ffn import dense_tensors, moe_tensors
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE, Recipe
from moeopt.accounting.memory.symbols import Symbols, symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor, with_numbers
from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Choices, Degrees
from moeopt.problem.architecture import LayerKind
from moeopt.problem.problem import Problem

_MTP = "megatron/core/transformer/multi_token_prediction.py"


def all_tensors(problem: Problem, sizes: Symbols, piece: Piece, choices: Choices, recipe: Recipe) -> list[TensorBytes]:
    """Tensors of one piece with nothing recomputed (an "embedding" keeps its token ids; a "loss" keeps nothing in
    flight: all of it lives and dies between the last forward and the first backward, see transients.py)."""
    if isinstance(piece, LayerKind):
        return layer_attention(problem, sizes, recipe) + layer_ffn(problem, sizes, piece, choices, recipe)
    if piece == "mtp":
        return _mtp_entry(sizes) + all_tensors(problem, sizes, problem.architecture.mtp_kind, choices, recipe)
    if piece == "embedding":
        ids = [tensor(sizes, "token ids", "8*A", (), "megatron/core/tensor_parallel/layers.py")]
        mask = [tensor(sizes, "dropout mask of the embedding", "T*h", (), "language_model_embedding.py")]
        return ids + (mask if recipe.hidden_dropout else [])
    return []


def layer_attention(problem: Problem, sizes: Symbols, recipe: Recipe) -> list[TensorBytes]:
    """The attention half of a layer."""
    return attention_tensors(problem, sizes, recipe)


def layer_ffn(problem: Problem, sizes: Symbols, kind: LayerKind, choices: Choices, recipe: Recipe) -> list[TensorBytes]:
    """The feed-forward half of a layer."""
    if kind.ffn == "moe":
        return moe_tensors(problem, sizes, choices, recipe)
    return dense_tensors(problem, sizes, recipe)


def _mtp_entry(sizes: Symbols) -> list[TensorBytes]:
    """Before an MTP module's layer: both norms keep their inputs, the projection keeps the concatenation."""
    return [
        tensor(sizes, "embedding of the next token", "2*T*h", (), _MTP),
        tensor(sizes, "hidden state of the depth before", "2*T*h", (), _MTP),
        tensor(sizes, "concatenation (projection input)", "4*T*h", (), _MTP),
    ]


def kept_tensors(
    problem: Problem,
    piece: Piece,
    degrees: Degrees,
    choices: Choices,
    recipe: Recipe = DEFAULT_RECIPE,
) -> list[TensorBytes]:
    """Tensors that one piece keeps for one in-flight micro-batch on one GPU, without those that selective recomputation
    drops or that offloading moves to the host, each with its arithmetic in letters and numbers (for one layout:
    integers). Under full recomputation this is the list of a layer that is not recomputed."""
    sizes = symbols(problem, degrees, choices)
    tensors = all_tensors(problem, sizes, piece, choices, recipe)
    kept = [item for item in tensors if item.kept_under(choices) and not item.host_bytes(choices)]
    return [with_numbers(sizes, item) for item in kept]


def recomputed_bytes(sizes: Symbols, piece: Piece, choices: Choices, kept: Number) -> Number:
    """What a piece keeps where full recomputation covers it: a layer's input, one for each group of `num_layers`
    layers with method uniform (megatron/core/transformer/transformer_block.py, _checkpointed_forward). An MTP module
    keeps both of its inputs; method block skips MTP modules (multi_token_prediction.py)."""
    layer_input = 2 * sizes.T * sizes.h
    if choices.recompute.granularity != "full" or piece in ("embedding", "loss"):
        return kept
    if piece == "mtp":
        return kept if choices.recompute.method == "block" else 2 * layer_input
    group = choices.recompute.num_layers if choices.recompute.method == "uniform" else 1
    return ceil_div(layer_input, group or 1)


def without_recompute(choices: Choices) -> Choices:
    """The same choices with nothing recomputed."""
    return choices.model_copy(update={"recompute": type(choices.recompute)()})
