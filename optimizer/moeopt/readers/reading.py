"""What a reader hands on: the fields that a file gives, which of its settings were understood, and what surprised."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import shown


@dataclass
class Reading:
    """Fields of an architecture, a workload and a layout; absent ones are not told by the file."""

    format: str
    """What kind of file it is, as reports name it."""
    architecture: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    """A shipped architecture that the file names instead of giving dimensions."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Dimensions that the file changes of an architecture that is named elsewhere."""
    workload: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    gpus: int | None = None
    gpus_per_node: int | None = None
    understood: list[dict[str, str]] = field(default_factory=list)
    ignored: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def understand(self, name: str, value: object, means: str) -> None:
        """A setting that became a field."""
        self.understood.append({"name": name, "value": short(value), "means": means})

    def ignore(self, name: str, value: object, why: str) -> None:
        """A setting that changes nothing here, or nothing that is priced."""
        self.ignored.append({"name": name, "value": short(value), "why": why})

    def warn(self, name: str, text: str, fix: str) -> None:
        """A setting, or a missing one, that surprises; and what to write instead."""
        if not any(each["name"] == name and each["text"] == text for each in self.warnings):
            self.warnings.append({"name": name, "text": text, "fix": fix})

    def note(self, text: str) -> None:
        """Something else to know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """The part of an answer that says how the file was read."""
        return {
            "format": self.format,
            "understood": self.understood,
            "ignored": self.ignored,
            "warnings": self.warnings,
            "notes": self.notes,
        }


def short(value: object) -> str:
    """A value as text of at most a line."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def integer(value: object, name: str) -> int:
    """A whole number from text or a number. Raises InputError naming the setting."""
    whole = isinstance(value, (int, str)) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise InputError(f"{name}: {shown(value)} is not a whole number{placeholder_hint(value)}")
    text = str(int(value)) if isinstance(value, float) else str(value).strip()
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isdecimal() and digits.isascii()) or len(digits) > 18:
        raise InputError(f"{name}: {shown(value)} is not a whole number{placeholder_hint(value)}")
    return int(text)


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """A mapping with names as keys; absent means empty. Raises InputError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name}: expected a mapping of fields, got {shown(value)}")
    return value


def placeholder_hint(value: object) -> str:
    """What to do about a `${NAME}` that nothing filled in; nothing for other values."""
    return "; give it with --set NAME=VALUE" if "${" in str(value) else ""
