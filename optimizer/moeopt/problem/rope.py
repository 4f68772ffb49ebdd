"""Rotary positions and how they stretch: constants that cost nothing, carried to launch files and back."""

from typing import Annotated, Literal

from pydantic import Field

from moeopt.problem.base import Input, Positive

PositiveFloat = Annotated[float, Field(gt=0)]
YARN_POSITIONS = 4096
"""Positions that YaRN takes as trained where nothing is said (Megatron-LM d98e8a6, transformer_config.py:3318)."""
YARN_DEFAULTS = {"original_max_position_embeddings": YARN_POSITIONS, "beta_fast": 32.0, "beta_slow": 1.0}
"""What MLA's YaRN takes where no argument says otherwise: for it, Megatron-LM's command line has none."""


class RopeScaling(Input):
    """How rotary positions stretch beyond the trained length, in the names of Hugging Face's `rope_scaling`.

    Costs nothing: it is carried to the launch files and back. longrope's per-dimension factors are not kept.
    """

    rope_type: Literal["linear", "dynamic", "yarn", "longrope", "llama3"]
    factor: PositiveFloat | None = None
    original_max_position_embeddings: Positive | None = None
    beta_fast: PositiveFloat | None = None
    beta_slow: PositiveFloat | None = None
    mscale: PositiveFloat | None = None
    mscale_all_dim: PositiveFloat | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None
    truncate: bool | None = None
    """YaRN: whether the ends of the correction range are rounded to whole dimensions (absent: yes)."""
