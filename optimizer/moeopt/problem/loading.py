"""From names, paths and mappings to input objects."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.architecture import Architecture
from moeopt.problem.base import nearest, read_fields, shown
from moeopt.problem.cluster import Cluster
from moeopt.problem.huggingface import architecture_fields, is_huggingface
from moeopt.problem.patterns import fitted
from moeopt.problem.problem import DEGREES, GpuRange, Problem
from moeopt.problem.reading import parse_text, read_file
from moeopt.problem.workload import Workload
from moeopt.units import is_count, parse_plain_count

KINDS = ("architectures", "clusters")
MAX_GPUS = 10**7
"""A hundred times the largest cluster announced."""
AUDITED = ("about", "layout", "claims")
"""Fields of a file of claims that stand beside those of its problem."""
_LONGEST_CHAIN = 16
"""Files that may stand on each other through `base:`."""


def presets(kind: str) -> list[str]:
    """Names of the shipped architectures or clusters, sorted."""
    folder = files("moeopt.presets") / kind
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_fields(kind: str, name: str) -> dict[str, Any]:
    """The fields of one shipped preset. Raises InputError with the nearest name when there is none."""
    known = presets(kind)
    if name not in known:
        field = kind.removesuffix("s")
        meant = preset_meant(kind, name)
        hint = f"did you mean {meant!r}?" if meant else f"moeopt presets {kind} lists what ships"
        raise InputError(f"{field}: no preset and no file is called {shown(name)}; {hint}")
    text = (files("moeopt.presets") / kind / f"{name}.yaml").read_text(encoding="utf-8")
    fields: dict[str, Any] = parse_text(text, f"{name}.yaml", kind.removesuffix("s"))
    return fields


def preset_meant(kind: str, name: str) -> str | None:
    """The preset that a name in other letters (`DeepSeek-V3`), with its owner (`deepseek-ai/...`) or of its family
    (`h100`) means; None where none is near."""
    known = presets(kind)
    plain = re.sub(r"[\s_]+", "-", name.rpartition("/")[2].lower())
    family = [each for each in known if each.partition("-")[0] == plain.partition("-")[0]]
    close = [plain] if plain in known else get_close_matches(plain, family or known, n=1, cutoff=0.0 if family else 0.5)
    return close[0] if close else None


def load_architecture(given: Any, field: str = "architecture", folder: Path | None = None) -> Architecture:
    """From a preset's name, a YAML file, a Hugging Face config.json (file or folder), or a mapping.

    A mapping may start from another with `base:`. Raises InputError naming the field.
    """
    if isinstance(given, Architecture):
        return given
    fields = _fields(given, "architectures", field, folder)
    if is_huggingface(fields):
        overrides = fields.pop("__overrides__", {})
        read = architecture_fields(fields, field)
        fields = {**read, **fitted(read, overrides), **overrides}
    return read_fields(Architecture, fields, field)


def load_cluster(given: Any, field: str = "cluster", folder: Path | None = None) -> Cluster:
    """From a preset's name, a YAML file or a mapping, which may start from another with `base:`."""
    if isinstance(given, Cluster):
        return given
    return read_fields(Cluster, _fields(given, "clusters", field, folder), field)


def _fields(given: Any, kind: str, field: str, folder: Path | None) -> dict[str, Any]:
    if field.count(".base") > _LONGEST_CHAIN:
        raise InputError(f"{field.partition('.base')[0]}: more than {_LONGEST_CHAIN} bases stand on each other")
    if isinstance(given, Mapping):
        return _with_base(given, kind, field, folder)
    if not isinstance(given, str) or not given:
        raise InputError(f"{field}: {shown(given)} is neither a preset's name, nor a path, nor a mapping")
    if given in presets(kind):
        return {"name": given, **preset_fields(kind, given)}
    path = Path(given) if folder is None or Path(given).is_absolute() else folder / given
    if not exists(path):
        return preset_fields(kind, given)
    if path.is_dir():
        path = path / "config.json"
    content = _mapping(read_file(path, field), path, field)
    if is_huggingface(content):
        return {**content, "__overrides__": {"name": path.parent.name if path.stem == "config" else path.stem}}
    content = {"name": path.stem, **content}
    return _fields(content, kind, field, path.parent) if "base" in content else content


def _with_base(given: Mapping[Any, Any], kind: str, field: str, folder: Path | None) -> dict[str, Any]:
    for key in given:
        if not isinstance(key, str):
            raise InputError(f"{field}: the key {shown(key)} is not a name")
    own = {key: value for key, value in given.items() if key != "base"}
    if "base" not in given:
        return own
    base = _fields(given["base"], kind, f"{field}.base", folder)
    if is_huggingface(base):
        return {**base, "__overrides__": {**base.get("__overrides__", {}), **own}}
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            own[key] = {**base[key], **value}
    return {**base, **fitted(base, own), **_domain(base, own), **own}


def _domain(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The NVLink domain of a cluster's variant with other nodes: these, where the base's domain is its node."""
    is_node = base.get("nvlink_domain_size") == base.get("gpus_per_node") is not None
    return {"nvlink_domain_size": own["gpus_per_node"]} if is_node and "gpus_per_node" in own else {}


def exists(path: Path) -> bool:
    """Whether there is a file or folder of this name; no for a name that none can have."""
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a file system's names, or a NUL byte inside
        return False


def _mapping(content: Any, path: Path, field: str) -> dict[str, Any]:
    if content is None:
        raise InputError(f"{field}: {path} is empty")
    if not isinstance(content, Mapping):
        raise InputError(f"{field}: {path} holds {type(content).__name__}, not a mapping of fields")
    return dict(content)


def load_gpus(given: Any, field: str = "gpus") -> int | GpuRange:
    """A GPU count (an integer, or `512`) or a range (`{min: 64, max: 1024}`, or `64..1024`)."""
    if isinstance(given, GpuRange):
        return given
    if isinstance(given, Mapping):
        return read_fields(GpuRange, given, field)
    match = re.fullmatch(r"\s*(\d+)\s*(?:\.\.|-)\s*(\d+)\s*", given) if isinstance(given, str) else None
    if match:
        return read_fields(GpuRange, {"min": int(match[1]), "max": int(match[2])}, field)
    count = parse_plain_count(given, field) if is_count(given) else 0
    if count < 1:
        raise InputError(
            f"{field}: {shown(given)} is not a whole number above 0; write it like 512, or 64..1024 for a range"
        )
    if count > MAX_GPUS:
        raise InputError(f"{field}: {shown(given)} is above {MAX_GPUS}, the most that is searched")
    return count


def problem_fields(path: Path) -> dict[str, Any]:
    """The fields of a problem file as written; of a solution file, those of the problem it answers."""
    content = question(_mapping(read_file(path, "problem"), path, "problem"), path)
    if "claims" in content:  # a file of `moeopt audit` that holds its problem: what it claims is no part of that
        return {name: value for name, value in content.items() if name not in AUDITED}
    return content


def question(content: Mapping[str, Any], path: Path | None = None) -> dict[str, Any]:
    """The fields of a problem; of an answer, those of the problem that it answers."""
    if str(content.get("schema", "")).startswith("moeopt/"):
        return _mapping(content.get("problem"), path or Path("solution"), "problem")
    return dict(content)


def check_names(fields: Mapping[str, Any]) -> None:
    """Raise InputError for a field that no problem has, with the one that is meant."""
    unknown = sorted(str(name) for name in fields if name not in Problem.model_fields)
    if unknown:
        raise InputError(f"problem.{unknown[0]}: no such field{nearest(unknown[0], _every_field())}")


def load_problem(given: Mapping[str, Any], folder: Path | None = None) -> Problem:
    """From the mapping of a problem file, with names and paths resolved (paths relative to `folder`)."""
    fields = dict(given)
    check_names(fields)
    for required in ("architecture", "cluster", "gpus"):
        if fields.get(required) is None:
            raise InputError(f"problem.{required}: this field is required and is missing")
    return read_fields(Problem, resolved(fields, folder), "problem")


def _every_field() -> list[str]:
    """Where a problem's fields may stand: beside each other, in the workload, among what is fixed."""
    workload = [f"workload.{name}" for name in Workload.model_fields]
    return [*Problem.model_fields, *workload, *(f"fix.{name}" for name in DEGREES)]


def resolved(given: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Fields of a problem with names, paths and mappings read into objects; a field that is None is absent."""
    fields = {name: value for name, value in given.items() if value is not None}
    if "gpus" in fields:
        fields["gpus"] = load_gpus(fields["gpus"])
    if "architecture" in fields:
        fields["architecture"] = load_architecture(fields["architecture"], "architecture", folder)
    if "cluster" in fields:
        fields["cluster"] = load_cluster(fields["cluster"], "cluster", folder)
    if "workload" in fields and not isinstance(fields["workload"], Workload):
        fields["workload"] = read_fields(Workload, fields["workload"], "workload")
    return fields


def load_problem_file(path: Path) -> Problem:
    """Read a problem file (or the problem of a solution file)."""
    return load_problem(problem_fields(path), path.parent)
