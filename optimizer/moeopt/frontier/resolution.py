"""`step_time=0.1%,peak_memory=64MiB`: how much better a layout must be to count as another point."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from moeopt.errors import InputError
from moeopt.frontier.boxes import Resolution
from moeopt.frontier.goals import essential
from moeopt.problem.base import nearest
from moeopt.problem.problem import Problem
from moeopt.units import parse_bytes, parse_count, parse_duration_ns, parse_percent

EXACT_UP_TO = 200
"""`auto` is exact for problems of so many legal combinations of degrees and modes ..."""
COARSE = "5%"
"""... and this share of step time, peak memory and cost above (GPU counts stay exact); the predicted step time is
itself less certain than that (`step_time.range` of every answer)."""


def automatic(problem: Problem, rows: int, names: Sequence[str]) -> dict[str, str]:
    """What `auto` stands for. Objectives of which one decides all others have one best point: exact."""
    if rows <= EXACT_UP_TO or len(essential(problem, names, Resolution.exact(len(names)))) == 1:
        return {}
    return {name: COARSE for name in names if name != "gpus"}


def read_resolution(given: str | Mapping[str, Any], names: Sequence[str]) -> tuple[Resolution, dict[str, Any]]:
    """The steps, and as the answer states them (`exact`, `1%`, or units of the objective). Raises InputError."""
    if given == "exact":
        return Resolution.exact(len(names)), dict.fromkeys(names, "exact")
    fields = _fields(given)
    for name in fields:
        if name not in names:
            raise InputError(f"resolution.{name}: not among the objectives{nearest(name, list(names))}")
    steps = [_step(name, fields.get(name, "exact")) for name in names]
    resolution = Resolution(tuple(share for share, _ in steps), tuple(units for _, units in steps))
    return resolution, {name: _stated(*step) for name, step in zip(names, steps, strict=True)}


def _fields(given: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    fields = {}
    for part in given.split(","):
        name, sign, value = part.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise InputError(f"resolution: {part.strip()!r} is not of the form step_time=1%; or write exact")
        fields[name.strip()] = value.strip()
    return fields


def _step(name: str, value: Any) -> tuple[Fraction, int]:
    field = f"resolution.{name}"
    if value == "exact":
        return Fraction(0), 0
    if isinstance(value, str) and value.endswith("%"):
        return parse_percent(value, field), 0
    if name == "step_time":
        units = parse_duration_ns(f"{value}ns" if isinstance(value, int) else value, field)
    elif name == "peak_memory":
        units = parse_bytes(value, field)
    else:
        units = parse_count(value, field)
    if units < 0:
        raise InputError(f"{field}: {value!r} is below 0")
    return Fraction(0), units


def _stated(share: Fraction, units: int) -> Any:
    if share:
        return f"{float(100 * share):g}%"
    return units or "exact"
