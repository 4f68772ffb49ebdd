"""Whole layers that a rank can hold: what weights on rows alone do not see, as they spread layers evenly.

Counted are layers of the commonest kind; other layers, and the MTP modules, count nothing.
"""

import numpy as np

from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows, duration_ns
from moeopt.dual.tables import Tables
from moeopt.dual.tops import SLACK


def most_by_time(tables: Tables, upper_ns: Array) -> Array:
    """Rows x ranks: what UB2 (`upper_ns`, its least value) leaves of the target limits R1, which is M times the rank's
    own work and the stages of the first position before it."""
    mine, pp = tables.prices, tables.grid.pp
    commonest, special = _layer_and_special_ns(mine, pp)
    room = ((mine.target_ns - upper_ns)[:, None] - mine.fill_ns(pp)) / tables.rows.schedule[2] - special
    return np.asarray(np.floor(room / commonest[:, None] * (1 + SLACK)))


def most_by_memory(grid: Grid, rows: Rows, mine: Prices, deepest: int) -> Array:
    """Candidates x ranks: for every memory row of a rank, as many layers as fit into its chunks, the cheapest first,
    and no more a chunk than the deepest stage holds. By block, as many of these as a chunk recomputes come cheaper."""
    pp = grid.pp
    block = np.minimum(mine.block_layers, deepest)[:, None, None]
    static, kept = ((mine.kinds[:, :, 4] * mine.kinds[:, :, measure]).sum(axis=1) for measure in (2, 3))
    freed = np.maximum(-(mine.kinds[:, :, 4] * mine.again[:, :, 3]).sum(axis=1), 0.0)
    flight = rows.flight.reshape(len(rows.flight), grid.vpp, pp)
    of = rows.resident[:, :pp].argmax(axis=1)
    own = np.sort(flight[np.arange(len(of)), :, of], axis=1)
    full = static[:, None, None] + kept[:, None, None] * own
    price = np.concatenate([full - freed[:, None, None] * own, full], axis=2)
    order = np.argsort(price, axis=2, kind="stable")
    units = np.concatenate([np.broadcast_to(block, full.shape), np.broadcast_to(deepest - block, full.shape)], axis=2)
    price, units = np.take_along_axis(price, order, axis=2), np.take_along_axis(units, order, axis=2)
    room = mine.room.copy()
    for stage, piece in ((0, mine.embedding), (-1, mine.loss)):
        room -= piece[:, 2:3] * rows.resident[:, stage] + piece[:, 3:4] * rows.flight[:, stage]
    before = np.cumsum(units * price, axis=2) - units * price
    held = np.clip((room[:, :, None] * (1 + SLACK) - before) // np.maximum(price, 1), 0, units).sum(axis=2)
    most = np.full((len(room), pp), np.inf)
    np.minimum.at(most.T, of, np.where(room < 0, -1, held).T)
    return most


def whole_layers_ns(grid: Grid, rows: Rows, prices: Prices, deepest: int) -> Array:
    """The least R1 that lets ranks within their memory hold all layers of the commonest kind together: no pipeline's
    replay is below it. By candidate; infinite where no time is enough."""
    layers = max(map(grid.layers.count, grid.kinds))
    most = np.clip(most_by_memory(grid, rows, prices, deepest), -1, layers)
    each, special = _layer_and_special_ns(prices, grid.pp)
    held = np.arange(layers + 1)[None, None, :]
    row = rows.schedule[2] * (special[:, :, None] + held * each[:, None, None]) + prices.fill_ns(grid.pp)[:, :, None]
    row = np.where(held <= most[:, :, None], row, np.inf)
    # With the n-th shortest of all steps of one layer more, n layers and one on every rank may be held at least.
    steps = np.sort(row[:, :, 1:].reshape(len(row), -1), axis=1)[:, layers - 1]
    return np.asarray(np.where((most < 0).any(axis=1), np.inf, np.maximum(steps, row[:, :, 0].max(axis=1))))


def _layer_and_special_ns(mine: Prices, pp: int) -> tuple[Array, Array]:
    """A layer of the commonest kind (by candidate), and the embedding and the loss on their ranks (x ranks)."""
    special = np.zeros((len(mine.kinds), pp))
    special[:, 0] += duration_ns(mine.embedding)
    special[:, -1] += duration_ns(mine.loss)
    return (mine.kinds[:, :, 4] * duration_ns(mine.kinds)).sum(axis=1), special
