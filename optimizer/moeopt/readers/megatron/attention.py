"""Megatron-LM's arguments of attention -> an Architecture's fields: heads, MLA, windows, and what stands in for it.

Source: Megatron-LM d98e8a6, megatron/training/arguments.py:3546-3570 (MLA's defaults); transformer_config.py:247-255
(windows), 313-386 (sparse attention and delta nets).
"""

from typing import Any

from moeopt.errors import InputError
from moeopt.readers.flags import Flags
from moeopt.readers.megatron.constants import number
from moeopt.readers.patterns import read_pattern
from moeopt.readers.reading import Reading, integer

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


def read_attention(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
    """Everything about attention. Raises InputError where a variant is not priced."""
    _heads(flags, fields, reading)
    _biases(flags, fields)
    _windows(flags, fields)
    _variant(flags, fields, reading)


def _heads(flags: Flags, fields: dict[str, Any], reading: Reading) -> None:
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


def _biases(flags: Flags, fields: dict[str, Any]) -> None:
    """MLA's down-projections have no bias, whatever is asked (multi_latent_attention.py:524-602)."""
    everywhere = not flags.on("disable-bias-linear")
    queries = flags.on("add-qkv-bias") or everywhere
    fields["attention_output_bias"] = everywhere
    fields["attention_bias"] = queries and "kv_lora_rank" not in fields


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
    """What stands in for attention, or makes it sparse, under the newer of its two names."""
    names = ("experimental-attention-variant", "linear-attention-type")
    name = next((name for name in names if flags.given(name)), None)
    variant = flags.text(name) if name else None
    if variant is None:
        return
    if variant in _DELTA_NETS:
        _delta_net(flags, fields, variant)
    elif variant == "dsa":
        _indexer(flags, fields, reading)
    else:
        known = ", ".join((*_DELTA_NETS, "dsa"))
        raise InputError(f"--{name}: {variant!r} is not priced (known: {known})")


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
    turned_off = [flags.on(f"{word}-dsa-indexer-rotate-activation") for word in ("no", "disable")]
    fields["indexer_rotate_activation"] = not any(turned_off)
    for name in ("cp-comm-type", "dsa-indexer-k-norm-epsilon", "dsa-indexer-skip-topk-offset", "no-rope-fusion"):
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
