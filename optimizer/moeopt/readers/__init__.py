"""What people already have (launch scripts, YAML, TOML, JSON) -> fields of a problem and a layout. Nothing is run.

One module a format; `read` recognises which it is by its content.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.huggingface import is_huggingface
from moeopt.problem.reading import MAX_FILE_BYTES, parse_text
from moeopt.readers.bridge import is_bridge, read_bridge
from moeopt.readers.deepspeed import is_deepspeed, read_deepspeed
from moeopt.readers.flags import Flags, parse_flags
from moeopt.readers.megatron.arguments import apply
from moeopt.readers.megatron.script import read_arguments, read_script
from moeopt.readers.placeholders import filled
from moeopt.readers.reading import Reading
from moeopt.readers.shell.tokens import Lexer
from moeopt.readers.shell.values import clean
from moeopt.readers.torchtitan import parse_toml, read_torchtitan

__all__ = ["Reading", "read"]


def read(path: Path, arguments: Sequence[str] = (), given: Mapping[str, str] | None = None) -> Reading:
    """The reading of a file, or of the train.sh or config.json in a folder; a script's arguments and environment may be
    given. Raises InputError, also for what is given and can have no effect."""
    if path.is_dir():
        path /= "config.json" if (path / "config.json").is_file() and not (path / "train.sh").is_file() else "train.sh"
    opened: list[str] = []
    reading = _read(path, arguments, given or {}, opened)
    for name in given or {}:
        if not any(re.search(rf"\b{re.escape(name)}\b", text) for text in opened):
            raise InputError(f"set: {name} occurs nowhere in {path}")
    return reading


def _read(path: Path, arguments: Sequence[str], given: Mapping[str, str], opened: list[str]) -> Reading:
    text, where = _text(path), str(path)
    opened.append(text)
    suffix = path.suffix.lower()
    if suffix == ".toml":
        _without_arguments(arguments, where)
        return read_torchtitan(parse_toml(text, where), where, lambda name: _module(path, name))
    if suffix in (".yaml", ".yml", ".json") or text.lstrip()[:1] == "{":
        name = where if suffix in (".yaml", ".yml", ".json") else f"{where}.json"
        repeated: list[str] = []
        reading = _mapping(filled(parse_text(text, name, "from", repeated), given), where, arguments)
        for key in repeated:
            reading.note(f"{key} is given more than once; the last one counts")
        return reading
    first = next((line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"), "")
    if first.startswith("-"):
        words = [token.text for token in Lexer(clean(text), where).all() if not token.operator]
        return read_arguments([*words, *arguments], where)
    return read_script(
        text,
        where,
        arguments,
        given,
        beside=lambda name: _beside(path, name, given, opened),
        opened=lambda name: _sourced(path, name, opened),
    )


def _sourced(script: Path, name: str, opened: list[str]) -> tuple[str, str] | None:
    """A file that a script sources, by its path from the script's folder or from where the script was named: only from
    that folder's neighbourhood (two folders up and everything under them), never from elsewhere on the machine."""
    folder = script.resolve().parent
    roots = [folder, *folder.parents][:3]
    near = [root for root in roots if len(root.parts) > 1]
    for candidate in (folder / name, Path(name)):
        found = candidate.resolve()
        if near and found.is_relative_to(near[-1]) and found.is_file():
            try:
                text = _text(found)
            except InputError:
                return None
            opened.append(text)
            return os.path.relpath(found), text
    return None


def _without_arguments(arguments: Sequence[str], where: str) -> None:
    if arguments:
        raise InputError(f"arguments: {where} takes none; a launch script, MODEL_ARGS or a list of arguments does")


def _beside(script: Path, name: str, given: Mapping[str, str], opened: list[str]) -> Reading | None:
    """The reading of a configuration that a script's command names, where it lies in the script's own folder."""
    candidate = script.parent / Path(name).name
    if candidate.suffix == ".py":
        candidate = candidate.with_suffix(".yaml")
    if candidate.suffix.lower() not in (".yaml", ".yml", ".toml", ".json") or not candidate.is_file():
        return None
    return _read(candidate, (), given, opened)


def _module(job: Path, name: str) -> str | None:
    """The text of a Python module that a job imports, where it lies in the job's own folder. It is not imported."""
    candidate = job.parent / f"{Path(name).name}.py"
    return _text(candidate) if candidate.is_file() else None


def _mapping(content: Any, where: str, arguments: Sequence[str]) -> Reading:
    if not isinstance(content, Mapping):
        raise InputError(f"from: {where} holds no mapping of fields")
    if str(content.get("schema", "")).startswith("moeopt/"):
        raise InputError(f"from: {where} is an answer of moeopt; give it as --layout {where}, and as PROBLEM")
    if isinstance(content.get("MODEL_ARGS"), Mapping):
        return _test_case(content["MODEL_ARGS"], arguments, where)
    _without_arguments(arguments, where)
    if is_huggingface(content):
        reading = Reading("Hugging Face config", architecture=dict(content))
        reading.understand("model_type", content.get("model_type", "text_config"), "architecture")
        reading.note("a Hugging Face config gives dimensions only: --layout says how they are laid out")
        return reading
    if is_deepspeed(content):
        return read_deepspeed(content, where)
    if is_bridge(content):
        return read_bridge(content, where)
    raise InputError(
        f"from: {where} is none of the kinds that are read: Megatron-LM arguments (MODEL_ARGS), Megatron-Bridge or "
        "NeMo YAML (model: …_parallel_size), DeepSpeed JSON, Hugging Face config"
    )


def _test_case(values: Mapping[Any, Any], arguments: Sequence[str], where: str) -> Reading:
    """Megatron-LM's own test cases: a mapping from arguments to values, with what a runner appends."""
    reading, flags = Reading("Megatron-LM test case"), Flags()
    for name, value in values.items():
        if isinstance(name, str) and name.startswith("--") and value is not False:
            flags.put(name[2:].replace("_", "-"), *_words(value), spelled=name)
    appended = parse_flags(arguments)
    for name, words in appended.values.items():
        flags.put(name, *words, spelled=appended.spelled[name])
    apply(flags, reading, where)
    return reading


def _words(value: Any) -> tuple[str, ...]:
    """A test case's value as the words that its runner passes on: `[a b]` in quotes is a list there too."""
    if isinstance(value, list):
        return tuple(map(str, value))
    text = "" if value is True or value is None else str(value).strip()
    inner = text.removeprefix("[").removesuffix("]")
    bracketed = len(inner) == len(text) - 2 and not set("[]") & set(inner)
    return tuple(inner.split()) if bracketed else (text,) if text else ()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"from: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"from: {path} is larger than the {MAX_FILE_BYTES} bytes that are read of such a file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"from: {path}, line {line}: not UTF-8 text") from None
