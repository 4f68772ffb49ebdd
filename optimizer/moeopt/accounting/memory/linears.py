"""Shapes of the linears of a piece on one GPU: what their quantised copies and their dummy gradients are made of.

A shape is (output rows, input columns) of the local weight, as Transformer Engine holds it.
"""

from collections.abc import Sequence

from moeopt.accounting.memory.symbols import Symbols
from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number, both, ceil_div, either, where
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

Shape = tuple[Number, Number]


def layer_shapes(problem: Problem, sizes: Symbols, kind: LayerKind) -> list[Shape]:
    """Projections of a layer's attention, or of what stands in for it."""
    if kind.mixer == "delta_net":
        return [(sizes.lin, sizes.h), (sizes.h, sizes.lv)]
    if kind.mixer == "mamba":
        return [(sizes.mamba_in, sizes.h), (sizes.h, sizes.mamba_inner)]
    return [] if kind.mixer == "none" else attention_shapes(problem, sizes)


def attention_shapes(problem: Problem, sizes: Symbols) -> list[Shape]:
    """Projections of attention. Sparse attention's key-value up-projection is no linear there: products with views of
    its weight stand in for it (absorbed_mla.py:538-600)."""
    a = problem.architecture
    out = (sizes.h, sizes.heads * sizes.dv)
    if not a.is_mla:
        gate = sizes.heads * sizes.dv if a.attention_output_gate else 0
        return [(sizes.heads * sizes.qk + sizes.groups * (sizes.qk + sizes.dv) + gate, sizes.h), out]
    query = [(sizes.rq, sizes.h), (sizes.qk_width, sizes.rq)] if sizes.rq else [(sizes.qk_width, sizes.h)]
    if a.has_indexer:
        indexer = [(sizes.index_width, sizes.rq), (sizes.index_dim, sizes.h), (sizes.index_heads, sizes.h)]
        return [*indexer, *query, (sizes.kv_down, sizes.h), out]
    up = (sizes.heads * (a.qk_nope_head_dim + sizes.dv), sizes.rk)
    return [*query, (sizes.kv_down, sizes.h), up, out]


def dense_shapes(sizes: Symbols) -> list[Shape]:
    """Both linears of a dense feed-forward block."""
    return [(sizes.gate * sizes.f, sizes.h), (sizes.h, sizes.f)]


def routed_shapes(sizes: Symbols) -> list[Shape]:
    """Both linears of one routed expert."""
    return [(sizes.gate * sizes.fe, sizes.he), (sizes.he, sizes.fe)]


def shared_shapes(problem: Problem, sizes: Symbols) -> list[Shape]:
    """Both linears of the shared experts."""
    if not problem.architecture.shared_expert_intermediate_size:
        return []
    return [(sizes.gate * sizes.fs, sizes.h), (sizes.h, sizes.fs)]


def beside_shapes(problem: Problem, sizes: Symbols) -> list[Shape]:
    """Linears beside the routed experts: the shared ones, and the projections to the experts' width and back."""
    latent: list[Shape] = [(sizes.latent, sizes.h), (sizes.h, sizes.latent)] if sizes.latent else []
    return [*shared_shapes(problem, sizes), *latent]


def ffn_shapes(problem: Problem, sizes: Symbols, kind: LayerKind) -> list[Shape]:
    """Linears of a feed-forward block, one expert for all."""
    if kind.ffn == "none":
        return []
    return [*routed_shapes(sizes), *beside_shapes(problem, sizes)] if kind.ffn == "moe" else dense_shapes(sizes)


def projection_shape(sizes: Symbols) -> Shape:
    """An MTP module's projection from 2h to h (column parallel: multi_token_prediction.py:1174-1186)."""
    return (ceil_div(sizes.h, sizes.t), 2 * sizes.h)


def linear_elements(problem: Problem, sizes: Symbols, piece: Piece) -> Number:
    """Weight elements of a piece that the precision quantises: every linear but the output head and the router
    (Megatron keeps both in 16 bits), in layers that do not stay in bf16 and in MTP modules where it covers them."""
    if piece in ("embedding", "loss") or (piece == "mtp" and not problem.workload.format.covers_mtp):
        return 0
    if isinstance(piece, LayerKind):
        return _layer_elements(problem, sizes, piece)
    module = _sum([projection_shape(sizes)])
    for kind in problem.architecture.mtp_kinds:
        module = module + _layer_elements(problem, sizes, kind)
    return ceil_div(module, problem.mtp_layers) if problem.architecture.mtp_use_repeated_layer else module


def _layer_elements(problem: Problem, sizes: Symbols, kind: LayerKind) -> Number:
    if kind.in_bf16:
        return 0
    elements = _sum(layer_shapes(problem, sizes, kind))
    if kind.ffn == "moe":
        return elements + sizes.experts_local * _sum(routed_shapes(sizes)) + _sum(beside_shapes(problem, sizes))
    return elements + (_sum(dense_shapes(sizes)) if kind.ffn == "dense" else 0)


def distinct_elements(shapes: Sequence[Shape], known: Sequence[Shape] = ()) -> Number:
    """Elements of the distinct shapes among `shapes` that are not among `known`."""
    total: Number = 0
    for index, (rows, columns) in enumerate(shapes):
        earlier = [*known, *shapes[:index]]
        seen = either(False, *(both(rows == r, columns == c) for r, c in earlier))
        total = total + where(seen, 0, rows * columns)
    return total


def _sum(shapes: Sequence[Shape]) -> Number:
    total: Number = 0
    for rows, columns in shapes:
        total = total + rows * columns
    return total
