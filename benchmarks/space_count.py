"""How many layouts the search decides among: legal candidates, and placements of their layers, as exact integers."""

from collections import Counter
from math import comb

from moeopt.configurations import modes, recomputes
from moeopt.frameworks.megatron_core import choices_legal
from moeopt.problem.problem import Problem
from moeopt.screening import legal_rows
from moeopt.space import enumerate_degrees, with_chunks


def placements(layers: int, pp: int, vpp: int, mtp_layers: int) -> int:
    """Ways to place layers in order on pp * vpp stages: a stage without a layer only at the first, the last, and from
    the MTP modules' stage on; these modules in the last chunk of any rank but the first."""
    stages = pp * vpp
    ends = [stage for stage in range((vpp - 1) * pp, stages) if stage % pp or pp == 1] if mtp_layers else [stages - 1]
    return sum(_ways(layers, end) for end in ends)


def _ways(layers: int, end: int) -> int:
    """Stages 0 to `end`, the inner ones not empty: the others share what is left."""
    if end == 0:
        return 1
    spare = layers - (end - 1)
    return comb(spare + end, end) if spare >= 0 else 0


def count(problem: Problem) -> tuple[int, int]:
    """(legal candidates, legal layouts) of a problem."""
    degrees, _ = with_chunks(problem, enumerate_degrees(problem))
    grids: Counter[tuple[int, int]] = Counter()
    for mode in modes(problem):
        for recompute in recomputes(problem):
            choices = mode.model_copy(update={"recompute": recompute})
            if choices_legal(problem, choices):
                legal = legal_rows(problem, degrees, choices)
                grids.update(zip(degrees.pp[legal].tolist(), degrees.vpp[legal].tolist(), strict=True))
    layers = problem.architecture.num_hidden_layers
    total = sum(rows * placements(layers, pp, vpp, problem.mtp_layers) for (pp, vpp), rows in grids.items())
    return sum(grids.values()), total
