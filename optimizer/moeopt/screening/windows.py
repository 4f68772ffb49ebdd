"""Layers in their order: what a stage with m counted layers must hold at least, whatever its place.

The layers of a stage are a window of the architecture's. Counted are the layers of the commonest kind, or all of them;
the others cost what a window that contains them must hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from moeopt.problem.layer_kind import LayerKind
from moeopt.screening.limits import Column


@dataclass(frozen=True)
class Window:
    """Least cost of a stage's layers (rows): `base` of one that may be any layer, `first` of a window with one counted
    layer, `more` of each further counted one."""

    base: Column
    first: Column
    more: Column


@dataclass(frozen=True)
class _Ways:
    """The different ways, as layers by kind, of the shortest windows with one counted layer, with two, ...: `starts`
    has the first row of each size."""

    layers: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Counted:
    """The layers of some kinds among an architecture's."""

    layers: tuple[LayerKind, ...]
    kinds: frozenset[LayerKind]

    @cached_property
    def _places(self) -> list[int]:
        return [index for index, layer in enumerate(self.layers) if layer in self.kinds]

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self._places)

    @cached_property
    def last_other(self) -> int:
        """The place of the last layer that is not counted; -1 where all are."""
        return max((index for index, layer in enumerate(self.layers) if layer not in self.kinds), default=-1)

    def window(self, columns: Sequence[Column], deepest: int, at_start: bool = False) -> Window:
        """Of costs by kind (one column each), with at most `deepest` counted layers a stage. `at_start`: of the stage
        that begins with the first layer."""
        stacked = np.stack(columns)
        ways = self._ways_at_start if at_start else self._ways_anywhere
        sizes = min(max(deepest, 1), self.total)
        end = ways.starts[sizes] if sizes < self.total else len(ways.layers)
        costs = np.minimum.reduceat(ways.layers[:end] @ stacked, ways.starts[:sizes], axis=0)
        rises = (costs[1:] - costs[0]) // np.arange(1, sizes)[:, None]
        return Window(stacked.min(axis=0), costs[0], rises.min(axis=0) if sizes > 1 else costs[0])

    @cached_property
    def _ways_anywhere(self) -> _Ways:
        return self._shortest(at_start=False)

    @cached_property
    def _ways_at_start(self) -> _Ways:
        return self._shortest(at_start=True)

    def _shortest(self, at_start: bool) -> _Ways:
        every = tuple(dict.fromkeys(self.layers))
        is_kind = np.array([[layer == kind for kind in every] for layer in self.layers], dtype=np.int64)
        before = np.concatenate([np.zeros((1, len(every)), dtype=np.int64), np.cumsum(is_kind, axis=0)])
        places = np.array(self._places)
        ways = []
        for size in range(1, self.total + 1):
            ends = before[places[size - 1 :] + 1]
            windows = ends[:1] if at_start else ends - before[places[: len(ends)]]
            ways.append(np.unique(windows, axis=0))
        return _Ways(np.concatenate(ways), np.cumsum([0, *(len(way) for way in ways[:-1])]))


@lru_cache(maxsize=64)
def counted_sorts(layers: tuple[LayerKind, ...]) -> tuple[Counted, ...]:
    """What to count: the commonest kind; and all layers, unless the others only come first."""
    commonest = max(dict.fromkeys(layers), key=layers.count)
    leading = layers.index(commonest)
    alone = Counted(layers, frozenset([commonest]))
    if all(layer == commonest for layer in layers[leading:]):
        return (alone,)
    return alone, Counted(layers, frozenset(layers))
