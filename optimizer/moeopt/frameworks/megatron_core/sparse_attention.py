"""What sparse attention (an indexer, absorbed MLA, FlashMLA and cuDNN kernels) asks. Sources: Megatron-LM d98e8a6.

Where its kernels decline a shape, Megatron falls back to PyTorch products that keep every pair of query and key of
every head, which no run survives: such layouts are refused here, though nothing refuses them there.
"""

from moeopt.arithmetic import Number, ceil_div, either
from moeopt.frameworks.megatron_core.precision import compute_capability
from moeopt.frameworks.rules import Applies, Checked, Rule, excluded
from moeopt.layout import Choices, Degrees
from moeopt.problem.architecture import FLASH_MLA_HEADS
from moeopt.problem.problem import Problem

_FOLDER = "megatron/core/transformer/experimental_attention_variant"
FLASH_MLA_VALUE_DIM = 512
"""The one width of values that FlashMLA's sparse kernel has (dsa_cudnn_kernels.py:137, 151-153)."""
_ATTENTION_INPUTS = ("attn_proj", "core_attn", "qkv_linear")


def _head_multiple(problem: Problem) -> int:
    capability = compute_capability(problem)
    return 2 * FLASH_MLA_HEADS if capability is not None and capability[0] >= 10 else FLASH_MLA_HEADS


def _local_heads(problem: Problem, degrees: Degrees) -> Number:
    return ceil_div(problem.architecture.num_attention_heads, degrees.tp)


def _heads_hold(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    heads, multiple = _local_heads(problem, degrees), _head_multiple(problem)
    return either(heads % multiple == 0, multiple % heads == 0)


def _heads_sentence(problem: Problem, degrees: Degrees, choices: Choices) -> str:
    heads, multiple = _local_heads(problem, degrees), _head_multiple(problem)
    text = f"num_attention_heads {problem.architecture.num_attention_heads} / tp {degrees.tp} = {heads} heads a rank"
    if _heads_hold(problem, degrees, choices):
        return f"{text}, which FlashMLA takes in multiples or divisors of {multiple}"
    return f"{text}, must be a multiple or a divisor of {multiple}"


def _modern(problem: Problem, _degrees: Degrees, _choices: Choices) -> bool:
    capability = compute_capability(problem)
    return capability is not None and capability[0] >= 9


def _offloaded(choices: Choices) -> list[str]:
    return [module for module in _ATTENTION_INPUTS if module in choices.offload]


def _without(name: str, meaning: str, what: str, source: str, checked: Checked, applies: Applies) -> Rule:
    """A setting that sparse attention excludes: wherever both are, the rule is broken."""
    return excluded(
        name,
        meaning,
        lambda _problem: f"{what} with index_topk, must be without",
        source,
        checked,
        lambda problem, choices: problem.architecture.has_indexer and applies(problem, choices),
    )


def _sparse(problem: Problem, _choices: Choices) -> bool:
    return problem.architecture.has_indexer


SPARSE_ATTENTION = (
    Rule(
        "sparse_heads_by_tp",
        "tensor parallelism leaves every rank as many heads as the kernels of sparse attention take",
        ("tp",),
        _heads_hold,
        _heads_sentence,
        f"{_FOLDER}/dsa_cudnn_kernels.py:348-399",
        "never",
        _sparse,
    ),
    Rule(
        "sparse_value_width",
        "the kernels of sparse attention have one width of latent values",
        (),
        lambda problem, _d, _: problem.architecture.kv_lora_rank == FLASH_MLA_VALUE_DIM,
        lambda problem, _d, _: f"kv_lora_rank {problem.architecture.kv_lora_rank} = {FLASH_MLA_VALUE_DIM}",
        f"{_FOLDER}/dsa_cudnn_kernels.py:137, 151-153",
        "never",
        _sparse,
    ),
    Rule(
        "sparse_needs_hopper",
        "the kernels of sparse attention need compute capability 9.0",
        (),
        _modern,
        lambda problem, _d, _: f"compute_capability {problem.cluster.compute_capability} >= 9.0",
        f"{_FOLDER}/dsa_cudnn_kernels.py:340-345",
        "launch",
        _sparse,
    ),
    Rule(
        "sparse_tp_needs_sequence_parallel",
        "absorbed MLA under tensor parallelism needs sequence parallelism",
        ("tp",),
        lambda _problem, d, _: d.tp == 1,
        lambda _problem, d, _: f"sequence_parallel false with tp {d.tp}" + (", tp must be 1" if d.tp > 1 else ""),
        f"{_FOLDER}/absorbed_mla.py:172-174",
        "launch",
        lambda problem, choices: problem.architecture.has_indexer and not choices.sequence_parallel,
    ),
    _without(
        "sparse_without_unfused",
        "sparse attention is priced with its fused kernels alone",
        "attention_backend unfused",
        f"{_FOLDER}/dsa_kernels.py:93-98 (Megatron falls back to products of all pairs)",
        "moeopt",
        lambda problem, _: problem.workload.attention_backend == "unfused",
    ),
    _without(
        "sparse_without_8_bit_recompute",
        "absorbed MLA cannot recompute its up-projections in 8 bits",
        "recompute module mla_up_proj and an 8-bit precision",
        f"{_FOLDER}/absorbed_mla.py:652-655",
        "run",
        lambda problem, choices: choices.recompute.drops("mla_up_proj") and problem.workload.format.quantized,
    ),
    _without(
        "sparse_without_delayed_wgrad",
        "absorbed MLA's key-value up-projection computes no product whose weight gradient could wait",
        "overlap.delay_wgrad",
        f"{_FOLDER}/absorbed_mla.py:916-925 asks its linear for one, whose store in Transformer Engine is empty [TE]",
        "run",
        lambda _problem, choices: choices.overlap.delay_wgrad,
    ),
    _without(
        "sparse_without_attention_graph",
        "the backward pass of sparse attention counts rows on the host, which no graph captures",
        "cuda_graphs attention or full_iteration",
        f"{_FOLDER}/dsa_cudnn_kernels.py:2062-2066 (torch.nonzero)",
        "run",
        lambda _problem, choices: choices.cuda_graphs in ("attention", "full_iteration"),
    ),
    Rule(
        "sparse_offload_modules",
        "absorbed MLA offloads none of its saved inputs",
        (),
        lambda _problem, _d, choices: not _offloaded(choices),
        lambda _problem, _d, choices: (
            f"offload of {', '.join(_offloaded(choices)) or 'no attention input'} with index_topk"
            + (": must be without" if _offloaded(choices) else "")
        ),
        f"{_FOLDER}/absorbed_mla.py:801-914 (no offload group)",
        "never",
        _sparse,
    ),
)
