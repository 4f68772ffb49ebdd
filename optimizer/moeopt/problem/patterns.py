"""Patterns of one entry a layer, where a variant of an architecture changes the number of layers."""

from collections.abc import Mapping
from typing import Any

from moeopt.problem.base import MAX_LAYERS

PATTERNS = ("moe_layer_freq", "window_pattern", "linear_attention_pattern", "hybrid_pattern")


def fitted(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The base's patterns for the layers of its variant: cut, or continued as their second half repeats.

    A pattern that the variant gives itself, and one that does not repeat, are left as they are.
    """
    layers = own.get("num_hidden_layers")
    if isinstance(layers, bool) or not isinstance(layers, int) or not 0 < layers <= MAX_LAYERS:
        return {}
    found: dict[str, Any] = {}
    for name in PATTERNS:
        pattern = base.get(name)
        if name not in own and isinstance(pattern, (list, tuple, str)) and pattern:
            entries = _continued(list(pattern), layers)
            found[name] = "".join(entries) if isinstance(pattern, str) else entries
    return found


def _continued(pattern: list[Any], layers: int) -> list[Any]:
    """The first `layers` entries of the pattern and of what follows it."""
    size = len(pattern)
    periods = range(1, size // 3 + 1)
    period = next((p for p in periods if pattern[size // 2 :] == pattern[size // 2 - p : size - p]), None)
    while period and len(pattern) < layers:
        pattern.append(pattern[-period])
    return pattern[:layers] if len(pattern) > layers else pattern
