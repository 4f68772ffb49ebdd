"""The counted space equals a listed one."""

import importlib.util
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def space_count() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "space_count.py"
    spec = importlib.util.spec_from_file_location("space_count", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(layers: int, pp: int, vpp: int, mtp_layers: int) -> int:
    """Placements one by one, by the rule of `moeopt.cpsat.placement`."""
    stages, found = pp * vpp, 0
    ends = [s for s in range((vpp - 1) * pp, stages) if s % pp or pp == 1] if mtp_layers else [stages - 1]
    for counts in product(range(layers + 1), repeat=stages):
        if sum(counts) == layers:
            found += sum(all(counts[1:end]) and not any(counts[end + 1 :]) for end in ends)
    return found


@pytest.mark.parametrize("shape", [(4, 1, 1), (5, 2, 1), (5, 2, 2), (6, 4, 1), (4, 3, 2), (7, 2, 3)])
@pytest.mark.parametrize("mtp_layers", [0, 1])
def test_placements_are_as_many_as_listed(
    space_count: ModuleType, shape: tuple[int, int, int], mtp_layers: int
) -> None:
    """The closed form counts each legal placement once, with and without MTP modules."""
    assert space_count.placements(*shape, mtp_layers) == listed(*shape, mtp_layers) > 0
