"""A file of claims: a deployment document's numbers beside its architecture and layout, each checked.

It may hold its problem's fields itself (and then is a problem file too), or name a problem file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeopt.claims import check_claims, check_readable, nearest_reading
from moeopt.claims.quantities import count_quantity
from moeopt.errors import InputError
from moeopt.layout import Layout
from moeopt.problem.base import nearest, read_fields, shown
from moeopt.problem.loading import AUDITED, load_problem, problem_fields
from moeopt.problem.problem import Problem
from moeopt.problem.reading import read_file

_OWN = ("problem", *AUDITED)
Claims = list[tuple[str, str]]


@dataclass(frozen=True)
class Audit:
    """What a file of claims says."""

    about: str
    problem: Problem
    layout: Layout
    claims: Claims


def read_audit(path: Path) -> Audit:
    """Read `about`, `problem` (a path, or the fields beside it), `layout` and `claims`. Raises InputError."""
    content = read_file(path, "claims")
    if not isinstance(content, Mapping):
        raise InputError(f"claims: {path} holds no mapping of fields")
    for key in content:
        if key not in (*_OWN, *Problem.model_fields):
            known = [*_OWN, *Problem.model_fields]
            raise InputError(f"claims.{shown(key)}: no such field{nearest(str(key), known)}")
    claims = _claims(content.get("claims"))
    check_readable(claims)
    layout = content.get("layout")
    if layout is None:
        raise InputError("claims.layout: this field is required and is missing")
    from moeopt.problem.checks import check

    problem = load_problem(_problem_fields(content, path, claims), path.parent)
    check(problem)
    return Audit(str(content.get("about", path.stem)), problem, read_fields(Layout, layout, "layout"), claims)


def _problem_fields(content: Mapping[str, Any], path: Path, claims: Claims) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    given = content.get("problem")
    if isinstance(given, Mapping):
        fields = dict(given)
    elif isinstance(given, str):
        fields = problem_fields(path.parent / given)
    elif given is not None:
        raise InputError(f"claims.problem: {shown(given)} is neither a path nor a mapping")
    fields.update({name: content[name] for name in Problem.model_fields if name in content})
    if fields.get("gpus") is None:
        fields["gpus"] = next((text for name, text in claims if name == "gpus"), None)
    return fields


def _claims(given: Any) -> Claims:
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, list) and all(
        isinstance(each, Mapping) and {"name", "value"} <= set(each) for each in given
    ):
        pairs = [(each["name"], each["value"]) for each in given]
    else:
        raise InputError("claims.claims: expected a mapping NAME: VALUE, or a list of {name: …, value: …}")
    if not pairs:
        raise InputError("claims.claims: nothing is claimed")
    found: Claims = []
    for name, value in pairs:
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise InputError(f"claims.claims: {shown(name)}: {shown(value)} is not a number with a name")
        found.append((name, str(value)))
    return found


def judge(problem: Problem, layout: Layout, claims: Claims) -> dict[str, Any]:
    """The evaluation of a layout (of its nearest legal reading, where degrees contradict), each claim judged."""
    from moeopt.evaluation import evaluate

    reading = nearest_reading(problem, layout)
    answer = evaluate(reading.problem, reading.layout, strict=False)
    if reading.contradictions:
        named = {rule["rule"] for rule in reading.contradictions}
        rest = [rule for rule in answer.get("rules", []) if rule["rule"] not in named]
        answer["rules"] = [*reading.contradictions, *rest]
        answer["status"], answer["reading"] = "illegal", reading.note
    answer["claims"] = check_claims(problem, layout, answer, claims, reading)
    return answer


def reconciliations(audit: Audit, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each claim about all parameters that does not hold: the smallest changes of dimensions that make it true."""
    from moeopt.cpsat.reconcile import Change, dimensions, reconcile

    layout, found = audit.layout, []
    for name, text in (pair for pair in audit.claims if pair[0] in ("params", "parameters", "total_params")):
        judged = next(claim for claim in answer["claims"] if claim["name"] == name)
        if judged["holds"]:
            continue
        quantity = count_quantity(name, text)
        low, high = (quantity.value - quantity.half_digit), (quantity.value + quantity.half_digit)
        bounds = -(-low.numerator // low.denominator), high.numerator // high.denominator
        free = dimensions(audit.problem.architecture, layout.pp * layout.vpp, layout.ep)
        ways: list[Change] = reconcile(audit.problem.architecture, *bounds, free)
        reached = {field for way in ways if len(way.changes) == 1 for field in way.changes}
        found.append(
            {
                "claim": name,
                "claimed": text,
                "range": list(bounds),
                "options": [_option(audit, way) for way in ways],
                "alone_impossible": [each.field for each in free if each.field not in reached],
                "multiples": {each.field: each.step for each in free},
            }
        )
    return found


def _option(audit: Audit, way: Any) -> dict[str, Any]:
    from moeopt.accounting.parameters import count
    from moeopt.cpsat.reconcile import changed

    architecture = changed(audit.problem.architecture, {name: new for name, (_, new) in way.changes.items()})
    parts = {name: size for name, size in count(architecture).components.items() if size and name != "mtp"}
    return {
        "changes": [{"dimension": name, "from": old, "to": new} for name, (old, new) in way.changes.items()],
        "parameters": way.parameters,
        "arithmetic": " + ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in parts.items()),
        "smallest": way.proven,
    }
