"""Step-time terms of a layout: what one micro-batch costs on each piece, one pipeline hop, and the step's end."""

from collections.abc import Mapping
from dataclasses import dataclass

from moeopt.accounting.pieces import Piece
from moeopt.accounting.time import special
from moeopt.accounting.time.collectives import hop_ns
from moeopt.accounting.time.efficiency import rates
from moeopt.accounting.time.layer import PARTS, Pass, Scene, Timed, layer
from moeopt.accounting.time.step_end import StepEnd, step_end
from moeopt.accounting.time.tokens import tokens
from moeopt.arithmetic import Number
from moeopt.layout import Choices, Degrees
from moeopt.problem.architecture import LayerKind
from moeopt.problem.problem import Problem


@dataclass(frozen=True)
class TimeTerms:
    """Nanoseconds of one layout (or columns of them)."""

    forward_ns: dict[Piece, Number]
    """One micro-batch forward through one such piece on one rank, exposed communication and host time included."""
    backward_ns: dict[Piece, Number]
    """The same backward, selective or uniform full recompute included (block recompute: see recomputed_ns)."""
    forward_parts: dict[str, dict[Piece, Number]]
    """forward_ns by part; the parts add up exactly."""
    backward_parts: dict[str, dict[Piece, Number]]
    recomputed_ns: dict[Piece, Number]
    """What full recompute with method block adds to backward_ns for each layer it recomputes; zero otherwise."""
    hop_ns: Number
    """One pipeline send between neighbouring stages."""
    step_end: StepEnd
    """Linear pieces of what a rank pays once a step: see `step_end.step_end_ns`."""


def _parts(timed: Mapping[Piece, Pass]) -> dict[str, dict[Piece, Number]]:
    return {part: {piece: run.of(part) for piece, run in timed.items()} for part in PARTS}


def _pieces(scene: Scene, full: bool) -> dict[Piece, Timed]:
    """Every piece that the problem has; MTP modules copy the last layer."""
    architecture = scene.problem.architecture
    timed: dict[Piece, Timed] = {kind: layer(scene, kind, full) for kind in architecture.kinds}
    timed["embedding"] = special.embedding(scene)
    if scene.problem.mtp_layers:
        timed["mtp"] = special.mtp(scene, timed[architecture.mtp_kind])
    timed["loss"] = special.loss(scene)
    return timed


def time_terms(problem: Problem, degrees: Degrees, choices: Choices) -> TimeTerms:
    """Terms of one layout or of columns of layouts. Pieces that the architecture lacks (MTP) are left out.

    Counted: GEMMs, attention core, memory-bound kernels, quantisation, tensor, context and expert communication as far
    as it is exposed, recompute, host time. Ignored: data loading, logging, checkpoints, stragglers, network congestion.
    """
    rate = rates(problem)
    scene = Scene(problem, degrees, choices, tokens(problem, degrees, choices), rate)
    full = choices.recompute.granularity == "full"
    block = full and choices.recompute.method == "block"
    timed = _pieces(scene, full and not block)
    extra: dict[Piece, Number] = dict.fromkeys(timed, 0)
    if block:
        for kind in problem.architecture.kinds:
            again = layer(scene, kind, True)
            extra[kind] = (
                again.forward.total + again.backward.total - timed[kind].forward.total - timed[kind].backward.total
            )
    return TimeTerms(
        forward_ns={piece: run.forward.total for piece, run in timed.items()},
        backward_ns={piece: run.backward.total for piece, run in timed.items()},
        forward_parts=_parts({piece: run.forward for piece, run in timed.items()}),
        backward_parts=_parts({piece: run.backward for piece, run in timed.items()}),
        recomputed_ns=extra,
        hop_ns=hop_ns(problem, degrees, scene.tokens, rate),
        step_end=step_end(problem, degrees, choices, rate),
    )


def chunk_ns(terms: TimeTerms, choices: Choices, contents: Mapping[Piece, int]) -> tuple[Number, Number]:
    """Forward and backward time of a chunk: the sum over its pieces; block recompute covers its first layers."""
    forward = sum(terms.forward_ns[piece] * count for piece, count in contents.items())
    backward = sum(terms.backward_ns[piece] * count for piece, count in contents.items())
    left = choices.recompute.num_layers if choices.recompute.method == "block" else None
    for piece, count in contents.items():
        if left and isinstance(piece, LayerKind):
            covered = min(count, left)
            backward = backward + terms.recomputed_ns[piece] * covered
            left -= covered
    return forward, backward
