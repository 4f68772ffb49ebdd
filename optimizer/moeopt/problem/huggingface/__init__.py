"""From a Hugging Face config.json to the fields of an Architecture: one small function a family.

What each family builds from its config (which projections have biases, which layers are MoE, which norms have weights)
was read from its implementation, huggingface/transformers src/transformers/models/FAMILY/modeling_FAMILY.py, and from
the remote code of the families that ship their own; the parameter counts are checked against those modules. A family
that is not listed is refused: its biases and layer pattern would be a guess.
"""

from collections.abc import Callable, Mapping
from typing import Any

from moeopt.errors import InputError
from moeopt.problem.base import nearest, shown
from moeopt.problem.huggingface import dense, moe
from moeopt.problem.huggingface.common import Fields
from moeopt.problem.huggingface.config import Config
from moeopt.problem.huggingface.defaults import DEFAULTS

FAMILIES: dict[str, Callable[[Config], Fields]] = {
    "dbrx": moe.dbrx,
    "deepseek_v2": moe.deepseek_v2,
    "deepseek_v3": moe.deepseek_v3,
    "ernie4_5_moe": moe.ernie4_5_moe,
    "glm4_moe": moe.glm4_moe,
    "gpt_oss": moe.gpt_oss,
    "kimi_k2": moe.deepseek_v3,
    "llama": dense.llama,
    "llama4_text": moe.llama4_text,
    "minimax_m2": moe.minimax_m2,
    "mistral": dense.mistral,
    "mixtral": moe.mixtral,
    "olmoe": moe.olmoe,
    "phimoe": moe.phimoe,
    "qwen2": dense.qwen2,
    "qwen2_moe": moe.qwen2_moe,
    "qwen3": dense.qwen3,
    "qwen3_moe": moe.qwen3_moe,
}

TEXT_OF = {"llama4": "llama4_text"}
"""The family of a text part that does not name its own."""


def is_huggingface(fields: Mapping[str, Any]) -> bool:
    """Whether a mapping is a Hugging Face config (it names its model_type)."""
    return "model_type" in fields or "text_config" in fields


def architecture_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of an Architecture from a config. Raises InputError for a family that is not known.

    Of a config with several parts (vision and text) the text part is read; it may leave its model_type to the whole.
    """
    family, text = config.get("model_type"), config.get("text_config")
    known = isinstance(family, str) and family in FAMILIES
    if isinstance(text, Mapping) and not (known and "hidden_size" in config):
        inherited = TEXT_OF.get(str(family), family)
        return architecture_fields({"model_type": inherited, **text}, f"{where}.text_config")
    if not isinstance(family, str) or not known:
        hint = nearest(str(family), list(FAMILIES))
        raise InputError(
            f"{where}.model_type: the family {shown(family)} is not known{hint} "
            f"(known: {', '.join(sorted(FAMILIES))}); write its dimensions in full instead"
        )
    return FAMILIES[family](Config(config, where, DEFAULTS.get(family)))
