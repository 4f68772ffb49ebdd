"""A time bound that knows what fits into a stage beside the embedding, the MTP modules and the loss."""

import numpy as np

from moeopt.layout import Degrees
from moeopt.problem.problem import Problem
from moeopt.schedule.packed_bound import Load, heaviest_rank_ns, ub2_packed_ns
from moeopt.screening.costs import Costs
from moeopt.screening.limits import Column
from moeopt.screening.windows import Sort, sorts, window
from moeopt.screening.work import Work


def packed_time_bound(problem: Problem, degrees: Degrees, costs: Costs, work: Work, replayed: bool) -> Column:
    """Nanoseconds of a step that no placement goes below: M times the heaviest rank, and for interleaved schedules the
    middle of that and UB2 (the ledger's time; a replayed step is only known to be at least the former)."""
    microbatches = degrees.num_microbatches
    rank = upper = np.zeros_like(microbatches)
    for counted in sorts(problem.architecture.layers):
        load = _load(problem, degrees, costs, work, counted)
        rank = np.maximum(rank, microbatches * heaviest_rank_ns(degrees.pp, load))
        if not replayed:
            group = np.asarray(np.where(degrees.vpp > 1, degrees.interleave_group, microbatches), dtype=np.int64)
            upper = np.maximum(upper, ub2_packed_ns(degrees.pp, degrees.vpp, microbatches, group, load))
    pipeline = rank if replayed else np.where(degrees.vpp > 1, (rank + upper + 1) // 2, rank)
    return np.asarray(pipeline + work.end_ns)


def _load(problem: Problem, degrees: Degrees, costs: Costs, work: Work, counted: Sort) -> Load:
    layers = problem.architecture.layers
    kinds = problem.architecture.kinds
    columns = [np.asarray(costs.time[kind]) for kind in kinds]
    total = np.asarray(work.forward_ns + work.backward_ns)
    least = window(layers, columns, counted, len(layers))
    leading = next(index for index, layer in enumerate(layers) if layer in counted)
    ahead = sum(np.asarray(costs.time[layer]) for layer in layers[:leading])
    mtp = problem.mtp_layers * np.asarray(costs.time["mtp"]) if problem.mtp_layers else 0 * total
    return Load(
        layers=sum(layer in counted for layer in layers),
        first=least.first,
        more=np.maximum(least.more, 1),
        embedding=np.asarray(costs.time["embedding"]),
        loss=np.asarray(costs.time["loss"]),
        mtp=mtp,
        leading=leading,
        leading_ns=np.where(degrees.pp > leading + 1, ahead, 0),
        work=total,
    )
