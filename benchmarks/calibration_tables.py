"""How benchmarks/calibrate.py reads and writes the shipped efficiency tables and the table of errors."""

import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import moeopt
from moeopt.accounting.time.efficiency import Efficiency
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Problem

TABLES = ("hopper", "blackwell", "blackwell-ultra")
PRESETS = Path(moeopt.__file__).parent / "presets"
FOLLOWERS: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("gemm", "bf16"): [("gemm", "fp16")],
    ("gemm", "mxfp8"): [("gemm", "fp8")],
}
"""Entries without rows of their own take the value of a neighbour."""
Constants = dict[tuple[str, tuple[str, ...]], float]
SHRINK = 6
"""A group's error counts as its own rows and this many rows of the average error."""


def _path(table: str) -> Path:
    return PRESETS / "efficiency" / f"{table}.yaml"


def _rounded(field: tuple[str, ...], value: float) -> Any:
    if field[0] == "launch_ns":
        return f"{round(value / 1000, 1):g}us"
    return round(value, 3)


def _fields(table: str, values: Constants) -> dict[str, Any]:
    """A table's mapping with some entries changed."""
    content: dict[str, Any] = yaml.safe_load(_path(table).read_text(encoding="utf-8"))
    for (name, field), value in values.items():
        if name != table:
            continue
        for entry in (field, *FOLLOWERS.get(field, [])):
            holder = content
            for key in entry[:-1]:
                holder = holder[key]
            if entry[-1] in holder:
                holder[entry[-1]] = _rounded(field, value)
    return content


_READ: dict[str, Efficiency] = {}


def changed(values: Constants) -> dict[str, Efficiency]:
    """The tables with these constants, unrounded, for `efficiency.using`."""
    if not _READ:
        _READ.update({name: read_fields(Efficiency, _fields(name, {}), name) for name in TABLES})
    return {name: _READ[name].model_copy(update=_updates(_READ[name], name, values)) for name in TABLES}


def _updates(table: Efficiency, name: str, values: Constants) -> dict[str, Any]:
    updates: dict[str, Any] = {}
    for (its, field), value in values.items():
        if its != name:
            continue
        for entry in (field, *FOLLOWERS.get(field, [])):
            number = round(value) if field[0] == "launch_ns" else round(value, 5)
            if len(entry) == 1:
                updates[entry[0]] = number
            else:
                holder = updates.get(entry[0], getattr(table, entry[0]))
                updates[entry[0]] = holder.model_copy(update={entry[1]: number})
    return updates


def write_tables(
    values: Constants,
    rows: Sequence[Mapping[str, Any]],
    fitted: NDArray[np.float64],
    folds: Mapping[str, NDArray[np.float64]],
    clusters: Mapping[str, str],
) -> None:
    """Write the constants with their provenance: rows by source, software, date, errors fitted and left out.

    `clusters` maps each row's cluster to its table.
    """
    for table in TABLES:
        own = [index for index, row in enumerate(rows) if clusters[row["cluster"]] == table]
        families = [str(rows[index]["family"]) for index in own]
        releases = sorted({str(rows[index]["release"]) for index in own if "release" in rows[index]})
        content = _fields(table, values)
        sources = content.pop("sources")
        content["calibration"] = {
            "by": "benchmarks/calibrate.py",
            "date": date.today().isoformat(),
            "software": f"Megatron-Bridge {releases[0]} to {releases[-1]}, the newest of each configuration"
            if releases
            else "not stated by the sources",
            "rows": {name: families.count(name) for name in sorted(set(families))},
            "mean_error_percent": {
                "fitted": _mean(fitted[own]),
                **{f"leave one {name} out": _mean(values[own]) for name, values in folds.items()},
            },
        }
        content["sources"] = sources
        _dump(_path(table), content)


def _mean(logarithms: NDArray[np.float64]) -> float:
    return round(100 * float(np.mean(np.abs(np.expm1(logarithms)))), 1)


def write_errors(
    kinds: Sequence[tuple[Problem, Sequence[str]]],
    errors: NDArray[np.float64],
    apart: Mapping[str, NDArray[np.float64]],
) -> None:
    """Write what rows that did not enter their own fit are missed by: two of three rows are within the percentage.
    `apart`: errors of rows that entered none, by the regime that they alone test."""
    sizes = [100 * float(size) for size in np.abs(errors)]
    average = _within(sizes)

    def entry(chosen: Sequence[float]) -> dict[str, Any]:
        share = (len(chosen) * _within(chosen) + SHRINK * average) / (len(chosen) + SHRINK)
        return {"rows": len(chosen), "percent": round(share, 1)}

    gpus: dict[str, dict[str, Any]] = {}
    for table, precision in sorted({(p.cluster.efficiency, p.workload.precision) for p, _ in kinds}):
        own = [
            size
            for (p, _), size in zip(kinds, sizes, strict=True)
            if p.cluster.efficiency == table and p.workload.precision == precision
        ]
        gpus.setdefault(table, {})[precision] = entry(own)
    names = sorted({name for _, found in kinds for name in found})
    regimes = {
        name: entry([size for (_, found), size in zip(kinds, sizes, strict=True) if name in found]) for name in names
    }
    regimes |= {name: entry([100 * float(size) for size in np.abs(found)]) for name, found in apart.items()}
    content = {"all": {"rows": len(sizes), "percent": round(average, 1)}, "gpus": gpus, "regimes": regimes}
    _dump(PRESETS / "step_time_errors.yaml", content)


def _within(sizes: Sequence[float]) -> float:
    """The size that two of three stay below."""
    return statistics.quantiles(sizes, n=3, method="inclusive")[-1] if len(sizes) > 1 else sizes[0]


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    """Write YAML, keeping the comment lines that head the file."""
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    body = yaml.dump(
        dict(content), Dumper=_Dumper, sort_keys=False, width=112, allow_unicode=True, default_flow_style=None
    )
    path.write_text("\n".join([*head, body]), encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Long texts folded, as a person would write them."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=">" if len(value) > 80 else None)


_Dumper.add_representer(str, _text)
