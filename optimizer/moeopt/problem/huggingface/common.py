"""What several families name alike."""

from collections.abc import Callable
from typing import Any, TypeAlias

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.problem.huggingface.config import Config

Fields: TypeAlias = dict[str, Any]


WINDOWED = ("sliding_attention", "chunked_attention")


def transformer(config: Config, mixers: tuple[str, ...] = WINDOWED) -> Fields:
    """What all families name alike: RMS norms, rotary positions, SwiGLU, no biases. `mixers`: what its layers may have
    beside full attention."""
    heads = config.integer("num_attention_heads")
    check_layer_types(config, mixers)
    check_activation(config, "hidden_act", ("silu", "swish"))
    fields: Fields = {
        "hidden_size": config.integer("hidden_size"),
        "num_hidden_layers": config.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads(config, heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.optional("max_position_embeddings"),
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
        **constants(config),
    }
    if config.given("head_dim"):
        fields["head_dim"] = config.integer("head_dim")
    return fields


def key_value_heads(config: Config, heads: int) -> int:
    """Null means one a query head; a family's default that this transformer cannot have is not taken."""
    groups = config.integer("num_key_value_heads", default=heads)
    if groups > 0 and heads % groups and not config.written("num_key_value_heads"):
        raise InputError(
            f"{config.where}.num_key_value_heads: missing, and the family's default of {groups} does not divide "
            f"num_attention_heads {heads}"
        )
    return groups


def check_layer_types(config: Config, mixers: tuple[str, ...] = WINDOWED) -> None:
    """Attention of another kind (linear, recurrent) has other parameters: such a layer is refused by its name."""
    known = ("full_attention", *mixers)
    for index, word in enumerate(config.items("layer_types")):
        if word not in known:
            raise InputError(f"{config.where}.layer_types: entry {index}, {shown(word)}, is none of {', '.join(known)}")


def check_activation(config: Config, name: str, known: tuple[str, ...]) -> None:
    """Another activation has as many parameters, but a launch would train with this one: it is refused."""
    found = config.value(name)
    if found is not None and found not in known:
        raise InputError(f"{config.where}.{name}: {shown(found)} is refused: launches of this family use {known[0]}")


def constants(config: Config) -> Fields:
    """Numbers that cost nothing and that a launch passes on; a null one stays absent.

    `rope_parameters` is what transformers 5 writes in place of `rope_theta` and `rope_scaling`.
    """
    written = next((name for name in ("rms_norm_eps", "layer_norm_eps", "norm_eps") if config.written(name)), None)
    fields: Fields = {"rms_norm_eps": config.number(written or "rms_norm_eps")}
    for name in ("rope_theta", "partial_rotary_factor"):
        holders = [part for part in (config, config.section("rope_parameters")) if part.written(name)]
        fields[name] = (holders[0] if holders else config).number(name)
    fields["rope_scaling"] = rope_scaling(config.section("rope_scaling")) or rope_scaling(
        config.section("rope_parameters")
    )
    return fields


def rope_scaling(config: Config) -> Fields | None:
    """The scaling of rotary positions; `type` is the older name of `rope_type`, `su` that of `longrope`."""
    kind = config.value("rope_type") or config.value("type") or "default"
    kind = {"su": "longrope", "mrope": "default"}.get(str(kind), kind)
    if kind == "default":
        return None
    found: Fields = {"rope_type": kind}
    for name in ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "low_freq_factor", "high_freq_factor"):
        found[name] = config.number(name) or None  # a scale of 0 is Hugging Face's "off"
    found["original_max_position_embeddings"] = config.optional("original_max_position_embeddings")
    found["truncate"] = config.flag("truncate") if config.given("truncate") else None
    return found


def routing(config: Config, normalised: bool | None = None) -> Fields:
    """How the chosen experts are weighed; `normalised` where the family always (or never) scales them to one."""
    given = config.flag("norm_topk_prob") if config.given("norm_topk_prob") else None
    return {
        "norm_topk_prob": given if normalised is None else normalised,
        "routed_scaling_factor": config.number("routed_scaling_factor"),
    }


def attention_biases(config: Config, default: bool = False) -> Fields:
    """`attention_bias` of the families where it covers the output projection too."""
    bias = config.flag("attention_bias", default)
    return {"attention_bias": bias, "attention_output_bias": bias}


def refuse_partial_mlp_bias(config: Config) -> None:
    """Raise InputError where `mlp_bias` asks for biases on dense blocks and shared experts alone."""
    if config.flag("mlp_bias"):
        raise InputError(f"{config.where}.mlp_bias: true is refused: this family has it on all but the routed experts")


def windows(config: Config, word: str, window: str, default: Callable[[int], bool]) -> Fields:
    """Sliding or chunked attention, from `layer_types` where the config lists them."""
    size = config.optional(window)
    if not size:
        return {}
    types = config.items("layer_types", config.layers)
    pattern = config.pattern(lambda i: types[i] == word if types else default(i))
    return {"sliding_window": size, "window_pattern": pattern} if any(pattern) else {}


def listed_windows(config: Config) -> Fields:
    """Windows of the families that have none but those in `layer_types`."""
    return windows(config, "sliding_attention", "sliding_window", lambda _: False)


def qwen_windows(config: Config, every_layer: bool = False) -> Fields:
    """Qwen: off unless `use_sliding_window`; then the layers from `max_window_layers` on, or (Qwen3 MoE) every one."""
    if not config.flag("use_sliding_window"):
        return {}
    first = 0 if every_layer else config.integer("max_window_layers", default=0)
    return windows(config, "sliding_attention", "sliding_window", lambda i: i >= first)


def layer_types_of_experts(config: Config, first_dense: int) -> Fields:
    """Which layers have experts, from `mlp_layer_types`; where the config lists none, so many dense ones come first."""
    listed = config.items("mlp_layer_types", config.layers)
    for index, word in enumerate(listed):
        if word not in ("dense", "sparse"):
            raise InputError(
                f"{config.where}.mlp_layer_types: entry {index}, {shown(word)}, is neither dense nor sparse"
            )
    if not listed:
        return {"first_k_dense_replace": first_dense}
    return {"first_k_dense_replace": 0, "moe_layer_freq": config.pattern(lambda i: listed[i] == "sparse")}


def same_in_all(config: Config, *names: str) -> int:
    """A field that is one integer, or a list of one a layer; layers that differ are refused by its name."""
    name = next((name for name in names if config.given(name)), names[0])
    values = config.items(name, config.layers) if isinstance(config.value(name), list) else []
    if not values:
        return config.integer(*names)
    if any(value != values[0] for value in values):
        raise InputError(f"{config.where}.{name}: layers that differ are refused, and {shown(values)} does")
    return Config({name: values[0]}, config.where).integer(name)
