"""Saying no: one sentence that names the decision and the framework that cannot express it."""

from collections.abc import Iterable

from moeopt.errors import InputError

Refusal = tuple[str, bool, str]
"""Decision, whether it is in the way, and why."""


def refuse_first(framework: str, refusals: Iterable[Refusal]) -> None:
    """Raise InputError for the first decision that is in the way."""
    for decision, applies, why in refusals:
        if applies:
            raise InputError(f"{decision}: {framework} cannot express it: {why}")
