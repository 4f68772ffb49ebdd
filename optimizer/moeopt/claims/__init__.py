"""Claims about a layout, each checked against the computed value and answered with the arithmetic.

A claim with N written digits holds when the computed value rounds to it: `4.4B` stands for 4.35B to 4.45B.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from moeopt.claims.gpus import gpus_answer
from moeopt.claims.memory import memory_answer
from moeopt.claims.parameters import parameters_answer
from moeopt.claims.quantities import (
    Answer,
    Quantity,
    Setting,
    bytes_quantity,
    count_quantity,
    duration_quantity,
    fraction_quantity,
    holds,
    not_priced,
)
from moeopt.claims.reading import Reading, nearest_reading
from moeopt.errors import InputError
from moeopt.layout import Layout
from moeopt.problem.base import nearest
from moeopt.problem.problem import DEGREES, Problem
from moeopt.units import format_bytes, format_ns

__all__ = ["NAMES", "Reading", "check_claims", "check_readable", "nearest_reading"]

Judge = Callable[[str, str, Setting], Answer]
_ALIASES = {
    "total_params": "params",
    "parameters": "params",
    "peak_memory": "memory_per_gpu",
    "mbs": "micro_batch_size",
}


def _degree(name: str, text: str, setting: Setting) -> Answer:
    quantity = count_quantity(name, text)
    value = setting.evaluation["layout"][name]
    if value is None:
        return not_priced(name, setting)
    given = getattr(setting.layout, name)
    if given is not None and given != value:
        note = f"the layout as given says {given}; on {setting.evaluation['gpus']['total']} GPUs it is {value}"
    else:
        note = "; ".join(setting.evaluation["gpus"]["equations"]) if name in ("dp", "edp") else "as the layout says"
    if name == "num_microbatches":
        layout = setting.evaluation["layout"]
        batch = value * layout["micro_batch_size"] * layout["dp"]
        note = f"{batch} / (micro_batch_size {layout['micro_batch_size']} * dp {layout['dp']}) = {value}"
    return Answer(value, holds(quantity, value), f"{name} is {value}: {note}", f"{value:,}")


def _measured(field: str, of: str) -> Judge:
    """A claim about one number of the step time that needs no more than the number."""

    def judge(name: str, text: str, setting: Setting) -> Answer:
        if "step_time" not in setting.evaluation:
            return not_priced(name, setting)
        time = setting.evaluation["step_time"]
        value = time[field]
        quantity = _READERS.get(name, count_quantity)(name, text)
        shown = {"total_ns": format_ns, "mfu": "{:.2%}".format}.get(field, "{:,.1f}".format)(value)
        held = holds(quantity, Fraction(value))
        return Answer(value, held, f"{of} is {shown} by moeopt's model of this layout{_ratio(quantity, value)}", shown)

    return judge


def _tokens_per_second(name: str, text: str, setting: Setting) -> Answer:
    """All GPUs together: tokens of a step over its time."""
    if "step_time" not in setting.evaluation:
        return not_priced(name, setting)
    workload, step_ns = setting.problem.workload, setting.evaluation["step_time"]["total_ns"]
    sequences = setting.evaluation["batch"]["sequences"]
    tokens = sequences * workload.sequence_length
    value = Fraction(tokens * 10**9, step_ns)
    quantity = count_quantity(name, text)
    note = (
        f"{sequences} sequences * {workload.sequence_length} tokens = {tokens:,} tokens in "
        f"{format_ns(step_ns)} on {setting.evaluation['gpus']['total']:,} GPUs by moeopt's model of this layout"
    )
    return Answer(
        round(float(value), 2), holds(quantity, value), note + _ratio(quantity, float(value)), f"{float(value):,.0f}"
    )


def _ratio(quantity: Quantity, value: float) -> str:
    if not quantity.value or not value:
        return ""
    return f", {float(value / float(quantity.value)):.3g} times the claim"


def _memory_per_gpu(name: str, text: str, setting: Setting) -> Answer:
    if "memory" not in setting.evaluation:
        return not_priced(name, setting)
    memory = setting.evaluation["memory"]
    quantity = bytes_quantity(name, text)
    peak, capacity = memory["peak_bytes"], memory["capacity_bytes"]
    note = f"the fullest GPU is one of stage {memory['peak_stage']}: {format_bytes(peak)} of {format_bytes(capacity)}"
    return Answer(peak, holds(quantity, peak), note, format_bytes(peak))


_JUDGES: dict[str, Judge] = {
    "gpus": gpus_answer,
    "params": parameters_answer,
    "active_params": parameters_answer,
    "memory": memory_answer,
    "memory_per_gpu": _memory_per_gpu,
    "step_time": _measured("total_ns", "one optimizer step"),
    "tokens_per_second": _tokens_per_second,
    "tokens_per_second_per_gpu": _measured("tokens_per_second_per_gpu", "the rate of tokens of one GPU"),
    "model_tflops_per_gpu": _measured("model_tflops_per_gpu", "the rate of model TFLOP of one GPU"),
    "mfu": _measured("mfu", "model FLOPs utilisation"),
    **dict.fromkeys(DEGREES, _degree),
}
_READERS: dict[str, Callable[[str, str], Quantity]] = {
    "memory": bytes_quantity,
    "memory_per_gpu": bytes_quantity,
    "step_time": duration_quantity,
    "mfu": fraction_quantity,
}
"""How a claim's value is read; as a count where nothing is said."""
NAMES = tuple(_JUDGES)
"""Names that a claim may have."""


def check_readable(claims: Sequence[tuple[str, str]]) -> None:
    """Raise InputError for a claim about something unknown or with an unreadable value, before anything is computed."""
    for given, text in claims:
        name = _ALIASES.get(given, given)
        if name not in _JUDGES:
            hint = nearest(given, [*_JUDGES, *_ALIASES]) or f"; there are {', '.join(NAMES)}"
            raise InputError(f"claim.{given}: no such quantity{hint}")
        _READERS.get(name, count_quantity)(name, text)


def check_claims(
    problem: Problem,
    layout: Layout,
    evaluation: Mapping[str, Any],
    claims: Sequence[tuple[str, str]],
    reading: Reading | None = None,
) -> list[dict[str, Any]]:
    """Each claim as `{name, claimed, computed, holds, explanation}`.

    `layout` is the layout as it was given; `evaluation` is the evaluation of its nearest legal reading.
    """
    check_readable(claims)
    setting = Setting(problem, layout, evaluation, reading or nearest_reading(problem, layout))
    answers = []
    for name, text in claims:
        answer = _JUDGES[_ALIASES.get(name, name)](_ALIASES.get(name, name), text, setting)
        answers.append(
            {
                "name": name,
                "claimed": text,
                "computed": answer.computed,
                "computed_text": answer.text,
                "holds": answer.holds,
                "explanation": answer.explanation,
            }
        )
    return answers
