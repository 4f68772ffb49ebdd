"""The best layout that splits its layers evenly, found exhaustively: used by `benchmarks/search.py`.

Even splits are what Megatron makes of its options without a layout string: equal layers for every chunk, with the
embedding or the loss counted as a layer where that is asked (--account-for-embedding-in-pipeline-split, -loss-).
Degrees, micro-batch, chunks, dispatcher, overlap and recompute are free. Every row whose lower bound is not above
the best even layout known is judged, so the answer is the best of all.
"""

from collections.abc import Iterator
from itertools import product

from moeopt.candidate import Candidate
from moeopt.errors import InputError
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.screening import Limits, Screening
from moeopt.solving.incumbent import Found
from moeopt.space import row

_GROWTH = 1.25
_ROUNDS = 14


def even_layouts(problem: Problem, pp: int, vpp: int) -> Iterator[PipelineLayout]:
    """Megatron's splits without a layout string; none where the layers do not divide."""
    layers = problem.architecture.num_hidden_layers
    for embedding, loss in product((False, True), repeat=2):
        try:
            yield PipelineLayout.from_megatron_options(
                layers,
                pp,
                vpp,
                mtp=problem.mtp_layers,
                account_for_embedding=embedding,
                account_for_loss=loss,
            )
        except InputError:
            continue


def best_even(problem: Problem, start_ns: int) -> Found | None:
    """The fastest even layout that fits (by the ledger); None where none was found within 20 times `start_ns`."""
    screening = Screening(problem)
    best: Found | None = None
    judged: set[object] = set()
    limit = start_ns
    for _ in range(_ROUNDS):
        limit = int(limit * _GROWTH)
        for candidate in _candidates(screening, limit):
            if best is not None and candidate.bound_ns >= best.time_ns:
                break
            key = candidate.order, candidate.degrees.gpus
            if key not in judged:
                judged.add(key)
                best = _better(candidate, best)
        if best is not None and best.time_ns <= limit:
            return best
    return best


def _better(candidate: Candidate, best: Found | None) -> Found | None:
    for pipeline in even_layouts(candidate.problem, *candidate.grid):
        if best is not None and candidate.ledger.step_time(pipeline).total_ns >= best.time_ns:
            continue
        found = Found.judge(candidate, pipeline)
        if found.peak_bytes <= candidate.problem.memory_limit:
            best = found
    return best


def _candidates(screening: Screening, limit_ns: int) -> list[Candidate]:
    """Rows with an even split and a bound within the limit, lowest bound first."""
    problem = screening.problem
    even: dict[tuple[int, int], bool] = {}
    found = []
    for pair in screening.pairs(Limits(problem.memory_limit, time_ns=limit_ns)):
        choices = pair.mode.model_copy(update={"recompute": pair.recompute})
        grids = zip(pair.degrees.pp.tolist(), pair.degrees.vpp.tolist(), pair.time.tolist(), strict=True)
        for index, (pp, vpp, bound) in enumerate(grids):
            if (pp, vpp) not in even:
                even[pp, vpp] = any(True for _ in even_layouts(problem, pp, vpp))
            if even[pp, vpp]:
                found.append(Candidate(problem, row(pair.degrees, index), choices, bound))
    return sorted(found, key=lambda item: (item.bound_ns, item.order))
