"""What a legality rule is: one named condition with its numbers written out, its source and who checks it.

The same rule serves evaluate (Python integers), the sweep (int64 columns) and CP-SAT (tables over its scope).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from moeopt.arithmetic import Number, is_column
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

Checked: TypeAlias = Literal["launch", "run", "never", "moeopt"]
"""Who notices a broken rule: the framework before training starts ("launch"), the framework or one of its kernels in
the first steps ("run"), nobody (the run trains something else than was meant, "never"), or only moeopt, because the
rule is the cluster's or the problem's own ("moeopt")."""

Predicate: TypeAlias = Callable[[Problem, Degrees, Choices], Number]
Sentence: TypeAlias = Callable[[Problem, Degrees, Choices], str]
Applies: TypeAlias = Callable[[Problem, Choices], bool]


def always(_problem: Problem, _choices: Choices) -> bool:
    """The rule is in play for every problem and every choice."""
    return True


@dataclass(frozen=True)
class Rule:
    """A condition on the degrees named in `scope` (none: on problem and choices alone)."""

    name: str
    meaning: str
    scope: tuple[str, ...]
    predicate: Predicate
    """Whether the rule holds; reads no degree outside the scope, works on integers and columns."""
    sentence: Sentence
    """The equation with its numbers; integers only."""
    source: str
    checked: Checked
    applies: Applies = always
    """Whether the rule is in play at all; where it is not, it holds."""
    waits: bool = False
    """Whether it reads the recompute setting, which a search decides after the degrees."""

    def holds(self, problem: Problem, degrees: Degrees, choices: Choices) -> Number:
        """True or False, or a boolean column as long as the scope's columns. Unread degrees may be None."""
        result = self.predicate(problem, degrees, choices) if self.applies(problem, choices) else True
        columns = [value for name in self.scope if is_column(value := getattr(degrees, name))]
        if columns:
            return np.broadcast_to(np.asarray(result, dtype=bool), columns[0].shape)
        return bool(result)

    def equation(self, problem: Problem, degrees: Degrees, choices: Choices) -> str:
        """The rule with this layout's numbers written out."""
        if not self.applies(problem, choices):
            return f"does not apply here: {self.meaning}"
        return self.sentence(problem, degrees, choices)


def excluded(
    name: str, meaning: str, sentence: Callable[[Problem], str], source: str, checked: Checked, applies: Applies
) -> Rule:
    """What never goes together: a rule that is broken wherever it is in play."""
    return Rule(
        name,
        meaning,
        (),
        lambda _problem, _d, _choices: False,
        lambda problem, _d, _choices: sentence(problem),
        source,
        checked,
        applies,
    )


def requires(
    name: str,
    meaning: str,
    says: str,
    source: str,
    applies: Applies,
    wanted: Applies,
    checked: Checked = "launch",
) -> Rule:
    """A rule between choices and the problem: wherever `applies`, `wanted` must be true. It reads no degree."""
    return Rule(
        name,
        meaning,
        (),
        lambda problem, _d, choices: wanted(problem, choices),
        lambda problem, _d, choices: says if wanted(problem, choices) else f"{says}: does not hold",
        source,
        checked,
        applies,
    )


@dataclass(frozen=True)
class Stages:
    """A pipeline layout as it was given, right or wrong: the letters of each stage, in the order of the string."""

    pp: int
    vpp: int
    stages: tuple[str, ...] | None
    """None: no string was given, and the framework splits evenly."""

    @property
    def flat(self) -> str:
        """All letters, stage breaks left out."""
        return "".join(self.stages or ())


@dataclass(frozen=True)
class PipelineRule:
    """A condition on which layers each stage holds."""

    name: str
    meaning: str
    predicate: Callable[[Problem, Stages, Choices], bool]
    sentence: Callable[[Problem, Stages, Choices], str]
    source: str
    checked: Checked
    applies: Callable[[Problem, Stages, Choices], bool] = lambda _problem, stages, _choices: stages.stages is not None

    def holds(self, problem: Problem, stages: Stages, choices: Choices) -> bool:
        """True or False; true where the rule is not in play."""
        return not self.applies(problem, stages, choices) or bool(self.predicate(problem, stages, choices))

    def equation(self, problem: Problem, stages: Stages, choices: Choices) -> str:
        """The rule with this layout's numbers written out."""
        if not self.applies(problem, stages, choices):
            return f"does not apply here: {self.meaning}"
        return self.sentence(problem, stages, choices)


@dataclass(frozen=True)
class Verdict:
    """One rule asked of one layout. `holds` is None where a broken grid leaves the rule without its numbers."""

    rule: str
    holds: bool | None
    equation: str
    meaning: str = ""
    source: str = ""
    checked: Checked = "moeopt"


def remainder(what: str, value: int, of: str, divisor: int) -> str:
    """`512 % (etp 1 * ep 48 * pp 4) = 128, must be 0`, or the quotient where it divides."""
    if divisor and value % divisor == 0:
        return f"{what} % {of} = 0"
    return f"{what} % {of} = {value % divisor if divisor else value}, must be 0"
