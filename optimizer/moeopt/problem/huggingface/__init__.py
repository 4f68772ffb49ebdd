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
from moeopt.problem.huggingface import deepseek, dense, hybrid, moe, qwen
from moeopt.problem.huggingface.common import Fields
from moeopt.problem.huggingface.config import Config
from moeopt.problem.huggingface.defaults import DEFAULTS
from moeopt.problem.huggingface.refused import REFUSED

FAMILIES: dict[str, Callable[[Config], Fields]] = {
    "bailing_moe": deepseek.bailing_moe,
    "bailing_moe_v2": deepseek.bailing_moe,
    "dbrx": moe.dbrx,
    "deepseek": deepseek.deepseek_moe,
    "deepseek_v2": deepseek.deepseek_v2,
    "deepseek_v3": deepseek.deepseek_v3,
    "deepseek_v32": deepseek.deepseek_v32,
    "dots1": deepseek.dots1,
    "ernie4_5_moe": moe.ernie4_5_moe,
    "exaone_moe": moe.exaone_moe,
    "glm4_moe": deepseek.glm4_moe,
    "glm4_moe_lite": deepseek.glm4_moe_lite,
    "glm4v_moe_text": deepseek.glm4v_moe,
    "glm_moe_dsa": deepseek.glm_moe_dsa,
    "gpt_oss": moe.gpt_oss,
    "hunyuan_v1_moe": moe.hunyuan_moe,
    "hy_v3": moe.hy_v3,
    "kimi_k2": deepseek.deepseek_v3,
    "llama": dense.llama,
    "llama4_text": moe.llama4_text,
    "mellum": qwen.mellum,
    "minimax_m2": moe.minimax_m2,
    "ministral3": dense.mistral,
    "mistral": dense.mistral,
    "mistral4": deepseek.mistral4,
    "mixtral": moe.mixtral,
    "nemotron_h": hybrid.nemotron_h,
    "olmoe": moe.olmoe,
    "phimoe": moe.phimoe,
    "qwen2": dense.qwen2,
    "qwen2_moe": qwen.qwen2_moe,
    "qwen3": dense.qwen3,
    "qwen3_5_moe_text": qwen.qwen3_5_moe,
    "qwen3_5_text": qwen.qwen3_5,
    "qwen3_moe": qwen.qwen3_moe,
    "qwen3_next": qwen.qwen3_next,
    "qwen3_omni_moe_text": qwen.qwen3_vl_moe,
    "qwen3_vl_moe_text": qwen.qwen3_vl_moe,
    "qwen3_vl_text": dense.qwen3_vl,
    "sarvam_mla": deepseek.deepseek_v3,
    "sarvam_moe": deepseek.sarvam_moe,
    "solar_open": deepseek.solar_open,
}

PARTS = ("text_config", "thinker_config")
"""What a config of several parts calls the one with the text transformer, or with that part in it."""
TEXT_OF = {
    "glm4v_moe": "glm4v_moe_text",
    "kimi_k25": "deepseek_v3",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_omni_moe_thinker": "qwen3_omni_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
}
"""The family of a text part that does not name its own."""


def is_huggingface(fields: Mapping[str, Any]) -> bool:
    """Whether a mapping is a Hugging Face config (it names its model_type)."""
    return "model_type" in fields or any(part in fields for part in PARTS)


def architecture_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of an Architecture from a config. Raises InputError for a family that is not known.

    Of a config with several parts (vision and text) the text part is read; it may leave its model_type, and whether its
    embeddings are tied, to the whole.
    """
    family = config.get("model_type")
    known = isinstance(family, str) and family in FAMILIES
    part = next((name for name in PARTS if isinstance(config.get(name), Mapping)), None)
    if part is not None and not (known and "hidden_size" in config):
        inherited = {"model_type": TEXT_OF.get(str(family), family)}
        if "tie_word_embeddings" in config:
            inherited["tie_word_embeddings"] = config["tie_word_embeddings"]
        return architecture_fields({**inherited, **config[part]}, f"{where}.{part}")
    if isinstance(family, str) and family in REFUSED:
        raise InputError(f"{where}.model_type: the family {family!r} cannot be read: {REFUSED[family]}")
    if not isinstance(family, str) or not known:
        hint = nearest(str(family), list(FAMILIES))
        raise InputError(
            f"{where}.model_type: the family {shown(family)} is not known{hint} "
            f"(known: {', '.join(sorted(FAMILIES))}); write its dimensions in full instead"
        )
    return FAMILIES[family](Config(config, where, DEFAULTS.get(family)))
