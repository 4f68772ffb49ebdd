"""`name=value` lists as people write them: `tp=8,pp=4,recompute=moe_act+layernorm,overlap.ep_all_to_all=true`."""

import re
from collections.abc import Iterable
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import nearest
from moeopt.problem.problem import DEGREES
from moeopt.problem.reading import parse_text

_LIMIT = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|==?|<|>)\s*(\S.*?)\s*")
_ONE_SIDED = {"peak_memory": "<=", "step_time": "<=", "tokens_per_second": ">="}
"""Limits that are no degrees, and the only sign that makes sense for each."""
_BARE = {"pipeline_layout"}
"""Values that are never read as YAML: their marks mean something else there."""


def split_outside_quotes(text: str, field: str) -> list[str]:
    """Parts between commas; a comma inside quotes, brackets or braces does not count."""
    parts, current, depth, quote = [], "", 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(current)
            current = ""
            continue
        current += letter
    if quote:
        raise InputError(f"{field}: the quote {quote} in {text!r} is not closed")
    return [part for part in (*parts, current) if part.strip()]


def parse_assignments(text: str, field: str) -> dict[str, Any]:
    """The mapping that a comma list of `name=value` stands for; `a.b=1` nests, `recompute=x+y` names modules."""
    fields: dict[str, Any] = {}
    for part in split_outside_quotes(text, field):
        name, sign, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not sign or not name or not value:
            raise InputError(f"{field}: {part.strip()!r} is not of the form name=value")
        _put(fields, name.split("."), _value(name, value, field), field)
    if not fields:
        raise InputError(f"{field}: {text!r} assigns nothing; write it like tp=8,pp=4")
    return fields


def merge_assignments(texts: Iterable[str], field: str) -> dict[str, Any]:
    """Several comma lists as one mapping; a name may be given once."""
    merged: dict[str, Any] = {}
    for text in texts:
        for name, value in parse_assignments(text, field).items():
            _put(merged, [name], value, field)
    return merged


def _put(fields: dict[str, Any], path: list[str], value: Any, field: str) -> None:
    name, *rest = path
    if rest:
        inner = fields.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"{field}: {name} is given twice")
        _put(inner, rest, value, f"{field}.{name}")
    elif isinstance(fields.get(name), dict) and isinstance(value, dict):
        for key, item in value.items():
            _put(fields[name], [key], item, f"{field}.{name}")
    elif name in fields:
        raise InputError(f"{field}.{name}: given twice, as {fields[name]!r} and as {value!r}")
    else:
        fields[name] = value


def _value(name: str, text: str, field: str) -> Any:
    if name in _BARE:
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    if name == "recompute" and text[0] not in "{\"'":
        return _recompute(text)
    return parse_text(text, f"{name}={text}", field)


def _recompute(text: str) -> dict[str, Any]:
    if text in ("none", "full", "selective"):
        return {"granularity": text}
    return {"granularity": "selective", "modules": [module.strip() for module in text.split("+")]}


def parse_limits(texts: Iterable[str], field: str = "limit") -> dict[str, Any]:
    """`ep<=64`, `tp>=2`, `pp=8`, `peak_memory<=76GiB` as the `limits` of a problem file."""
    limits: dict[str, Any] = {}
    texts = list(texts)
    if any(not text.strip() for text in texts):
        raise InputError(f"{field}: one is empty; write it like ep<=64")
    for part in (part for text in texts for part in split_outside_quotes(text, field)):
        match = _LIMIT.fullmatch(part)
        if match is None:
            raise InputError(f"{field}: {part.strip()!r} is not of the form ep<=64, tp>=2 or peak_memory<=76GiB")
        name, sign, value = match.groups()
        if name not in (*DEGREES, *_ONE_SIDED):
            raise InputError(f"{field}.{name}: no such limit{nearest(name, [*DEGREES, *_ONE_SIDED])}")
        if name in _ONE_SIDED:
            if sign != _ONE_SIDED[name]:
                raise InputError(f"{field}.{name}: {sign} is not possible, only {_ONE_SIDED[name]}")
            _put(limits, [name], value, field)
        else:
            for end, number in _ends(sign, parse_text(value, part, field), f"{field}.{name}").items():
                _put(limits, [name, end], number, field)
    return limits


def _ends(sign: str, number: Any, field: str) -> dict[str, int]:
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{field}: {number!r} is not a whole number")
    ends = {"<=": {"max": number}, "<": {"max": number - 1}, ">=": {"min": number}, ">": {"min": number + 1}}
    return ends.get(sign, {"min": number, "max": number})
