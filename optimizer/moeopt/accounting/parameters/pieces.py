"""The tensors of every piece of a pipeline."""

from collections.abc import Iterator
from dataclasses import replace

from moeopt.accounting.parameters.blocks import block_parameters
from moeopt.accounting.parameters.mixers import mixer_parameters
from moeopt.accounting.parameters.tensor import Parameter, matrix, norm
from moeopt.accounting.pieces import Piece
from moeopt.problem.architecture import Architecture
from moeopt.problem.layer_kind import LayerKind


def piece_parameters(architecture: Architecture, piece: Piece) -> tuple[Parameter, ...]:
    """The tensors of one piece, in Megatron's registration order. Ignored: nothing that either framework trains.

    An MTP piece is one module: two norms, the projection from 2h to h, its layers (a copy of the last decoder layer's
    kind, or what a hybrid's pattern says) and a norm; its embedding and head are shared with the architecture's own.
    """
    if isinstance(piece, LayerKind):
        return tuple(_layer(architecture, piece))
    if piece == "embedding":
        return tuple(_embedding(architecture))
    if piece == "mtp":
        return tuple(_mtp(architecture))
    return tuple(_loss(architecture))


def _embedding(architecture: Architecture) -> Iterator[Parameter]:
    hidden = architecture.hidden_size
    table = architecture.vocab_size * hidden
    yield Parameter("embedding.word_embeddings.weight", "embedding", table, "tensor", vocabulary=True)
    if architecture.position_embedding == "learned":
        rows = architecture.max_position_embeddings or 0
        yield matrix("embedding.position_embeddings.weight", "embedding", rows, hidden, "replicated")


def _loss(architecture: Architecture) -> Iterator[Parameter]:
    """Final norm and output head. A tied head is a copy of the embedding where the two sit on different stages."""
    yield from final_norm(architecture)
    table = architecture.vocab_size * architecture.hidden_size
    head = Parameter("output_layer.weight", "output_head", table, "tensor", vocabulary=True)
    yield replace(head, origin="pipeline_copy") if architecture.tie_word_embeddings else head
    if architecture.lm_head_bias:
        yield Parameter("output_layer.bias", "output_head", architecture.vocab_size, "tensor", vocabulary=True)


def final_norm(architecture: Architecture) -> tuple[Parameter, ...]:
    """The norm after the last decoder layer; counted with the loss (see `sharding.chunk_elements` for its stage)."""
    return tuple(norm(architecture, "decoder.final_layernorm.", architecture.hidden_size))


def _mtp(architecture: Architecture) -> Iterator[Parameter]:
    hidden = architecture.hidden_size
    for table in _embedding(architecture):
        yield replace(table, component="mtp", origin="pipeline_copy")
    module = [
        *norm(architecture, "mtp.enorm.", hidden),
        *norm(architecture, "mtp.hnorm.", hidden),
        matrix("mtp.eh_proj.weight", "mtp", hidden, 2 * hidden, "tensor"),
        *(parameter for kind in architecture.mtp_kinds for parameter in _layer(architecture, kind)),
        *norm(architecture, "mtp.final_layernorm.", hidden),
    ]
    yield from (replace(parameter, component="mtp") for parameter in module)


def _layer(architecture: Architecture, kind: LayerKind) -> Iterator[Parameter]:
    yield from mixer_parameters(architecture, kind)
    yield from block_parameters(architecture, kind)
