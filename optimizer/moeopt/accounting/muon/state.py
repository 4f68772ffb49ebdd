"""What Muon updates, and how Megatron's layer-wise optimizer shares its state out: tensor by tensor, never cut.

Muon keeps a main parameter and one momentum (fp32, 8 bytes an element) for matrices of weights; embeddings, the output
head, norms, biases, filters and Mamba's input projection stay with Adam (12 bytes). Weights and gradients lie whole on
every rank, unpadded, and gradients are all-reduced: the layout that --no-use-layer-wise-param-layout and
Megatron-Bridge's dist_muon have (`default_layout.py` counts what Megatron-LM's default would pad instead). Sources:
Megatron-LM d98e8a6, megatron/core/optimizer/emerging_optimizers.py:140-148 (what Muon leaves out) and
layer_wise_optimizer.py (whole tensors are dealt to ranks); Emerging-Optimizers fd77292, orthogonalized_optimizer.py:
_init_group (the state).

Which rank holds what depends on all that a stage holds. The law that the search adds up: the busiest rank holds the
mean (at 8 bytes an element) and the largest tensor besides. With whole rounds of a deal back and forth that is a bound
(differences of two ranks alternate in sign and grow no further than the largest tensor); a last round that is cut short
can give one rank two of the largest tensors. `deal.py` deals them out as Megatron does, and every answer states the
difference.
"""

from moeopt.accounting.parameters import Parameter, piece_parameters
from moeopt.accounting.pieces import Piece
from moeopt.accounting.sharding import elements_where, experts_share_dense_buffer, local_numel
from moeopt.arithmetic import Number, maximum, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

MATRIX_BYTES, OTHER_BYTES = 8, 12
"""State of an element: main parameter and momentum; main parameter and Adam's two moments."""


def is_muon(problem: Problem) -> bool:
    """Whether the run updates matrices by Muon."""
    return problem.workload.optimizer == "muon"


def is_layer_wise(problem: Problem, choices: Choices) -> bool:
    """Whether whole tensors are shared out over data-parallel ranks (a distributed optimizer of Muon's)."""
    return is_muon(problem) and choices.distributed_optimizer


def cuts_tensors(problem: Problem, choices: Choices) -> bool:
    """Whether a distributed optimizer cuts the buffers into equal shards, for which they are aligned and padded."""
    return choices.distributed_optimizer and not is_muon(problem)


def is_matrix(parameter: Parameter) -> bool:
    """Whether Muon updates it."""
    return parameter.columns > 0 and parameter.trainable


def unshared_state_bytes(
    problem: Problem, piece: Piece, degrees: Degrees, choices: Choices, dense_shards: Number
) -> Number:
    """What the elements of one piece that Adam updates need beyond Muon's state: all on one rank, as if that had them
    all, but for the tables of the vocabulary where ranks share them (`largest_state_bytes` counts one)."""
    if not is_muon(problem):
        return 0
    tables = elements_where(problem, piece, degrees, lambda parameter: parameter.vocabulary)
    others = elements_where(
        problem, piece, degrees, lambda parameter: not (parameter.vocabulary or is_matrix(parameter))
    )
    alone = where(dense_shards > 1, 0, tables.total) if is_layer_wise(problem, choices) else tables.total
    return (OTHER_BYTES - MATRIX_BYTES) * (others.total + alone)


def largest_state_bytes(problem: Problem, degrees: Degrees, piece: Piece, shards: tuple[Number, Number]) -> Number:
    """State of the largest dense and of the largest expert tensor of one piece (of the largest, where they are dealt
    together), each where several ranks (`shards`: dp * cp and edp) share such tensors."""
    dense: Number = 0
    expert: Number = 0
    for parameter in piece_parameters(problem.architecture, piece):
        numel = local_numel(problem, parameter, degrees) if parameter.trainable else 0
        held = numel * (OTHER_BYTES if parameter.vocabulary else MATRIX_BYTES)
        if parameter.sharding == "expert":
            expert = maximum(expert, held)
        else:
            dense = maximum(dense, held)
    apart = where(shards[0] > 1, dense, 0) + where(shards[1] > 1, expert, 0)
    together = where(shards[0] > 1, maximum(dense, expert), 0)
    return where(experts_share_dense_buffer(degrees), together, apart)
