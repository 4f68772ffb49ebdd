"""Why a problem has no layout, and the cheapest changes that give it one: each change is solved, not guessed.

The causes are tried one after the other: the problem's own wishes (fix, limits), the GPU equations and batch, the
framework's rules, memory. Dropping one at a time tells which of them cannot hold together.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from moeopt.configurations import modes
from moeopt.frameworks.megatron_core import broken_choices, degree_rules
from moeopt.problem.problem import Limits, Problem
from moeopt.screening import Screening
from moeopt.space import domain, enumerate_degrees, with_chunks
from moeopt.units import format_bytes

_MOST_DOUBLINGS = 12
_ROUNDS = 7
"""Steps in which a layout is looked for at another GPU count: up to 3.6 times its lowest time bound."""


def explain(problem: Problem, screening: Screening) -> dict[str, Any]:
    """The contract's explanation: the conflict, a paragraph for people, and relaxations that were solved."""
    conflict, sentence = _conflict(problem, screening)
    relaxations = list(_relaxations(problem))
    advice = "; ".join(f"{item['change']}: {item['text']}" for item in relaxations)
    text = sentence + (f" What would change it: {advice}." if advice else "")
    return {"conflict": conflict, "text": text, "relaxations": relaxations}


def _conflict(problem: Problem, screening: Screening) -> tuple[list[str], str]:
    empty = [name for name in ("tp", "cp", "pp", "ep", "etp", "vpp", "micro_batch_size") if not domain(problem, name)]
    if empty:
        name = empty[0]
        return [f"fix_{name}", f"limit_{name}"], f"No value of {name} satisfies the problem's fix and limits."
    if screening.best_memory is not None:
        limit, need = problem.memory_limit, screening.best_memory
        over = (
            f"even the lightest legal layout needs at least {need} bytes ({format_bytes(need)}) on its fullest GPU, "
            f"{format_bytes(max(need - limit, 0))} more than the {limit} bytes ({format_bytes(limit)}) there are"
            if need > limit
            else f"no placement of layers keeps every GPU within the {limit} bytes ({format_bytes(limit)}) there are"
        )
        return ["memory_fits"], f"Legal layouts exist on {problem.gpu_range.max} GPUs, but {over}."
    return _broken_rules(problem)


def _broken_rules(problem: Problem) -> tuple[list[str], str]:
    """Rules without which some combination of degrees would be legal."""
    degrees = enumerate_degrees(problem)
    batch, gpus = problem.workload.global_batch_size, problem.gpu_range.max
    if not len(degrees.tp):
        return (
            ["gpu_total_dense", "gpu_total_expert", "batch_by_dp"],
            f"No degrees satisfy {gpus} = tp * cp * dp * pp = etp * ep * edp * pp with global_batch_size {batch} a "
            "multiple of micro_batch_size * dp.",
        )
    degrees, _ = with_chunks(problem, degrees)
    mode = modes(problem)[0]
    choice = broken_choices(problem, mode)
    if choice:
        return [rule.name for rule in choice], "; ".join(rule.meaning for rule in choice)
    names = []
    for rule in degree_rules(problem, mode):
        others = [other for other in degree_rules(problem, mode) if other.name != rule.name]
        ok = np.ones(len(degrees.tp), dtype=bool)
        for other in others:
            ok &= other.holds(problem, degrees, mode)
        if ok.any():
            names.append(rule)
    if not names:
        names = [rule for rule in degree_rules(problem, mode) if not rule.holds(problem, degrees, mode).all()]
    return [rule.name for rule in names], "These rules leave no degrees: " + "; ".join(
        rule.meaning for rule in names
    ) + "."


def _relaxations(problem: Problem) -> Iterator[dict[str, Any]]:
    """More GPUs, and no wishes: each screened, and the first that admits a layout told."""
    if problem.fix or problem.limits != Limits():
        free = problem.model_copy(update={"fix": {}, "limits": Limits()})
        if _fits(free):
            yield {"change": "drop fix and limits", "to": None, "text": "layouts exist without them"}
    gpus = _enough_gpus(problem)
    if gpus is not None:
        yield {"change": "gpus", "to": gpus, "gpus": gpus, "text": f"{gpus} GPUs have a layout"}


def _enough_gpus(problem: Problem) -> int | None:
    """The smallest GPU count that was found to have a layout: by doubling, then by halving the step down to an eighth
    of the count (in whole nodes)."""
    low = high = problem.gpu_range.max
    for _ in range(_MOST_DOUBLINGS):
        low, high = high, 2 * high
        if _fits(problem.model_copy(update={"gpus": high})):
            break
    else:
        return None
    node = problem.cluster.gpus_per_node
    finest = max((high - low) // 8, 1)
    while high - low > finest:
        middle = -(-(low + high) // 2 // node) * node
        if not low < middle < high:
            break
        if _fits(problem.model_copy(update={"gpus": middle})):
            high = middle
        else:
            low = middle
    return high


def _fits(problem: Problem) -> bool:
    """Whether some layout was found for the problem: its placement is judged exactly."""
    from moeopt.branch import Search
    from moeopt.cpsat.solve import Settings

    search = Search(problem, Settings(workers=1))
    least = search.screening.best_memory
    if least is None or least > problem.memory_limit:
        return False
    search.find_first(_ROUNDS)
    return bool(search.pool)
