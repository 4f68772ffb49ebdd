"""What people already have (launch scripts, YAML, TOML, JSON) -> fields of a problem and a layout. Nothing is run.

One module a format; `read` recognises which it is by its content.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.huggingface import is_huggingface
from moeopt.readers.bridge import is_bridge, read_bridge
from moeopt.readers.deepspeed import is_deepspeed, read_deepspeed
from moeopt.readers.flags import Flags, parse_flags
from moeopt.readers.flagscale import is_flagscale, read_flagscale
from moeopt.readers.megatron.arguments import apply
from moeopt.readers.megatron.script import read_arguments, read_script
from moeopt.readers.nearby import Nearby
from moeopt.readers.primus import is_primus, read_primus
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
    nearby = Nearby(path, given or {})
    reading = _read(path, arguments, nearby)
    nearby.check_given()
    return reading


def _read(path: Path, arguments: Sequence[str], nearby: Nearby) -> Reading:
    text, where = nearby.text(path), str(path)
    suffix = path.suffix.lower()
    if suffix == ".toml":
        _without_arguments(arguments, where)
        return read_torchtitan(parse_toml(text, where), where, nearby.module)
    if suffix in (".yaml", ".yml", ".json") or text.lstrip()[:1] == "{":
        repeated: list[str] = []
        reading = _mapping(nearby.content(path, text, repeated), where, arguments, nearby)
        for key in repeated:
            reading.note(f"{key} is given more than once; the last one counts")
        return reading
    first = next((line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"), "")
    if first.startswith("-"):
        words = [token.text for token in Lexer(clean(text), where).all() if not token.operator]
        return read_arguments([*words, *arguments], where)
    beside = partial(_beside, nearby)
    return read_script(text, where, arguments, nearby.given, beside=beside, opened=nearby.sourced)


def _without_arguments(arguments: Sequence[str], where: str) -> None:
    if arguments:
        raise InputError(f"arguments: {where} takes none; a launch script, MODEL_ARGS or a list of arguments does")


def _beside(nearby: Nearby, name: str) -> Reading | None:
    found = nearby.configuration(name)
    return None if found is None else _read(found, (), nearby)


def _mapping(content: Any, where: str, arguments: Sequence[str], nearby: Nearby) -> Reading:
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
    if is_primus(content):
        return read_primus(content, where, partial(nearby.of_repository, "primus/configs"))
    if is_deepspeed(content):
        return read_deepspeed(content, where)
    if is_flagscale(content):
        return read_flagscale(content, where, nearby.training)
    if is_bridge(content):
        return read_bridge(content, where)
    raise InputError(
        f"from: {where} is none of the kinds that are read: Megatron-LM arguments (MODEL_ARGS), Megatron-Bridge or "
        "NeMo YAML (model: …_parallel_size), Primus YAML (modules: …: overrides), FlagScale YAML (system, model), "
        "DeepSpeed JSON, Hugging Face config"
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
