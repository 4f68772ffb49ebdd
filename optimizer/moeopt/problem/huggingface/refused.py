"""Families that are known and not read: what they have that is not counted, or that Megatron-Core cannot build."""

_MAMBA = "its Mamba layers are not those of a hybrid that Megatron-Core builds"
_MULTIPLIERS = "its multipliers of embeddings, residuals and logits have no argument in Megatron-Core"

_HYPER_CONNECTIONS = "its hyper-connections (several residual streams) are neither counted nor priced"
_BLOCK_SPARSE = "its attention over chosen blocks of keys is neither counted nor priced"
_FOUR_NORMS = "its layers have four norms, Megatron-Core's have two"

REFUSED: dict[str, str] = {
    "afmoe": _FOUR_NORMS,
    "axk1": "its norm behind the experts has no place in Megatron-Core's layers",
    "axk2": "its gated norms have no place in Megatron-Core's layers",
    "bailing_hybrid": "its Kimi delta attention is neither counted nor priced",
    "bamba": _MAMBA,
    "cohere2_moe": "its attention and experts stand side by side behind one norm, Megatron-Core's one after the other",
    "deepseek_v4": "its compressed attention is neither counted nor priced",
    "ernie4_5_vl_moe_text": "its experts of text and of images have different widths",
    "falcon_h1": _MAMBA,
    "flex_olmo": "its norms stand behind the blocks, Megatron-Core's before them",
    "gemma4_text": _FOUR_NORMS,
    "glm5_next_text": _HYPER_CONNECTIONS,
    "granitemoe": _MULTIPLIERS,
    "granitemoe_swa": _MULTIPLIERS,
    "granitemoehybrid": _MAMBA,
    "granitemoeshared": _MULTIPLIERS,
    "hy_v4": _HYPER_CONNECTIONS,
    "hy_v4_vl_text": _HYPER_CONNECTIONS,
    "jamba": _MAMBA,
    "kimi_linear": "its Kimi delta attention is neither counted nor priced",
    "kolibri1": _FOUR_NORMS,
    "laguna": "its layers have different numbers of heads",
    "lfm2_moe": "its convolution layers are not counted",
    "longcat_flash": "its layers have two attention blocks each, and experts that compute nothing",
    "mimo_v2_flash": "its windowed layers have other key-value heads than the rest",
    "minimax": "its lightning attention is neither counted nor priced",
    "minimax_m3_vl_text": _BLOCK_SPARSE,
    "mistral_large4_text": "its layers share keys and indexers with others",
    "qwen4_exp_text": _HYPER_CONNECTIONS,
    "step3p5": "its layers have different numbers of heads",
    "step3p7": "its layers have different numbers of heads",
}
"""Family -> why; so that the nearest name is not taken for it."""
