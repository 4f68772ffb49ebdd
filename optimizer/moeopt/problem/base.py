"""What every input object shares: frozen pydantic models whose errors become one sentence each."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeGuard, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from moeopt.errors import InputError
from moeopt.problem.synonyms import meant
from moeopt.units import parse_bandwidth, parse_duration_ns, parse_memory

LARGEST = 10**9
"""No dimension, degree or batch is larger; below it the products of the accounting stay within 64 bits."""
Positive = Annotated[int, Field(strict=True, gt=0, le=LARGEST)]
NonNegative = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]

MAX_LAYERS = 10_000
"""Far above any transformer; keeps a typing error from unfolding into a giant list."""
Layers = Annotated[int, Field(strict=True, gt=0, le=MAX_LAYERS)]


def _printable(text: str) -> str:
    """A name goes to terminals, pages and scripts: what would move a cursor or end a line there becomes a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


Name = Annotated[str, Field(max_length=255), AfterValidator(_printable)]


Number = TypeVar("Number", int, float)


def _within_pydantic(parse: Callable[[object, str], Number]) -> Callable[[object], Number]:
    """A parser of units whose refusal pydantic can attach to the field that it belongs to."""

    def parsed(value: object) -> Number:
        try:
            return parse(value, "")
        except InputError as error:
            raise ValueError(str(error).removeprefix(": ")) from None

    return parsed


Bytes = Annotated[int, BeforeValidator(_within_pydantic(parse_memory)), Field(ge=0)]
PositiveBytes = Annotated[int, BeforeValidator(_within_pydantic(parse_memory)), Field(gt=0)]


def _bandwidth(value: object, field: str) -> float:
    return float(value) if isinstance(value, float) else parse_bandwidth(value, field)


Bandwidth = Annotated[float, BeforeValidator(_within_pydantic(_bandwidth)), Field(gt=0)]
"""Bytes a second; NaN and infinity are left to the model's own check."""


def _nanoseconds(value: object, field: str) -> int:
    """`10us`; a plain number is nanoseconds, as the field's name and JSON answers have it."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return parse_duration_ns(f"{value}ns" if plain else value, field)


Nanoseconds = Annotated[int, BeforeValidator(_within_pydantic(_nanoseconds)), Field(ge=0)]


class Input(BaseModel):
    """Base of everything read from files: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def shown(value: object) -> str:
    """A value as an error prints it: on one line, and no longer than a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


InputType = TypeVar("InputType", bound=Input)


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean 'x'?` when something known is meant (`synonyms.meant`), else an empty string."""
    match = meant(name, known)
    return "" if match is None else f"; did you mean {match!r}?"


def read_fields(kind: type[InputType], values: Mapping[str, Any], where: str) -> InputType:
    """Build an input object; the first thing wrong becomes one InputError sentence that starts with its field."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping of fields, got {shown(values)}")
    for key in values:
        if not isinstance(key, str):
            raise InputError(f"{where}: the key {shown(key)} is not a name")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(sentence(kind, error, where)) from None


def sentence(kind: type[Input], error: ValidationError, where: str) -> str:
    """The first thing wrong as one sentence that starts with its field."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    field = f"{where}.{path}" if path else where
    if first["type"] == "missing":
        others = [".".join(map(str, each["loc"])) for each in error.errors()[1:] if each["type"] == "missing"]
        return f"{field}: this field is required and is missing{', as are ' * bool(others)}{', '.join(others)}"
    if first["type"] == "model_type":
        names = ", ".join(_owner(kind, tuple(first["loc"])))
        return f"{field}: expected a mapping of fields ({names}), got {shown(first['input'])}"
    if first["type"] == "dict_type":
        return f"{field}: expected a mapping of fields, got {shown(first['input'])}"
    if first["type"] == "extra_forbidden":
        owner = _owner(kind, tuple(first["loc"][:-1]))
        return f"{field}: no such field{nearest(str(first['loc'][-1]), owner)}"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        text = str(cause)
        return text if text.startswith(where) else f"{field}: {text}"
    return f"{field}: {shown(first['input'])} is refused: {first['msg'][:1].lower()}{first['msg'][1:]}"


def is_input(annotation: Any) -> TypeGuard[type[Input]]:
    """Whether a field's type is a mapping with fields of its own. (Python 3.10 takes `tuple[int, ...]` for a class.)"""
    return get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, Input)


def _owner(kind: type[Input], path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the object that holds an unknown key, for the suggestion."""
    for part in path:
        field = kind.model_fields.get(str(part))
        if field is None or not is_input(field.annotation):
            return []
        kind = field.annotation
    return list(kind.model_fields)
