"""FlagScale (FlagOpen): an experiment in YAML and the training configuration that it names, which holds Megatron-LM's
arguments in groups; read as those.

Source: FlagScale 16a2dd5, flagscale/runner/runner_train.py (_get_args_megatron: the groups system, model and data come
one after the other, and groups inside them are flattened) and flagscale/runner/utils.py (get_nproc_per_node).
"""

from collections.abc import Callable, Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.arguments import apply
from moeopt.readers.reading import Reading, integer, mapping

Opener = Callable[[str], Any]
"""The content of a training configuration by its name, None where it does not lie by the experiment."""
_GROUPS = ("system", "model", "data")
_FOLDERS = ("log_dir", "details_dir", "scripts_dir", "pids_dir")
"""Settings that do not become arguments."""


def is_flagscale(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping is an experiment that trains, or a training configuration."""
    return _is_experiment(content) or _is_training(content)


def _is_experiment(content: Mapping[Any, Any]) -> bool:
    experiment = content.get("experiment")
    return isinstance(experiment, Mapping) and isinstance(experiment.get("task"), Mapping)


def _is_training(content: Mapping[Any, Any]) -> bool:
    return isinstance(content.get("system"), Mapping) and isinstance(content.get("model"), Mapping)


def read_flagscale(content: Mapping[str, Any], where: str, opened: Opener) -> Reading:
    """The reading of such a file. Raises InputError naming what cannot be read."""
    reading = Reading("FlagScale YAML")
    training = content
    if _is_experiment(content):
        experiment = mapping(content["experiment"], f"{where}: experiment")
        training = _named(content, experiment, where, opened, reading)
        reading.gpus, reading.gpus_per_node = _gpus(experiment, where, reading)
    values: dict[str, Any] = {}
    for group in _GROUPS:
        values |= mapping(training.get(group), f"{where}: {group}")
    flags = Flags()
    _flatten(values, "", flags)
    apply(flags, reading, where)
    return reading


def _named(
    content: Mapping[str, Any], experiment: Mapping[str, Any], where: str, opened: Opener, reading: Reading
) -> Mapping[str, Any]:
    """The training configuration that an experiment's defaults name."""
    task = mapping(experiment["task"], f"{where}: experiment.task")
    backend = (task.get("type"), task.get("backend"))
    if backend != ("train", "megatron"):
        raise InputError(
            f"{where}: experiment.task: {shown(dict(task))} is not read (known: type train, backend megatron)"
        )
    defaults = content.get("defaults")
    entries = defaults if isinstance(defaults, list) else []
    name = next((each["train"] for each in entries if isinstance(each, Mapping) and "train" in each), None)
    if name is None:
        raise InputError(f"{where}: defaults: {shown(defaults)} names no training configuration (train: NAME)")
    training = opened(str(name))
    if training is None:
        raise InputError(f"{where}: defaults: train/{name}.yaml does not lie by the file")
    reading.note(f"train/{name}.yaml, which the experiment names, is read")
    return mapping(training, f"train/{name}.yaml")


def _gpus(experiment: Mapping[str, Any], where: str, reading: Reading) -> tuple[int | None, int | None]:
    """GPUs in all and in one node: without a list of hosts one node, and what CUDA_VISIBLE_DEVICES lists where nothing
    else is said."""
    runner = mapping(experiment.get("runner"), f"{where}: experiment.runner")
    visible = str(mapping(experiment.get("envs"), f"{where}: experiment.envs").get("CUDA_VISIBLE_DEVICES", ""))
    each = runner.get("nproc_per_node") or (len(visible.split(",")) if visible else None)
    nodes = runner.get("nnodes") or (None if runner.get("hostfile") else 1)
    if each is None or nodes is None:
        reading.note("the file does not say on how many GPUs it runs (nnodes * nproc_per_node); --gpus does")
        return None, None
    per_node = integer(each, f"{where}: experiment.runner.nproc_per_node")
    count = integer(str(nodes).partition(":")[0], f"{where}: experiment.runner.nnodes")
    reading.understand("GPUs", f"{count} * {per_node}", f"gpus {count * per_node}")
    return count * per_node, per_node


def _flatten(values: Mapping[str, Any], prefix: str, flags: Flags) -> None:
    """Groups as the arguments in them: a switch that is off, and a value that is missing, are left out."""
    for name, value in values.items():
        spelled = f"{prefix}{name}"
        if name in _FOLDERS or value is None or value is False:
            continue
        if isinstance(value, Mapping):
            _flatten(mapping(value, spelled), f"{spelled}.", flags)
            continue
        words = map(str, value) if isinstance(value, list) else () if value is True else (str(value),)
        flags.put(str(name).replace("_", "-"), *words, spelled=spelled)
