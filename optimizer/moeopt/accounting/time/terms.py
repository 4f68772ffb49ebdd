"""Step-time terms of a layout: what one micro-batch costs on each piece, one pipeline hop, and the step's end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moeopt.accounting.distinct import Distinct
from moeopt.accounting.pieces import Piece, Recomputed, is_recomputed
from moeopt.accounting.time import special
from moeopt.accounting.time.collectives import hop_ns
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.fsdp import add_sharded_communication
from moeopt.accounting.time.layer import layer
from moeopt.accounting.time.offload import add_offload
from moeopt.accounting.time.recompute import effective
from moeopt.accounting.time.scene import PARTS, Pass, Scene, Timed
from moeopt.accounting.time.step_end import StepEnd, step_end
from moeopt.accounting.time.tokens import tokens
from moeopt.arithmetic import Number, minimum
from moeopt.layout import RECOMPUTE_MODULES, Choices, Degrees, Recompute, RecomputeModule
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class TimeTerms:
    """Nanoseconds of one layout (or columns of them)."""

    forward_ns: dict[Piece, Number]
    """One micro-batch forward through one such piece on one rank, exposed communication and host time included."""
    backward_ns: dict[Piece, Number]
    """The same backward, recompute included."""
    forward_parts: dict[str, dict[Piece, Number]]
    """forward_ns by part; the parts add up exactly."""
    backward_parts: dict[str, dict[Piece, Number]]
    recompute_ns: dict[RecomputeModule, dict[Piece, Number]]
    """What each selective module takes in the backward pass, chosen or not."""
    idle_ns: dict[Piece, Number]
    """How long the backward pass waits with nothing recomputed (for Megatron-FSDP's communication and for activations
    from host memory; 0 without these), so that so much of what is recomputed takes no time: see `added_ns`."""
    full_recompute_ns: dict[Piece, Number]
    """What recomputing the whole piece adds to its backward pass, chosen or not."""
    hop_ns: Number
    """One pipeline send between neighbouring stages."""
    step_end: StepEnd
    """Linear pieces of what a rank pays once a step: see `step_end.step_end_ns`."""


def added_ns(terms: TimeTerms, recompute: Recompute, piece: Piece) -> Number:
    """What a recompute setting adds to the backward pass of one piece: backward_ns is that of nothing recomputed plus
    this, which no further module makes less."""
    if recompute.granularity == "full":
        return terms.full_recompute_ns[piece]
    return _beyond(sum(terms.recompute_ns[module][piece] for module in effective(recompute)), terms.idle_ns[piece])


def _beyond(time: Number, idle: Number) -> Number:
    """What does not fit into the time that a pass waits."""
    return time - minimum(time, idle)


def _parts(timed: Mapping[Piece, Pass], spread: Callable[[Number], Number]) -> dict[str, dict[Piece, Number]]:
    return {part: {piece: spread(run.of(part)) for piece, run in timed.items()} for part in PARTS}


def _pieces(scene: Scene) -> dict[Piece, Timed]:
    """Every piece that the problem has, nothing recomputed."""
    architecture = scene.problem.architecture
    timed: dict[Piece, Timed] = {kind: layer(scene, kind) for kind in architecture.kinds}
    timed["embedding"] = special.embedding(scene)
    if scene.problem.mtp_layers:
        timed["mtp"] = _mtp(scene)
    timed["loss"] = special.loss(scene)
    for piece, run in timed.items():
        add_sharded_communication(scene, piece, run)
        add_offload(scene, piece, run)
    return timed


def _mtp(scene: Scene) -> Timed:
    """An MTP module, in 16 bits where the precision leaves it out."""
    if not scene.rates.format.covers_mtp:
        scene = scene.in_16_bits
    return special.mtp(scene, [layer(scene, kind) for kind in scene.problem.architecture.mtp_kinds])


def _add_recompute(timed: Mapping[Piece, Timed], recompute: Recompute) -> None:
    """Add the chosen modules, or the whole forward where full recompute covers the piece, to the backward passes."""
    for piece, run in timed.items():
        modules = sum(run.repeats.get(module, 0) for module in effective(recompute))
        again = run.full_repeat if is_recomputed(piece, recompute) else modules
        hidden = minimum(again, run.idle_backward)
        sharded = minimum(hidden, run.idle_backward - run.backward.of("offload"))
        run.backward.add("recompute", again)
        run.backward.add("fsdp_comm", -sharded)
        run.backward.add("offload", sharded - hidden)


def time_terms(problem: Problem, degrees: Degrees, choices: Choices) -> TimeTerms:
    """Terms of one layout or of columns of layouts. Pieces that the architecture lacks (MTP) are left out.

    Counted: GEMMs, attention core, memory-bound kernels, quantisation, tensor, context and expert communication as far
    as it is exposed, recompute, host time. Ignored: data loading, logging, checkpoints, stragglers, network congestion.
    """
    rate = rates(problem)
    found = Distinct.of_pieces(degrees, choices, degrees.gpus)
    few, spread = found.degrees, found.spread
    scene = Scene(problem, few, choices, tokens(problem, few, choices), rate)
    timed = _pieces(scene)
    if choices.recompute.block_layers:
        timed |= {Recomputed.of(kind): Timed() + timed[kind] for kind in problem.architecture.kinds}
    _add_recompute(timed, choices.recompute)
    return TimeTerms(
        forward_ns={piece: spread(run.forward.total) for piece, run in timed.items()},
        backward_ns={piece: spread(run.backward.total) for piece, run in timed.items()},
        forward_parts=_parts({piece: run.forward for piece, run in timed.items()}, spread),
        backward_parts=_parts({piece: run.backward for piece, run in timed.items()}, spread),
        recompute_ns={
            module: {piece: spread(run.repeats.get(module, 0)) for piece, run in timed.items()}
            for module in RECOMPUTE_MODULES
        },
        idle_ns={piece: spread(run.idle_backward) for piece, run in timed.items()},
        full_recompute_ns={piece: spread(_beyond(run.full_repeat, run.idle_backward)) for piece, run in timed.items()},
        hop_ns=hop_ns(problem, degrees, tokens(problem, degrees, choices), rate),
        step_end=step_end(problem, degrees, choices, rate),
    )
