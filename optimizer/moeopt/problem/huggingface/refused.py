"""Families that are known and not read: what they have that is not counted, or that Megatron-Core cannot build."""

_MAMBA = "its Mamba layers are not those of a hybrid that Megatron-Core builds"
_MULTIPLIERS = "its multipliers of embeddings, residuals and logits have no argument in Megatron-Core"

REFUSED: dict[str, str] = {
    "afmoe": "its layers have four norms, Megatron-Core's have two",
    "axk1": "its norm behind the experts has no place in Megatron-Core's layers",
    "bamba": _MAMBA,
    "deepseek_v4": "its compressed attention is neither counted nor priced",
    "falcon_h1": _MAMBA,
    "granitemoe": _MULTIPLIERS,
    "granitemoehybrid": _MAMBA,
    "granitemoeshared": _MULTIPLIERS,
    "jamba": _MAMBA,
    "kimi_linear": "its Kimi delta attention is neither counted nor priced",
    "laguna": "its layers have different numbers of heads",
    "lfm2_moe": "its convolution layers are not counted",
    "longcat_flash": "its layers have two attention blocks each, and experts that compute nothing",
    "mimo_v2_flash": "its windowed layers have other key-value heads than the rest",
    "minimax": "its lightning attention is neither counted nor priced",
    "step3p7": "its layers have different numbers of heads",
}
"""Family -> why; so that the nearest name is not taken for it."""
