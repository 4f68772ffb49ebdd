"""Legality, the proof, runners-up, the frontier and where every number comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from moeopt.report.html.markup import element, label, line, paragraph, rectangle, section, svg, table, text
from moeopt.report.layouts import decisions, value_text
from moeopt.report.proof import proof_text, search_text
from moeopt.units import OBJECTIVE_UNITS, format_bytes, format_ns

Answer = Mapping[str, Any]
DEGREES = ("tp", "pp", "cp", "dp", "ep", "etp", "edp", "vpp")


def decisions_section(answer: Answer) -> str:
    """Every decision of the layout."""
    layout = answer["layout"]
    rows = [(name, layout.get(name)) for name in DEGREES]
    rows += list(decisions(layout).items())
    return section("Layout", "layout", table(("decision", "value"), rows, "Every decision"))


def proof_section(answer: Answer) -> str:
    """What is proven, and how the search went."""
    words = proof_text(answer) or "Evaluated: this layout was given, and nothing was searched."
    schedule = answer.get("schedule") or {}
    rows = [(name.replace("_", " "), _number(name, value)) for name, value in schedule.items() if value is not None]
    parts = [paragraph(words)]
    if answer.get("search"):
        parts.append(paragraph(search_text(answer["search"]), "dim"))
    if rows:
        parts.append(table(("schedule", "value"), rows, "The pipeline part, replayed operation by operation", (1,)))
    return section("Proof", "proof", *parts)


def _number(name: str, value: Any) -> str:
    if name.endswith("_ns"):
        return format_ns(int(value))
    return f"{value:.4%}" if name == "gap" else str(value)


def rules_section(answer: Answer) -> str:
    """Every rule with its equation and its source; broken ones first."""
    rules = answer.get("rules") or []
    if not rules:
        return ""
    ordered = sorted(rules, key=lambda rule: rule["holds"] is not False)
    verdict = {True: "holds", False: "BROKEN"}
    rows = [
        (verdict.get(rule["holds"], "?"), rule["rule"], rule["equation"], rule.get("source", "")) for rule in ordered
    ]
    broken = sum(rule["holds"] is False for rule in rules)
    words = f"{broken} of {len(rules)} rules are broken." if broken else f"All {len(rules)} rules hold."
    return section(
        "Legality", "rules", paragraph(words), table(("", "rule", "equation", "source"), rows, "Rules of the framework")
    )


def claims_section(answer: Answer) -> str:
    """Claims, where some were checked."""
    claims = answer.get("claims") or []
    if not claims:
        return ""
    rows = [
        (
            "holds" if each["holds"] else "WRONG",
            each["name"],
            each["claimed"],
            each.get("computed_text", each["computed"]),
            each["explanation"],
        )
        for each in claims
    ]
    return section(
        "Claims", "claims", table(("", "claim", "claimed", "computed", "arithmetic"), rows, "Claims, one by one")
    )


def alternatives_section(answer: Answer) -> str:
    """The best layouts behind the best one."""
    others = answer.get("alternatives") or []
    if not others:
        return ""
    rows = []
    for place, other in enumerate(others, 2):
        objective = other.get("objective") or {}
        value = objective.get("value") if isinstance(objective, Mapping) else objective
        unit = (answer.get("objective") or {}).get("unit")
        rows.append((place, *(other["layout"].get(name) for name in DEGREES), value_text(value, unit)))
    return section(
        "Runners-up", "alternatives", table(("place", *DEGREES, "objective"), rows, "Next best layouts", range(9))
    )


def frontier_section(points: Sequence[Answer], objectives: Sequence[str], complete: bool) -> str:
    """The points of a frontier over its first two objectives, and all of them in a table."""
    rows = []
    for point in points:
        layout = point["layout"]
        degrees = ", ".join(f"{name} {layout.get(name)}" for name in DEGREES)
        rows.append(
            (
                *(value_text(_value(point, name), OBJECTIVE_UNITS.get(name)) for name in objectives),
                point["status"],
                degrees,
            )
        )
    words = (
        "The frontier is complete: no other point exists."
        if complete
        else "The frontier is not complete: the search was stopped."
    )
    parts = [paragraph(words)]
    if len(objectives) > 1 and points:
        parts.append(_scatter(points, objectives[0], objectives[1]))
    header = (*(name.replace("_", " ") for name in objectives), "status", "layout")
    return section(
        "Frontier", "frontier", *parts, table(header, rows, "Points of the frontier", range(len(objectives)))
    )


def _value(point: Answer, name: str) -> int:
    step_ns, gpus = point["step_time"]["total_ns"], point["gpus"]["total"]
    return int(
        {"step_time": step_ns, "peak_memory": point["memory"]["peak_bytes"], "gpus": gpus, "cost": gpus * step_ns}[name]
    )


def _scatter(points: Sequence[Answer], across: str, up: str) -> str:
    width, height, margin = 700, 320, 60
    xs, ys = [_value(point, across) for point in points], [_value(point, up) for point in points]
    shapes = [line(margin, height - margin, width - 10, height - margin), line(margin, 10, margin, height - margin)]
    shapes.append(label(width - 10, height - 12, across.replace("_", " "), "end", "dim"))
    shapes.append(label(margin + 6, 20, up.replace("_", " "), class_="dim"))

    def scaled(value: int, values: Sequence[int], length: int) -> float:
        low, high = min(values), max(values)
        return (value - low) / (high - low) * (length - 40) + 20 if high > low else length / 2

    for x, y in zip(xs, ys, strict=True):
        left = margin + scaled(x, xs, width - margin - 10)
        top = height - margin - scaled(y, ys, height - margin - 10)
        hint = f"{value_text(x, OBJECTIVE_UNITS[across])}, {value_text(y, OBJECTIVE_UNITS[up])}"
        shapes.append(rectangle(left - 4, top - 4, 8, 8, "#4878a8", hint))
    return svg(width, height, f"{across} against {up}", shapes)


def sources_section(answer: Answer) -> str:
    """Where the architecture's and the cluster's numbers come from."""
    problem = answer["problem"]
    cluster, architecture = problem["cluster"], problem["architecture"]
    rows = [("architecture", architecture.get("source") or "given by the user")]
    rows += [(f"cluster: {name}", source) for name, source in sorted((cluster.get("sources") or {}).items())]
    workload = ", ".join(f"{name} {value}" for name, value in problem["workload"].items())
    parts = [table(("number", "source"), rows, "Where numbers come from"), paragraph(f"Workload: {workload}", "dim")]
    parts.append(
        element(
            "p",
            text(f"Memory of a GPU {format_bytes(cluster['memory'])}; schema {answer.get('schema', '')}."),
            class_="dim",
        )
    )
    return section("Sources", "sources", *parts)
