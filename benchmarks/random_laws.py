"""The search's laws on random problems: every problem of the tests of each law, run by pytest and counted."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAWS = {
    "the optimum is enumeration's, infeasible an empty one": ("test_search_brute_force", "the_solver_equals_the_sweep"),
    "two frontiers each hold enumeration's points": ("test_frontier_brute_force", "the_frontier_equals_enumeration"),
    "no member of a conflict can be left out": ("test_explain_conflicts", "every_conflict_is_minimal"),
}
"""Module and test of each."""


def check_random(share: float = 1.0) -> list[str]:
    """Lines of a table: law, problems tried, blocks of problems that broke it. `share`: of the blocks, the first."""
    return [f"| {law} | {tried:,} | {broken} |" for law in LAWS for tried, broken in [_check(*LAWS[law], share)]]


def _check(module: str, test: str, share: float) -> tuple[int, int]:
    """Problems tried, and blocks of them that did not pass. Raises RuntimeError where pytest could not run them."""
    sys.path.insert(0, str(ROOT / "tests"))
    listed = import_module(module)
    firsts = range(0, len(listed.SEEDS), listed.BATCH)
    asked = firsts[: max(1, round(share * len(firsts)))]
    cases = [f"tests/{module}.py::test_{test}[{first}]" for first in asked]
    command = [sys.executable, "-m", "pytest", "-m", "", "-n", "auto", "--dist", "worksteal", "-p", "no:cacheprovider"]
    ended = subprocess.run([*command, *cases], cwd=ROOT, capture_output=True, text=True, check=False)
    counted = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|errors?)", ended.stdout)}
    if ended.returncode not in (0, 1) or sum(counted.values()) != len(cases):
        raise RuntimeError(f"pytest ended with {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return min(len(asked) * listed.BATCH, len(listed.SEEDS)), len(cases) - counted.get("passed", 0)
