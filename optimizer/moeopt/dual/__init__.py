"""Bounds on the best placement of a candidate's layers by Lagrangian duality, and good placements on the way.

The ledger's time of a placement is the largest of some rows (interleaved: the middle of that and UB2), and memory is
one row for each rank and vector of micro-batches in flight. For weights rho >= 0 with sum 1 on the time rows and mu >=
0 on the memory rows

    min over placements of  sum rho row  +  UB2  +  sum mu (bytes - limit)

is at most the best value of a placement that fits. It is a shortest walk: layers come in order, so a stage is a step
from the layers placed before it to those placed after it, its price a sum over what it holds. UB2 at a given base time
x is a sum over stages too, beside one maximum for each chunk position, whose stages follow each other. So the minimum
is exact in whole layers, whatever kinds of layers there are (`walks`); x is one of the times that a stage may have
(`grid`); the weights are raised by subgradient steps (`ascent`), for all candidates of one order of operations at once.
"""

from moeopt.dual.bounds import filled, paired, raised, relaxed, sampled
from moeopt.dual.by_neighbours import NARROW, WIDE, WIDEST, Width
from moeopt.dual.part import Answer, Question

__all__ = [
    "NARROW",
    "WIDE",
    "WIDEST",
    "Answer",
    "Question",
    "Width",
    "filled",
    "paired",
    "raised",
    "relaxed",
    "sampled",
]
