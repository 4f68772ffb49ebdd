"""What Muon's update takes: products that orthogonalise each matrix's momentum, on the rank that updates it.

Newton-Schulz, 5 steps in bf16 (Emerging-Optimizers fd77292, muon_utils.py: newton_schulz, newton_schulz_step): with m
the smaller and n the larger side, X X^T and B X take 2 m^2 n FLOP each and A A takes 2 m^3,

    flops = 5 * (4 m^2 n + 2 m^3)

on the whole matrix, of which tensor-parallel ranks gather the momentum in fp32 and all do the same (--muon-tp-mode
duplicated, the default), or on each rank's part (blockwise). Queries, keys and values of one tensor are orthogonalised
apart (--muon-no-split-qkv would not; MLA's and gated delta nets' projections are whole either way). Around the products
PyTorch's elementwise kernels pass over fp32 values, and small matrices wait for the host. Checked by no measured run:
no published one isolates it.
Ignored: smaller products that fill a GPU badly, the exact deal of matrices to ranks (the mean, and the longest update
once more: accounting/muon/state.py), the norm over all gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from moeopt.accounting.muon.state import is_matrix, is_muon
from moeopt.accounting.parameters import Parameter, piece_parameters
from moeopt.accounting.pieces import Piece, Recomputed, pieces
from moeopt.accounting.time.efficiency import Rates
from moeopt.accounting.time.topology import ring_bytes_per_us, ring_latency_ns
from moeopt.arithmetic import Number, ceil_div, maximum, minimum, where
from moeopt.layout import Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

STEPS = 5
"""--muon-num-ns-steps by default."""
PASSED_BYTES = 48
"""Bytes an element that elementwise kernels move beside the update that Adam's price counts: weight decay 8, the norm
and the division by it 12, to bf16 and back 12, two scales 16."""
KERNELS, LAUNCH_NS = 27, 6_000
"""Kernels an update of one matrix starts, 15 of them the steps' (counted in the code), and the host time of an eager
PyTorch operation without autograd (assumed)."""


@dataclass(frozen=True)
class Updates:
    """`mean_ns`: what the matrices of one piece take, shared out evenly; `largest_ns`: the longest update of a dense
    and of an expert matrix, as far as several ranks share such."""

    mean_ns: dict[Piece, Number] = field(default_factory=dict)
    largest_ns: Number = 0


def updates(problem: Problem, degrees: Degrees, rates: Rates, shards: Sequence[Number]) -> Updates:
    """Of every piece; nothing under Adam. `shards`: ranks that share dense and expert tensors."""
    if not is_muon(problem):
        return Updates()
    mean: dict[Piece, Number] = {}
    longest: list[Number] = [0, 0]
    for piece in pieces(problem.architecture):
        total: list[Number] = [0, 0]
        for parameter in piece_parameters(problem.architecture, piece):
            if is_matrix(parameter) and parameter.origin != "pipeline_copy":
                expert = parameter.sharding == "expert"
                each = _update_ns(problem, degrees, rates, parameter)
                total[expert] = total[expert] + each * (ceil_div(parameter.copies, degrees.ep) if expert else 1)
                longest[expert] = maximum(longest[expert], each)
        if piece == "mtp" and problem.architecture.mtp_use_repeated_layer:
            total = [ceil_div(time, max(1, problem.mtp_layers)) for time in total]
        mean[piece] = ceil_div(total[0], shards[0]) + ceil_div(total[1], shards[1])
        if isinstance(piece, LayerKind):
            mean[Recomputed.of(piece)] = mean[piece]
    beyond = [where(shards[i] > 1, longest[i], 0) for i in range(2)]
    return Updates(mean, beyond[0] + beyond[1])


def newton_schulz_flops(rows: Number, columns: Number) -> Number:
    """FLOP of orthogonalising one matrix."""
    small, large = minimum(rows, columns), maximum(rows, columns)
    return STEPS * (4 * small * small * large + 2 * small**3)


def _update_ns(problem: Problem, degrees: Degrees, rates: Rates, parameter: Parameter) -> Number:
    """One matrix: whole, with what tensor-parallel ranks gather of it, or one rank's part."""
    divided = parameter.sharding != "replicated" and parameter.split
    size = degrees.etp if parameter.sharding == "expert" else degrees.tp
    if problem.workload.muon_tp_mode == "blockwise":
        return _orthogonal_ns(rates, parameter, size if divided else 1)
    alone = _orthogonal_ns(rates, parameter, 1)
    if not divided:
        return alone
    moved = ceil_div(4 * parameter.numel * (size - 1), size)
    ring = ceil_div(moved * 1000, ring_bytes_per_us(problem, degrees, rates, size, 1))
    return alone + where(size > 1, ring + ring_latency_ns(problem, degrees, size, 1), 0)


def _orthogonal_ns(rates: Rates, parameter: Parameter, parts: Number) -> Number:
    """Products and elementwise kernels on one of so many parts of a matrix, or what the host takes to start them."""
    stacked = parameter.stacked or (parameter.numel // parameter.columns,)
    rows = [each if parameter.cut_by_columns else ceil_div(each, parts) for each in stacked]
    columns = ceil_div(parameter.columns, parts) if parameter.cut_by_columns else parameter.columns
    on_gpu: Number = 0
    for each in rows:
        on_gpu = on_gpu + ceil_div(newton_schulz_flops(each, columns), rates.bf16_gemm_flops_per_ns)
        on_gpu = on_gpu + ceil_div(each * columns * (PASSED_BYTES * 1000), rates.memory_bytes_per_us)
    return maximum(on_gpu, len(rows) * KERNELS * LAUNCH_NS)
