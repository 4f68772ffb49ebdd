"""`--from FILE`: the problem and the layout of a file that people already have."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeopt.cli.assignments import split_outside_quotes
from moeopt.cli.inputs import layout_fields as given_fields
from moeopt.cli.inputs import positive_integer, read_problem
from moeopt.errors import InputError
from moeopt.problem.base import read_fields
from moeopt.problem.loading import load_architecture

if TYPE_CHECKING:
    from moeopt.layout import Layout
    from moeopt.problem.problem import Problem
    from moeopt.readers import Reading


def read_from(options: Mapping[str, Any]) -> "tuple[Problem, Layout, Reading]":
    """The question that a file asks, with what the command line says beside it. Raises InputError."""
    from moeopt.layout import Layout
    from moeopt.readers import read
    from moeopt.readers.question import changed, layout_fields, problem_fields

    reading = read(Path(options["from_"]), _arguments(options["arguments"]), _variables(options["set_"]))
    if not reading.layout and not options["layout"]:
        raise InputError(f"layout: a {reading.format} gives none; say which with --layout tp=8,pp=4,…")
    vocab_size = positive_integer(options["vocab_size"], "vocab-size")
    if options["architecture"] and reading.changes:
        options = {**options, "architecture": changed(load_architecture(options["architecture"]), reading)}
    found = problem_fields(reading, options.get("architecture") is not None, vocab_size)
    if "architecture" not in found and not options["architecture"] and not options["problem"]:
        unread = any("is sourced and was not read" in note for note in reading.notes)
        sourced = "; a file that it sources was not read" if unread else ""
        raise InputError(
            f"architecture: {options['from_']} gives no dimensions{sourced}; say which with --architecture A"
        )
    overrides = given_fields(options["layout"]) if options["layout"] else {}
    layout = read_fields(Layout, layout_fields(reading, overrides), "layout")
    total = None if layout.dp is None else layout.tp * layout.cp * layout.dp * layout.pp
    problem = read_problem(options, gpus_if_absent=total, found=found)
    for name in ("cluster",):
        if options.get(name) is None and not options.get("problem"):
            reading.note(f"no {name} is given: {problem.cluster.name}")
    return problem, layout, reading


def _arguments(text: str | None) -> list[str]:
    if not text:
        return []
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"arguments: {text!r}: {error}") from None


def _variables(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in (part for text in texts for part in split_outside_quotes(text, "set")):
        name, sign, value = part.partition("=")
        if not sign or not name.strip().isidentifier():
            raise InputError(f"set: {part.strip()!r} is not of the form NAME=VALUE")
        found[name.strip()] = value.strip()
    return found
