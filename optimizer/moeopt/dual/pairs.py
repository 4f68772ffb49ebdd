"""Rows of the screening, order of operations by order of operations."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from moeopt.dual.part import Answer, Question
from moeopt.dual.prices import Cuts, Rows
from moeopt.parallel import side_by_side
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.schedule.placement import Schedule
from moeopt.screening import Joined, Limits, Pair

Ask = Callable[[Question], Answer]


def ask_pairs(
    problem: Problem,
    pairs: Sequence[Pair],
    limits: Limits,
    ask: Ask,
    cuts: Mapping[Schedule, Cuts] | None = None,
) -> Answer:
    """The answer for the rows of all pairs, one after the other: of the ledger's step, or of the replayed one where
    the limits are on that; of memory alone where they allow any time. `cuts`: of some schedules, time rows in place of
    the ledger's."""
    rows = Joined(pairs, limits)
    overlap = np.concatenate([np.full(pair.size, pair.mode.overlap.ep_all_to_all) for pair in pairs])
    d = rows.degrees
    shapes = np.stack([d.pp, d.vpp, d.num_microbatches, d.interleave_group, overlap], axis=1)
    unique, origin = np.unique(shapes, axis=0, return_inverse=True)
    time_ns, end_ns = limits.time_of(d), np.broadcast_to(np.asarray(rows.work.end_ns), d.pp.shape)
    questions = []
    for number, (pp, vpp, microbatches, group, ep_overlap) in enumerate(unique.tolist()):
        index = np.flatnonzero(origin.reshape(-1) == number)
        schedule = pp, vpp, microbatches, group, bool(ep_overlap)
        question = Question(
            problem,
            Rows.of(schedule, limits.replayed, (cuts or {}).get(schedule)) if limits.timed else Rows.untimed(schedule),
            rows.costs.rows(index),
            end_ns[index],
            time_ns[index],
            rows.chunk_ns[index],
            limits.memory_bytes,
        )
        questions.append((index, question))
    bound = np.zeros_like(time_ns)
    placed: list[list[PipelineLayout]] = [[] for _ in time_ns]
    complete = [False] * len(time_ns)
    answers = side_by_side(lambda item: ask(item[1]), questions, lambda item: item[1].work)
    for (index, _), answer in zip(questions, answers, strict=True):
        bound[index] = answer.bound_ns
        for position, layouts, all_ in zip(index.tolist(), answer.placed, answer.complete, strict=True):
            placed[position], complete[position] = layouts, all_
    return Answer(bound, placed, complete)
