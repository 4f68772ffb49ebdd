"""Weights that an ascent begins with: a guess, or those of linear programs, which rule out candidates by themselves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows
from moeopt.dual.shares import Shares

_SHARPNESS = 30.0
"""A guess: exp of this times how close a row is to the largest, at even stages."""


@dataclass(frozen=True)
class FirstWeights:
    """Candidates x time rows (sum 1), and x memory rows."""

    rho: Array
    mu: Array

    @classmethod
    def guessed(cls, grid: Grid, rows: Rows, prices: Prices) -> "FirstWeights":
        """Those that rows come with, or more for rows that are long when all stages hold the same; none for memory."""
        size = len(prices.hop_ns)
        mu = np.zeros((size, len(rows.resident)))
        if rows.start is not None:
            return cls(np.tile(rows.start, (size, 1)), mu)
        sums = rows.time.reshape(len(rows.time), 2, -1).sum(axis=2)
        even = prices.totals[:, :2] / grid.stages @ sums.T + prices.hop_ns[:, None] * rows.hops
        weights = np.exp(_SHARPNESS * (even / even.max(axis=1, keepdims=True) - 1))
        return cls(weights / weights.sum(axis=1, keepdims=True), mu)

    @classmethod
    def relaxed(cls, grid: Grid, rows: Rows, prices: Prices) -> tuple["FirstWeights", Array]:
        """Half-way between a guess and those of linear programs, which know no order of layers; a guess where there is
        no program, or none of that size. And by candidate what no placement that fits is below (rows and UB2 together),
        which the programs tell before any walk."""
        found = cls.guessed(grid, rows, prices)
        if not rows.timed:
            return found, np.full(len(found.rho), -np.inf)
        shares = Shares(grid, rows, prices)
        weights = shares.weights()
        for index, each in weights.items():
            found.rho[index], found.mu[index] = (found.rho[index] + each.time) / 2, each.memory
        return found, shares.least_ns(weights)

    def only(self, index: NDArray[Any]) -> "FirstWeights":
        """Those of some of the candidates."""
        return FirstWeights(self.rho[index], self.mu[index])
