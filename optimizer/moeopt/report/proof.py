"""What is proven: the optimum and its bound, or why a problem has no answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from moeopt.report.layouts import value_text
from moeopt.units import format_ns

BETTER = {
    "step_time": "is faster",
    "gpus": "uses fewer GPUs",
    "cost": "is cheaper",
    "peak_memory": "needs less memory",
}


def render_proof(answer: Mapping[str, Any], console: Console) -> None:
    """One paragraph: status, objective, bound and how the search went. Nothing for an evaluation."""
    text = proof_text(answer)
    if text:
        console.print()
        console.print(escape(text))


def proof_text(answer: Mapping[str, Any]) -> str:
    """The proof line, or an empty string where nothing was searched."""
    status, objective, search = answer["status"], answer.get("objective") or {}, answer.get("search") or {}
    name, unit = str(objective.get("name", "step_time")), objective.get("unit")
    how = search_text(search)
    per = "" if objective.get("sequences") is None else f" for {objective['sequences']:,} sequences"
    bound = value_text(objective.get("bound"), unit) + per
    if status == "optimal" and answer.get("ledger_optimum"):
        return f"{_by_replay(answer['schedule'])}; by the ledger another layout is, {name} = bound = {bound}; {how}."
    if status == "optimal":
        chain = chain_text(answer.get("objectives") or [])
        better = BETTER.get(name, "is better") + (" for a sequence" if per else "")
        return f"Optimal: no legal layout {better}; {name} = bound = {bound}{chain}; {how}."
    if status == "feasible":
        value = objective["value"]
        gap = f", at most {1 - objective['bound'] / value:.2%} better" if objective.get("bound") and value else ""
        return f"Best found, not proven: {name} {value_text(value, unit)}{per}; none can be below {bound}{gap}; {how}."
    if status == "unknown":
        rest = "" if objective.get("bound") is None else f" ({name} cannot be below {bound})"
        return f"No answer within the time limit: no layout was found and none was ruled out{rest}; {how}."
    return ""


def _by_replay(schedule: Mapping[str, Any]) -> str:
    """What is known of a layout that was chosen by its replayed step, where the ledger's optimum is another one."""
    replayed = format_ns(schedule["simulated_ns"])
    if schedule["certified"]:
        return f"Optimal by its replayed step: no legal layout has one below {replayed}"
    return f"The best replayed step that was found, {replayed}, not proven to be optimal"


def chain_text(objectives: Sequence[Mapping[str, Any]]) -> str:
    """What is proven about the further objectives of a chain."""
    text = ""
    for item in objectives[1:]:
        value = value_text(item["value"], item["unit"])
        state = "optimal" if item["proven"] else "not proven"
        if not item["proven"] and item.get("bound") is not None:
            state += f", not below {value_text(item['bound'], item['unit'])}"
        text += f"; among these {item['name']} {value} ({state})"
    return text


def search_text(search: Mapping[str, Any]) -> str:
    """How many layouts were judged, how long it took and by what."""
    parts = []
    if search.get("legal_layouts") is not None:
        parts.append(f"{search['legal_layouts']:,} legal layouts")
    if search.get("seconds") is not None:
        parts.append(f"{search['seconds']:.2f} s")
    text = " in ".join(parts)
    engine = str(search.get("engine", ""))
    settings = [f"{name} {search[name]}" for name in ("seed", "workers") if search.get(name) is not None]
    return ", ".join(part for part in (text, engine, *settings) if part) or "no search statistics"


def render_explanation(answer: Mapping[str, Any], console: Console) -> None:
    """Why no layout exists: the smallest set of rules that cannot hold together, and what would help."""
    explanation = answer.get("explanation") or {}
    console.print("\n[bold]Infeasible: proven, no legal layout exists[/bold]")
    relaxations = explanation.get("relaxations") or []
    if explanation.get("text"):
        reason = str(explanation["text"]).partition(" What would change it:")[0] if relaxations else explanation["text"]
        console.print(Padding(escape(str(reason)), (0, 0, 0, 2)))
    members = explanation.get("members") or explanation.get("conflict")
    if members:
        least = "" if explanation.get("minimal", True) else " (perhaps not all are needed: the time was over)"
        console.print(f"  These cannot hold together{least}:")
        for rule in members:
            console.print(Padding(escape(f"- {_rule(rule)}"), (0, 0, 0, 4)))
    if relaxations:
        console.print("  Any one of these makes it feasible:")
        for relaxation in relaxations:
            console.print(Padding(escape(f"- {relaxation_text(relaxation)}"), (0, 0, 0, 4)))
    search = answer.get("search") or {}
    if search:
        console.print(f"\n{escape(search_text(search))}.")


def _rule(rule: Any) -> str:
    if isinstance(rule, Mapping):
        return f"{rule.get('rule', '')}: {rule.get('equation') or rule.get('text', '')}"
    return str(rule)


def relaxation_text(relaxation: Any) -> str:
    """`gpus to 256 (…)`: the change, its new value and whatever else is said about it."""
    if not isinstance(relaxation, Mapping):
        return str(relaxation)
    known = ("change", "to", "text", "layout", "step_time_ns", "peak_bytes")
    if relaxation.get("layout"):  # the text says everything
        return str(relaxation["text"])
    rest = ", ".join(f"{name} {value}" for name, value in relaxation.items() if name not in known and value is not None)
    text = str(relaxation.get("text") or f"{relaxation.get('change')} to {relaxation.get('to')}")
    return f"{text} ({rest})" if rest else text
