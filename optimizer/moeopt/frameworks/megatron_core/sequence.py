"""How cp and tp split the sequence, and what context and sequence parallelism need. Sources: Megatron-LM d98e8a6."""

from moeopt.arithmetic import Number, either
from moeopt.frameworks.rules import Rule, excluded, remainder
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem
from moeopt.problem.rope import YARN_POSITIONS


def _zigzag(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    return either(degrees.cp == 1, problem.workload.sequence_length % (2 * degrees.cp) == 0)


def _zigzag_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    length = problem.workload.sequence_length
    if degrees.cp == 1:
        return f"cp 1: sequence_length {length} is not split"
    return remainder(f"sequence_length {length}", length, f"(2 * cp {degrees.cp})", 2 * degrees.cp)


def _whole_tokens(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    return problem.workload.sequence_length % (degrees.cp * degrees.tp) == 0


def _yarn_positions(problem: Problem) -> int:
    """Rows of the table that Megatron makes when it builds a layer with YaRN; MLA's has no argument of its own."""
    scaling = problem.architecture.rope_scaling
    given = None if problem.architecture.is_mla or scaling is None else scaling.original_max_position_embeddings
    return given or YARN_POSITIONS


def _mtp_positions(problem: Problem, _degrees: Degrees, _choices: Choices) -> bool:
    return problem.architecture.position_embedding != "learned" and not problem.architecture.is_yarn


def _mtp_positions_sentence(problem: Problem, degrees: Degrees, choices: Choices) -> str:
    kind = "yarn" if problem.architecture.is_yarn else problem.architecture.position_embedding
    text = f"{problem.mtp_layers} MTP modules with position_embedding {kind}"
    return text if _mtp_positions(problem, degrees, choices) else f"{text}, must be rope or none"


SEQUENCE = (
    Rule(
        "sequence_by_cp",
        "context parallelism balances causal attention by giving every rank two equal slices",
        ("cp",),
        _zigzag,
        _zigzag_sentence,
        "megatron/training/arguments.py:1335-1338",
        "launch",
    ),
    Rule(
        "sequence_by_cp_tp",
        "sequence parallelism gives every tensor-parallel rank the same number of tokens",
        ("tp", "cp"),
        _whole_tokens,
        lambda problem, d, _: remainder(
            f"sequence_length {problem.workload.sequence_length}",
            problem.workload.sequence_length,
            f"(cp {d.cp} * tp {d.tp})",
            d.cp * d.tp,
        ),
        "megatron/core/tensor_parallel/mappings.py:72-74 (the launcher does not ask)",
        "run",
        lambda _problem, choices: choices.sequence_parallel,
    ),
    Rule(
        "moe_tp_needs_sequence_parallel",
        "training a layer with routed experts under tensor parallelism needs sequence parallelism",
        ("tp",),
        lambda _problem, d, _: d.tp == 1,
        lambda _problem, d, _: f"sequence_parallel false with tp {d.tp}" + (", tp must be 1" if d.tp > 1 else ""),
        "megatron/core/transformer/moe/moe_layer.py:636-640 (raised in the first forward pass)",
        "run",
        lambda problem, choices: problem.architecture.is_moe and not choices.sequence_parallel,
    ),
    Rule(
        "tp_comm_overlap_needs_sequence_parallel",
        "overlapping tensor-parallel communication needs sequence parallelism, which tp 1 switches off",
        ("tp",),
        lambda _problem, d, choices: d.tp > 1 if choices.sequence_parallel else d.tp < 1,
        lambda _problem, d, choices: (
            f"overlap.tp_comm with tp {d.tp} and sequence_parallel {str(choices.sequence_parallel).lower()}: "
            "needs tp > 1 and sequence_parallel true"
        ),
        "megatron/training/arguments.py:1433-1442",
        "launch",
        lambda _problem, choices: choices.overlap.tp_comm,
    ),
    Rule(
        "cp_needs_fused_attention",
        "context parallelism runs only in Transformer Engine's fused attention",
        ("cp",),
        lambda _problem, d, _: d.cp == 1,
        lambda _problem, d, _: f"attention_backend unfused with cp {d.cp}" + (", cp must be 1" if d.cp > 1 else ""),
        "megatron/core/transformer/dot_product_attention.py:57-59; Transformer Engine's unfused backend likewise",
        "run",
        lambda problem, _: problem.workload.attention_backend == "unfused",
    ),
    Rule(
        "cp_ring_without_windows_or_sinks",
        "context parallelism over a ring (p2p, Megatron's default) computes neither windows nor attention sinks",
        ("cp",),
        lambda _problem, d, _: d.cp == 1,
        lambda problem, d, _: (
            f"{'attention_sinks' if problem.architecture.attention_sinks else 'sliding_window'} with cp {d.cp}"
            + (", cp must be 1" if d.cp > 1 else "")
        ),
        "megatron/core/extensions/transformer_engine.py:2141-2142; Transformer Engine takes both only under a2a [TE]",
        "run",
        lambda problem, _: problem.architecture.attention_sinks or any(k.window for k in problem.architecture.kinds),
    ),
    Rule(
        "yarn_table_by_cp",
        "a table of YaRN positions, made for the trained length, is split over cp as the sequence is",
        ("cp",),
        lambda problem, d, _: either(d.cp == 1, _yarn_positions(problem) % (2 * d.cp) == 0),
        lambda problem, d, _: remainder(
            f"trained positions {_yarn_positions(problem)}", _yarn_positions(problem), f"(2 * cp {d.cp})", 2 * d.cp
        ),
        "megatron/core/models/common/embeddings/yarn_rotary_pos_embedding.py:98-100, rope_utils.py:61-67 (MLA is "
        "launched with YaRN, at factor 1 where nothing is scaled; --rope-type rope makes no table)",
        "launch",
        lambda problem, _: problem.architecture.is_mla or problem.architecture.is_yarn,
    ),
    excluded(
        "mtp_without_delta_net",
        "MTP modules copy the last decoder layer, and cannot copy a gated delta net",
        lambda problem: (
            f"{problem.mtp_layers} MTP modules, and layer {problem.architecture.num_hidden_layers} has a gated delta "
            "net, must have attention"
        ),
        "megatron/core/transformer/multi_token_prediction.py:1148-1155 (on a stage without decoder layers it builds "
        "attention: not accepted here)",
        "launch",
        lambda problem, _: (
            problem.mtp_layers > 0 and any(kind.mixer == "delta_net" for kind in problem.architecture.mtp_kinds)
        ),
    ),
    Rule(
        "mtp_positions",
        "MTP modules are trained with plain rotary positions, those of MLA, or none",
        (),
        _mtp_positions,
        _mtp_positions_sentence,
        "megatron/training/arguments.py:881-886",
        "launch",
        lambda problem, _: problem.mtp_layers > 0,
    ),
    Rule(
        "sequence_within_positions",
        "learned position embeddings have a row for every position",
        (),
        lambda problem, _d, _: (
            problem.workload.sequence_length <= problem.architecture.max_position_embeddings  # type: ignore[operator]
        ),
        lambda problem, _d, _: (
            f"sequence_length {problem.workload.sequence_length} <= max_position_embeddings "
            f"{problem.architecture.max_position_embeddings}"
        ),
        "megatron/training/arguments.py:1353-1356",
        "launch",
        lambda problem, _: problem.architecture.position_embedding == "learned",
    ),
)
