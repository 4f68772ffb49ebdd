"""moeopt: exact, proven training layouts for Mixture-of-Experts transformers.

    from moeopt import Problem, solve, evaluate, pareto, launch

Each name is imported when it is first used: `import moeopt` itself loads neither the solver nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from moeopt.constraints import constrain as constrain
    from moeopt.errors import InputError as InputError
    from moeopt.evaluation import evaluate as evaluate
    from moeopt.explain.why_not import why_not as why_not
    from moeopt.frontier import pareto as pareto
    from moeopt.layout import Layout as Layout
    from moeopt.problem.problem import Problem as Problem
    from moeopt.search import solve as solve
    from moeopt.writers.write import launch as launch

_HOMES = {
    "InputError": "moeopt.errors",
    "Layout": "moeopt.layout",
    "Problem": "moeopt.problem.problem",
    "constrain": "moeopt.constraints",
    "evaluate": "moeopt.evaluation",
    "launch": "moeopt.writers.write",
    "pareto": "moeopt.frontier",
    "solve": "moeopt.search",
    "why_not": "moeopt.explain.why_not",
}
"""Public name -> the module that defines it. No submodule has one of these names: it would take its place."""

__all__ = [
    "InputError",
    "Layout",
    "Problem",
    "__version__",
    "constrain",
    "evaluate",
    "launch",
    "pareto",
    "solve",
    "why_not",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moeopt' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
