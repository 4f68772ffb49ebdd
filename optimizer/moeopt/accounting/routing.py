"""How uneven a freshly initialised router is: the busiest expert-parallel rank's rows over the mean, by formula.

Before training, a router's first decision about a token follows from the token alone, so equal tokens go to the same
experts, and text repeats few tokens very often. The load of a rank is then a sum over token types, weighted by their
frequencies, of how many of the type's k experts that rank holds:

    frequency of the r-th type          p_r = 1/(r + 2.7) / sum (Zipf-Mandelbrot, exponent 1 and shift 2.7, the usual
                                        fit of text: Piantadosi, Psychonomic Bulletin & Review 21:1112, 2014)
    experts of a type on a rank         hypergeometric: k drawn of E, E/e of them here: mean k/e,
                                        variance k/e * (1 - 1/e) * (E - k)/(E - 1)
    load over its mean                  1 +- sqrt(variance) / mean * sqrt(sum p_r^2)
    busiest of e such ranks             + the expected maximum of e normal deviates (Blom's formula)

It is one layer's imbalance in one step. Drawn by simulation it is up to a fifth more with few experts (a handful of
heavy types skew it: tests/test_offload_and_routing.py). Ignored: finite samples (below 1 % from 10,000 rows on), what
attention adds to equal tokens, balancing losses and biases, which take it away in the first hundreds of steps.
"""

from functools import cache
from math import ceil, sqrt
from statistics import NormalDist

import numpy as np

from moeopt.arithmetic import Number, is_column
from moeopt.problem.architecture import Architecture

ZIPF_SHIFT = 2.7
UNIT = 1000
"""Factors are whole thousandths."""


def initial_imbalance(architecture: Architecture, ep: Number) -> Number:
    """Thousandths, rounded up; 1000 without experts or with one rank."""
    a = architecture
    if not is_column(ep):
        return _thousandths(a.num_experts, a.num_experts_per_tok, a.vocab_size, int(ep))
    values, where = np.unique(ep, return_inverse=True)
    known = [_thousandths(a.num_experts, a.num_experts_per_tok, a.vocab_size, int(value)) for value in values]
    return np.array(known, dtype=np.int64)[where]


@cache
def _thousandths(experts: int, chosen: int, vocabulary: int, ep: int) -> int:
    if ep <= 1 or experts <= 1 or chosen >= experts:
        return UNIT
    mean = chosen / ep
    variance = mean * (1 - 1 / ep) * (experts - chosen) / (experts - 1)
    busiest = NormalDist().inv_cdf((ep - 0.375) / (ep + 0.25))
    return ceil(UNIT * (1 + busiest * sqrt(variance * repetition(vocabulary)) / mean))


@cache
def repetition(vocabulary: int) -> float:
    """sum of p_r^2: the chance that two tokens of a text are the same."""
    weights = [1 / (rank + ZIPF_SHIFT) for rank in range(1, vocabulary + 1)]
    return sum(weight * weight for weight in weights) / sum(weights) ** 2
