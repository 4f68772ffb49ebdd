"""A hybrid's pattern of Mamba-2, attention, dense and expert layers, and MTP modules of any transformer.

Source: Megatron-LM d98e8a6, megatron/core/models/hybrid/hybrid_layer_allocation.py;
megatron/training/arguments.py:774-786; transformer_config.py:1259-1270 (Mamba's sizes).
"""

from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.readers.flags import Flags

_MAMBA_SIZES = {"mamba_head_dim": 64, "mamba_num_groups": 8, "mamba_state_dim": 128}


def hybrid_segments(flags: Flags) -> list[str]:
    """A hybrid's layers, chunk by chunk as its bars cut them; none where the transformer is no hybrid."""
    name = _hybrid_name(flags)
    return (flags.joined(name) or "").partition("/")[0].split("|") if name else []


def _hybrid_name(flags: Flags) -> str | None:
    """The argument that gives a hybrid's pattern: the newer of its two names comes first."""
    return next((name for name in ("hybrid-layer-pattern", "hybrid-override-pattern") if flags.given(name)), None)


def read_modules(flags: Flags, fields: dict[str, Any]) -> None:
    """MTP modules; a hybrid's stand behind slashes, one a depth and all alike (hybrid_layer_allocation.py), or in two
    older arguments (arguments.py:774-786)."""
    depths = flags.integer("mtp-num-layers") or 0
    name = _hybrid_name(flags)
    if name is not None:
        patterns = (flags.joined(name) or "").split("/")[1:]
        older = flags.text("mtp-hybrid-override-pattern")
        if not patterns and older and depths:
            patterns = [older] * depths
        if len(set(patterns)) > 1:
            raise InputError(f"--{name}: MTP modules that differ are refused, and {shown('/'.join(patterns))} do")
        if patterns and depths not in (0, len(patterns)):
            raise InputError(f"--mtp-num-layers: {depths} contradicts the {len(patterns)} modules of --{name}")
        depths = len(patterns)
        fields["mtp_hybrid_pattern"] = patterns[0] if patterns else None
    fields["num_nextn_predict_layers"] = depths
    fields["mtp_use_repeated_layer"] = bool(depths) and flags.on("mtp-use-repeated-layer")


def read_hybrid(flags: Flags, fields: dict[str, Any], segments: list[str]) -> None:
    """Mamba's sizes have Megatron's defaults (transformer_config.py:1259-1270); the pattern alone says which layers
    have experts."""
    if not segments:
        return
    fields["hybrid_pattern"] = "".join(segments)
    for name in ("moe_layer_freq", "first_k_dense_replace"):
        fields.pop(name, None)
    if "M" in fields["hybrid_pattern"]:
        for field, default in _MAMBA_SIZES.items():
            fields[field] = flags.integer(field.replace("_", "-")) or default
        heads = flags.integer("mamba-num-heads")
        fields["mamba_num_heads"] = heads or 2 * fields["hidden_size"] // fields["mamba_head_dim"]
    for name in ("num-layers", "moe-layer-freq", "spec", "is-hybrid-model"):
        if flags.given(name):
            flags.used.add(name)
