"""Layers in their order: what a stage with m counted layers must hold at least, whatever its place.

The layers of a stage are a window of the architecture's. Counted are the layers of the commonest kind, or all of them;
the others cost what a window that contains them must hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from moeopt.problem.architecture import LayerKind
from moeopt.screening.limits import Column

Sort: TypeAlias = frozenset[LayerKind]


@lru_cache(maxsize=64)
def sorts(layers: tuple[LayerKind, ...]) -> tuple[Sort, ...]:
    """What to count: the commonest kind; and all layers, unless the others only come first."""
    commonest = max(dict.fromkeys(layers), key=layers.count)
    leading = layers.index(commonest)
    if all(layer == commonest for layer in layers[leading:]):
        return (frozenset([commonest]),)
    return frozenset([commonest]), frozenset(layers)


@dataclass(frozen=True)
class Window:
    """Least cost of a stage's layers (rows): `base` of one that may be any layer, `first` of a window with one counted
    layer, `more` of each further counted one."""

    base: Column
    first: Column
    more: Column


def window(
    layers: tuple[LayerKind, ...], columns: Sequence[Column], counted: Sort, deepest: int, at_start: bool = False
) -> Window:
    """Of costs by kind (one column each), with at most `deepest` counted layers a stage. `at_start`: of the stage that
    begins with the first layer."""
    stacked = np.stack(columns)
    ways = _shortest(layers, counted, at_start)[: max(deepest, 1)]
    costs = [(np.array(way, dtype=np.int64) @ stacked).min(axis=0) for way in ways]
    rises = [(cost - costs[0]) // size for size, cost in enumerate(costs[1:], start=1)]
    more = np.minimum.reduce(rises) if rises else costs[0]
    return Window(stacked.min(axis=0), costs[0], more)


@lru_cache(maxsize=256)
def _shortest(layers: tuple[LayerKind, ...], counted: Sort, at_start: bool) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For m = 1, 2, ... counted layers: the different ways, as layers by kind, of a shortest window that has them."""
    kinds = tuple(dict.fromkeys(layers))
    places = [index for index, layer in enumerate(layers) if layer in counted]
    before = [[0] * len(kinds)]
    for layer in layers:
        before.append([count + (kind == layer) for count, kind in zip(before[-1], kinds, strict=True)])
    result = []
    for size in range(1, len(places) + 1):
        firsts = [0] if at_start else range(len(places) - size + 1)
        ways = {
            tuple(
                end - start
                for end, start in zip(
                    before[places[j + size - 1] + 1], before[0 if at_start else places[j]], strict=True
                )
            )
            for j in firsts
        }
        result.append(tuple(sorted(ways)))
    return tuple(result)
