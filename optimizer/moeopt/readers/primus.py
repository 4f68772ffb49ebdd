"""Primus (AMD): a YAML of overrides over its own configurations, which name Megatron-LM's arguments; read as those.

Source: AMD-AGI/Primus, examples/megatron/configs and primus/configs (modules/megatron, models/megatron; `extends` lists
files of the same folder that come first).
"""

from collections.abc import Callable, Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.readers.bridge import leave_out_stages, read_section
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.arguments import apply
from moeopt.readers.megatron.ignored import is_refused
from moeopt.readers.megatron.vocabulary import preset_named
from moeopt.readers.reading import Reading, mapping

Opener = Callable[[str], Any]
"""The content of one of Primus's own configurations by its path under primus/configs, None where it does not lie by."""
_DEEPEST = 8
"""Configurations that extend one another."""
_DEFAULTS = {"bf16": True, "use_distributed_optimizer": True}
"""What its pre-training sets where nothing else is said (modules/megatron/pre_trainer.yaml, trainer_base.yaml)."""


def is_primus(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping has a module with overrides for a framework."""
    modules = content.get("modules")
    return isinstance(modules, Mapping) and any(map(_is_trainer, modules.values()))


def _is_trainer(module: object) -> bool:
    return isinstance(module, Mapping) and "framework" in module and "overrides" in module


def read_primus(content: Mapping[str, Any], where: str, opened: Opener) -> Reading:
    """The reading of its trainer. Raises InputError naming the module where another framework runs it."""
    name, module = next((name, each) for name, each in content["modules"].items() if _is_trainer(each))
    if module["framework"] != "megatron":
        raise InputError(
            f"{where}: modules.{name}.framework: {shown(module['framework'])} is not read (known: megatron)"
        )
    reading, overrides = Reading("Primus YAML"), mapping(module["overrides"], f"{where}: modules.{name}.overrides")
    own = _extended(str(module.get("config", "")), "modules/megatron", opened, reading)
    model = _extended(str(module.get("model", "")), "models/megatron", opened, reading)
    own = {key: value for key, value in own.items() if not _is_refused(key)}
    model = {key: value for key, value in model.items() if value or not _is_refused(key)}
    flags = Flags()
    read_section({**_DEFAULTS, **own, **model, **overrides}, "", flags, where)
    leave_out_stages(flags)
    preset = preset_named(str(module.get("model", "")).removesuffix(".yaml").replace("_", "-"))
    if not flags.given("num-layers") and preset is not None:
        reading.preset = preset
        reading.note(f"model {module['model']} names {preset}: its dimensions are taken")
    apply(flags, reading, where)
    reading.ignored = [each for each in reading.ignored if each["name"] in overrides]
    return reading


def _is_refused(key: str) -> bool:
    """Whether an argument is refused wherever it is given: Primus's own lists of all arguments give it a value that
    means nothing (the height of a picture, where there is none)."""
    return is_refused(key.replace("_", "-"))


def _extended(file: str, folder: str, opened: Opener, reading: Reading, depth: int = 0) -> dict[str, Any]:
    """A configuration over those that it extends. Raises InputError where they never end."""
    if depth > _DEEPEST:
        raise InputError(f"{folder}/{file}: more than {_DEEPEST} configurations extend one another")
    content = opened(f"{folder}/{file}") if file else None
    if file and content is None:
        reading.note(f"{folder}/{file} of Primus does not lie by the file and was not read")
    content = mapping(content, f"{folder}/{file}")
    bases = content.get("extends") or []
    if not isinstance(bases, list):
        raise InputError(f"{folder}/{file}: extends: {shown(bases)} is no list of files")
    values: dict[str, Any] = {}
    for base in bases:
        values |= _extended(str(base), folder, opened, reading, depth + 1)
    return {**values, **{key: value for key, value in content.items() if key != "extends"}}
