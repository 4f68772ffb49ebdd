"""Parameter elements on one GPU, as Megatron-Core 0.20.0 shards them, per piece and exactly.

Shared out over tp: attention projections, dense blocks, shared experts, embedding and head (with the vocabulary
padded). Whole on every tensor-parallel rank: norms, router, shared-expert gate, MLA's down-projections, biases of
row-parallel linears. Routed experts: E/ep of them, each divided by etp. Sources: megatron/core/tensor_parallel/
layers.py, extensions/transformer_engine.py (TEGroupedLinear), models/gpt/gpt_model.py:173-179 (the embedding of an MTP
stage), training/vocab_utils.py:45-59 (padding of the vocabulary).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moeopt.accounting.parameters import Parameter, final_norm, piece_parameters
from moeopt.accounting.pieces import Piece, contents
from moeopt.arithmetic import Number, both, ceil_div, round_up, where
from moeopt.layout import Degrees
from moeopt.pipeline import Chunk
from moeopt.problem.problem import Problem

ALIGNMENT_ELEMENTS = 64
"""A parameter starts at a multiple of this in a distributed optimizer's buffer (optimizer/param_layout.py:25-27)."""


@dataclass(frozen=True)
class Elements:
    """Trainable elements on one GPU: routed experts, and everything else."""

    dense: Number
    expert: Number

    @property
    def total(self) -> Number:
        """Both together."""
        return self.dense + self.expert

    def __add__(self, other: "Elements") -> "Elements":
        return Elements(self.dense + other.dense, self.expert + other.expert)

    def times(self, count: int) -> "Elements":
        """The elements of `count` equal pieces."""
        return Elements(self.dense * count, self.expert * count)


def padded_vocab_size(problem: Problem, tp: Number) -> Number:
    """Vocabulary rows after padding to a multiple of `make_vocab_size_divisible_by` * tp."""
    return round_up(problem.architecture.vocab_size, problem.workload.make_vocab_size_divisible_by * tp)


def experts_share_dense_buffer(degrees: Degrees) -> Number:
    """Whether routed experts lie in the dense buffers: ep 1 and etp = tp (TEGroupedLinear marks no parameter then)."""
    return both(degrees.ep == 1, degrees.etp == degrees.tp)


def local_numel(problem: Problem, parameter: Parameter, degrees: Degrees) -> Number:
    """Elements on one GPU of one copy of a parameter (exact where the layout is legal, else rounded up)."""
    if parameter.vocabulary:
        width = parameter.numel // problem.architecture.vocab_size
        return padded_vocab_size(problem, degrees.tp) // degrees.tp * width
    if parameter.sharding == "tensor":
        return ceil_div(parameter.numel, degrees.tp)
    if parameter.sharding == "expert" and parameter.split:
        return ceil_div(parameter.numel, degrees.etp)
    return parameter.numel


def piece_elements(problem: Problem, piece: Piece, degrees: Degrees) -> Elements:
    """Elements of one piece on one GPU.

    Buffers without gradient are left out. With pp > 1 a tied head is a copy of the embedding; the MTP block holds one
    too, of which each of its modules carries an equal share (rounded up), and so they do of weights that all of them
    use. The final norm counts with the loss.
    """
    return _elements(problem, piece, degrees, alignment=1)


def elements_where(problem: Problem, piece: Piece, degrees: Degrees, chosen: Callable[[Parameter], bool]) -> Elements:
    """`piece_elements` of some parameters alone."""
    return _elements(problem, piece, degrees, alignment=1, chosen=chosen)


def aligned_elements(problem: Problem, piece: Piece, degrees: Degrees) -> Elements:
    """`piece_elements` with every parameter rounded up to the 64 elements at which the next may start."""
    return _elements(problem, piece, degrees, alignment=ALIGNMENT_ELEMENTS)


def _elements(
    problem: Problem,
    piece: Piece,
    degrees: Degrees,
    alignment: int,
    chosen: Callable[[Parameter], bool] = lambda _parameter: True,
) -> Elements:
    dense: Number = 0
    expert: Number = 0
    copied: Number = 0
    for parameter in piece_parameters(problem.architecture, piece):
        if not parameter.trainable or not chosen(parameter):
            continue
        numel = local_numel(problem, parameter, degrees)
        if alignment > 1:
            numel = round_up(numel, alignment)
        if parameter.sharding == "expert":
            expert = expert + numel * ceil_div(parameter.copies, degrees.ep)
        elif parameter.origin == "pipeline_copy":
            copied = copied + numel
        else:
            dense = dense + numel
    if piece == "mtp" and problem.architecture.mtp_use_repeated_layer:
        dense, expert = (ceil_div(shared, max(1, problem.mtp_layers)) for shared in (dense, expert))
    if isinstance(copied, int) and copied == 0:
        return Elements(dense, expert)
    if piece == "mtp":
        copied = ceil_div(copied, max(1, problem.mtp_layers))
    return Elements(dense + where(degrees.pp > 1, copied, 0), expert)


def contents_elements(problem: Problem, counts: Mapping[Piece, int], degrees: Degrees) -> Elements:
    """Elements of a chunk, as the sum over its pieces."""
    result = Elements(0, 0)
    for piece, count in counts.items():
        result = result + piece_elements(problem, piece, degrees).times(count)
    return result


def holds_final_norm(problem: Problem, chunk: Chunk) -> bool:
    """Whether Megatron puts the final norm in this chunk: that of the loss, or, with MTP modules, that of the last
    decoder layer (transformer_block.py, has_final_layernorm_in_this_stage); a hybrid's is always the loss's
    (hybrid_block.py)."""
    if not problem.mtp_layers or problem.architecture.is_hybrid:
        return chunk.loss
    return chunk.layers > 0 and chunk.last == problem.architecture.num_hidden_layers


def chunk_elements(problem: Problem, degrees: Degrees, chunk: Chunk) -> Elements:
    """Elements of one chunk, the final norm where Megatron puts it (a sum over pieces counts it with the loss)."""
    result = contents_elements(problem, contents(problem.architecture, chunk), degrees)
    norm = sum(parameter.total for parameter in final_norm(problem.architecture))
    return result + Elements(norm * (int(holds_final_norm(problem, chunk)) - int(chunk.loss)), 0)
