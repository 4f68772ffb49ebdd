"""Megatron-LM's arguments -> an Architecture's fields, with the defaults that Megatron itself fills in.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:1318-1334 (widths), 1626-1634 (positions), 2397 (learned
positions by default), 3546-3570 (MLA's defaults); transformer_config.py:247-255 (windows), 891 (experts).
"""

from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.readers.flags import Flags
from moeopt.readers.megatron_constants import number, read_constants
from moeopt.readers.patterns import read_pattern
from moeopt.readers.reading import Reading, integer

REQUIRED = ("num-layers", "hidden-size", "num-attention-heads")
_TOKENIZER_ROWS = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}
"""Entries of the two tokenizers that have one vocabulary: GPT-2's BPE, Llama 2's SentencePiece (Mixtral's too)."""
_POSITIONS = {"rope": "rope", "yarn": "rope", "mrope": "rope", "learned_absolute": "learned", "none": "none"}


INDEXER = {
    "dsa-indexer-topk": "index_topk",
    "dsa-indexer-n-heads": "index_n_heads",
    "dsa-indexer-head-dim": "index_head_dim",
}
_DELTA_NETS = ("gdn", "gated_delta_net")
_DELTA_NET_SIZES = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
_MAMBA_SIZES = {"mamba_head_dim": 64, "mamba_num_groups": 8, "mamba_state_dim": 128}
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
        _preset_by_name(flags, reading)
        _count_modules(flags, reading)
        reading.changes = _changes(flags)
        return
    fields: dict[str, Any] = {"name": "custom"}
    fields["num_hidden_layers"] = len("".join(segments)) if segments else flags.integer("num-layers")
    fields["hidden_size"] = flags.integer("hidden-size")
    fields["num_attention_heads"] = flags.integer("num-attention-heads")
    _feed_forward(flags, fields, reading)
    _attention(flags, fields, reading)
    _positions(flags, fields, reading)
    _vocabulary(flags, fields, reading)
    _experts(flags, fields, reading)
    _biases(flags, fields)
    _windows(flags, fields)
    _variant(flags, fields, reading)
    _hybrid(flags, fields, segments)
    read_constants(flags, fields)
    _modules(flags, fields)
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
    fields["squared_relu"] = flags.on("squared-relu")
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


def _attention(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    heads = fields["num_attention_heads"]
    if flags.on("multi-latent-attention"):
        _latent(flags, fields, reading)
        return
    groups = flags.integer("num-query-groups")
    if flags.on("group-query-attention") and groups is None:
        reading.warn("--group-query-attention", "--num-query-groups is absent: as many groups as heads", "give both")
    grouped = flags.on("group-query-attention")
    fields["num_key_value_heads"] = groups if grouped and groups else heads
    if groups is not None and not grouped and groups != heads:
        reading.warn(
            "--num-query-groups", "it has no effect without --group-query-attention", "add --group-query-attention"
        )
    channels = flags.integer("kv-channels")
    if channels is None and fields["hidden_size"] % heads:
        raise InputError(
            f"--kv-channels: absent, and --hidden-size {fields['hidden_size']} % --num-attention-heads {heads} = "
            f"{fields['hidden_size'] % heads}"
        )
    fields["head_dim"] = channels or fields["hidden_size"] // heads
    fields["qk_norm"] = "head" if flags.on("qk-layernorm") else "none"
    fields["attention_sinks"] = flags.text("softmax-type") == "learnable"
    fields["attention_output_gate"] = flags.on("attention-output-gate")


def _latent(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    """MLA. The command line's defaults are not those of the config class (arguments.py:3546-3570)."""
    fields["num_key_value_heads"] = fields["num_attention_heads"]
    fields["q_lora_rank"] = flags.integer("q-lora-rank")
    for name, field, default in (
        ("kv-lora-rank", "kv_lora_rank", 32),
        ("qk-head-dim", "qk_nope_head_dim", 128),
        ("qk-pos-emb-head-dim", "qk_rope_head_dim", 64),
        ("v-head-dim", "v_head_dim", 128),
    ):
        value = flags.integer(name)
        if value is None:
            reading.warn(f"--{name}", f"absent: the command line's default is {default}", f"write --{name} {default}")
        fields[field] = default if value is None else value
    for name in ("kv-channels", "num-query-groups", "softmax-type"):
        if flags.given(name):
            flags.used.add(name)
    if not flags.on("qk-layernorm"):
        reading.warn(
            "--qk-layernorm", "absent: MLA's two latent norms are left out, unlike in DeepSeek's", "add --qk-layernorm"
        )
    if flags.on("group-query-attention"):
        reading.warn("--group-query-attention", "Megatron refuses it with --multi-latent-attention", "leave it out")


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


def _vocabulary(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    size = flags.integer("vocab-size")
    padded = flags.integer("padded-vocab-size") if flags.given("padded-vocab-size") else None
    if size is None and padded is not None:
        size = padded
        reading.note(f"--padded-vocab-size {padded} is read as the vocabulary's size")
    if size is None:
        size = _by_tokenizer(flags, reading)
    if size is not None:
        fields["vocab_size"] = size


def _by_tokenizer(flags: Flags, reading: Reading) -> int | None:
    """Rows of the vocabulary where the tokenizer tells them; None where only its file would."""
    from moeopt.problem.loading import preset_fields, presets

    values = {name: flags.values.get(name, ()) for name in ("tokenizer-type", "tokenizer-model")}
    known = {name: flags.unknowns.seen(value[0]) if value else None for name, value in values.items()}
    kind, path = known["tokenizer-type"] or "", known["tokenizer-model"] or ""
    if not kind and flags.given("merge-file"):
        kind = "GPT2BPETokenizer"
    preset = preset_named(path, presets("architectures")) if path else None
    if preset is not None:
        rows = int(preset_fields("architectures", preset)["vocab_size"])
        reading.note(f"--vocab-size is absent: {rows} by the tokenizer of {preset}, which --tokenizer-model names")
        return rows
    if kind in _TOKENIZER_ROWS:
        reading.note(f"--vocab-size is absent: {_TOKENIZER_ROWS[kind]} is assumed by --tokenizer-type {kind}")
        return _TOKENIZER_ROWS[kind]
    return None


def _experts(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    experts = flags.integer("num-experts")
    fields["num_experts"] = experts or 0
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


def _biases(flags: Flags, fields: dict[str, Any]) -> None:
    """MLA's down-projections have no bias, whatever is asked (multi_latent_attention.py:524-602)."""
    everywhere = not flags.on("disable-bias-linear")
    queries = flags.on("add-qkv-bias") or everywhere
    fields["mlp_bias"] = everywhere
    fields["attention_output_bias"] = everywhere
    fields["attention_bias"] = queries and "kv_lora_rank" not in fields
    fields["router_bias"] = everywhere and bool(fields["num_experts"])


def _windows(flags: Flags, fields: dict[str, Any]) -> None:
    """`--window-size LEFT,RIGHT` counts keys beside the query; a skip frequency N: every Nth layer sees them all."""
    text = flags.joined("window-size")
    if text is None:
        return
    left = integer(text.strip("()[]").partition(",")[0], "--window-size")
    if left < 0:
        return
    fields["sliding_window"] = left + 1
    skip = flags.joined("window-attn-skip-freq")
    if skip is None:
        return
    value, layers = read_pattern(skip, "--window-attn-skip-freq"), fields["num_hidden_layers"]
    if isinstance(value, tuple) and len(value) != layers:
        raise InputError(f"--window-attn-skip-freq: {len(value)} entries, but --num-layers is {layers}")
    if isinstance(value, int) and value < 1:
        raise InputError(f"--window-attn-skip-freq: {value} is below 1")
    fields["window_pattern"] = (
        [int((layer + 1) % value != 0) for layer in range(layers)]
        if isinstance(value, int)
        else [int(bool(v)) for v in value]
    )


def _variant(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    """What stands in for attention, or makes it sparse."""
    variant = flags.text("experimental-attention-variant")
    if variant is None:
        return
    if variant in _DELTA_NETS:
        _delta_net(flags, fields, variant)
    elif variant == "dsa":
        _indexer(flags, fields, reading)
    else:
        known = ", ".join((*_DELTA_NETS, "dsa"))
        raise InputError(f"--experimental-attention-variant: {variant!r} is not priced (known: {known})")


def _indexer(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    """Sparse attention. Its fused kernels are priced alone, with the loss over the chosen keys; Megatron's defaults are
    neither (transformer_config.py:313-357)."""
    for name, field in INDEXER.items():
        fields[field] = flags.integer(name)
        if not fields[field]:
            raise InputError(f"--{name}: absent, and --experimental-attention-variant dsa needs it")
    backend = flags.text("dsa-kernel-backend") or "none"
    if backend != "cudnn":
        raise InputError(f"--dsa-kernel-backend: {backend!r} is not priced (known: cudnn)")
    if (flags.integer("dsa-indexer-topk-freq") or 1) != 1:
        raise InputError("--dsa-indexer-topk-freq: layers that share the keys another layer chose are not priced")
    if not number(flags, "dsa-indexer-loss-coeff"):
        reading.warn(
            "--dsa-indexer-loss-coeff",
            "absent: the indexer never learns, and its loss is priced all the same",
            "write --dsa-indexer-loss-coeff 0.001",
        )
    elif not flags.on("dsa-indexer-use-sparse-loss"):
        raise InputError(
            "--dsa-indexer-use-sparse-loss: absent, and of the indexer's losses only the one over chosen keys is priced"
        )
    fields["indexer_rope_interleave"] = flags.on("dsa-indexer-rope-interleaved")
    fields["indexer_rotate_activation"] = not flags.on("no-dsa-indexer-rotate-activation")
    for name in ("cp-comm-type", "dsa-indexer-k-norm-epsilon", "dsa-indexer-skip-topk-offset", "no-rope-fusion"):
        flags.used.add(name)


def hybrid_segments(flags: Flags) -> list[str]:
    """A hybrid's layers, chunk by chunk as its bars cut them; none where the transformer is no hybrid."""
    name = _hybrid_name(flags)
    return (flags.joined(name) or "").partition("/")[0].split("|") if name else []


def _hybrid_name(flags: Flags) -> str | None:
    """The argument that gives a hybrid's pattern: the newer of its two names comes first."""
    return next((name for name in ("hybrid-layer-pattern", "hybrid-override-pattern") if flags.given(name)), None)


def _in_bf16(flags: Flags, fields: dict[str, Any]) -> None:
    """Layers at either end that an 8- or 4-bit run leaves in bf16: one unless it says how many."""
    on, narrow = flags.on("first-last-layers-bf16"), flags.given("fp8-format") or flags.given("fp4-format")
    for end in ("start", "end"):
        number = flags.integer(f"num-layers-at-{end}-in-bf16")
        fields[f"num_layers_at_{end}_in_bf16"] = (1 if number is None else number) if on and narrow else 0


def _modules(flags: Flags, fields: dict[str, Any]) -> None:
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


def _hybrid(flags: Flags, fields: dict[str, Any], segments: list[str]) -> None:
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


def _delta_net(flags: Flags, fields: dict[str, Any], variant: str) -> None:
    """`--linear-attention-freq N`: every layer but the N-th, 2N-th, ... has a gated delta net; or a digit a layer. The
    sizes have Megatron's defaults (transformer_config.py:363-386)."""
    text, layers = flags.joined("linear-attention-freq"), fields["num_hidden_layers"]
    if text is None:
        raise InputError(f"--linear-attention-freq: absent, and --experimental-attention-variant {variant} needs it")
    value = read_pattern(text, "--linear-attention-freq")
    if isinstance(value, tuple) and (len(value) != layers or not set(value) <= {0, 1}):
        raise InputError(f"--linear-attention-freq: one 0 or 1 for each of --num-layers {layers} is needed")
    if isinstance(value, int) and value < 1:
        raise InputError(f"--linear-attention-freq: {value} is below 1")
    fields["linear_attention_pattern"] = (
        [int((layer + 1) % value != 0) for layer in range(layers)] if isinstance(value, int) else list(value)
    )
    for field, default in _DELTA_NET_SIZES.items():
        fields[field] = flags.integer(field.replace("_", "-")) or default


def preset_named(path: str, presets: list[str]) -> str | None:
    """The shipped architecture whose name a path or repository name ends in (suffixes like -Instruct aside)."""
    name = path.rstrip("/").rpartition("/")[2].lower()
    matches = [preset for preset in presets if name == preset or name.startswith((f"{preset}-", f"{preset}_"))]
    return max(matches, key=len) if matches else None


def _preset_by_name(flags: Flags, reading: Reading) -> None:
    from moeopt.problem.loading import presets

    for flag in ("model", "hf-checkpoint", "hf-model-path", "load", "pretrained-checkpoint", "tokenizer-model"):
        values = flags.values.get(flag, ())
        known = flags.unknowns.seen(values[0]) if values else None
        preset = preset_named(known, presets("architectures")) if known else None
        if preset is not None:
            reading.preset = preset
            reading.note(f"--{flag} names {preset}: its dimensions are taken")
            return
