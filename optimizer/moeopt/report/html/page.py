"""The page around the sections. No script, no font, no image is loaded: a policy in the page itself forbids it."""

from collections.abc import Mapping
from typing import Any

from moeopt import __version__
from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.report.html.costs import memory_section, time_section
from moeopt.report.html.devices import devices_section
from moeopt.report.html.markup import element, paragraph, section, text
from moeopt.report.html.proof import (
    alternatives_section,
    claims_section,
    decisions_section,
    frontier_section,
    proof_section,
    rules_section,
    sources_section,
)
from moeopt.report.html.timeline import timeline_section
from moeopt.report.text import batch_text, precision_text
from moeopt.units import format_bytes, format_count, format_ns

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root{color-scheme:light dark;--line:#8884;--dim:#777}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1180px;padding:1rem 1.5rem 4rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .5rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;font-size:.87rem;margin:.6rem 0}
caption{text-align:left;color:var(--dim);padding:.2rem 0}
th,td{text-align:left;padding:.15rem .9rem .15rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td{max-width:46rem;overflow-wrap:anywhere}.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto}.dim{color:var(--dim);fill:var(--dim);font-size:.87rem}
.equation{font-family:ui-monospace,monospace;margin:.1rem 0}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;padding:0;list-style:none}
.cards li{border:1px solid var(--line);border-radius:6px;padding:.5rem .9rem;min-width:9rem}
.cards b{display:block;font-size:1.15rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;list-style:none;font-size:.85rem}
.swatch{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;vertical-align:-1px}
svg{max-width:none;font:11px system-ui,sans-serif}svg text{fill:currentColor}svg .dim{fill:var(--dim)}
svg .mark{font-size:9px;fill:#000}
svg .axis{stroke:var(--dim)}svg .limit{stroke:#c33;stroke-dasharray:4 3}
nav a{margin-right:.9rem}
"""


def page(answer: Any) -> str:
    """The page of a solution, an evaluation or a frontier. Raises InputError for anything else."""
    if not isinstance(answer, Mapping) or not str(answer.get("schema", "")).startswith("moeopt/"):
        raise InputError("solution: no schema moeopt/1; give a file that solve, evaluate or pareto wrote as JSON")
    try:
        return _frontier(answer) if "points" in answer else _document(answer, _body(answer))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"solution: a field is missing or is of another kind: {shown(str(error))}") from None


def _frontier(answer: Mapping[str, Any]) -> str:
    points = answer["points"]
    if not points:
        raise InputError("solution: the frontier has no points")
    objectives = list(answer["objectives"])
    first = points[0]
    head = frontier_section(points, objectives, bool(answer.get("complete")))
    note = section(
        "The first point in full", "first", paragraph("What follows is about the first point of the frontier.")
    )
    return _document(first, [head, note, *_body(first)])


def _body(answer: Mapping[str, Any]) -> list[str]:
    if not answer.get("layout") or "memory" not in answer:
        return _without_layout(answer)
    return [
        claims_section(answer),
        decisions_section(answer),
        devices_section(answer),
        memory_section(answer),
        time_section(answer),
        timeline_section(answer),
        alternatives_section(answer),
        proof_section(answer),
        rules_section(answer),
        sources_section(answer),
    ]


def _without_layout(answer: Mapping[str, Any]) -> list[str]:
    """An infeasible, unknown or unpriceable answer: why."""
    explanation = answer.get("explanation") or {}
    lines = [str(explanation.get("text", ""))] if explanation.get("text") else []
    lines += [f"These cannot hold together: {rule}" for rule in explanation.get("conflict", [])]
    parts = [paragraph(line) for line in lines] or [paragraph("There is no layout to draw.")]
    return [
        section("Outcome", "outcome", *parts),
        claims_section(answer),
        rules_section(answer),
        sources_section(answer),
    ]


def _document(answer: Mapping[str, Any], sections: list[str]) -> str:
    problem = answer["problem"]
    architecture, cluster = problem["architecture"], problem["cluster"]
    gpus = answer.get("gpus", {}).get("total") or problem["gpus"]
    title = f"{architecture['name']} on {gpus} x {cluster['gpu']}"
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{STYLE}</style>"
    )
    body = element("header", element("h1", text(title)) + _cards(answer)) + element("main", "".join(sections))
    body += element("footer", paragraph(f"moeopt {__version__}", "dim"))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _cards(answer: Mapping[str, Any]) -> str:
    workload = answer["problem"]["workload"]
    cards = [("status", answer.get("status", "?"))]
    parameters = answer.get("parameters") or {}
    if parameters.get("total"):
        cards.append(("parameters", format_count(parameters["total"])))
    if parameters.get("active"):
        cards.append(("active for a token", format_count(parameters["active"])))
    cards.append(("sequence, batch", f"{workload['sequence_length']:,} x {batch_text(answer)}"))
    cards.append(("precision", precision_text(workload)))
    if "step_time" in answer:
        cards.append(("step time", format_ns(answer["step_time"]["total_ns"])))
        cards.append(("tokens/s/GPU", f"{answer['step_time']['tokens_per_second_per_gpu']:,.0f}"))
        cards.append(("peak memory", format_bytes(answer["memory"]["peak_bytes"])))
    items = "".join(element("li", text(name) + element("b", text(value))) for name, value in cards)
    return element("ul", items, class_="cards")
