"""What a problem may say in a short form: a chain of objectives, and the least that a layout must reach."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.problem.workload import Workload
from moeopt.units import parse_count, parse_duration_ns

TARGETS = ("step_time", "tokens_per_second")
"""Limits that are conditions on the finished layout: at most so long a step, at least so many tokens a second (over
all GPUs)."""
NS_PER_SECOND = 10**9
_MOST_FACTOR = 10**5
"""Steps of up to 10^13 ns times it stay within the solver's integers."""


def spell_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a problem with `objective: a,b` split into `objective` and `then`, and targets in `limits` as
    constraints on the step time. Raises InputError where a target cannot be read."""
    fields = dict(values)
    chain = _chain(fields.get("objective"))
    if chain is not None and (len(chain) > 1 or fields["objective"] != chain[0]):
        fields["objective"], fields["then"] = chain[0], chain[1:]
    limits = fields.get("limits")
    if isinstance(limits, Mapping) and any(limits.get(name) is not None for name in TARGETS):
        wanted = [text for name in TARGETS if limits.get(name) is not None for text in [_condition(name, fields)]]
        given = fields.get("constraints") or ()
        given = [given] if isinstance(given, str) else list(given)
        fields["constraints"] = [*given, *(text for text in wanted if text not in given)]
    if isinstance(limits, Mapping):
        fields["limits"] = {name: limit for name, limit in limits.items() if name not in TARGETS}
    return fields


def _chain(given: Any) -> list[Any] | None:
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",")]
    return list(given) if isinstance(given, (list, tuple)) and given else None


def _condition(name: str, fields: Mapping[str, Any]) -> str:
    """The constraint that a target stands for."""
    value, field = fields["limits"][name], f"limits.{name}"
    value = value.get("max" if name == "step_time" else "min") if isinstance(value, Mapping) else value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        example = "12s" if name == "step_time" else "1e6 or 1.2M"
        raise InputError(f"{field}: {shown(value)} is not of the form {example}")
    if name == "step_time":
        longest_ns = parse_duration_ns(value, field)
    else:
        workload, rate = _workload(fields), _rate(value, field)
        if not workload.batches.exact:
            return _rate_condition(workload, rate, field)
        longest_ns = workload.sequence_length * workload.batch * NS_PER_SECOND // rate
    if longest_ns < 1:
        raise InputError(f"{field}: {shown(value)} leaves no time for a step")
    return f"step_time <= {value if name == 'step_time' and isinstance(value, str) else f'{longest_ns}ns'}"


def _rate(value: Any, field: str) -> int:
    """Tokens a second."""
    rate = parse_count(int(value) if isinstance(value, float) and value.is_integer() else value, field)
    if rate < 1:
        raise InputError(f"{field}: {shown(value)} is not above 0")
    return rate


def _workload(fields: Mapping[str, Any]) -> Workload:
    given = fields.get("workload") or {}
    return Workload.model_validate(given) if isinstance(given, Mapping) else given


def _rate_condition(workload: Workload, rate: int, field: str) -> str:
    """Where the batch is open: tokens of the step's own batch, as `step_time * a <= global_batch_size * b`, exact."""
    sequence = Fraction(workload.sequence_length * NS_PER_SECOND, rate)
    if sequence.denominator > _MOST_FACTOR:
        raise InputError(
            f"{field}: {rate} with an open global_batch_size compares step_time * {sequence.denominator} with "
            f"global_batch_size * {sequence.numerator}ns, beyond the factor {_MOST_FACTOR} that is searched exactly; "
            "give a rounder rate"
        )
    left = "step_time" if sequence.denominator == 1 else f"step_time * {sequence.denominator}"
    return f"{left} <= global_batch_size * {sequence.numerator}ns"
