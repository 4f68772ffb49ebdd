"""The error tree.

    MoeoptError
    └── InputError      what the user gave cannot be used: one sentence, exit code 2

Outcomes are not errors: an infeasible problem, an illegal layout and a search that ran out of time are values
(see `moeopt.solution`).
"""


class MoeoptError(Exception):
    """Base of every error that moeopt raises on purpose."""


class InputError(MoeoptError):
    """Input that cannot be used. Its text is one sentence: the field, the value and the equation that fails."""
