"""What was meant by an option that no command has, and by a word that is no problem file."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from moeopt.errors import InputError
from moeopt.problem.synonyms import own_names

_CUTOFF = 0.6
"""Options further apart than that are not taken for each other."""
_LIMITS = {"peak_memory": "'peak_memory<=76GiB'", "tokens_per_second": "'tokens_per_second>=1.2M'"}
"""Quantities that people give as an option of their own, as `--limit` takes them."""


def option_hint(error: click.NoSuchOption) -> str:
    """`; did you mean '--fix tp=…'?` for `--tp`, or where options stand; an empty string where nothing is near."""
    command = None if error.ctx is None else error.ctx.command
    if isinstance(command, click.Group):
        return "; options stand behind a command, like moeopt solve --gpus 512"
    options = {
        option.lstrip("-").replace("-", "_"): option
        for parameter in (command.params if command is not None else ())
        for option in parameter.opts
        if option.startswith("--")
    }
    found = next(_meant(error.option_name, options), None)
    note = " (of all nodes together)" if found == "--gpus" and "node" in error.option_name else ""
    return "" if found is None else f"; did you mean {found!r}{note}?"


def _meant(given: str, options: dict[str, str]) -> Iterator[str]:
    from moeopt.layout import Layout

    names = own_names(given)
    yield from (options[name] for name in names if name in options)
    holder = next((options[name] for name in ("layout", "fix") if name in options), None)
    yield from (f"{holder} {name}=…" for name in names if holder and name in Layout.model_fields)
    yield from (f"{options['limit']} {_LIMITS[name]}" for name in names if name in _LIMITS and "limit" in options)
    if "objective" in options and "cost" in names:
        yield f"{options['objective']} cost"
    yield from (options[name] for name in get_close_matches(names[0], options, n=1, cutoff=_CUTOFF))


def problem_hint(path: Path) -> str:
    """What a word in the place of a problem file is, where it is none: an option's value."""
    from moeopt.problem.loading import exists, preset_meant

    text = str(path)
    if exists(path / "config.json"):
        return f"; a folder with a config.json is given with --architecture {text}"
    if text.isdecimal():
        return f"; GPUs are given with --gpus {text}"
    for kind in ("architecture", "cluster"):
        name = preset_meant(f"{kind}s", text)
        if name is not None:
            return f"; a preset is given with --{kind} {name}"
    return ""


def check_is_problem(path: Path, fields: Mapping[str, Any]) -> None:
    """Raise InputError, with the option that takes it, for a file of an architecture or of a cluster alone."""
    from moeopt.problem.architecture import Architecture
    from moeopt.problem.cluster import Cluster
    from moeopt.problem.huggingface import is_huggingface

    if is_huggingface(fields):
        raise InputError(f"problem: {path} is a Hugging Face config: give it with --architecture {path}")
    for option, kind in (("architecture", Architecture), ("cluster", Cluster)):
        if fields and set(fields) <= {"base", *kind.model_fields}:
            raise InputError(f"problem: {path} has fields of {option}s only: give it with --{option} {path}")
