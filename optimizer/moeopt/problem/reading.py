"""Files into plain values: YAML by its safe loader and JSON, within limits that no honest file comes near.

Refused with one sentence that names file and line: object tags, keys given twice, aliases that multiply (a "billion
laughs"), values that refer to themselves, NaN and infinity in JSON, files beyond `MAX_FILE_BYTES`.
"""

import json
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from moeopt.errors import InputError

MAX_FILE_BYTES = 2**20
"""Larger files are refused after this many bytes: no architecture, cluster, problem or layout comes near it."""
MAX_NODES = 200_000
"""Values that a file may unfold to once its aliases are followed."""


def read_file(path: Path, field: str) -> Any:
    """The content of a YAML or JSON file. Raises InputError with file and line for anything unreadable."""
    return parse_text(read_text(path, field), str(path), field)


def read_text(path: Path, field: str) -> str:
    """The text of a file. Raises InputError for one that cannot be read, is too large, or is no UTF-8."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{field}: cannot read {path}: {cause}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{field}: {path} is larger than the {MAX_FILE_BYTES} bytes that are read of such a file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{field}: {path}, line {line}: not UTF-8 text") from None


def parse_text(text: str, name: str, field: str, repeated: list[str] | None = None) -> Any:
    """Parse JSON where the name ends in .json, else YAML. Raises InputError naming the field, the file and the line.

    A key of a YAML mapping that is given twice is refused, or named in `repeated` where there is such a list: other
    programs' loaders take the last.
    """
    try:
        content = _parse_json(text) if name.endswith(".json") else _parse_yaml(text, repeated)
        _check_encodable(content)
        return content
    except json.JSONDecodeError as error:
        raise InputError(f"{field}: {name}, line {error.lineno}: {error.msg}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{field}: {name}{_line(error)}: {_cause(error)}") from None
    except RecursionError:
        raise InputError(f"{field}: {name} is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, a date in month 13
        raise InputError(f"{field}: {name}: {_one_line(str(error))}") from None


def _check_encodable(content: Any) -> None:
    """Half of a surrogate pair (an escape in JSON or YAML) is no text: no answer that repeats it could be written."""
    try:
        json.dumps(content, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None


def _parse_json(text: str) -> Any:
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise ValueError(f"key {key!r} is given twice")
            values[key] = value
        return values

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


def _parse_yaml(text: str, repeated: list[str] | None) -> Any:
    loader = _Loader(text)
    loader.repeated = repeated
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _unfolded(node, {}, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice, or notes it."""

    repeated: list[str] | None = None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen and key != "<<":
                if self.repeated is None:
                    text = f"key {key!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
                self.repeated.append(key)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _unfolded(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """Values that a node unfolds to, aliases followed; counted on the graph, before anything is unfolded."""
    if id(node) in open_nodes:
        raise yaml.constructor.ConstructorError(None, None, "a value refers to itself", node.start_mark)
    if id(node) not in known:
        open_nodes.add(id(node))
        count = 1 + sum(_unfolded(child, known, open_nodes) for child in _children(node))
        open_nodes.discard(id(node))
        if count > MAX_NODES:
            text = f"aliases unfold to more than {MAX_NODES} values"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
        known[id(node)] = count
    return known[id(node)]


def _children(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _cause(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    tag = "could not determine a constructor for the tag"
    if problem.startswith(tag):
        return f"the tag{problem.removeprefix(tag)} is refused: plain values only"
    return _one_line(problem)


def _one_line(text: str) -> str:
    return " ".join(text.split())
