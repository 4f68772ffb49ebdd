"""Values that a shell offers at Tab: names of presets, files, and the words that an option knows.

Only what a finished line would accept; nothing here imports the solver.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import click
from click.shell_completion import CompletionItem

Completer: TypeAlias = Callable[[click.Context, click.Parameter, str], list[Any]]


def _matching(values: Iterable[str], incomplete: str) -> list[Any]:
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Paths: the shell lists them itself."""
    return [CompletionItem(incomplete, type="file")]


def folders(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Folders: the shell lists them itself."""
    return [CompletionItem(incomplete, type="dir")]


def words(*values: str) -> Completer:
    """Fixed words."""
    return lambda _context, _parameter, incomplete: _matching(values, incomplete)


def words_of(load: Callable[[], Iterable[str]]) -> Completer:
    """Words that are looked up when Tab is pressed."""
    return lambda _context, _parameter, incomplete: _matching(load(), incomplete)


def lists_of(load: Callable[[], Iterable[str]]) -> Completer:
    """Words of a list with commas between: the last one is completed, and none is offered twice."""

    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
        head, comma, last = incomplete.rpartition(",")
        given = head.split(",")
        return [
            CompletionItem(f"{head}{comma}{word}") for word in load() if word.startswith(last) and word not in given
        ]

    return complete


def presets_of(kind: str) -> Completer:
    """Shipped architectures or clusters, and files."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
        from moeopt.problem.loading import presets

        return _matching(presets(kind), incomplete) or files(context, parameter, incomplete)

    return complete


def objectives() -> Iterable[str]:
    """What a problem can minimise."""
    from typing import get_args

    from moeopt.problem.problem import Objective

    return get_args(Objective)


def precisions() -> Iterable[str]:
    """Precisions of a workload."""
    from typing import get_args

    from moeopt.problem.formats import Precision

    return get_args(Precision)


def optimizers() -> Iterable[str]:
    """Optimizers of a workload."""
    from typing import get_args

    from moeopt.problem.workload import Optimizer

    return get_args(Optimizer)
