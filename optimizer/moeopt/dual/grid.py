"""One pipeline grid and one architecture: how many layers lie before each stage, and what a stage can hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem, mtp_stages

Array = NDArray[np.float64]
Composition = tuple[int, ...]
"""Layers of a stage by kind, in order of the kinds' first appearance; then the same of those recomputed by block."""

_WORD_BITS = 62
"""Bits of a word that rows of small integers are packed into."""


@dataclass(frozen=True)
class Grid:
    """`pp` ranks of `vpp` chunks for layers in order; stage = chunk * pp + rank.

    As in `moeopt.cpsat.placement`: every stage between the first and the MTP modules' (or the last) holds a layer, and
    none holds one after the MTP modules, which are in the last chunk of any rank but the first, or in the last stage.
    """

    layers: tuple[LayerKind, ...]
    pp: int
    vpp: int
    mtp_layers: int
    mtp_with_loss: bool = False
    """Whether the MTP modules must sit in the last stage."""

    @property
    def stages(self) -> int:
        """Stages of all chunks."""
        return self.pp * self.vpp

    @property
    def final(self) -> int:
        """The first stage of the last chunk position."""
        return (self.vpp - 1) * self.pp

    def fewest(self, stage: int) -> int:
        """Layers that a stage must hold while the MTP modules are still to come."""
        return int(0 < stage < self.stages - 1)

    def may_end(self, stage: int) -> bool:
        """Whether a stage may hold the MTP modules (without any: whether it is the last)."""
        return stage in self._endings

    @cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of layers."""
        return tuple(dict.fromkeys(self.layers))

    @cached_property
    def _before(self) -> NDArray[np.int64]:
        counts = np.zeros((len(self.layers) + 1, len(self.kinds)), dtype=np.int64)
        for index, layer in enumerate(self.layers):
            counts[index + 1] = counts[index]
            counts[index + 1, self.kinds.index(layer)] += 1
        return counts

    def compositions(self, chunk: int, deepest: int, block_layers: int = 0) -> tuple[Array, Array]:
        """What stages of one chunk position may hold, up to `deepest` layers, when so many of the first are recomputed
        by block: layers by kind (compositions x kinds), and whether it begins with the first layer (0 or 1). Known
        ones are kept."""
        asked = chunk, deepest, block_layers
        if asked not in self._composed:
            listed = list(self._compositions(*asked))
            counts, begins = zip(*listed, strict=True)
            self._composed[asked] = np.array(counts, dtype=float), np.array(begins, dtype=float)
        return self._composed[asked]

    @cached_property
    def _composed(self) -> dict[tuple[int, int, int], tuple[Array, Array]]:
        return {}

    def _compositions(self, chunk: int, deepest: int, block_layers: int) -> Iterator[tuple[Composition, bool]]:
        """The same one by one. A stage has at least one layer on each stage before it but the first."""
        yield (0,) * (2 * len(self.kinds)), chunk == 0
        first = max(chunk * self.pp - 1, 0)
        for count in range(1, min(deepest, len(self.layers)) + 1):
            starts = np.arange(len(self.layers) + 1 - count)
            again = self._before[starts + min(count, block_layers)] - self._before[starts]
            windows = np.hstack([self._before[starts + count] - self._before[starts], again])
            for composition in dict.fromkeys(map(tuple, windows[first:].tolist())):
                yield composition, False
            if chunk == 0:
                yield tuple(windows[0].tolist()), True

    def band(self, deepest: int) -> tuple[list[int], list[int]]:
        """Fewest and most layers before each stage (and after the last) when no stage holds more than `deepest`."""
        total, stages = len(self.layers), self.stages
        low = [0, *(max(stage - 1, 0) for stage in range(1, stages + 1))]
        high = [min(stage * deepest, total) for stage in range(stages + 1)]
        for stage in range(stages + 1):
            low[stage] = max(min(low[stage], total), total - (stages - stage) * deepest, 0)
            left = sum(self.fewest(later) for later in range(stage, self.certain))
            high[stage] = min(high[stage], total - left)
        return low, high

    @cached_property
    def sure_kinds(self) -> list[tuple[tuple[LayerKind, ...], NDArray[np.bool_]]]:
        """Stages that are certain to hold a layer (masks), by the kinds that it may be of: it has at least one layer on
        each stage before it but the first."""
        found: dict[tuple[LayerKind, ...], list[int]] = {}
        for stage in range(self.certain):
            if self.fewest(stage):
                found.setdefault(tuple(dict.fromkeys(self.layers[max(stage - 1, 0) :])), []).append(stage)
        return [(kinds, np.isin(np.arange(self.stages), stages)) for kinds, stages in found.items() if kinds]

    def has_placements(self, deepest: int) -> bool:
        """False where no stage may hold more than `deepest` layers and the layers are too many for the stages, or too
        few to give one to each stage that needs one: then some band is empty."""
        low, high = self.band(deepest)
        return len(self.layers) <= deepest * self.stages and all(a <= b for a, b in zip(low, high, strict=True))

    @cached_property
    def certain(self) -> int:
        """Stages before this one hold a layer wherever the MTP modules are."""
        return self._endings[0]

    @cached_property
    def _endings(self) -> list[int]:
        return mtp_stages(self.pp, self.vpp, self.mtp_with_loss or not self.mtp_layers)


@lru_cache(maxsize=256)
def grid_of(layers: tuple[LayerKind, ...], pp: int, vpp: int, mtp_layers: int, mtp_with_loss: bool = False) -> Grid:
    """The grid, with what it has computed."""
    return Grid(layers, pp, vpp, mtp_layers, mtp_with_loss)


def problem_grid(problem: Problem, pp: int, vpp: int) -> Grid:
    """The grid of a problem's layers."""
    return grid_of(problem.architecture.layers, pp, vpp, problem.mtp_layers, problem.architecture.is_hybrid)


def on_simplex(points: Array) -> Array:
    """The nearest points with entries >= 0 and sum 1, row by row (Held, Wolfe and Crowder 1974)."""
    ordered = -np.sort(-points, axis=1)
    excess = np.cumsum(ordered, axis=1) - 1
    number = np.arange(1, points.shape[1] + 1)
    last = (ordered - excess / number > 0).sum(axis=1) - 1
    level = np.take_along_axis(excess, last[:, None], axis=1) / (last[:, None] + 1)
    return np.asarray(np.maximum(points - level, 0.0))


def first_of_each(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each distinct row (of integers from 0) first is, in lexicographic order of the rows.

    Columns are packed into as few words as hold them: sorting whole rows takes several times as long.
    """
    bits = int(rows.max(initial=1)).bit_length()
    words = []
    for first in range(0, rows.shape[1], _WORD_BITS // bits):
        word = np.zeros(len(rows), dtype=np.int64)
        for column in rows[:, first : first + _WORD_BITS // bits].T:
            word = (word << bits) | column
        words.append(word)
    order = np.lexsort(words[::-1])
    new = np.ones(len(rows), dtype=bool)
    new[1:] = np.any([word[order[1:]] != word[order[:-1]] for word in words], axis=0)
    return np.asarray(order[new])
