"""Do runs that ran fit, and do runs that ran out of memory not? `python benchmarks/feasibility.py`.

The judgement is `evaluate`'s: the fullest GPU of any stage, overheads included, against the GPU's memory. Rows and
sources: benchmarks/data/published_feasibility.json and published_step_times.json.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeopt.accounting.ledger import Ledger
from moeopt.layout import Layout
from moeopt.problem.loading import load_problem
from moeopt.resolve import complete, degrees_of, pipeline_of

DATA = Path(__file__).parent / "data"
GIB = 2**30


@dataclass(frozen=True)
class Judgement:
    """One published run: whether it ran, and what the accounting says."""

    run: str
    family: str
    ran: bool
    peak_bytes: int
    capacity_bytes: int
    remark: str

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.capacity_bytes

    @property
    def right(self) -> bool:
        return self.fits == self.ran


def judge(row: Mapping[str, Any], settings: Mapping[str, Any], ran: bool, remark: str) -> Judgement:
    """The fullest stage of one run. A layout without a pipeline string is split evenly."""
    workload = {**row["workload"], **settings.get("workload", {})}
    problem = load_problem({**{key: row[key] for key in ("architecture", "cluster", "gpus")}, "workload": workload})
    given = dict(row["layout"])
    extra = settings.get("layout", {})
    given["optimizer"] = {**given.get("optimizer", {}), **extra.get("optimizer", {})}
    layout = complete(problem, Layout.model_validate(given))
    pipeline = pipeline_of(layout)
    assert pipeline is not None, row["id"]
    stages = Ledger(problem, degrees_of(layout), layout.choices).memory(pipeline)
    peak = max(stage.total_bytes for stage in stages)
    return Judgement(row["id"], row.get("family", "failed"), ran, peak, problem.memory_limit, remark)


def judgements() -> Iterator[Judgement]:
    """All rows: those that ran, then those that did not."""
    rules = json.loads((DATA / "published_feasibility.json").read_text(encoding="utf-8"))
    left_out = {row["id"] for row in rules["not_judged"]}
    for row in json.loads((DATA / "published_step_times.json").read_text(encoding="utf-8"))["rows"]:
        if row["id"] in left_out:
            continue
        own, family = rules["settings"].get(row["id"], {}), rules["family_settings"].get(row["family"], {})
        remark = "; ".join(filter(None, (own.get("stated"), rules["needs_what_no_layout_says"].get(row["id"]))))
        yield judge(row, {**family, **own}, True, remark)
    for row in rules["failed"]:
        yield judge(row, {}, False, row["assumed"])


def table() -> Iterator[str]:
    """Counts by source, every wrong judgement with what is known about it, and every failed run."""
    found = list(judgements())
    yield "published runs judged by memory (right / all)"
    for family in dict.fromkeys(item.family for item in found):
        group = [item for item in found if item.family == family]
        what = "ran, judged feasible" if group[0].ran else "ran out of memory, judged infeasible"
        yield f"  {family:24s} {sum(item.right for item in group):3d} / {len(group):3d}  {what}"
    for item in found:
        if not (item.right and item.ran):
            verdict = "right" if item.right else "WRONG"
            sizes = f"{item.peak_bytes / GIB:.1f} of {item.capacity_bytes / GIB:.1f} GiB"
            yield f"  {verdict}: {item.run}: {sizes}; {item.remark or 'not explained'}"
    for row in json.loads((DATA / "published_feasibility.json").read_text(encoding="utf-8"))["not_judged"]:
        yield f"  not judged: {row['id']}: {row['reason']}"


if __name__ == "__main__":
    print("\n".join(table()))
