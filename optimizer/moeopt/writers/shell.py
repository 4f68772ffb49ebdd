"""Shell text from values that nobody has checked: every word quoted, every comment on one line."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Arguments of a command under one title: each a name and its values."""

    title: str
    flags: tuple[tuple[str, ...], ...]


def flag(name: str, *values: object) -> tuple[str, ...]:
    """One argument: its name and its values as text."""
    return (name, *(str(value) for value in values))


def words(groups: Iterable[Group]) -> list[str]:
    """The arguments of all groups in order, as a process receives them."""
    return [word for group in groups for each in group.flags for word in each]


def comment(text: str) -> str:
    """Text made safe for a comment: one line, printable ASCII, no longer than a line."""
    clean = re.sub(r"[^ -~]+", " ", text).strip()
    return clean if len(clean) <= 100 else f"{clean[:97]}..."


def slug(text: str, longest: int = 40) -> str:
    """A name made of lower-case letters, digits and single dashes (DNS label, file name, job name)."""
    clean = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-")
    return clean if clean and clean[0].isalpha() else f"run-{clean}".strip("-")


def array(name: str, flags: Sequence[tuple[str, ...]]) -> str:
    """A bash array with one argument a line."""
    lines = [f"    {' '.join(shlex.quote(word) for word in each)}" for each in flags]
    return "\n".join([f"{name}=(", *lines, ")"])


def array_name(title: str) -> str:
    """`Mixture of experts` -> `MIXTURE_OF_EXPERTS_ARGS`."""
    return re.sub(r"[^A-Z]+", "_", title.upper()) + "_ARGS"


def arrays(groups: Sequence[Group]) -> str:
    """All groups as bash arrays."""
    return "\n\n".join(array(array_name(group.title), group.flags) for group in groups)


def array_uses(groups: Sequence[Group]) -> list[str]:
    """The words that put the arrays on a command line."""
    return [f'"${{{array_name(group.title)}[@]}}"' for group in groups]


def exports(variables: Mapping[str, str]) -> str:
    """`export` lines; a variable that the caller has set wins."""
    return "\n".join(f'export {name}="${{{name}:-{value}}}"' for name, value in variables.items())


def shell_word(text: str) -> str:
    """One quoted word; control characters are refused by the caller's input checks and dropped here."""
    return shlex.quote(re.sub(r"[\x00-\x1f\x7f]", "", text))
