"""Which widths of the architecture tp, ep and etp must divide. Sources are Megatron-LM d98e8a6."""

from moeopt.arithmetic import Number, both, either
from moeopt.frameworks.rules import Applies, Rule, excluded, remainder
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem


def _groups_hold(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    groups = problem.architecture.num_key_value_heads
    return either(groups % degrees.tp == 0, degrees.tp % groups == 0)


def _groups_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    groups, tp = problem.architecture.num_key_value_heads, degrees.tp
    text = f"num_key_value_heads {groups} % tp {tp} = {groups % tp}, tp {tp} % {groups} = {tp % groups}"
    return text if groups % tp == 0 or tp % groups == 0 else f"{text}: one of them must be 0"


def _qkv_width(problem: Problem) -> int:
    a = problem.architecture
    queries = a.num_attention_heads * (2 if a.attention_output_gate else 1)
    return (queries + 2 * a.num_key_value_heads) * a.head_dim


def _qkv_holds(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    groups = problem.architecture.num_key_value_heads
    return either(degrees.tp <= groups, _qkv_width(problem) % degrees.tp == 0)


def _qkv_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    a = problem.architecture
    if degrees.tp <= a.num_key_value_heads:
        return f"tp {degrees.tp} <= num_key_value_heads {a.num_key_value_heads}: whole heads"
    gate = " with their gates" if a.attention_output_gate else ""
    what = (
        f"((heads {a.num_attention_heads}{gate} + 2 * key-value heads {a.num_key_value_heads}) * head_dim {a.head_dim})"
    )
    return remainder(what, _qkv_width(problem), f"tp {degrees.tp}", degrees.tp)


def _linear_heads_hold(problem: Problem, degrees: Degrees, _choices: Choices) -> Number:
    a, ranks = problem.architecture, degrees.tp * degrees.cp
    return both(a.linear_num_key_heads % ranks == 0, a.linear_num_value_heads % ranks == 0)


def _linear_heads_sentence(problem: Problem, degrees: Degrees, _choices: Choices) -> str:
    a, ranks = problem.architecture, degrees.tp * degrees.cp
    heads = {name: getattr(a, name) for name in ("linear_num_key_heads", "linear_num_value_heads")}
    return "; ".join(
        remainder(f"{name} {value}", value, f"(tp {degrees.tp} * cp {degrees.cp})", ranks)
        for name, value in heads.items()
    )


def _has_dense(problem: Problem, _choices: Choices) -> bool:
    return any(kind.ffn == "dense" for kind in problem.architecture.layers)


def _has_moe(problem: Problem, _choices: Choices) -> bool:
    return problem.architecture.is_moe


def _all_dense(problem: Problem, _choices: Choices) -> bool:
    return not problem.architecture.is_moe


def _width(name: str, meaning: str, field: str, degree: str, source: str, applies: Applies) -> Rule:
    def value(problem: Problem) -> int:
        return int(getattr(problem.architecture, field))

    return Rule(
        name,
        meaning,
        (degree,),
        lambda problem, d, _: value(problem) % getattr(d, degree) == 0,
        lambda problem, d, _: remainder(
            f"{field} {value(problem)}", value(problem), f"{degree} {getattr(d, degree)}", getattr(d, degree)
        ),
        source,
        "launch",
        applies,
    )


DIMENSIONS = (
    _width(
        "heads_by_tp",
        "tensor parallelism gives every rank whole attention heads",
        "num_attention_heads",
        "tp",
        "megatron/core/transformer/transformer_config.py:1446-1450",
        lambda _problem, _choices: True,
    ),
    Rule(
        "kv_groups_by_tp",
        "tp divides the key-value heads or is a multiple of them",
        ("tp",),
        _groups_hold,
        _groups_sentence,
        "megatron/core/transformer/transformer_config.py:1461-1468",
        "launch",
        lambda problem, _: not problem.architecture.is_mla,
    ),
    Rule(
        "qkv_width_by_tp",
        "with more ranks than key-value heads, tp splits the projection of queries, keys and values inside a head",
        ("tp",),
        _qkv_holds,
        _qkv_sentence,
        "megatron/core/extensions/transformer_engine.py:1519 (column-parallel), megatron/core/utils.py:592",
        "launch",
        lambda problem, _: not problem.architecture.is_mla,
    ),
    Rule(
        "linear_heads_by_tp_cp",
        "tensor and context parallelism together give every rank whole heads of a gated delta net",
        ("tp", "cp"),
        _linear_heads_hold,
        _linear_heads_sentence,
        "megatron/core/transformer/transformer_config.py:1500-1509",
        "launch",
        lambda problem, _: problem.architecture.has_delta_net,
    ),
    excluded(
        "output_gate_without_mla",
        "multi-head latent attention has no output gate",
        lambda _problem: "attention_output_gate with kv_lora_rank, must be without",
        "megatron/core/transformer/transformer_config.py:3348-3349",
        "launch",
        lambda problem, _: problem.architecture.attention_output_gate and problem.architecture.is_mla,
    ),
    Rule(
        "ep_needs_experts",
        "expert parallelism needs routed experts",
        ("ep",),
        lambda _problem, d, _: d.ep == 1,
        lambda _problem, d, _: f"ep {d.ep} without a layer of routed experts, must be 1",
        "megatron/core/transformer/transformer_config.py:1595-1596, megatron/training/arguments.py:1655-1656",
        "launch",
        _all_dense,
    ),
    Rule(
        "etp_needs_experts",
        "expert tensor parallelism needs routed experts: without them it is 1, or tp as when left out",
        ("tp", "etp"),
        lambda _problem, d, _: either(d.etp == 1, d.etp == d.tp),
        lambda _problem, d, _: f"etp {d.etp} without a layer of routed experts, must be 1 or tp {d.tp}",
        "megatron/core/parallel_state.py:871-884 builds the groups; nothing uses them",
        "never",
        _all_dense,
    ),
    _width(
        "experts_by_ep",
        "every expert-parallel rank holds the same number of experts",
        "num_experts",
        "ep",
        "megatron/training/arguments.py:1657-1658, megatron/core/transformer/moe/moe_layer.py:186-187",
        _has_moe,
    ),
    _width(
        "expert_ffn_by_etp",
        "expert tensor parallelism splits the width of a routed expert",
        "moe_intermediate_size",
        "etp",
        "megatron/core/extensions/transformer_engine.py:2468-2473, megatron/core/utils.py:592",
        _has_moe,
    ),
    _width(
        "shared_expert_ffn_by_tp",
        "tensor parallelism (not expert tensor parallelism) splits the width of the shared experts",
        "shared_expert_intermediate_size",
        "tp",
        "megatron/core/transformer/moe/shared_experts.py:127-137, megatron/core/extensions/transformer_engine.py:1289",
        lambda problem, choices: (
            _has_moe(problem, choices) and problem.architecture.shared_expert_intermediate_size > 0
        ),
    ),
    _width(
        "dense_ffn_by_tp",
        "tensor parallelism splits the width of the dense feed-forward blocks",
        "intermediate_size",
        "tp",
        "megatron/core/extensions/transformer_engine.py:1289 (recorded at launch)",
        _has_dense,
    ),
    _width(
        "mtp_projection_by_tp",
        "tensor parallelism splits the hidden size that an MTP module's projection puts out",
        "hidden_size",
        "tp",
        "megatron/core/transformer/multi_token_prediction.py:1174-1186 (eh_proj, column-parallel), core/utils.py:592",
        lambda problem, _: problem.mtp_layers > 0,
    ),
    Rule(
        "moe_bias_needs_etp_1",
        "experts with bias cannot be split by expert tensor parallelism",
        ("etp",),
        lambda _problem, d, _: d.etp == 1,
        lambda _problem, d, _: f"mlp_bias with etp {d.etp}, must be 1",
        "megatron/core/transformer/transformer_config.py:2612-2615",
        "launch",
        lambda problem, _: problem.architecture.is_moe and problem.architecture.mlp_bias,
    ),
    excluded(
        "shared_experts_without_bias",
        "shared experts have no bias",
        lambda problem: (
            f"mlp_bias with shared_expert_intermediate_size "
            f"{problem.architecture.shared_expert_intermediate_size}, must be without"
        ),
        "megatron/core/transformer/moe/shared_experts.py:124",
        "launch",
        lambda problem, _: (
            problem.architecture.mlp_bias
            and problem.architecture.is_moe
            and problem.architecture.shared_expert_intermediate_size > 0
        ),
    ),
    Rule(
        "router_group_topk",
        "a token chooses among no more expert groups than there are",
        (),
        lambda problem, _d, _: (problem.architecture.topk_group or 0) <= (problem.architecture.n_group or 0),
        lambda problem, _d, _: (
            f"topk_group {problem.architecture.topk_group} <= n_group {problem.architecture.n_group}"
        ),
        "megatron/core/transformer/transformer_config.py:2685-2688",
        "launch",
        lambda problem, _: bool(problem.architecture.n_group and problem.architecture.topk_group),
    ),
)
