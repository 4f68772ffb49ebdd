"""Rows of the screening, order of operations by order of operations."""

from collections.abc import Sequence

import numpy as np

from moeopt.dual.bounds import Answer, Question, raised
from moeopt.pipeline import PipelineLayout
from moeopt.problem.problem import Problem
from moeopt.screening import Joined, Limits, Pair


def raised_pairs(problem: Problem, pairs: Sequence[Pair], limits: Limits, rounds: int, sampled: bool = False) -> Answer:
    """The answer for the rows of all pairs, one after the other. Times and bounds are of the ledger's step."""
    rows = Joined(pairs, limits)
    overlap = np.concatenate([np.full(pair.size, pair.mode.overlap.ep_all_to_all) for pair in pairs])
    d = rows.degrees
    shapes = np.stack([d.pp, d.vpp, d.num_microbatches, d.interleave_group, overlap], axis=1)
    unique, origin = np.unique(shapes, axis=0, return_inverse=True)
    time_ns, end_ns = limits.time_of(d.gpus), np.broadcast_to(np.asarray(rows.work.end_ns), d.pp.shape)
    bound = np.zeros_like(time_ns)
    placed: list[PipelineLayout | None] = [None] * len(time_ns)
    left: list[list[PipelineLayout] | None] = [None] * len(time_ns)
    for number, (pp, vpp, microbatches, group, ep_overlap) in enumerate(unique.tolist()):
        index = np.flatnonzero(origin.reshape(-1) == number)
        question = Question(
            problem,
            (pp, vpp, microbatches, group, bool(ep_overlap)),
            rows.costs.rows(index),
            end_ns[index],
            time_ns[index],
            rows.chunk_ns[index],
            limits.memory_bytes,
        )
        answer = raised(question, rounds, sampled)
        bound[index] = answer.bound_ns
        for position, layout, few in zip(index.tolist(), answer.placed, answer.left, strict=True):
            placed[position], left[position] = layout, few
    return Answer(bound, placed, left)
