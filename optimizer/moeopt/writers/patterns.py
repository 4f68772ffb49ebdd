"""Layer patterns (which layers have experts, which see a window) in the notation of Megatron's command line.

`--moe-layer-freq` and `--window-attn-skip-freq` take a Python list expression of digits, brackets, `+` and `*`
(Megatron-LM d98e8a6, megatron/training/arguments.py:245-253 and 327-350).
"""

from collections.abc import Sequence
from itertools import groupby


def pattern(values: Sequence[int]) -> str:
    """The shortest of: a repeated period `([0,1]*24)`, runs `([0]*3+[1]*58)`."""
    options = [_runs(values)]
    period = _period(values)
    if period < len(values):
        block = ",".join(str(value) for value in values[:period])
        options.append(f"([{block}]*{len(values) // period})")
    return min(options, key=len)


def _runs(values: Sequence[int]) -> str:
    runs = [(value, len(list(group))) for value, group in groupby(values)]
    return "(" + "+".join(f"[{value}]*{times}" for value, times in runs) + ")"


def _period(values: Sequence[int]) -> int:
    """Length of the shortest block that repeats to the whole."""
    total = len(values)
    return next(
        size
        for size in range(1, total + 1)
        if total % size == 0 and all(values[i] == values[i % size] for i in range(total))
    )
