"""What the number formats and kernels ask of the GPUs and of the sizes they multiply.

The sizes are Transformer Engine's to check [TE]: its FP8 kernels take matrices whose widths are multiples of 16 (32
under MXFP8: megatron/core/fp8_utils.py:356-361 of Megatron-LM d98e8a6) and whose heights are multiples of 8 (32 under
MXFP8). NVFP4 kernels take multiples of 32 both ways: an address of 16 bytes is 32 values (fp4_utils.py:174-183).
"""

from collections.abc import Iterator

from moeopt.arithmetic import Number, both
from moeopt.frameworks.rules import Rule
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

_TE = (
    "Transformer Engine, assert_dim_for_fp8_exec, the MXFP8 and the NVFP4 quantizer [TE]; "
    "megatron/core/fp8_utils.py:356-361, fp4_utils.py:174-183"
)


def compute_capability(problem: Problem) -> tuple[int, int] | None:
    """The GPU's CUDA compute capability as two numbers; None for anything written otherwise (not an NVIDIA GPU)."""
    parts = problem.cluster.compute_capability.split(".")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def _quantized(problem: Problem, _choices: Choices) -> bool:
    return problem.workload.format.quantized


def _multiple(problem: Problem) -> int:
    return problem.workload.format.width_multiple


def _height(problem: Problem) -> int:
    return problem.workload.format.height_multiple


def _peak(problem: Problem) -> float | None:
    found: float | None = getattr(problem.cluster.peak_flops, problem.workload.format.peak)
    return found


def _at_least(problem: Problem, major: int) -> bool:
    """True too where the capability is unknown: a rule about CUDA generations is then not in play."""
    capability = compute_capability(problem)
    return capability is None or capability[0] >= major


def _replicated(problem: Problem) -> Iterator[tuple[str, int]]:
    a = problem.architecture
    yield "hidden_size", a.hidden_size
    if a.is_mla:
        yield "kv_lora_rank + qk_rope_head_dim", (a.kv_lora_rank or 0) + a.qk_rope_head_dim
        yield "kv_lora_rank", a.kv_lora_rank or 0
        if a.q_lora_rank:
            yield "q_lora_rank", a.q_lora_rank
    if a.moe_latent_size:
        yield "moe_latent_size", a.moe_latent_size
    if a.has_indexer:
        yield "index_n_heads * index_head_dim", a.index_width
        yield "index_head_dim", a.index_head_dim
        yield "index_n_heads", a.index_n_heads


def _split_by_tp(problem: Problem) -> Iterator[tuple[str, int]]:
    a = problem.architecture
    heads = a.num_attention_heads
    yield "attention output (heads * value head)", heads * a.value_head_dim
    if a.is_mla:
        yield "queries (heads * query head)", heads * a.qk_head_dim
        yield "keys and values (heads * (nope + value head))", heads * (a.qk_nope_head_dim + a.v_head_dim)
    else:
        queries = heads * (2 if a.attention_output_gate else 1)
        yield "queries, keys and values", (queries + 2 * a.num_key_value_heads) * a.head_dim
    if a.has_delta_net:
        yield "gated delta net's projection", a.delta_net_projection_dim
        yield "gated delta net's values", a.delta_net_value_dim
    if a.has_mamba:
        yield "Mamba layer's projection", a.mamba_projection_dim
        yield "Mamba layer's heads", a.mamba_inner_dim
    if any(kind.ffn == "dense" for kind in a.layers):
        yield "intermediate_size", a.intermediate_size
    if a.is_moe and a.shared_expert_intermediate_size:
        yield "shared_expert_intermediate_size", a.shared_expert_intermediate_size


def _replicated_sentence(problem: Problem, _degrees: Degrees, _choices: Choices) -> str:
    multiple = _multiple(problem)
    wrong = [(name, width) for name, width in _replicated(problem) if width % multiple]
    if not wrong:
        return f"{', '.join(f'{name} {width}' for name, width in _replicated(problem))}: multiples of {multiple}"
    return "; ".join(f"{name} {width} % {multiple} = {width % multiple}, must be 0" for name, width in wrong)


def _tp_holds(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    unit = degrees.tp * _multiple(problem)
    return both(*(width % unit == 0 for _, width in _split_by_tp(problem)))


def _tp_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    multiple, tp = _multiple(problem), degrees.tp
    wrong = [(name, width) for name, width in _split_by_tp(problem) if width % (tp * multiple)]
    if not wrong:
        return f"every width split by tp {tp} stays a multiple of {multiple}"
    return "; ".join(
        f"{name} {width} % (tp {tp} * {multiple}) = {width % (tp * multiple)}, must be 0" for name, width in wrong
    )


def _etp_holds(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    return problem.architecture.moe_intermediate_size % (degrees.etp * _multiple(problem)) == 0


def _etp_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    width, multiple = problem.architecture.moe_intermediate_size, _multiple(problem)
    rest = width % (degrees.etp * multiple)
    text = f"moe_intermediate_size {width} % (etp {degrees.etp} * {multiple}) = {rest}"
    return text if rest == 0 else f"{text}, must be 0"


def _rows_hold(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    tokens = problem.workload.sequence_length // degrees.cp * degrees.micro_batch_size
    return tokens % _height(problem) == 0


def _rows_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    length, height = problem.workload.sequence_length, _height(problem)
    tokens = length // degrees.cp * degrees.micro_batch_size
    text = (
        f"(sequence_length {length} // cp {degrees.cp} * micro_batch_size {degrees.micro_batch_size}) % {height} "
        f"= {tokens % height}"
    )
    return text if tokens % height == 0 else f"{text}, must be 0"


def _most_in_bf16(problem: Problem) -> int:
    a = problem.architecture
    return max(a.num_layers_at_start_in_bf16, a.num_layers_at_end_in_bf16)


def _bf16_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    layers, most = problem.architecture.num_hidden_layers, _most_in_bf16(problem)
    text = f"{most} layers at one end in bf16, num_hidden_layers {layers} // pp {degrees.pp} = {layers // degrees.pp}"
    return text if most <= layers // degrees.pp else f"{text}, must not be more"


PRECISION = (
    Rule(
        "bf16_layers_by_pp",
        "the layers that stay in bf16 at either end are no more than an even stage holds",
        ("pp",),
        lambda problem, degrees, _: problem.architecture.num_hidden_layers // degrees.pp >= _most_in_bf16(problem),
        _bf16_sentence,
        "megatron/core/transformer/transformer_config.py:1532-1556 (under fp8 recipes alone)",
        "launch",
        lambda problem, _: problem.workload.format.peak == "fp8" and _most_in_bf16(problem) > 0,
    ),
    Rule(
        "precision_needs_units",
        "quantised training needs GPUs with matrix units of that type",
        (),
        lambda problem, _d, _: _peak(problem) is not None,
        lambda problem, _d, _: (
            f"precision {problem.workload.precision} on {problem.cluster.gpu}: "
            + ("peak_flops.{} is given" if _peak(problem) else "the cluster has no peak_flops.{}").format(
                problem.workload.format.peak
            )
        ),
        "the cluster's peak_flops",
        "moeopt",
        _quantized,
    ),
    Rule(
        "precision_needs_blackwell",
        "MXFP8 and NVFP4 need compute capability 10 (Blackwell) or later",
        (),
        lambda problem, _d, _: _at_least(problem, problem.workload.format.capability or 0),
        lambda problem, _d, _: (
            f"precision {problem.workload.precision} on compute capability {problem.cluster.compute_capability}, "
            f"needs {problem.workload.format.capability}.0 or later"
        ),
        "Transformer Engine, check_mxfp8_support and check_nvfp4_support [TE]",
        "run",
        lambda problem, _: problem.workload.format.capability is not None,
    ),
    Rule(
        "grouped_gemm_needs_ampere",
        "grouped matrix products of experts need compute capability 8 (Ampere) or later",
        (),
        lambda problem, _d, _: _at_least(problem, 8),
        lambda problem, _d, _: (
            f"compute capability {problem.cluster.compute_capability} with routed experts, needs 8.0 or later"
        ),
        "megatron/training/arguments.py:1378-1380",
        "launch",
        lambda problem, _: problem.architecture.is_moe,
    ),
    Rule(
        "quantized_widths",
        "widths that no degree splits suit the quantised kernels",
        (),
        lambda problem, _d, _: all(width % _multiple(problem) == 0 for _, width in _replicated(problem)),
        _replicated_sentence,
        _TE,
        "run",
        _quantized,
    ),
    Rule(
        "quantized_widths_by_tp",
        "widths that tensor parallelism splits still suit the quantised kernels",
        ("tp",),
        _tp_holds,
        _tp_sentence,
        _TE,
        "run",
        _quantized,
    ),
    Rule(
        "quantized_widths_by_etp",
        "the expert width that expert tensor parallelism splits still suits the quantised kernels",
        ("etp",),
        _etp_holds,
        _etp_sentence,
        _TE,
        "run",
        lambda problem, choices: _quantized(problem, choices) and problem.architecture.is_moe,
    ),
    Rule(
        "quantized_rows",
        "tokens of a micro-batch on a rank suit the quantised kernels",
        ("cp", "micro_batch_size"),
        _rows_hold,
        _rows_sentence,
        _TE,
        "run",
        _quantized,
    ),
)
