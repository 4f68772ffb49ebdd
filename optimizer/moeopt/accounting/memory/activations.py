"""What one piece keeps for one micro-batch: the list behind every activation byte."""

from itertools import chain

from moeopt.accounting.memory.activations_attention import attention_tensors
from moeopt.accounting.memory.activations_delta_net import delta_net_tensors
from moeopt.accounting.memory.activations_ffn import dense_tensors, moe_tensors
from moeopt.accounting.memory.activations_mamba import mamba_tensors
from moeopt.accounting.memory.activations_sparse import sparse_tensors
from moeopt.accounting.memory.graphs import static_inputs
from moeopt.accounting.memory.recipe import DEFAULT_RECIPE, Recipe
from moeopt.accounting.memory.symbols import Symbols, symbols
from moeopt.accounting.memory.tensors import TensorBytes, tensor, with_numbers
from moeopt.accounting.pieces import Piece, is_recomputed
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Choices, Degrees, Recompute
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

_MTP = "megatron/core/transformer/multi_token_prediction.py"


def all_tensors(problem: Problem, sizes: Symbols, piece: Piece, choices: Choices, recipe: Recipe) -> list[TensorBytes]:
    """Tensors of one piece with nothing recomputed (an "embedding" keeps its token ids; a "loss" keeps nothing in
    flight: all of it lives and dies between the last forward and the first backward, see transients.py)."""
    if isinstance(piece, LayerKind):
        attention = layer_attention(problem, sizes, piece, recipe) + static_inputs(sizes, piece, choices)
        return attention + layer_ffn(problem, sizes, piece, choices, recipe)
    if piece == "mtp":
        own = sizes.of_mtp(problem)
        inside = [all_tensors(problem, own, kind, choices, recipe) for kind in problem.architecture.mtp_kinds]
        return [*_mtp_entry(own), *chain.from_iterable(inside)]
    if piece == "embedding":
        ids = [tensor(sizes, "token ids", "8*A", (), "megatron/core/tensor_parallel/layers.py")]
        mask = [tensor(sizes, "dropout mask of the embedding", "T*h", (), "language_model_embedding.py")]
        return ids + (mask if recipe.hidden_dropout else [])
    return []


def layer_attention(problem: Problem, sizes: Symbols, kind: LayerKind, recipe: Recipe) -> list[TensorBytes]:
    """The attention half of a layer, or what stands in for it."""
    own = sizes.of_layer(kind)
    return own.once((kind.mixer, recipe), lambda: _mixer(problem, own, kind, recipe))


def _mixer(problem: Problem, sizes: Symbols, kind: LayerKind, recipe: Recipe) -> list[TensorBytes]:
    if kind.mixer == "delta_net":
        return delta_net_tensors(problem, sizes)
    if kind.mixer == "mamba":
        return mamba_tensors(problem, sizes)
    if kind.mixer == "none":
        return []
    if problem.architecture.has_indexer:
        return sparse_tensors(problem, sizes)
    return attention_tensors(problem, sizes, recipe)


def layer_ffn(problem: Problem, sizes: Symbols, kind: LayerKind, choices: Choices, recipe: Recipe) -> list[TensorBytes]:
    """The feed-forward half of a layer."""
    own = sizes.of_layer(kind)
    if kind.ffn == "moe":
        return own.once((choices, recipe), lambda: moe_tensors(problem, own, choices, recipe))
    if kind.ffn == "none":
        return []
    return own.once((kind.ffn, recipe), lambda: dense_tensors(problem, own, recipe))


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
    keeps both of its inputs."""
    layer_input = 2 * sizes.T * sizes.h
    if not is_recomputed(piece, choices.recompute) or piece in ("embedding", "loss"):
        return kept
    return 2 * layer_input if piece == "mtp" else ceil_div(layer_input, unit_layers(choices.recompute))


def unit_layers(recompute: Recompute) -> int:
    """Layers that full recompute computes again at once: a unit with method uniform, one with block."""
    return 1 if recompute.block_layers else recompute.num_layers or 1


def without_recompute(choices: Choices) -> Choices:
    """The same choices with nothing recomputed."""
    return choices.model_copy(update={"recompute": type(choices.recompute)()})
