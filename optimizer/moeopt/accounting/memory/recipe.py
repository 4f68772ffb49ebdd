"""Settings of a recorded run that change its bytes and that no layout decides.

The solver always uses the defaults; benchmarks/memory.py sets them to what a published run states.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """What a run was launched with besides its layout."""

    hidden_dropout: bool = False
    """One mask byte an element at each residual addition."""
    attention_dropout: bool = False
    """With unfused attention: dropped probabilities and their mask, beside the probabilities."""
    context_exchange: Literal["p2p", "a2a"] = "p2p"
    """`--cp-comm-type`: with a2a the attention output is kept before and after its exchange."""
    gradient_accumulation_fusion: bool = True
    """Weight gradients are added into the main gradients by the GEMM, which leaves dummy gradients behind."""
    linear_dummy_gradients: bool = True
    """Whether Transformer Engine is of an age that leaves them."""
    head_dummy_gradient: bool = True
    """Whether the output head has such a dummy too (Megatron since August 2025)."""
    grouped_gemm: bool = True
    """`--moe-grouped-gemm`; without it experts run one after another and need no further workspaces."""
    torch_workspace_bytes: int | None = None
    """torch's workspace of a thread where it is another than the GPU's default: 32 MiB with `CUBLAS_WORKSPACE_CONFIG=
    :4096:8`, which deterministic runs set; 8.125 MiB on Blackwell with a torch of before February 2026."""
    dataloader_mask: bool = False
    """The data loader builds a dense causal mask (Megatron's default; moeopt's launches pass
    --no-create-attention-mask-in-dataloader): one byte for each pair of positions of every sequence, on the first and
    the last stage while a micro-batch is at work (megatron/training/utils/common_utils.py:408-457,
    pretrain_gpt.py:97-152). That it is still there at the peak is inferred from the recorded peaks."""
    moments_allocated: bool = True
    """False before the first optimizer step: the moments do not exist yet (the peak of iteration 1)."""


DEFAULT_RECIPE = Recipe()
