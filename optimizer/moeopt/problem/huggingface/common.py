"""What several families name alike."""

from collections.abc import Callable
from typing import Any, TypeAlias

from moeopt.problem.huggingface.config import Config

Fields: TypeAlias = dict[str, Any]


def transformer(config: Config) -> Fields:
    """What all families name alike: RMS norms, rotary positions, SwiGLU, no biases."""
    heads = config.integer("num_attention_heads")
    fields: Fields = {
        "hidden_size": config.integer("hidden_size"),
        "num_hidden_layers": config.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("num_key_value_heads", default=heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.optional("max_position_embeddings"),
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
    }
    if config.given("head_dim"):
        fields["head_dim"] = config.integer("head_dim")
    return fields


def attention_biases(config: Config, default: bool = False) -> Fields:
    """`attention_bias` of the families where it covers the output projection too."""
    bias = config.flag("attention_bias", default)
    return {"attention_bias": bias, "attention_output_bias": bias}


def windows(config: Config, word: str, window: str, default: Callable[[int], bool]) -> Fields:
    """Sliding or chunked attention, from `layer_types` where the config lists them."""
    size = config.optional(window)
    if not size:
        return {}
    types = config.items("layer_types", config.layers)
    pattern = config.pattern(lambda i: types[i] == word if types else default(i))
    return {"sliding_window": size, "window_pattern": pattern} if any(pattern) else {}


def qwen_windows(config: Config) -> Fields:
    """Qwen: off unless `use_sliding_window`; then the layers from `max_window_layers` on."""
    if not config.flag("use_sliding_window"):
        return {}
    first = config.integer("max_window_layers", default=0)
    return windows(config, "sliding_attention", "sliding_window", lambda i: i >= first)
