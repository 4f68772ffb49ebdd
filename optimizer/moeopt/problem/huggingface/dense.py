"""Dense families."""

from moeopt.problem.huggingface.common import Fields, attention_biases, qwen_windows, transformer, windows
from moeopt.problem.huggingface.config import Config


def _dense(config: Config) -> Fields:
    return {**transformer(config), "intermediate_size": config.integer("intermediate_size")}


def llama(config: Config) -> Fields:
    """Llama 2 and 3."""
    return {**_dense(config), **attention_biases(config), "mlp_bias": config.flag("mlp_bias")}


def mistral(config: Config) -> Fields:
    """Mistral: dense, every layer with the sliding window where one is given."""
    return {**_dense(config), **windows(config, "sliding_attention", "sliding_window", lambda _: True)}


def qwen2(config: Config) -> Fields:
    """Qwen2 and Qwen2.5: biases on queries, keys and values, none on the output."""
    return {**_dense(config), "attention_bias": True, **qwen_windows(config)}


def qwen3(config: Config) -> Fields:
    """Qwen3: norms on the heads of queries and keys."""
    return {**_dense(config), **attention_biases(config), "qk_norm": "head", **qwen_windows(config)}


def qwen3_vl(config: Config) -> Fields:
    """The text part of Qwen3-VL: Qwen3 without windows."""
    return {**_dense(config), **attention_biases(config), "qk_norm": "head"}
