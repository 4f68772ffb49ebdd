"""Megatron-LM's arguments -> an Architecture's fields, with the defaults that Megatron itself fills in.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:1318-1334 (widths), 1626-1634 (positions), 2397 (learned
positions by default); transformer_config.py:891 (experts).
"""

from typing import Any

from moeopt.errors import InputError
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.attention import read_attention
from moeopt.readers.megatron.constants import read_constants
from moeopt.readers.megatron.hybrid import hybrid_segments, read_hybrid, read_modules
from moeopt.readers.megatron.vocabulary import preset_by_name, read_vocabulary
from moeopt.readers.patterns import read_pattern
from moeopt.readers.reading import Reading

REQUIRED = ("num-layers", "hidden-size", "num-attention-heads")
_POSITIONS = {"rope": "rope", "yarn": "rope", "mrope": "rope", "learned_absolute": "learned", "none": "none"}
CHANGED = {
    "num-layers": "num_hidden_layers",
    "hidden-size": "hidden_size",
    "num-attention-heads": "num_attention_heads",
    "ffn-hidden-size": "intermediate_size",
    "num-experts": "num_experts",
    "moe-router-topk": "num_experts_per_tok",
    "moe-ffn-hidden-size": "moe_intermediate_size",
}
"""Arguments that may stand alone, where another file gives the other dimensions."""


def read_architecture(flags: Flags, reading: Reading) -> None:
    """Fill `reading.architecture`; leave it empty where the arguments give no dimensions. Raises InputError."""
    segments = hybrid_segments(flags)
    missing = [name for name in REQUIRED if not flags.given(name) and not (segments and name == "num-layers")]
    if missing:
        missing_text = ", ".join(f"--{name}" for name in missing)
        reading.note(f"the file gives no dimensions ({missing_text} absent); --architecture does")
        preset_by_name(flags, reading)
        _count_modules(flags, reading)
        reading.changes = _changes(flags)
        return
    fields: dict[str, Any] = {"name": "custom"}
    fields["num_hidden_layers"] = len("".join(segments)) if segments else flags.integer("num-layers")
    fields["hidden_size"] = flags.integer("hidden-size")
    fields["num_attention_heads"] = flags.integer("num-attention-heads")
    _feed_forward(flags, fields, reading)
    _positions(flags, fields, reading)
    read_vocabulary(flags, fields, reading)
    _experts(flags, fields, reading)
    read_attention(flags, fields, reading)
    read_hybrid(flags, fields, segments)
    read_constants(flags, fields)
    read_modules(flags, fields)
    _in_bf16(flags, fields)
    reading.architecture = fields


def _changes(flags: Flags) -> dict[str, Any]:
    """Single dimensions, as a recipe's override file gives them, in the fields of an architecture."""
    changes: dict[str, Any] = {}
    for flag, field in CHANGED.items():
        if flags.given(flag):
            changes[field] = flags.integer(flag)
    if flags.given("moe-layer-freq"):
        pattern = read_pattern(flags.joined("moe-layer-freq") or "", "--moe-layer-freq")
        layers = changes.get("num_hidden_layers", 0 if isinstance(pattern, int) else len(pattern))
        changes |= {"moe_layer_freq": 1, "first_k_dense_replace": 0, **_frequency(flags, layers)}
    if flags.on("first-last-layers-bf16"):
        _in_bf16(flags, changes)
    return changes


def _count_modules(flags: Flags, reading: Reading) -> None:
    if flags.given("mtp-num-layers"):
        reading.workload["mtp"] = bool(flags.integer("mtp-num-layers"))


def _feed_forward(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    hidden = fields["hidden_size"]
    gated = [name for name in ("swiglu", "quick-geglu") if flags.on(name)]
    fields["gated"] = bool(gated)
    fields["mlp_bias"] = not flags.on("disable-bias-linear")
    fields["squared_relu"] = flags.on("squared-relu")
    if fields["squared_relu"] and flags.given("num-experts") and not flags.on("use-fused-weighted-squared-relu"):
        reading.warn(
            "--use-fused-weighted-squared-relu",
            "absent: every routed activation is kept once more, before its probability; priced without that",
            "add it",
        )
    width = flags.integer("ffn-hidden-size")
    if width is None:
        width = hidden * 8 // 3 // 64 * 64 if flags.on("swiglu") else 4 * hidden
        reading.note(f"--ffn-hidden-size is absent: Megatron takes {width}")
    fields["intermediate_size"] = width
    norm = flags.text("normalization") or "LayerNorm"
    if norm not in ("LayerNorm", "RMSNorm"):
        raise InputError(f"--normalization: {norm!r} is neither LayerNorm nor RMSNorm")
    fields["norm"] = norm.lower()
    fields["zero_centered_norm"] = flags.on("apply-layernorm-1p")
    fields["tie_word_embeddings"] = not flags.on("untie-embeddings-and-output-weights")


def _positions(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    kind = flags.text("position-embedding-type")
    if flags.on("use-rotary-position-embeddings") and kind is None:
        kind = "rope"
    rotary = next((name for name in ("rotary-base", "rotary-percent") if flags.given(name)), None)
    if kind is None and rotary is not None:
        reading.warn(
            "--position-embedding-type",
            f"absent: Megatron's default is a learned table, whatever --{rotary} says",
            "write --position-embedding-type rope",
        )
    kind = kind or "learned_absolute"
    if kind not in _POSITIONS:
        raise InputError(f"--position-embedding-type: {kind!r} is not priced (known: {', '.join(_POSITIONS)})")
    fields["position_embedding"] = _POSITIONS[kind]
    fields["max_position_embeddings"] = flags.integer("max-position-embeddings") or flags.integer("seq-length")


def _experts(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    experts = flags.integer("num-experts")
    fields["num_experts"] = experts or 0
    fields["router_bias"] = bool(experts) and not flags.on("disable-bias-linear")
    if not experts:
        return
    width = flags.integer("moe-ffn-hidden-size")
    if width is None:
        width = fields["intermediate_size"]
        reading.warn(
            "--moe-ffn-hidden-size",
            f"absent: experts take --ffn-hidden-size {width}",
            f"write --moe-ffn-hidden-size {width}",
        )
    topk = flags.integer("moe-router-topk")
    if topk is None:
        reading.warn("--moe-router-topk", "absent: Megatron's default is 2", "write --moe-router-topk 2")
    fields["moe_intermediate_size"] = width
    fields["moe_latent_size"] = flags.integer("moe-latent-size") or 0
    fields["num_experts_per_tok"] = topk or 2
    score = flags.text("moe-router-score-function") or "softmax"
    fields["router_score_function"] = "sigmoid" if score in ("sigmoid", "sqrtsoftplus") else "softmax"
    fields["router_correction_bias"] = flags.on("moe-router-enable-expert-bias")
    fields["n_group"] = flags.integer("moe-router-num-groups")
    fields["topk_group"] = flags.integer("moe-router-group-topk")
    fields["shared_expert_intermediate_size"] = flags.integer("moe-shared-expert-intermediate-size") or 0
    fields["shared_expert_gate"] = flags.on("moe-shared-expert-gate") or flags.on("moe-use-shared-expert-gate")
    fields.update(_frequency(flags, fields["num_hidden_layers"]))


def _frequency(flags: Flags, layers: int) -> dict[str, Any]:
    """Which layers have experts: an integer, or one digit a layer; dense layers first are said as such."""
    text = flags.joined("moe-layer-freq")
    if text is None:
        return {}
    value = read_pattern(text, "--moe-layer-freq")
    if isinstance(value, int):
        return {"moe_layer_freq": value}
    if len(value) != layers:
        raise InputError(f"--moe-layer-freq: {len(value)} entries, but --num-layers is {layers}")
    if not set(value) <= {0, 1}:
        raise InputError("--moe-layer-freq: entries must be 0 or 1")
    dense = value.index(1) if 1 in value else layers
    if all(value[dense:]):
        return {"first_k_dense_replace": dense}
    return {"moe_layer_freq": list(value)}


def _in_bf16(flags: Flags, fields: dict[str, Any]) -> None:
    """Layers at either end that an 8- or 4-bit run leaves in bf16: one unless it says how many."""
    on, narrow = flags.on("first-last-layers-bf16"), flags.given("fp8-format") or flags.given("fp4-format")
    for end in ("start", "end"):
        number = flags.integer(f"num-layers-at-{end}-in-bf16")
        fields[f"num_layers_at_{end}_in_bf16"] = (1 if number is None else number) if on and narrow else 0
