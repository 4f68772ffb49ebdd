"""A solution or an evaluation for people: every number of the JSON answer, in the order in which one asks for them."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from moeopt.problem.batches import batches_of
from moeopt.problem.workload import Routing
from moeopt.report.activations import render_kept_tensors
from moeopt.report.layouts import render_alternatives, render_layout
from moeopt.report.memory import render_memory
from moeopt.report.proof import render_explanation, render_proof
from moeopt.report.times import render_replay, render_step_time
from moeopt.report.why_not import render_why_not
from moeopt.units import format_bytes, format_count

Answer = Mapping[str, Any]


def render(answer: Answer, console: Console, verbose: bool = False) -> None:
    """Print an answer of `solve` or `evaluate` (the contract's JSON object) to a rich console.

    `verbose` adds every rule that holds, with its numbers.
    """
    render_solution(answer, console, verbose)
    render_search(answer, console)


def render_solution(answer: Answer, console: Console, verbose: bool = False) -> None:
    """What was asked and, where there is one, the layout with its memory, its time and the proof: all that is known
    before a search looks for what replays faster."""
    render_headline(answer, console)
    render_claims(answer, console)
    if answer.get("layout"):
        render_gpus(answer, console)
        render_rules(answer, console, verbose)
        render_layout(answer, console)
        render_memory(answer, console)
        render_kept_tensors(answer, console)
        render_step_time(answer, console)
    render_proof(answer, console)


def render_search(answer: Answer, console: Console) -> None:
    """The replayed step beside those of other layouts, and the runners-up; or why there is no layout."""
    if answer["status"] == "infeasible":
        render_explanation(answer, console)
    render_replay(answer, console)
    render_alternatives(answer, console)
    render_why_not(answer, console)


def section(console: Console, title: str) -> None:
    """A blank line and a title."""
    console.print()
    console.print(f"[bold]{escape(title)}[/bold]")


def paragraph(console: Console, text: str) -> None:
    """Indented text that wraps within the width; nothing in it is read as markup."""
    console.print(Padding(escape(text), (0, 0, 0, 2)))


def render_headline(answer: Answer, console: Console) -> None:
    """What was asked: architecture, cluster, GPUs, workload and assumptions."""
    problem = answer["problem"]
    architecture, cluster, workload = problem["architecture"], problem["cluster"], problem["workload"]
    gpus = problem["gpus"]
    count = f"{gpus['min']} to {gpus['max']}" if isinstance(gpus, Mapping) else f"{gpus:,}"
    title = f"{architecture['name']} on {count} x {cluster['gpu']} ({cluster['name']})"
    console.print(f"[bold]{escape(title)}[/bold]")
    parameters = answer.get("parameters") or {}
    if parameters.get("total"):
        total, active = parameters["total"], parameters.get("active", parameters["total"])
        paragraph(console, f"{format_count(total)} parameters ({total:,}), {format_count(active)} active for a token")
    paragraph(
        console,
        f"{batch_text(answer)} sequences of {workload['sequence_length']:,} tokens a step, "
        f"{precision_text(workload)}, {_recipe(workload)}; {format_bytes(cluster['memory'])} a GPU",
    )
    routing = routing_text(workload.get("routing"))
    decided = [f"fix {name}={_plain(value)}" for name, value in (problem.get("fix") or {}).items()]
    limits = [_limit(name, limit) for name, limit in (problem.get("limits") or {}).items()]
    wanted = [f"constraint {text}" for text in problem.get("constraints") or ()]
    paragraph(console, "; ".join([f"routing {routing}", *decided, *(limit for limit in limits if limit), *wanted]))


def _recipe(workload: Answer) -> str:
    """The framework, and the optimizer where it is not Adam."""
    optimizer = workload.get("optimizer", "adam")
    return str(workload["framework"]) + (f" with {optimizer.capitalize()}" if optimizer != "adam" else "")


def precision_text(workload: Answer) -> str:
    """The precision, and the parameters where it leaves a choice."""
    return str(workload["precision"]) + (" with 8-bit parameters" if workload.get("fp8_param_gather") else "")


def batch_text(answer: Answer) -> str:
    """The sequences of a step: the layout's own number, and what the problem allows where that is more."""
    given = answer["problem"]["workload"]["global_batch_size"]
    if isinstance(given, int):
        return f"{given:,}"
    own = (answer.get("batch") or {}).get("sequences")
    return str(batches_of(given)) if own is None else f"{own:,} (of {batches_of(given)})"


def routing_text(routing: Any) -> str:
    """The routing assumption, as every report states it."""
    return Routing(**routing).description if isinstance(routing, Mapping) else str(routing or "balanced")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_plain(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _limit(name: str, limit: Any) -> str:
    if isinstance(limit, Mapping):
        low, high = limit.get("min"), limit.get("max")
        if low is not None and low == high:
            return f"limit {name} = {low}"
        low_text = "" if low is None else f"{low} <= "
        return (
            "" if low is None and high is None else f"limit {low_text}{name}" + ("" if high is None else f" <= {high}")
        )
    return "" if limit is None else f"limit {name} <= {format_bytes(limit)}"


def render_gpus(answer: Answer, console: Console) -> None:
    """Both GPU equations."""
    gpus = answer.get("gpus")
    if not gpus:
        return
    section(console, f"GPUs: {gpus['total']:,}")
    names = ("attention, dense FFN, router, embeddings", "routed experts, on the same GPUs")
    for equation, name in zip(gpus["equations"], names, strict=False):
        if "None" not in equation:  # a grid that does not divide stands among the broken rules
            paragraph(console, f"{equation}   ({name})")


def render_rules(answer: Answer, console: Console, verbose: bool = False) -> None:
    """Every rule that the layout breaks and how many it keeps; all of them where asked."""
    rules = answer.get("rules") or []
    broken = [rule for rule in rules if rule["holds"] is False]
    unjudged = sum(rule["holds"] is None for rule in rules)
    if broken:
        rest = f", {unjudged} could not be judged" if unjudged else ""
        section(console, f"ILLEGAL: {len(broken)} of {len(rules)} rules are broken{rest}")
        for rule in broken:
            paragraph(console, f"x {rule['rule']}: {rule['equation']}")
            if rule.get("source"):
                console.print(Padding(f"[dim]{escape(_because(rule))}[/dim]", (0, 0, 0, 4)))
    elif answer["status"] == "evaluated" and rules:
        section(console, f"Legal: all {len(rules)} rules hold")
    for rule in rules if verbose else ():
        if rule["holds"] is not False:
            paragraph(console, f"{'ok' if rule['holds'] else '? '} {rule['rule']}: {rule['equation']}")


_NOTICED = {
    "launch": "the framework refuses to start",
    "run": "the framework fails in the first steps",
    "never": "nothing else notices it",
    "moeopt": "only moeopt checks it",
}


def _because(rule: Mapping[str, Any]) -> str:
    """Who notices the broken rule, and where it stands."""
    return f"{_NOTICED.get(str(rule.get('checked')), rule.get('checked'))}; source: {rule['source']}"


def render_claims(answer: Answer, console: Console) -> None:
    """Each claim beside the computed value, with the reason."""
    claims = answer.get("claims") or []
    if not claims:
        return
    wrong = sum(not claim["holds"] for claim in claims)
    section(console, f"Claims: {wrong} of {len(claims)} do not hold" if wrong else "Claims: all hold")
    for claim in claims:
        table = Table.grid(padding=(0, 1))
        table.add_row("  ", "[green]holds[/green]" if claim["holds"] else "[red]WRONG[/red]", escape(_versus(claim)))
        console.print(table)
        console.print(Padding(escape(claim["explanation"]), (0, 0, 0, 9)))


def _versus(claim: Mapping[str, Any]) -> str:
    computed = claim["computed"]
    shown = f"{computed:,}" if isinstance(computed, (int, float)) and not isinstance(computed, bool) else str(computed)
    return f"{claim['name']}: claimed {claim['claimed']}, computed {claim.get('computed_text') or shown}"
