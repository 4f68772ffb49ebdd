"""Predictions against published measurements.

In-sample: the mechanisms were found with these rows (docs/memory.md).
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
DATA: dict[str, Any] = json.loads((HERE / "data" / "memory_published.json").read_text(encoding="utf-8"))


def _benchmark(name: str = "memory") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", HERE.parent / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = _benchmark()
ROWS = {row["id"]: row for row in DATA["rows"]}
UNEXPLAINED_BYTES = {
    ("Megatron-FSDP", "dgx_a100", "allocated"): 30 * 2**20,
    ("8-bit parameters", "dgx_gb200", "peak of iteration 1"): 60 * 2**20,
}
"""By group, machine and quantity: of small tests, whose whole sizes are 240 to 660 MiB."""


@pytest.mark.parametrize("run", [name for name, row in ROWS.items() if row["group"] == "SimuMax"])
def test_measured_peaks_of_every_stage(run: str) -> None:
    """Balanced or padded routing and known kernels (SimuMax on B200): each stage's peak within 0.1 %."""
    for item in BENCHMARK.compare(ROWS[run], DATA["architectures"]):
        assert item.error == pytest.approx(0, abs=0.001), item


@pytest.mark.parametrize("run", [name for name, row in ROWS.items() if row["group"] != "SimuMax"])
def test_recorded_runs_of_megatron(run: str) -> None:
    """Megatron-LM's recorded runs: bytes between steps within 1.3 %; the peak of iteration 1 within 4 % (the recorded
    rank is one of several, the busiest is predicted); the run's peak within 6 % (dropless routing moves on). Two small
    tests have more that is unexplained: 28 MiB of 240 between steps under Megatron-FSDP on an A100, 72 MiB of 404 in
    iteration 1 with 8-bit parameters and context parallelism on GB200 (its later peak is within 5 %). Layers under CUDA
    graphs: between steps within 3.2 %, where without the graphs' inputs 6 to 26 % are missing (two of the four compute
    on GB200 in blocks of fp8, which keep two copies of weights where one is counted)."""
    allowed = {"allocated": 0.013, "peak of iteration 1": 0.04, "peak": 0.06}
    if ROWS[run]["group"] == "CUDA graphs":
        allowed |= {"allocated": 0.032, "peak of iteration 1": 0.046}
    for item in BENCHMARK.compare(ROWS[run], DATA["architectures"]):
        slack = UNEXPLAINED_BYTES.get((item.source, run.split("-")[-1], item.quantity), 0) / item.measured
        assert item.error == pytest.approx(0, abs=allowed[item.quantity] + slack), item


def test_runs_that_ran_fit_and_failed_ones_do_not() -> None:
    """Every published run is judged as it went, overheads included, but for those whose source names (or hides) what no
    layout says; and no layout that ran is above the GPU's memory by more than that."""
    found = list(_benchmark("feasibility").judgements())
    assert sum(item.ran for item in found) > 100
    assert any(not item.ran for item in found)
    assert [item.run for item in found if not item.right and not item.remark] == []
    assert sum(not item.right for item in found) <= 4
