"""Reading a config.json: every refusal names the field."""

from collections.abc import Callable, Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import MAX_LAYERS, shown


class Config:
    """A config.json whose reader names the field that is missing or is of the wrong type."""

    def __init__(self, values: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.values = values
        self.where = where
        self.defaults = defaults or {}

    def written(self, name: str) -> bool:
        """Whether the file itself holds the field, and not null."""
        return self.values.get(name) is not None

    def given(self, name: str) -> bool:
        """Whether a field has a value: in the file, or where it is absent there the family's default."""
        return self.value(name) is not None

    def value(self, name: str) -> Any:
        """A field as it was written (null included); an absent one has the family's default, or None."""
        return self.values[name] if name in self.values else self.defaults.get(name)

    def integer(self, *names: str, default: int | None = None) -> int:
        """The first of the names that is given, as an integer; one that is written comes before a family's default of
        another. Two of them may not contradict each other."""
        found: dict[str, int] = {}
        for name in [name for name in names if self.written(name)] or names:
            if self.given(name):
                value = self.value(name)
                if isinstance(value, bool) or not isinstance(value, int):
                    raise InputError(f"{self.where}.{name}: {shown(value)} is not an integer")
                found[name] = value
        if len(set(found.values())) > 1:
            (first, one), (second, other) = list(found.items())[:2]
            raise InputError(f"{self.where}.{first}: {one} contradicts {second} {other}")
        if found:
            return next(iter(found.values()))
        if default is None:
            raise InputError(f"{self.where}.{names[0]}: this field is required and is missing")
        return default

    def optional(self, name: str) -> int | None:
        """An integer, or None where the field is absent or null."""
        return self.integer(name) if self.given(name) else None

    def number(self, *names: str) -> float | None:
        """The first of the names that is given, as a number, or None where all are absent or null."""
        for name in names:
            if self.given(name):
                value = self.value(name)
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise InputError(f"{self.where}.{name}: {shown(value)} is not a number")
                return value
        return None

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.value(name) if self.given(name) else default
        if not isinstance(value, bool):
            raise InputError(f"{self.where}.{name}: {shown(value)} is neither true nor false")
        return value

    def items(self, name: str, length: int | None = None) -> list[Any]:
        """A list, of the given length if one is asked for; an absent one is empty."""
        value = self.values[name] if self.given(name) else []
        if not isinstance(value, list) or (length is not None and value and len(value) != length):
            expected = "a list" if length is None else f"a list of {length} entries, one a layer"
            raise InputError(f"{self.where}.{name}: expected {expected}")
        return value

    def section(self, name: str) -> "Config":
        """A nested config that may be absent or null: then it is empty."""
        return self.inner(name) if self.given(name) else Config({}, f"{self.where}.{name}")

    def inner(self, name: str) -> "Config":
        """A nested config."""
        value = self.values.get(name)
        if not isinstance(value, Mapping):
            raise InputError(f"{self.where}.{name}: this mapping is required and is missing")
        return Config(value, f"{self.where}.{name}")

    @property
    def layers(self) -> int:
        """Decoder layers."""
        layers = self.integer("num_hidden_layers")
        if not 0 < layers <= MAX_LAYERS:
            raise InputError(f"{self.where}.num_hidden_layers: {layers} is outside 1 to {MAX_LAYERS}")
        return layers

    def pattern(self, holds: Callable[[int], bool]) -> tuple[int, ...]:
        """One 0 or 1 a layer."""
        return tuple(int(holds(i)) for i in range(self.layers))
