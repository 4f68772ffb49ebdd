"""From a PROBLEM file and options to a checked Problem; from `--layout` to a Layout."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeopt.cli.assignments import merge_assignments, parse_assignments, parse_limits
from moeopt.cli.hints import check_is_problem, problem_hint
from moeopt.errors import InputError
from moeopt.problem.base import read_fields, shown
from moeopt.problem.batches import read_batch
from moeopt.problem.loading import exists, load_architecture, load_cluster, load_gpus, load_problem, problem_fields
from moeopt.problem.problem import Problem
from moeopt.problem.reading import read_file
from moeopt.units import parse_count, parse_plain_count

if TYPE_CHECKING:
    from moeopt.layout import Layout

MAX_WORKERS = 1024
"""Processes of a solve and threads of its solver, or points of a sweep at once."""
MAX_TOP = 1000
"""Layouts that --top lists; each of them is proven."""
DEFAULTS: dict[str, Any] = {"architecture": "qwen3-30b-a3b", "cluster": "h100-sxm"}
"""What a command without PROBLEM and without these options is about."""


def read_problem(
    options: Mapping[str, Any], gpus_if_absent: int | None = None, found: Mapping[str, Any] | None = None
) -> Problem:
    """The problem of a command: its file's fields, overridden by its options. Raises InputError for anything wrong.

    `found` is what another file (`--from`) gives: it stands above the problem file's fields and below the options.
    """
    from moeopt.problem.checks import check

    path = Path(options["problem"]) if options.get("problem") else None
    fields = dict(DEFAULTS) if path is None else _file_fields(path)
    if found is not None:
        _add_found(fields, found, path is None)
    if options.get("architecture") is not None:
        fields["architecture"] = load_architecture(options["architecture"])
    if options.get("cluster") is not None:
        fields["cluster"] = load_cluster(options["cluster"])
    if options.get("gpus") is not None:
        fields["gpus"] = load_gpus(options["gpus"])
    elif path is None and gpus_if_absent is not None and "gpus" not in fields:
        fields["gpus"] = gpus_if_absent
    elif path is None and "gpus" not in fields:
        raise InputError("gpus: not given; say how many with --gpus N, or name a problem file")
    if options.get("objective") is not None:
        fields["objective"] = options["objective"]
    _override_workload(fields, options)
    _override_decisions(fields, options)
    problem = load_problem(fields, None if path is None else path.parent)
    check(problem)
    return problem


def _file_fields(path: Path) -> dict[str, Any]:
    if not exists(path) or path.is_dir():
        raise InputError(f"problem: no file is called {shown(str(path))}{problem_hint(path)}")
    fields = problem_fields(path)
    check_is_problem(path, fields)
    return fields


def _add_found(fields: dict[str, Any], found: Mapping[str, Any], alone: bool) -> None:
    if alone:
        del fields["architecture"]  # the default is about a command without any file
    fields.update({name: value for name, value in found.items() if name != "workload"})
    fields["workload"] = {**_as_mapping(fields.get("workload"), "workload"), **found.get("workload", {})}


def _override_workload(fields: dict[str, Any], options: Mapping[str, Any]) -> None:
    own: dict[str, Any] = {}
    for name in ("sequence_length", "global_batch_size"):
        if options.get(name) is not None:
            own[name] = (read_batch if name == "global_batch_size" else parse_plain_count)(options[name], name)
    own |= {name: options[name] for name in ("precision", "optimizer") if options.get(name) is not None}
    if own:
        fields["workload"] = {**_as_mapping(fields.get("workload"), "workload"), **own}


def _override_decisions(fields: dict[str, Any], options: Mapping[str, Any]) -> None:
    fix = merge_assignments(options.get("fix") or (), "fix")
    if fix:
        fields["fix"] = {**_as_mapping(fields.get("fix"), "fix"), **fix}
    limits = parse_limits(options.get("limit") or ())
    if limits:
        given = _as_mapping(fields.get("limits"), "limits")
        for name, limit in limits.items():
            both = isinstance(limit, dict) and isinstance(given.get(name), Mapping)
            given[name] = {**given[name], **limit} if both else limit
        fields["limits"] = given
    if options.get("free"):
        own = [name.strip() for text in options["free"] for name in text.split(",")]
        fields["free"] = [*_as_list(fields.get("free"), "free"), *own]
    if options.get("constraint"):
        fields["constraints"] = [*_as_list(fields.get("constraints"), "constraints"), *options["constraint"]]


def _as_list(value: Any, field: str) -> list[Any]:
    if value is None or isinstance(value, str):
        return [] if value is None else [value]
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{field}: expected a list, got {shown(value)}")
    return list(value)


def _as_mapping(value: Any, field: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{field}: expected a mapping of fields, got {shown(value)}")
    return dict(value or {})


def layout_fields(text: str) -> dict[str, Any]:
    """The fields of `--layout`: a YAML or JSON file (a layout, or a solution that holds one), or `tp=8,pp=4`."""
    path = Path(text)
    is_file = exists(path)
    if not is_file and "=" not in text:
        raise InputError(f"layout: no file is called {shown(text)}, and it is not of the form tp=8,pp=4")
    if not is_file:
        return parse_assignments(text, "layout")
    content = read_file(path, "layout")
    if isinstance(content, Mapping) and str(content.get("schema", "")).startswith("moeopt/"):
        content = content.get("layout")
    if not isinstance(content, Mapping):
        raise InputError(
            f"layout: {path} holds no mapping of fields" if content is not None else f"layout: {path} is empty"
        )
    return dict(content)


def read_layout(text: str) -> "Layout":
    """The layout that `--layout` gives. Raises InputError naming the field."""
    from moeopt.layout import Layout

    return read_fields(Layout, layout_fields(text), "layout")


def parse_claims(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """`NAME=VALUE` pairs of `--claim`."""
    claims = []
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise InputError(f"claim: {text!r} is not of the form NAME=VALUE")
        claims.append((name.strip(), value.strip()))
    return claims


def positive_integer(
    text: str | None, field: str, most: int | None = None, parse: Callable[[str, str], int] = parse_count
) -> int | None:
    """An option's whole number above 0 and up to `most`, or None where it is absent."""
    if text is None:
        return None
    number = parse(text, field)
    if number < 1:
        raise InputError(f"{field}: {text!r} is not above 0")
    if most is not None and number > most:
        raise InputError(f"{field}: {shown(text)} is above {most}, the most that is possible")
    return number
