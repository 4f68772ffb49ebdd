import pytest

from moeopt.accounting.time.uncertainty import doubts, uncertainty_percent
from moeopt.layout import Choices, Overlap, Recompute
from time_cases import degrees, problem

GRAPHED = Choices(dispatcher="hybridep", cuda_graphs="full_iteration")


def test_a_tuned_layout_raises_no_doubt() -> None:
    """What people publish and the constants were fitted on is trusted to 10 %."""
    assert doubts(problem(), degrees(ep=64), GRAPHED) == []
    assert uncertainty_percent(problem(), degrees(ep=64), GRAPHED) == 10


@pytest.mark.parametrize(
    ("architecture", "cluster", "given", "changes", "word"),
    [
        ("deepseek-v3", "mi300x", {"ep": 8}, {}, "assumed"),
        ("deepseek-v3", "gb200-nvl72", {"ep": 8}, {"cuda_graphs": "none"}, "CUDA graphs"),
        ("gpt-oss-120b", "gb200-nvl72", {"ep": 8}, {}, "biased experts"),
        ("deepseek-v3", "h100-sxm", {"ep": 16}, {"overlap": Overlap(ep_all_to_all=True)}, "crosses"),
        ("deepseek-v3", "gb200-nvl72", {"ep": 8, "num_microbatches": 3}, {}, "fewer than 4"),
        ("deepseek-v3", "gb200-nvl72", {"ep": 8, "etp": 2}, {}, "expert-tensor"),
        ("deepseek-v3", "gb200-nvl72", {"ep": 8}, {"recompute": Recompute(granularity="full")}, "full recompute"),
    ],
)
def test_each_doubt_alone(architecture: str, cluster: str, given: dict, changes: dict, word: str) -> None:  # type: ignore[type-arg]
    """Each thin spot of the published data is named, alone, and doubles the interval."""
    asked, row, choices = problem(architecture, cluster), degrees(**given), GRAPHED.model_copy(update=changes)
    (reason,) = doubts(asked, row, choices)
    assert word in reason
    assert uncertainty_percent(asked, row, choices) == 20
