"""Which global batches a problem allows, and what numbers of micro-batches make them: asked of integers and columns."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import Number, both, either, is_column, lcm
from moeopt.problem.batches import Batches
from moeopt.problem.problem import Problem

Column = NDArray[np.int64]


def admits(batches: Batches, batch: Number) -> Number:
    """Whether a batch is one of these."""
    values = batches.values
    if isinstance(values, range):
        inside = both(batch >= batches.least, batch <= batches.most)
        return both(inside, (batch - batches.least) % values.step == 0)
    return np.isin(batch, np.array(values)) if is_column(batch) else batch in values


def divisible(batches: Batches, unit: Number) -> Number:
    """Whether some batch is a multiple of a unit."""
    if not isinstance(batches.values, range):
        return either(*(batch % unit == 0 for batch in batches.values))
    step = lcm(unit, batches.values.step)
    return batches.most // step * step >= batches.least


def multiples(batches: Batches, unit: int) -> Column:
    """The batches that are multiples of a unit, as multiples, ascending: of a unit of sequences that all data-parallel
    ranks run at once, the micro-batches of each."""
    if isinstance(batches.values, range):
        step = math.lcm(unit, batches.values.step)
        first = -(-batches.least // step)
        return np.arange(first, batches.most // step + 1, dtype=np.int64) * (step // unit)
    listed = np.array(batches.values, dtype=np.int64)
    return np.asarray(listed[listed % unit == 0] // unit)


class Steps:
    """The numbers of micro-batches a step that rows may have, `unit` being the sequences of one micro-batch over all
    data-parallel ranks: those that make an allowed global batch, within what the problem says of their number."""

    def __init__(self, problem: Problem, unit: Column) -> None:
        units, self._which = np.unique(unit, return_inverse=True)
        self._lists = [_microbatches(problem, int(size)) for size in units]
        sizes = np.array([len(each) for each in self._lists], dtype=np.int64)
        self.counts: Column = sizes[self._which]
        """How many there are, by row."""

    @property
    def fewest(self) -> Column:
        """The smallest, by row; 0 where there is none."""
        return self._of_each(lambda each: each[0])

    @property
    def most(self) -> Column:
        """The largest, by row; 0 where there is none."""
        return self._of_each(lambda each: each[-1])

    def listed(self) -> tuple[Column, Column]:
        """All of them, row after row; and the row of each."""
        rows = np.repeat(np.arange(len(self.counts)), self.counts)
        return np.concatenate([np.zeros(0, dtype=np.int64), *(self._lists[each] for each in self._which)]), rows

    def _of_each(self, pick: Callable[[Column], np.int64]) -> Column:
        return np.array([pick(each) if len(each) else 0 for each in self._lists], dtype=np.int64)[self._which]


def _microbatches(problem: Problem, unit: int) -> Column:
    values, bound = multiples(problem.workload.batches, unit), problem.bound("num_microbatches")
    fixed = problem.fix.get("num_microbatches")
    keep = (values >= (bound.min or 0)) & (values <= (bound.max or np.iinfo(np.int64).max))
    return values[keep if fixed is None else keep & (values == fixed)]
