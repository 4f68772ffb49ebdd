"""How a file was read, and what the optimum would change, for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.report.layouts import decisions
from moeopt.report.proof import proof_text
from moeopt.units import format_bytes, format_ns

_DEGREES = ("tp", "pp", "cp", "dp", "ep", "etp", "edp", "vpp")


def render_reading(answer: Mapping[str, Any], console: Console, verbose: bool = False) -> None:
    """What was understood and ignored, with warnings and their fixes; values of everything where `verbose`."""
    read = answer["read_from"]
    console.print(f"[bold]{escape(str(read['file']))}[/bold]: {escape(read['format'])}")
    for title, key in (("understood", "understood"), ("ignored", "ignored")):
        entries = read[key]
        names = ", ".join(f"{each['name']} {each['value']}".strip() if verbose else each["name"] for each in entries)
        console.print(Padding(escape(f"{title} ({len(entries)}): {names or 'nothing'}"), (0, 0, 0, 2)))
    priced = [each["name"] for each in read["ignored"] if "priced as if absent" in each["why"]]
    unknown = [each["name"] for each in read["ignored"] if "not known" in each["why"]]
    for rest, found in (("of these, priced as if absent", priced), ("of these, not known to moeopt", unknown)):
        if found:
            console.print(Padding(escape(f"{rest}: {', '.join(found)}"), (0, 0, 0, 2)))
    for warning in read["warnings"]:
        text = "[yellow]warning[/yellow] " + escape("{name}: {text}; {fix}".format(**warning))
        console.print(Padding(text, (0, 0, 0, 2)))
    for note in read["notes"]:
        console.print(Padding(escape(f"note: {note}"), (0, 0, 0, 2)))
    console.print()


def render_suggestion(answer: Mapping[str, Any], console: Console) -> None:
    """One table: every decision that the optimum makes otherwise, and what that gains."""
    suggestion = answer.get("suggestion")
    if not suggestion:
        return
    console.print("\n[bold]The optimum, and what it changes[/bold]")
    if not suggestion["changes"] and not suggestion["figures"]:
        console.print(Padding(escape(suggestion["text"]), (0, 0, 0, 2)))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("", "as given", "optimum"):
        table.add_column(name, overflow="fold")
    for change in (*suggestion["changes"], *suggestion["figures"]):
        table.add_row(escape(change["decision"]), escape(change["from"]), escape(change["to"]))
    console.print(Padding(table, (0, 0, 0, 2)))
    console.print(Padding(escape(suggestion["text"]), (0, 0, 0, 2)))


def suggestion(answer: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, Any]:
    """The optimum beside an evaluated layout: decisions that differ, figures, and the proof's sentence."""
    found: dict[str, Any] = {"status": best["status"], "changes": [], "figures": [], "text": proof_text(best)}
    if not best.get("layout"):
        explanation = best.get("explanation") or {}
        found["text"] = found["text"] or str(explanation.get("text") or "No layout exists: proven.")
        return found
    given, optimum = answer["layout"], best["layout"]
    rows = {name: (str(given.get(name) or "?"), str(optimum.get(name))) for name in _DEGREES}
    theirs = decisions(optimum)
    ours = decisions(given)
    rows.update({name: (ours.get(name, "none"), theirs.get(name, "none")) for name in {**ours, **theirs}})
    found["changes"] = [_change(name, old, new) for name, (old, new) in rows.items() if old != new]
    found["figures"] = _figures(answer, best)
    found["layout"], found["objective"] = optimum, best.get("objective")
    if not found["changes"]:
        found["text"] = f"The layout is the optimum. {found['text']}"
    return found


def _change(name: str, old: str, new: str) -> dict[str, str]:
    return {"decision": name, "from": old, "to": new}


def _figures(answer: Mapping[str, Any], best: Mapping[str, Any]) -> list[dict[str, str]]:
    old, new = _shown_figures(answer), _shown_figures(best)
    rows = [_change(name, old.get(name, "cannot be priced"), new[name]) for name in new]
    if answer.get("status") != "evaluated":
        broken = [rule["rule"] for rule in answer.get("rules", []) if rule["holds"] is False]
        rows.append(_change("legal", f"no: {', '.join(broken)}", "yes"))
    return rows


def _shown_figures(answer: Mapping[str, Any]) -> dict[str, str]:
    if "step_time" not in answer:
        return {}
    return {
        "step time": format_ns(answer["step_time"]["total_ns"]),
        "peak memory": format_bytes(answer["memory"]["peak_bytes"]),
        "tokens/s/GPU": f"{answer['step_time']['tokens_per_second_per_gpu']:,.0f}",
    }
