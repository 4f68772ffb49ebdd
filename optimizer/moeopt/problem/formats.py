"""What each precision computes its linear layers in: what that asks of their sizes, and how many bytes it takes.

A format speaks of the operands of linears alone: attention, norms, the router and the output head stay in 16 bits.
Sources: Megatron-LM d98e8a6, Transformer Engine d0067d0 [TE], the OCP MX specification v1.0.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Precision = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4"]


@dataclass(frozen=True)
class Format:
    """One precision."""

    name: Precision
    peak: Literal["bf16", "fp16", "fp8", "fp4"]
    """The field of a cluster's `peak_flops` that bounds its products."""
    element_bytes: Fraction = Fraction(2)
    """An operand's element with its scales, as it is kept for the backward pass: 33/32 with a scale byte in 32 (MXFP8)
    or 4 bytes in 128 (1x128 blocks; per-tensor scaling needs less); 9/16 with one in 16 (NVFP4)."""
    product_bytes: Fraction = Fraction(2)
    """What a product reads of an operand's element. Scales of 8-bit operands are not counted (a 32nd at most)."""
    quantize_bytes: Fraction = Fraction(0)
    """What quantising an element moves: 2 bytes read, a row-wise and a column-wise copy written; NVFP4 reads twice, as
    the scale of the whole tensor comes first ([TE], pytorch/csrc/quantizer.cpp:2600-2735)."""
    expert_rows: int = 1
    """Rows of every local expert are padded to a multiple of it (moe_utils.py:1465-1480)."""
    width_multiple: int = 1
    """Columns of a matrix are multiples of it, ..."""
    height_multiple: int = 1
    """... and its rows of it: what a product takes as its depth in one of the three passes."""
    capability: int | None = None
    """Major compute capability that its kernels need; None: any GPU that has the peak."""
    keeps_parameters: bool = False
    """Whether launches keep the parameters themselves quantised, in both directions, and no 16-bit copy."""
    gather_bytes: Fraction = Fraction(2)
    """What the gather of an expert's parameters moves an element: mxfp8 16 bits, which are quantised on arrival
    (param_and_grad_buffer.py:1166-1179), nvfp4 the packed ones without scales (1437-1525)."""
    covers_mtp: bool = True
    """Whether MTP modules compute in it too (nvfp4: multi_token_prediction.py:1394)."""

    @property
    def quantized(self) -> bool:
        """Whether linears compute in fewer than 16 bits."""
        return self.element_bytes < 2


_EIGHT_BITS = Fraction(33, 32)
_FOUR_BITS = Fraction(9, 16)

FORMATS: dict[Precision, Format] = {
    each.name: each
    for each in (
        Format("bf16", "bf16"),
        Format("fp16", "fp16"),
        Format(
            "fp8",
            "fp8",
            element_bytes=_EIGHT_BITS,
            product_bytes=Fraction(1),
            quantize_bytes=Fraction(4),
            expert_rows=16,
            width_multiple=16,
            height_multiple=8,
        ),
        Format(
            "mxfp8",
            "fp8",
            element_bytes=_EIGHT_BITS,
            product_bytes=Fraction(1),
            quantize_bytes=Fraction(4),
            expert_rows=32,
            width_multiple=32,
            height_multiple=32,
            capability=10,
            keeps_parameters=True,
        ),
        Format(
            "nvfp4",
            "fp4",
            element_bytes=_FOUR_BITS,
            product_bytes=_FOUR_BITS,
            quantize_bytes=4 + 2 * _FOUR_BITS,
            expert_rows=128,
            width_multiple=32,
            height_multiple=32,
            capability=10,
            keeps_parameters=True,
            gather_bytes=Fraction(1, 2),
            covers_mtp=False,
        ),
    )
}
"""Every precision that a workload may name."""
