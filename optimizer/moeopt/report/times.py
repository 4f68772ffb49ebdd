"""The step's time, part by part, and the rates that follow."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.units import format_ns

BAR = 40


def render_step_time(answer: Mapping[str, Any], console: Console) -> None:
    """Parts in milliseconds and percent (they add up to the total), then tokens a second and MFU."""
    time = answer.get("step_time")
    if not time:
        return
    total = time["total_ns"]
    console.print(f"\n[bold]Step time: {format_ns(total)}[/bold]{_range(time.get('range'))}")
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name, justify in (("part", "left"), ("ms", "right"), ("share", "right"), ("", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name, nanoseconds in sorted(time["parts"].items(), key=lambda part: -part[1]):
        if nanoseconds:
            share = nanoseconds / total if total else 0.0
            table.add_row(name.replace("_", " "), f"{nanoseconds / 1e6:,.2f}", f"{share:.1%}", "█" * round(BAR * share))
    table.add_row("total", f"{sum(time['parts'].values()) / 1e6:,.2f}", "100.0%", style="bold")
    console.print(Padding(table, (0, 0, 0, 2)))
    console.print(
        f"  {time['tokens_per_second_per_gpu']:,.0f} tokens/s/GPU, "
        f"{time['model_tflops_per_gpu']:,.0f} model TFLOP/s/GPU, MFU {time['mfu']:.1%}"
    )
    if answer.get("cost"):
        console.print(f"  {cost_text(answer['cost'])}")
    for reason in (time.get("range") or {}).get("reasons", ()):
        console.print(Padding(f"wider range: {escape(reason)}", (0, 0, 0, 2)))


def cost_text(cost: Mapping[str, Any]) -> str:
    """`70,312 GPU-hours per trillion tokens, 281,250 USD at 4 USD a GPU-hour`."""
    text = f"{cost['gpu_hours_per_trillion_tokens']:,.0f} GPU-hours per trillion tokens"
    if cost.get("usd_per_trillion_tokens") is not None:
        text += f", {cost['usd_per_trillion_tokens']:,.0f} USD at {cost['price_per_gpu_hour_usd']:g} USD a GPU-hour"
    return text


def _range(given: Mapping[str, Any] | None) -> str:
    """One sigma, from published runs that did not enter the fit."""
    if not given:
        return ""
    return f", {format_ns(given['low_ns'])} to {format_ns(given['high_ns'])} (within {given['percent']} %, 2 in 3)"


def compared_value(objective: Mapping[str, Any]) -> Fraction:
    """An alternative's value as it is compared: for a sequence where batches differ."""
    return Fraction(objective["value"], objective.get("sequences") or 1)


def render_ties(answer: Mapping[str, Any], console: Console) -> None:
    """Says how many of the runners-up a prediction cannot tell from the best: their time lies within its range."""
    percent = ((answer.get("step_time") or {}).get("range") or {}).get("percent")
    others = [compared_value(other["objective"]) for other in answer.get("alternatives") or []]
    if percent is None or answer["objective"]["name"] not in ("step_time", "cost"):
        return
    best = compared_value(answer["objective"])
    tied = sum(value * 100 <= best * (100 + percent) for value in others)
    if tied:
        which = "the runner-up lies" if len(others) == 1 else f"{tied} of the {len(others)} runners-up lie"
        text = f"{which} within the range of the prediction ({percent} %)"
        console.print(Padding(f"{text}: measure before choosing between them", (0, 0, 0, 2)))


_OTHERS = {
    "ledger_optimum": "chosen by its replayed step; by the ledger another layout is best: {}, {} replayed",
    "replays_faster": "met on the way: {} by the ledger, but {} replayed (--certify looks for the best of these)",
}
"""What is said of another layout of an answer: its step by the ledger, and replayed."""


def render_replay(answer: Mapping[str, Any], console: Console) -> None:
    """The replayed step with the bound on all others, and a layout that replays otherwise than the ledger says."""
    _render_schedule(answer.get("schedule"), console)
    for name, text in _OTHERS.items():
        if answer.get(name):
            other = answer[name]
            text = text.format(*(format_ns(other[time]) for time in ("step_time_ns", "simulated_ns")))
            console.print(Padding(escape(f"{text}, {other['layout']['pipeline_layout']}"), (0, 0, 0, 2)))


def _render_schedule(schedule: Mapping[str, Any] | None, console: Console) -> None:
    if not schedule or schedule.get("simulated_ns") is None:
        return
    text = f"with the pipeline replayed operation by operation, the step takes {format_ns(schedule['simulated_ns'])}"
    if schedule.get("lower_bound_ns") is not None:
        over = "placement of these degrees" if schedule.get("bound_over") == "placements" else "layout of this problem"
        text += f"; no {over} can be below {format_ns(schedule['lower_bound_ns'])}"
        text += f"; gap {schedule['gap']:.2%}" if schedule.get("gap") is not None else ""
    console.print(Padding(text + (", certified" if schedule.get("certified") else ""), (0, 0, 0, 2)))
