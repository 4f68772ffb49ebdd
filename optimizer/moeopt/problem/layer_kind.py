"""What tells one decoder layer from another, and the symbols that a hybrid writes its layers with."""

from dataclasses import dataclass
from typing import Literal

Block = Literal["dense", "moe", "none"]
Mixer = Literal["attention", "delta_net", "mamba", "none"]


@dataclass(frozen=True, order=True)
class LayerKind:
    """What tells one decoder layer from another: its feed-forward block and what mixes its tokens.

    `window` counts the keys that one query may see (sliding or chunked attention); 0 means all earlier ones. A layer of
    a hybrid has one of the two alone (the other is none).
    """

    ffn: Block
    window: int = 0
    mixer: Mixer = "attention"
    in_bf16: bool = False
    """Whether it computes in bf16 where the precision is a narrower one."""

    def __str__(self) -> str:
        mixer = {"attention": f"window {self.window}" if self.window else "", "delta_net": "gated delta net"}
        names = [self.mixer] if self.ffn == "none" else [self.ffn, mixer.get(self.mixer, "")]
        return ", ".join(filter(None, [*names, "bf16" if self.in_bf16 else ""]))


HYBRID_SYMBOLS: dict[str, tuple[Block, Mixer]] = {
    "M": ("none", "mamba"),
    "*": ("none", "attention"),
    "-": ("dense", "none"),
    "E": ("moe", "none"),
}
"""A layer of a hybrid by its symbol (megatron/core/models/hybrid/hybrid_layer_allocation.py:14-26)."""


def hybrid_kind(symbol: str) -> LayerKind:
    """The layer that a symbol stands for."""
    block, mixer = HYBRID_SYMBOLS[symbol]
    return LayerKind(block, mixer=mixer)
