"""Megatron-LM's arguments -> the constants that cost nothing: rotary base and scaling, norm epsilon, routing weights.

They change no byte and no nanosecond, so a value that cannot be read is left to the list of what was ignored. Source:
Megatron-LM d98e8a6, megatron/training/arguments.py:2397-2437, 3558-3563; megatron/training/argument_utils.py:384-412;
core/transformer/transformer_config.py:799-808, 3306-3331; core/transformer/moe/moe_utils.py:766.
"""

from math import isfinite
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.rope import YARN_DEFAULTS
from moeopt.readers.flags import Flags

_YARN = {
    "original_max_position_embeddings": ("yarn-original-max-position-embeddings", "original-max-position-embeddings"),
    "beta_fast": ("yarn-beta-fast", "beta-fast"),
    "beta_slow": ("yarn-beta-slow", "beta-slow"),
    "mscale": ("mscale",),
    "mscale_all_dim": ("mscale-all-dim",),
}
"""Field -> its arguments: of ordinary attention, and (Megatron-Bridge) of MLA."""


def read_constants(flags: Flags, fields: dict[str, Any]) -> None:
    """Fill the constants of an architecture's fields; those that the arguments do not give stay absent."""
    fields["rms_norm_eps"] = number(flags, "norm-epsilon")
    if fields["position_embedding"] == "rope":
        fields["rope_theta"] = number(flags, "rotary-base")
        percent = number(flags, "rotary-percent")
        if percent is not None and percent < 1:
            fields["partial_rotary_factor"] = percent
        fields["rope_scaling"] = _scaling(flags, "kv_lora_rank" in fields)
    if fields["num_experts"]:
        fields["routed_scaling_factor"] = number(flags, "moe-router-topk-scaling-factor")
        fields["norm_topk_prob"] = _normalised(flags, fields)


def _normalised(flags: Flags, fields: dict[str, Any]) -> bool | None:
    """Softmax weights are raw where the softmax comes before the choice; for one expert a token it always does."""
    first = flags.on("moe-router-pre-softmax")
    if fields["num_experts_per_tok"] == 1:
        return None
    return not (first and fields["router_score_function"] == "softmax")


def _scaling(flags: Flags, latent: bool) -> dict[str, Any] | None:
    if latent or flags.text("position-embedding-type") == "yarn":
        return _yarn(flags, latent)
    if flags.on("use-rope-scaling"):
        return {"rope_type": "llama3", "factor": number(flags, "rope-scaling-factor") or 8.0, **_LLAMA3}
    factor = number(flags, "rotary-seq-len-interpolation-factor")
    return None if factor in (None, 1) else {"rope_type": "linear", "factor": factor}


_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def _yarn(flags: Flags, latent: bool) -> dict[str, Any] | None:
    """YaRN; MLA has it by default, and at factor 1 it is plain rotary embedding."""
    factor = number(flags, "rotary-scaling-factor") or 1.0
    found: dict[str, Any] = {name: _first(flags, names) for name, names in _YARN.items()}
    for name, default in YARN_DEFAULTS.items():
        found[name] = found[name] or default
    found["original_max_position_embeddings"] = int(found["original_max_position_embeddings"])
    if latent and (factor == 1 or (flags.given("rope-type") and flags.text("rope-type") == "rope")):
        return None
    if found["mscale_all_dim"] is None and found["mscale"] == 1:  # as where neither is given
        found["mscale"] = None
    if flags.on("no-yarn-correction-range-round-to-int"):
        found["truncate"] = False
    return {"rope_type": "yarn", "factor": factor, **found}


def _first(flags: Flags, names: tuple[str, ...]) -> float | None:
    return next((value for value in (number(flags, name) for name in names) if value is not None), None)


def number(flags: Flags, name: str) -> float | None:
    """A number above 0; None where it is absent, 0, or not known without running the script."""
    if not flags.given(name):
        return None
    try:
        value = float(flags.text(name) or "")
    except (InputError, ValueError):
        flags.used.discard(name)
        return None
    return value if isfinite(value) and value > 0 else None
